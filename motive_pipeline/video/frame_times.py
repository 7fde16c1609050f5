"""The decoded frames of a stream, each with its time, in growing order of time.

Missing time stamps and stamps that jump back are repaired. Interlaced video is deinterlaced.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import av.error
from av.container import InputContainer
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

VARIABLE_RATE_SPREAD = 1.5
"""A clip whose longest frame lasts this many times as long as its shortest is flagged ``variable_rate``."""


class TimedFrames:
    """Reads the frames of one stream, and records what was unusual on the way.

    ``error`` is FFmpeg's message if a frame could not be decoded; ``is_cut_off`` is true if no data follow that frame. ``last`` is the time
    of the last frame, from the first one.
    """

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
        """(time from the first frame in seconds, frame). Ends at the first frame that cannot be decoded."""
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
        if self._gaps:
            return sorted(self._gaps)[len(self._gaps) // 2]
        rate = self.stream.average_rate or self.stream.guessed_rate
        return 1 / rate if rate else Fraction(1, 24)

    def _decoded(self, container: InputContainer) -> Iterator[VideoFrame]:
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
        """The same frames, one for one. If the first one is interlaced, all go through FFmpeg's ``bwdif``."""
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
