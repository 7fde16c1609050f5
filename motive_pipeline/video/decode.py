"""The one reader of clips: every stage sees the window, the frames and the pixels that come from here.

Frames are taken at a constant rate by their time stamps, whatever the file's own rate, so that a pixel of displacement means the same speed
in every clip. The window starts at the clip's first frame and has 4n+1 frames: as many as asked for, or the most that the clip gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av.error
import numpy as np
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from jaxtyping import Float, UInt8

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.video.appearance import Appearance
from motive_pipeline.video.picture import cover_scale, picture
from motive_pipeline.video.probe import FLAGS, frame_flags, geometry, open_video

if TYPE_CHECKING:  # a decoding process starts a fifth of a second sooner without the settings
    from motive_pipeline.config import Config

VARIABLE_RATE_SPREAD = 1.5
"""A clip whose longest frame lasts this much longer than its shortest is flagged ``variable_rate``."""

UPSCALED_FROM = 2.0
"""A clip that must grow by more than this is flagged ``upscaled``."""

TRUNCATED_SHARE = 0.9
"""A clip that ends before this share of the length its container states counts as cut off."""


@dataclass(frozen=True, kw_only=True)
class FrameRule:
    """Which frames of a clip are taken, how large, and whether HDR is mapped to SDR. ``num_frames`` and ``min_frames`` are 4n+1."""

    num_frames: int
    min_frames: int
    fps: float
    width: int
    height: int
    tone_map: bool = False

    @classmethod
    def of(cls, config: Config) -> FrameRule:
        """The rule that the section ``clips`` states."""
        clips = config.clips
        return cls(
            num_frames=clips.num_frames,
            min_frames=config.min_frames,
            fps=clips.fps,
            width=clips.width,
            height=clips.height,
            tone_map=clips.policies.hdr == "repair",
        )

    def content(self) -> dict[str, Any]:
        """What the key of a row holds of the rule; a rule that maps nothing has the key it always had."""
        said = asdict(self)
        return said if self.tone_map else {name: value for name, value in said.items() if name != "tone_map"}


@dataclass(frozen=True, kw_only=True)
class DecodedClip:
    """The frames taken, the time of each in the file (s, from its first frame), and what is unusual (:data:`~.probe.FLAGS`)."""

    frames_THWC: UInt8[np.ndarray, "T H W 3"]
    times_s: Float[np.ndarray, " T"]
    flags: tuple[str, ...]
    appearance: Appearance | None = None
    """Where it was asked for."""


def read_clip(source: MediaFile | Path, rule: FrameRule) -> DecodedClip:
    """The clip's frames by ``rule``: for target time k / fps the frame nearest in time, the earlier one of two equally near.

    A target is covered while it is not more than half a step beyond the last frame. Decoding stops at the last target.

    Raises:
        RejectRow: see :func:`~.probe.open_video`; ``zero_frames``; ``too_short``; ``truncated_tail`` (too short because the file was cut);
            ``decode_error`` (damaged data inside the window).
    """
    with open_video(source) as (container, stream):
        reading = _Reading(stream)
        taken = _Window(rule)
        for time, frame in reading.frames(container):
            if taken.offer(time, frame, stream):
                break
        taken.finish()
        kept = _require_enough(taken, reading, rule, _stated_length_s(container, stream))
        flags = taken.flags | reading.flags()
    return DecodedClip(
        frames_THWC=np.stack(taken.pictures[:kept]),
        times_s=np.array([float(time) for time in taken.times[:kept]]),
        flags=tuple(flag for flag in FLAGS if flag in flags),
    )


def frame_near(source: MediaFile | Path, share: float, *, width: int, height: int) -> UInt8[np.ndarray, "H W 3"]:
    """One frame for people to look at: about ``share`` (0 to 1) into the clip, at the key frame before it or soon after.

    Raises:
        RejectRow: see :func:`~.probe.open_video`; ``decode_error``, ``zero_frames``.
    """
    with open_video(source) as (container, stream):
        length_s = _stated_length_s(container, stream) or 0.0
        start_s = float((stream.start_time or 0) * (stream.time_base or 0))
        wanted_s = start_s + share * length_s
        found: VideoFrame | None = None
        try:
            if share and container.duration:
                container.seek(int(wanted_s * av.time_base), backward=True)
            for frame in container.decode(stream):
                found = frame
                if frame.time is None or frame.time >= wanted_s:
                    break
        except av.error.FFmpegError as error:
            raise RejectRow("decode_error", f"cannot be decoded: {error.strerror}") from error
        if found is None:
            raise RejectRow("zero_frames", "no frame could be decoded")
        return picture(found, geometry(found, stream), width=width, height=height)


@dataclass
class _Window:
    """The targets of a rule, filled while frames arrive in the order of time."""

    rule: FrameRule
    pictures: list[UInt8[np.ndarray, "H W 3"]] = field(default_factory=list)
    times: list[Fraction] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    damaged_from: Fraction | None = None
    """Time of the first frame that the decoder calls corrupt, taken or not: it conceals damage there, and later frames are made from it."""
    _before: tuple[Fraction, VideoFrame, VideoStream] | None = None

    def offer(self, time: Fraction, frame: VideoFrame, stream: VideoStream) -> bool:
        """Take in the next frame; true once every target is filled."""
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
        """The last frame stands for the targets that come up to half a step after it."""
        while self._before is not None and not self.is_full and self._target - self._before[0] <= self._step / 2:
            self._take(*self._before)

    @property
    def is_full(self) -> bool:
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
        shape = geometry(frame, stream)
        self.flags.update(frame_flags(frame, shape))
        size = {"width": self.rule.width, "height": self.rule.height}
        if cover_scale(*shape.shown_size(frame.width, frame.height), **size) > UPSCALED_FROM:
            self.flags.add("upscaled")
        return picture(frame, shape, **size, tone_map=self.rule.tone_map)


class _Reading:
    """Frames with their times, counted from the first frame, and what happened on the way."""

    def __init__(self, stream: VideoStream) -> None:
        self.stream = stream
        self.error: str | None = None
        self.is_cut_off = False
        self.num_frames = 0
        self.last: Fraction | None = None
        self._gaps: list[Fraction] = []
        self._repaired = False
        self._graph: Graph | None = None

    def frames(self, container: InputContainer) -> Iterator[tuple[Fraction, VideoFrame]]:
        """(time from the first frame, frame) in growing order of time. Ends at the first frame that cannot be decoded."""
        start: Fraction | None = None
        for frame in self._deinterlaced(self._decoded(container)):
            stamp = None if frame.pts is None or frame.time_base is None else frame.pts * frame.time_base
            if start is None:
                start = stamp or Fraction(0)
                time = Fraction(0)
                self._repaired = stamp is None
            else:
                assert self.last is not None
                time = self.last if stamp is None else stamp - start
                if time <= self.last:
                    self._repaired = True
                    repaired = self.last + self.usual_gap()
                    if stamp is not None:  # the stamps have jumped back: those that follow are counted from here
                        start += time - repaired
                    time = repaired
                self._gaps.append(time - self.last)
            self.last = time
            self.num_frames += 1
            yield time, frame

    def flags(self) -> set[str]:
        """Which of interlaced, time_repaired, truncated, variable_rate hold for what was read."""
        found = {"time_repaired"} if self._repaired else set()
        if self._graph is not None:
            found.add("interlaced")
        if self._gaps and max(self._gaps) > VARIABLE_RATE_SPREAD * min(self._gaps):
            found.add("variable_rate")
        if self.is_cut_off:
            found.add("truncated")
        return found

    def usual_gap(self) -> Fraction:
        """How long a frame lasts, where a time stamp is missing or jumps back."""
        if self._gaps:
            return sorted(self._gaps)[len(self._gaps) // 2]
        rate = self.stream.average_rate or self.stream.guessed_rate
        return 1 / rate if rate else Fraction(1, 24)

    def _decoded(self, container: InputContainer) -> Iterator[VideoFrame]:
        """Decoded frames until the end, or until an error; then ``error`` is set, and ``is_cut_off`` where no data follow it."""
        packets = container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    return
                decoded = packet.decode()
            except av.error.FFmpegError as error:
                self.error = error.strerror or type(error).__name__
                self.is_cut_off = not _data_follow(packets)
                return
            yield from decoded  # type: ignore[misc]

    def _deinterlaced(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """The same frames; where the first one is interlaced, through FFmpeg's ``bwdif``, one frame for one frame."""
        for number, frame in enumerate(frames):
            if number == 0 and frame.interlaced_frame:
                self._graph = _deinterlacer(self.stream)
            if self._graph is None:
                yield frame
            else:
                self._graph.push(frame)
                yield from _pulled(self._graph)
        if self._graph is not None:
            self._graph.push(None)
            yield from _pulled(self._graph)


