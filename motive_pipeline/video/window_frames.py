"""The frames of a window (files/window.py): where they are in the stream, and how to read them from the key frame before.

A frame is in a window if its time is at or after the start and before the end. Tables round times and so do containers, so both are moved back
by :data:`SLACK_S`. Times count from the video's first frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain, islice, pairwise

import av
import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import Window
from motive_pipeline.video.container import first_frame, open_video
from motive_pipeline.video.frame_times import StampOrder, StampsOutOfOrder, presentation_stamps, sorted_stamps, usual_gap

SLACK_S = Fraction(1, 1000)
"""Twice the error of a time that is rounded to milliseconds: the table's and the container's."""

SEEK_MARGINS_S = (0, 1, 5, 20)
"""How long before a window a seek aims, tried in order: containers without an index of key frames (MPEG-TS) land behind the key frame."""

_MAX_SHARE_OVER = Fraction(1, 2)
"""A window may end this share of a frame behind the end of the file: tables round times."""


class LostFrames(Exception):
    """After a seek, the decoder gave no frame at or before the window's start."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """The frames with time stamps (s, the stream's own) at or after ``first`` and before ``end``."""

    first: Fraction
    end: Fraction

    @classmethod
    def of(cls, window: Window, origin: Fraction) -> Span:
        """The span of a window in seconds; ``origin`` is the stamp of the video's first frame."""
        return cls(first=origin + window.start - SLACK_S, end=origin + window.end - SLACK_S)

    def __contains__(self, stamp: Fraction) -> bool:
        return self.first <= stamp < self.end


@dataclass(frozen=True, kw_only=True)
class WindowFacts:
    """How many frames a window has, the span of their time stamps, and its length in seconds."""

    num_frames: int
    span: Span
    length_s: Fraction


def find_span(file: MediaFile, container: InputContainer, stream: VideoStream) -> Span:
    """The span of the file's window. ``container`` is the open file; its position is lost.

    Raises:
        StampsOutOfOrder: the container keeps no presentation times.
        RejectRow: ``zero_frames`` or ``decode_error`` for the first frame; see also :func:`window_facts`.
    """
    window = _window(file)
    if container.format.name == "avi" and stream.codec_context.has_b_frames:
        raise StampsOutOfOrder
    return window_facts(file).span if window.unit == "frames" else Span.of(window, _first_stamp(container, stream))


def window_facts(file: MediaFile) -> WindowFacts:
    """The frames of the file's window, counted without decoding them. For a window of frames, the file is read from its beginning.

    Raises:
        RejectRow: see :func:`~.container.open_video`; ``window_outside``, ``too_short`` (no frame lies in it), ``time_disorder``.
    """
    window = _window(file)
    try:
        return _facts_of_frames(file, window) if window.unit == "frames" else _facts_of_times(file, window)
    except ValueError as error:
        raise RejectRow("time_disorder", f"{window} cannot be found, since the order of its time stamps makes no sense: {error}") from error
    except av.error.FFmpegError as error:
        raise RejectRow("decode_error", f"{window} cannot be read: {error.strerror}") from error


def _facts_of_frames(file: MediaFile, window: Window) -> WindowFacts:
    start, end = int(window.start), int(window.end)
    with open_video(file) as (container, stream):
        stamps = list(islice(presentation_stamps(container, stream), end + 1))
        if len(stamps) < end:
            raise _outside(window, f"{len(stamps)} frames")
        behind = stamps[end] if len(stamps) > end else stamps[-1] + _usual_gap(stamps, stream)
    return WindowFacts(num_frames=end - start, span=Span(first=stamps[start], end=behind), length_s=behind - stamps[start])


def _facts_of_times(file: MediaFile, window: Window) -> WindowFacts:
    try:
        with open_video(file) as (container, stream):
            span = find_span(file, container, stream)
            if (packets := packets_from_key(container, stream, span.first)) is not None:
                return _counted(sorted_stamps(packets), stream, window, span)
    except StampsOutOfOrder:
        pass
    with open_video(file) as (container, stream):
        stamps = presentation_stamps(container, stream)
        first = next(stamps, None)
        if first is None:
            raise RejectRow("time_disorder", f"{window} cannot be found: the video's frames have no time stamps")
        return _counted(chain([first], stamps), stream, window, Span.of(window, first))


def _counted(stamps: Iterator[Fraction], stream: VideoStream, window: Window, span: Span) -> WindowFacts:
    read: list[Fraction] = []
    for stamp in stamps:
        read.append(stamp)
        if stamp >= span.end:
            break
    else:
        if not read:
            raise RejectRow("too_short", f"{window} holds no frame")
        gap = _usual_gap(read, stream)
        over = span.end + SLACK_S - (read[-1] + gap)
        if over > _MAX_SHARE_OVER * gap:
            raise _outside(window, f"{float(window.end - over):.2f} s")
    num_frames = sum(stamp in span for stamp in read)
    if not num_frames:
        raise RejectRow("too_short", f"{window} holds no frame")
    return WindowFacts(num_frames=num_frames, span=span, length_s=window.end - window.start)


