"""The decoded frames of a stream, each with its time, in growing order of time.

Missing time stamps and stamps that jump back are repaired. Interlaced video is deinterlaced.

Some containers keep no presentation times (AVI, Matroska in VfW mode, an MP4 that lost its ``ctts``). Their stamps are those of decoding, so the
frames of a stream with B-frames come out of order by them. The decoder gives the frames in the right order; the sorted stamps are their times.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import av.error
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

VARIABLE_RATE_SPREAD = 1.5
"""A clip whose longest frame lasts this many times as long as its shortest is flagged ``variable_rate``."""


MAX_REORDERED = 16
"""No codec reorders frames by more than this many places (the largest picture buffer of H.264 and HEVC)."""


class StampsOutOfOrder(Exception):
    """The frames of a stream with B-frames carry each other's stamps; see :func:`presentation_stamps`."""


def presentation_stamps(container: InputContainer, stream: VideoStream) -> Iterator[Fraction]:
    """The time stamps (s) of the packets, sorted: those of the frames as they are shown, whichever packet carries which.

    Raises:
        ValueError: two are equal, or lie further apart than any codec reorders, so they are not times of frames.
    """
    yield from sorted_stamps(container.demux(stream))


def sorted_stamps(packets: Iterator[av.Packet]) -> Iterator[Fraction]:
    """:func:`presentation_stamps` of ``packets``, which follow each other."""
    waiting: list[Fraction] = []
    last: Fraction | None = None
    for packet in packets:
        if packet.pts is None or packet.time_base is None or packet.is_discard:
            continue
        stamp = packet.pts * packet.time_base
        if stamp == last or stamp in waiting or (last is not None and stamp < last):
            raise ValueError(f"a packet is stamped {float(stamp):.3f} s, where that time is past or taken")
        heapq.heappush(waiting, stamp)
        if len(waiting) > MAX_REORDERED:
            last = heapq.heappop(waiting)
            yield last
    yield from sorted(waiting)


def usual_gap(gaps: list[Fraction], stream: VideoStream) -> Fraction:
    """The median of ``gaps`` (s); without any, what the stream states."""
    if gaps:
        return sorted(gaps)[len(gaps) // 2]
    rate = stream.average_rate or stream.guessed_rate
    return 1 / rate if rate else Fraction(1, 24)


class StampOrder:
    """Checks that the stamps of a stream's frames are in the order in which the decoder gives the frames."""

    def __init__(self, stream: VideoStream) -> None:
        self._stream = stream
        self._recent: deque[Fraction] = deque(maxlen=MAX_REORDERED + 1)

    def check(self, stamp: Fraction) -> None:
        """Take in the next stamp.

        Raises:
            StampsOutOfOrder: it belongs to another frame. A clock that was set back is no such case: it gives stamps below all recent ones, or
                equal to one of them.
        """
        if self._recent and stamp <= min(self._recent):
            self._recent.clear()
        elif self._stream.codec_context.has_b_frames and self._recent and stamp < max(self._recent) and stamp not in self._recent:
            raise StampsOutOfOrder
        self._recent.append(stamp)


class TimedFrames:
    """Reads the frames of one stream, and records what was unusual on the way.

    ``stamps``, if given, are the times of the frames in their order, and count instead of the frames' own. ``among``, if given, chooses among
    the decoded frames; the others are ignored.

    ``error`` is FFmpeg's message if a frame could not be decoded; ``is_cut_off`` is true if no data follow that frame. ``last`` is the time
    of the last frame, from the first one.
    """

    def __init__(
        self,
        stream: VideoStream,
        stamps: Iterator[Fraction] | None = None,
        among: Callable[[Iterator[VideoFrame]], Iterator[VideoFrame]] | None = None,
    ) -> None:
        self.stream = stream
        self._stamps = stamps
        self._among = among
        self._order = StampOrder(stream)
        self.error: str | None = None
        self.is_cut_off = False
        self.num_frames = 0
        self.last: Fraction | None = None
        self._gaps: list[Fraction] = []
        self._repaired = False
        self._graph: Graph | None = None

    def frames(self, container: InputContainer, packets: Iterator[av.Packet] | None = None) -> Iterator[tuple[Fraction, VideoFrame]]:
        """(time from the first frame in seconds, frame). Ends at the first frame that cannot be decoded. ``packets``, if given, are read
        instead of those from the container's present position on.

        Raises:
            StampsOutOfOrder: the frames' own stamps are out of order, as times of decoding are.
        """
        start: Fraction | None = None
        decoded = self._decoded(container.demux(self.stream) if packets is None else packets)
        for frame in self._deinterlaced(decoded if self._among is None else self._among(decoded)):
            stamp = self._stamp(frame)
            if start is None:
                start = stamp or Fraction(0)
                time = Fraction(0)
                self._repaired = stamp is None or self._stamps is not None
            else:
                assert self.last is not None
                time = self.last if stamp is None else stamp - start
                if time <= self.last:
                    self._repaired = True
                    repaired = self.last + self.usual_gap()
                    if stamp is not None:  # the stamps have jumped back: count the following ones from here
                        start += time - repaired
                    time = repaired
                self._gaps.append(time - self.last)
            self.last = time
            self.num_frames += 1
            yield time, frame

    def flags(self) -> set[str]:
        """Which of interlaced, time_repaired, truncated and variable_rate hold for the frames read so far."""
        found = {"time_repaired"} if self._repaired else set()
        if self._graph is not None:
            found.add("interlaced")
        if self._gaps and max(self._gaps) > VARIABLE_RATE_SPREAD * min(self._gaps):
            found.add("variable_rate")
        if self.is_cut_off:
            found.add("truncated")
        return found

    def usual_gap(self) -> Fraction:
        """The median time between two frames so far; before the second frame, what the stream states."""
        return usual_gap(self._gaps, self.stream)

    def _stamp(self, frame: VideoFrame) -> Fraction | None:
        """The frame's time stamp in seconds, None if it has none."""
        if self._stamps is not None:
            return next(self._stamps, None)
        if frame.pts is None or frame.time_base is None:
            return None
        stamp = frame.pts * frame.time_base
        self._order.check(stamp)
        return stamp

    def _decoded(self, packets: Iterator[av.Packet]) -> Iterator[VideoFrame]:
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
        """The same frames, one for one. From the first interlaced one on, all go through FFmpeg's ``bwdif``."""
        for frame in frames:
            if self._graph is None and frame.interlaced_frame:
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
    """Whether the demuxer finds more data. It finds none when the file was cut off."""
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