def _deinterlacer(stream: VideoStream) -> Graph:
    graph = Graph()
    graph.link_nodes(graph.add_buffer(template=stream), graph.add("bwdif", "mode=send_frame"), graph.add("buffersink")).configure()
    return graph


def _data_follow(packets: Iterator[av.Packet]) -> bool:
    """Whether the demuxer still finds data, which it does not where a file has simply been cut."""
    try:
        return any(packet.size for packet in packets)
    except av.error.FFmpegError:
        return False


def _pulled(graph: Graph) -> Iterator[VideoFrame]:
    while True:
        try:
            frame = graph.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, VideoFrame)
        yield frame


def _stated_length_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _require_enough(taken: _Window, reading: _Reading, rule: FrameRule, stated_s: float | None) -> int:
    """How many of the taken frames to keep: the largest 4n+1, if that is enough and none of them is damaged."""
    available = len(taken.pictures)
    kept = available - (available - 1) % 4 if available else 0
    if reading.error and not reading.is_cut_off and not taken.is_full:
        raise RejectRow("decode_error", f"damaged after {reading.num_frames} frames: {reading.error}")
    if kept >= rule.min_frames:
        if taken.damaged_from is not None and taken.damaged_from <= taken.times[kept - 1]:
            raise RejectRow("decode_error", f"the data are damaged {float(taken.damaged_from):.2f} s after the first frame")
        return kept
    if not available:
        raise RejectRow("zero_frames", f"no frame could be decoded{': ' + reading.error if reading.error else ''}")
    assert reading.last is not None
    found = f"{available} frame{'s' * (available > 1)} at {rule.fps:g} fps ({float(reading.last):.2f} s), {rule.min_frames} are needed"
    if reading.is_cut_off or (stated_s is not None and float(reading.last) + float(reading.usual_gap()) < TRUNCATED_SHARE * stated_s):
        raise RejectRow("truncated_tail", f"the file was cut off: {found}")
    raise RejectRow("too_short", f"{found} (clips.num_frames, clips.min_frames, clips.fps)")