def packets_from_key(container: InputContainer, stream: VideoStream, stamp: Fraction) -> Iterator[av.Packet] | None:
    """The packets from the last key frame at or before ``stamp`` on, or from one before that. None if a seek finds none: the container has then
    lost its position, and must be opened again."""
    assert stream.time_base is not None
    for margin_s in SEEK_MARGINS_S:
        try:
            container.seek(math.floor((stamp + SLACK_S - margin_s) / stream.time_base), stream=stream, backward=True)
            packets = container.demux(stream)
            key = next((packet for packet in packets if packet.is_keyframe and packet.size), None)
        except av.error.FFmpegError:
            return None
        if key is not None and key.pts is not None and key.pts * key.time_base <= stamp + SLACK_S:
            return chain([key], packets)
    return None


@dataclass
class SpanFilter:
    """Chooses the decoded frames of a span. Interlaced video is deinterlaced behind this, so without the frames around the span.

    ``damaged_before``: the data are damaged between the last key frame before the span and the span, and its frames are built on that.
    ``after_seek``: the first decoded frame must lie at or before the span's start.
    """

    stream: VideoStream
    span: Span
    after_seek: bool
    damaged_before: bool = False
    _any: bool = field(default=False, init=False)

    def __call__(self, frames: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
        """The frames of the span.

        Raises:
            StampsOutOfOrder: the frames' own stamps are out of order, as times of decoding are.
            LostFrames: there was a seek, and the decoder gave nothing before the span.
            RejectRow: ``time_disorder``: a frame has no time stamp.
        """
        order = StampOrder(self.stream)
        for frame in frames:
            if frame.pts is None or frame.time_base is None:
                raise RejectRow("time_disorder", "a window of it cannot be found: its frames have no time stamps")
            stamp = frame.pts * frame.time_base
            order.check(stamp)
            if not self._any and self.after_seek and stamp > self.span.first + SLACK_S:
                raise LostFrames
            self._any = True
            if stamp >= self.span.end:
                return
            if stamp in self.span:
                yield frame
            else:
                self.damaged_before = frame.is_corrupt or (self.damaged_before and not frame.key_frame)


def place_of_sorted(file: MediaFile, window: Window) -> tuple[int, list[Fraction]]:
    """(number of the window's first frame, stamps of its frames) by the sorted stamps of the packets, read from the file's beginning.

    Raises:
        ValueError: the stamps make no sense.
        RejectRow: see :func:`~.container.open_video`.
    """
    with open_video(file) as (container, stream):
        stamps = presentation_stamps(container, stream)
        if window.unit == "frames":
            return int(window.start), list(islice(stamps, int(window.start), int(window.end)))
        first, found, skipped = None, list[Fraction](), 0
        for stamp in stamps:
            first = stamp if first is None else first
            time = stamp - first + SLACK_S
            if time >= window.end:
                break
            if time >= window.start:
                found.append(stamp)
            else:
                skipped += 1
        return skipped, found


def first_stamp(file: MediaFile) -> Fraction:
    """The time stamp (s, the container's own) of the clip's first frame: of the file's, or of its window's.

    Raises:
        RejectRow: see :func:`~.container.open_video` and :func:`window_facts`.
    """
    try:
        with open_video(file) as (container, stream):
            if file.window is None:
                return _first_stamp(container, stream)
            span = find_span(file, container, stream)
            packets = packets_from_key(container, stream, span.first)
            if packets is not None:
                return next((stamp for stamp in sorted_stamps(packets) if stamp in span), span.first)
    except StampsOutOfOrder:
        pass
    assert file.window is not None
    _, stamps = place_of_sorted(file, file.window)
    if not stamps:
        raise RejectRow("too_short", f"{file.window} holds no frame")
    return stamps[0]


def _window(file: MediaFile) -> Window:
    assert file.window is not None
    return file.window


def _first_stamp(container: InputContainer, stream: VideoStream) -> Fraction:
    first = first_frame(container, stream)
    return Fraction(0) if first.pts is None or first.time_base is None else first.pts * first.time_base


def _usual_gap(stamps: list[Fraction], stream: VideoStream) -> Fraction:
    return usual_gap([after - before for before, after in pairwise(stamps)], stream)


def _outside(window: Window, length: str) -> RejectRow:
    return RejectRow("window_outside", f"{window} ends behind the end of the file, which has {length}")
