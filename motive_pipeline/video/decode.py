"""Reads the frames of a clip. Every stage gets its frames and pixels from here.

Frames are taken at a constant rate by their time stamps, whatever the file's own rate, so that a displacement in pixels means the same
speed in every clip. Reading starts at the clip's first frame and takes 4n+1 frames: as many as the rule asks for, or the most that the
clip has. A clip that is a window of a file (files/window.py) is read from the key frame before it, and gives no frame from outside of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.graph.stages import FRAMES_VERSION
from motive_pipeline.video.appearance import Appearance
from motive_pipeline.video.container import open_pictures, open_video, stated_length_s
from motive_pipeline.video.container_crop import StatedCrop
from motive_pipeline.video.flags import FLAGS
from motive_pipeline.video.frame_times import StampsOutOfOrder, TimedFrames, presentation_stamps
from motive_pipeline.video.geometry import frame_flags, geometry
from motive_pipeline.video.picture import cover_scale, picture
from motive_pipeline.video.window_frames import LostFrames, SpanFilter, find_span, packets_from_key, place_of_sorted, window_facts

if TYPE_CHECKING:  # a worker process starts 0.2 s sooner without the settings
    from motive_pipeline.config import Config

UPSCALED_FROM = 2.0
"""A clip that must grow by more than this factor is flagged ``upscaled``."""

TRUNCATED_SHARE = 0.9
"""A clip that ends before this share of the length that its container states counts as cut off."""


@dataclass(frozen=True, kw_only=True)
class FrameRule:
    """Which frames of a clip are taken, their size, and whether HDR is mapped to SDR. Their number is ``frame_step`` n + 1, as ``num_frames`` and
    ``min_frames`` are."""

    num_frames: int
    min_frames: int
    fps: float
    width: int
    height: int
    tone_map: bool = False
    frame_step: int = 4

    @classmethod
    def of(cls, config: Config) -> FrameRule:
        """The rule of the section ``clips``."""
        clips = config.clips
        return cls(
            num_frames=clips.num_frames,
            min_frames=config.min_frames,
            fps=clips.fps,
            width=clips.width,
            height=clips.height,
            tone_map=clips.policies.hdr == "repair",
            frame_step=clips.frame_step,
        )

    def content(self) -> dict[str, Any]:
        """The part of a row's key that the rule makes: its fields, and the version of the code that follows it.

        The usual ``frame_step`` is no part of it, so rows from before it could be set still count.
        """
        fields = asdict(self) | {"version": FRAMES_VERSION}
        return {name: value for name, value in fields.items() if (name, value) != ("frame_step", 4)}


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """The frames of a clip, the time of each in the file (s, from its first frame), and its flags (:data:`~.flags.FLAGS`).

    ``appearance`` is None unless the reader was asked for it.
    """

    frames_THWC: UInt8[np.ndarray, "T H W 3"]
    times_s: Float[np.ndarray, " T"]
    flags: tuple[str, ...]
    appearance: Appearance | None = None


def read_clip(source: MediaFile | Path, rule: FrameRule) -> DecodedClip:
    """The frames that ``rule`` asks for: for target k, the frame nearest in time to k / fps; of two equally near, the earlier one.

    The last frame also serves a target up to half a step behind it. Decoding stops when the last target is filled.

    Raises:
        RejectRow: see :func:`~.container.open_video`; ``zero_frames``; ``too_short``; ``truncated_tail`` (too short because the file
            was cut off); ``decode_error`` (damaged data among the frames); ``time_disorder`` (the time stamps are in no order that
            makes sense); ``window_outside`` (the file ends before its window).
    """
    file = media_file(source)
    try:
        return _read(file, rule) if file.window is None else _read_window(file, rule)
    except StampsOutOfOrder:
        pass
    try:
        if file.window is not None:
            return _read_counted(file, rule)
        with open_video(file) as (container, stream):
            return _read(file, rule, presentation_stamps(container, stream))
    except ValueError as error:
        raise RejectRow("time_disorder", f"the order of its time stamps makes no sense: {error}") from error


def _read(file: MediaFile, rule: FrameRule, stamps: Iterator[Fraction] | None = None) -> DecodedClip:
    """A whole file, with the frames' own time stamps or with ``stamps``."""
    with open_pictures(file) as (container, stream, crop):
        return _taken(TimedFrames(stream, stamps), container, rule, crop, stated_s=stated_length_s(container, stream))


