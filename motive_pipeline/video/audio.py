"""The sound of a clip: from the first scored frame on, as long as the scored frames last.

Axes: C channels, S samples. Samples are float32, 1 being full scale.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from jaxtyping import Float32

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.video.container import open_video
from motive_pipeline.video.window_frames import first_stamp

AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
"""The sample rates (Hz) that AAC has. Sound of another rate is resampled to :data:`USUAL_RATE`."""

USUAL_RATE = 48000

_LEAD_S = Fraction(1)
"""How long before the clip a seek aims: decoders need a packet or two to settle."""

_JUMP_S = Fraction(1, 20)
"""A stamp that differs from the samples so far by more than this is a gap, or sound that was cut out. Below it, stamps are rounded."""


@dataclass(frozen=True, kw_only=True)
class Sound:
    """Samples of one or two channels at ``rate`` Hz."""

    samples_CS: Float32[np.ndarray, "C S"]
    rate: int

    def first(self, length_s: Fraction) -> Sound:
        """The sound of the first ``length_s`` seconds; silence follows where it is shorter."""
        num_samples = round(length_s * self.rate)
        missing = max(0, num_samples - self.samples_CS.shape[1])
        return replace(self, samples_CS=np.pad(self.samples_CS[:, :num_samples], ((0, 0), (0, missing))))


def read_sound(source: MediaFile | Path, length_s: Fraction) -> Sound | None:
    """The ``length_s`` seconds of sound that begin with the clip's first frame; None if the video has no sound there.

    Silence stands where the sound begins later, pauses or ends earlier. More than two channels are mixed to two.

    Raises:
        RejectRow: see :func:`~.container.open_video`; ``decode_error``: the sound cannot be decoded.
    """
    file = media_file(source)
    start = first_stamp(file)
    for seek in (True, False):
        with open_video(file) as (container, _):
            stream = container.streams.best("audio")
            if not isinstance(stream, AudioStream) or stream.codec_context is None:
                return None
            try:
                placed = _Placed(stream, start, length_s)
                if seek and start > _LEAD_S and not _sought(container, start - _LEAD_S):
                    continue
                placed.fill(container.decode(stream), from_start=not seek or start <= _LEAD_S)
            except av.error.FFmpegError as error:
                raise RejectRow("decode_error", f"its sound cannot be decoded: {error.strerror}") from error
            if not placed.is_late:
                return placed.sound()
    raise AssertionError("reading from the beginning is never too late")


def has_sound(source: MediaFile | Path) -> bool:
    """Whether the video has a stream of sound. Raises as :func:`~.container.open_video` does."""
    with open_video(source) as (container, _):
        return bool(container.streams.audio)


def _sought(container: InputContainer, place_s: Fraction) -> bool:
    """Go to ``place_s`` or before it; False if the container cannot."""
    try:
        container.seek(math.floor(place_s * av.time_base), backward=True)
    except av.error.FFmpegError:
        return False
    return True


class _Placed:
    """The samples of a stretch of time, each at the place that its stamp says. ``is_late``: after a seek, the sound began behind the start."""

    def __init__(self, stream: AudioStream, start: Fraction, length_s: Fraction) -> None:
        rate = stream.codec_context.sample_rate
        self._rate = rate if rate in AAC_RATES else USUAL_RATE
        layout = "mono" if stream.codec_context.layout.nb_channels == 1 else "stereo"
        self._resampler = av.AudioResampler(format="fltp", layout=layout, rate=self._rate)
        self._samples_CS = np.zeros((1 if layout == "mono" else 2, round(length_s * self._rate)), np.float32)
        self._start = start
        self._next: int | None = None
        self._any = False
        self.is_late = False

    def fill(self, frames: Iterator[AudioFrame], *, from_start: bool) -> None:
        """Place the samples of ``frames`` until the stretch is over. ``from_start``: they are read from the file's beginning."""
        for frame in self._resampled(frames):
            if frame.pts is None or frame.time_base is None:
                at = self._next or 0
            else:
                at = round((frame.pts * frame.time_base - self._start) * self._rate)
            if self._next is None and at > 0 and not from_start:
                self.is_late = True
                return
            if self._next is None or abs(at - self._next) > _JUMP_S * self._rate:
                self._next = at
            self._next = self._place(frame.to_ndarray(), self._next)
            if self._next >= self._samples_CS.shape[1]:
                return

    def sound(self) -> Sound | None:
        """What was placed; None if no sample lies in the stretch."""
        return Sound(samples_CS=self._samples_CS, rate=self._rate) if self._any else None

    def _resampled(self, frames: Iterator[AudioFrame]) -> Iterator[AudioFrame]:
        for frame in frames:
            yield from self._resampler.resample(frame)
        yield from self._resampler.resample(None)

    def _place(self, samples_CS: np.ndarray, at: int) -> int:
        """Write the part that lies in the stretch; returns the place behind the samples."""
        end = at + samples_CS.shape[1]
        first, last = max(at, 0), min(end, self._samples_CS.shape[1])
        if first < last:
            self._samples_CS[:, first:last] = samples_CS[:, first - at : last - at]
            self._any = True
        return end