def _read_window(file: MediaFile, rule: FrameRule) -> DecodedClip:
    """The window of a file: from the key frame before it, or from the beginning if the container cannot be sought in."""
    with open_pictures(file) as (container, stream, crop):
        span = find_span(file, container, stream)
        packets = packets_from_key(container, stream, span.first)
        if packets is not None:
            with suppress(LostFrames):
                return _of_span(file, rule, container, crop, SpanFilter(stream, span, after_seek=True), packets)
    with open_pictures(file) as (container, stream, crop):
        return _of_span(file, rule, container, crop, SpanFilter(stream, span, after_seek=False), container.demux(stream))


def _of_span(
    file: MediaFile,
    rule: FrameRule,
    container: InputContainer,
    crop: StatedCrop | None,
    among: SpanFilter,
    packets: Iterator[av.Packet],
) -> DecodedClip:
    return _taken(TimedFrames(among.stream, among=among), container, rule, crop, packets=packets, of=file, among=among)


def _read_counted(file: MediaFile, rule: FrameRule) -> DecodedClip:
    """The window of a file whose frames carry each other's stamps: read from the beginning."""
    assert file.window is not None
    start, stamps = place_of_sorted(file, file.window)
    with open_pictures(file) as (container, stream, crop):
        timed = TimedFrames(stream, iter(stamps), among=lambda frames: islice(frames, start, start + len(stamps)))
        return _taken(timed, container, rule, crop, of=file)


def _taken(
    timed: TimedFrames,
    container: InputContainer,
    rule: FrameRule,
    crop: StatedCrop | None,
    *,
    stated_s: float | None = None,
    packets: Iterator[av.Packet] | None = None,
    of: MediaFile | None = None,
    among: SpanFilter | None = None,
) -> DecodedClip:
    """The clip that ``timed`` reads, as ``rule`` says. ``of`` is the file if the clip is a window of it."""
    targets = _Targets(rule, crop)
    for time, frame in timed.frames(container, packets):
        if targets.offer(time, frame, timed.stream):
            break
    targets.finish()
    if among is not None and among.damaged_before:
        targets.damaged_from = Fraction(0)
    if of is not None and not targets.pictures and timed.error is None:
        window_facts(of)  # says why there is none
    kept = _num_usable(targets, timed, rule, stated_s, f"{of.window}: " if of is not None else "")
    flags = targets.flags | timed.flags()
    return DecodedClip(
        frames_THWC=np.stack(targets.pictures[:kept]),
        times_s=np.array([float(time) for time in targets.times[:kept]]),
        flags=tuple(flag for flag in FLAGS if flag in flags),
    )


def frame_near(source: MediaFile | Path, share: float, *, width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    """One frame for people to see: about ``share`` (0 to 1) into the clip, at the key frame before that or soon after. Of a window, the frame
    shown at that time.

    Raises:
        RejectRow: see :func:`~.container.open_video`; ``decode_error``, ``zero_frames``; for a window those of :func:`~.window_frames.window_facts`.
    """
    file = media_file(source)
    span = None if file.window is None else window_facts(file).span
    with open_pictures(file) as (container, stream, crop):
        if span is None:
            start_s = float((stream.start_time or 0) * (stream.time_base or 0))
            length_s = stated_length_s(container, stream) or (container.duration or 0) / av.time_base
            wanted_s = start_s + share * length_s
        else:
            wanted_s = float(span.first) + share * float(span.end - span.first)
        found: VideoFrame | None = None
        try:
            if (share or span) and container.duration:
                container.seek(int(wanted_s * av.time_base), backward=True)
            for frame in container.decode(stream):
                if found is not None and span is not None and frame.time is not None and frame.time >= span.end:
                    break
                found = frame
                if frame.time is None or frame.time >= wanted_s:
                    break
        except av.error.FFmpegError as error:
            raise RejectRow("decode_error", f"cannot be decoded: {error.strerror}") from error
        if found is None and share and span is None:  # a container without an index was sought behind the last picture
            return frame_near(file, 0.0, width=width, height=height)
        if found is None:
            raise RejectRow("zero_frames", "no frame could be decoded")
        return picture(found, geometry(found, stream, crop), width=width, height=height)


@dataclass
class _Targets:
    """The pictures and times of the targets of ``rule``. ``crop`` is the one that the container states.

    ``damaged_from`` is the time of the first frame that the decoder calls corrupt, whether it was taken or not: the decoder conceals the
    damage there, and builds later frames on it.
    """

    rule: FrameRule
    crop: StatedCrop | None
    pictures: list[UInt8[np.ndarray, "H W 3"]] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    damaged_from: Fraction | None = None
    _before: tuple[Fraction, VideoFrame, VideoStream] | None = None

    def offer(self, time: Fraction, frame: VideoFrame, stream: VideoStream) -> bool:
        """Take in the next frame in the order of time; returns true when every target is filled."""
        if frame.is_corrupt and self.damaged_from is None:
            self.damaged_from = time
        while not self.is_full and self._target <= time:
            if self._before is not None and self._target - self._before[0] <= time - self._target:
                self._take(*self._before)
            else:
                self._take(time, frame, stream)
        self._before = (time, frame, stream)
        return self.is_full

    def finish(self) -> None:
        """No frame follows: use the last one for the targets up to half a step behind it."""
        while self._before is not None and not self.is_full and self._target - self._before[0] <= self._step / 2:
            self._take(*self._before)

    @property
    def is_full(self) -> bool:
        """Whether every target has a picture."""
        return len(self.pictures) == self.rule.num_frames

    @property
    def _step(self) -> Fraction:
        return 1 / Fraction(self.rule.fps).limit_denominator(100_000)

    @property
    def _target(self) -> Fraction:
        return len(self.pictures) * self._step

    def _take(self, time: Fraction, frame: VideoFrame, stream: VideoStream) -> None:
        if self.times and self.times[-1] == time:
            self.pictures.append(self.pictures[-1])
        else:
            self.pictures.append(self._picture(frame, stream))
        self.times.append(time)

    def _picture(self, frame: VideoFrame, stream: VideoStream) -> UInt8[np.ndarray, "H W 3"]:
        shape = geometry(frame, stream, self.crop)
        self.flags.update(frame_flags(frame, shape))
        size = {"width": self.rule.width, "height": self.rule.height}
        if cover_scale(*shape.shown_size(frame.width, frame.height), **size) > UPSCALED_FROM:
            self.flags.add("upscaled")
        return picture(frame, shape, **size, tone_map=self.rule.tone_map)


def _num_usable(targets: _Targets, timed: TimedFrames, rule: FrameRule, stated_s: float | None, window: str) -> int:
    """How many frames to keep: the largest ``frame_step`` n + 1. Rejects the clip if that is too few, or one of them is damaged. ``window`` begins a message."""
    available = len(targets.pictures)
    kept = available - (available - 1) % rule.frame_step if available else 0
    if timed.error and not timed.is_cut_off and not targets.is_full:
        raise RejectRow("decode_error", f"{window}damaged after {timed.num_frames} frames: {timed.error}")
    if kept >= rule.min_frames:
        if targets.damaged_from is not None and targets.damaged_from <= targets.times[kept - 1]:
            raise RejectRow("decode_error", f"{window}the data are damaged {float(targets.damaged_from):.2f} s after the first frame")
        return kept
    if not available:
        raise RejectRow("zero_frames", f"{window}no frame could be decoded{': ' + timed.error if timed.error else ''}")
    assert timed.last is not None
    found = (
        f"{window}{available} frame{'s' * (available > 1)} at {rule.fps:g} fps ({float(timed.last):.2f} s), {rule.min_frames} are needed"
    )
    if timed.is_cut_off or (stated_s is not None and float(timed.last) + float(timed.usual_gap()) < TRUNCATED_SHARE * stated_s):
        raise RejectRow("truncated_tail", f"the file was cut off: {found}")
    raise RejectRow("too_short", f"{found} (clips.num_frames, clips.min_frames, clips.fps)")
