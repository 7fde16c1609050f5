"""What a video file is, without decoding more than its first frame; and why it is no video, where it is none.

Every room opens videos through :func:`open_video`, so that a bad file has the same reason code everywhere. Only real container formats are
let in: a playlist or an image sequence in a video's clothes could name other files or addresses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from io import BufferedReader
from pathlib import Path

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.file_stat import regular_file_stat
from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.video.tone_map import HLG, PQ

FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,h264,hevc,ivf,gif,nut"
FLAGS = (
    "alpha", "hdr", "interlaced", "non_square_pixels", "rotated", "time_repaired", "truncated", "upscaled", "variable_rate",
)  # fmt: skip
"""What can be unusual about a clip that is used all the same; the position of a flag is its bit in :func:`flag_bits`."""

_SANE_FPS = (0.01, 100_000)


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What the container and the first frame say.

    ``width`` and ``height`` are those of the picture as shown: after rotation, pixels made square. ``num_frames`` is the container's count
    (its packets' where it gives none). ``fps`` and ``duration_s`` are NaN where neither is known. ``flags`` are among :data:`FLAGS`.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How stored pixels become the picture as shown: each pixel is ``pixel_aspect`` times as wide as high, then ``quarter_turns``
    counter-clockwise."""

    pixel_aspect: Fraction
    quarter_turns: int

    def shown_size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the picture as shown, from those of the stored one. Pixels are made square by stretching, never by shrinking."""
        aspect = self.pixel_aspect
        if aspect >= 1:
            width = round(width * aspect)
        else:
            height = round(height / aspect)
        return (height, width) if self.quarter_turns % 2 else (width, height)


def flag_bits(flags: tuple[str, ...]) -> int:
    """``flags`` as one number, for a row."""
    return sum(1 << FLAGS.index(flag) for flag in flags)


@cache
def flag_names(bits: int) -> tuple[str, ...]:
    """The flags that :func:`flag_bits` has put into ``bits``."""
    return tuple(flag for position, flag in enumerate(FLAGS) if bits >> position & 1)


@contextmanager
def open_video(source: MediaFile | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The open container and its video stream; what goes wrong inside the block while reading is named as well.

    Raises:
        RejectRow: ``missing_file``, ``broken_symlink``, ``is_a_directory``, ``not_a_file``, ``unreadable``, ``empty_file``, ``no_moov``,
            ``not_a_video``, ``no_video_stream``, ``unsupported_codec``; for an archive's member see :mod:`~.archive`.
    """
    file = media_file(source)
    if not file.member:
        if regular_file_stat(file.path).size == 0:
            raise RejectRow("empty_file", "the file has 0 bytes")
        with _opened(file, str(file.path)) as container:
            yield container, _video_stream(container)
        return
    with file.open() as stream:
        if not stream.peek(1):
            raise RejectRow("empty_file", "the archive's member has 0 bytes")
        with _opened(file, stream) as container:
            yield container, _video_stream(container)


@contextmanager
def _opened(file: MediaFile, source: str | BufferedReader) -> Iterator[InputContainer]:
    try:
        container = av.open(
            source, "r", metadata_errors="replace", options={"format_whitelist": _whitelist(), "protocol_whitelist": "file"}
        )
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        raise _no_video(file, error) from error
    except av.error.OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error
    except av.error.FFmpegError as error:
        raise RejectRow("not_a_video", f"cannot be opened as a video: {error.strerror}") from error
    with container:
        yield container


def probe(source: MediaFile | Path) -> VideoFacts:
    """What the container and the first frame of a video say.

    Raises:
        RejectRow: see :func:`open_video`; also ``zero_frames`` and ``decode_error`` for the first frame.
    """
    with open_video(source) as (container, stream):
        first = _first_frame(container, stream)
        shape = geometry(first, stream)
        width, height = shape.shown_size(first.width, first.height)
        num_frames = stream.frames or None
        rate = _rate(stream)
        flags = frame_flags(first, shape)
        duration_s = _duration_s(container, stream)
    if num_frames is None:
        num_frames = _count_packets(source)
    if duration_s is None:
        duration_s = num_frames / rate if rate else float("nan")
    fps = rate or (num_frames / duration_s if duration_s else float("nan"))
    return VideoFacts(num_frames=num_frames, fps=fps, width=width, height=height, duration_s=duration_s, flags=flags)


def geometry(frame: VideoFrame, stream: VideoStream) -> Geometry:
    """How ``frame`` wants to be shown: the stream's pixel aspect and the frame's display matrix, to the nearest quarter turn."""
    aspect = stream.sample_aspect_ratio
    if aspect is None or not Fraction(1, 20) < aspect < 20:
        aspect = Fraction(1)
    return Geometry(pixel_aspect=aspect, quarter_turns=round(frame.rotation / 90) % 4)


def frame_flags(frame: VideoFrame, shape: Geometry) -> tuple[str, ...]:
    """Which of alpha, hdr, interlaced, non_square_pixels, rotated hold for ``frame``, shown as ``shape`` says, in the order of :data:`FLAGS`."""
    holds = {
        "alpha": any(component.is_alpha for component in frame.format.components),
        "hdr": int(frame.color_trc) in (PQ, HLG),
        "interlaced": bool(frame.interlaced_frame),
        "non_square_pixels": shape.pixel_aspect != 1,
        "rotated": shape.quarter_turns != 0,
    }
    return tuple(flag for flag in FLAGS if holds.get(flag))


def _whitelist() -> str:
    """FFmpeg compares whole names, and some of its demuxers carry several ("mov,mp4,m4a,...")."""
    return f"{FORMATS},mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"


def _no_video(file: MediaFile, error: av.error.FFmpegError) -> RejectRow:
    boxes = _top_level_boxes(file)
    if "ftyp" in boxes and "moov" not in boxes:
        return RejectRow("no_moov", "an MP4 without its index (moov): the download or the recording was cut off")
    return RejectRow("not_a_video", f"no video container ({error.strerror}); perhaps an error page that was saved under a video's name")


def _top_level_boxes(file: MediaFile) -> list[str]:
    """Names of an MP4's outermost boxes, as far as they can be followed."""
    names: list[str] = []
    size = file.num_bytes()
    position = 0
    with file.open() as stream:
        while position + 8 <= size and len(names) < 1000:
            stream.seek(position)
            head = stream.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            names.append(head[4:8].decode("latin-1"))
            if length < 8:
                break
            position += length
    return names


def _video_stream(container: InputContainer) -> VideoStream:
    """The video stream to use: FFmpeg's own choice, cover pictures apart."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
        raise RejectRow("no_video_stream", f"no video in it; its streams: {kinds}")
    best = container.streams.best("video")
    stream = best if isinstance(best, VideoStream) and best in streams else streams[0]
    if stream.codec_context is None:
        raise RejectRow("unsupported_codec", "this installation of FFmpeg has no decoder for the video stream")
    stream.codec_context.thread_count = 1
    return stream


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    try:
        for frame in container.decode(stream):
            return frame
    except av.error.DecoderNotFoundError as error:
        raise RejectRow("unsupported_codec", "this installation of FFmpeg has no decoder for the video stream") from error
    except av.error.FFmpegError as error:
        raise RejectRow("decode_error", f"the first frame cannot be decoded: {error.strerror}") from error
    raise RejectRow("zero_frames", "the video stream holds no frame")


def _rate(stream: VideoStream) -> float | None:
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if _SANE_FPS[0] <= rate <= _SANE_FPS[1] else None


def _duration_s(container: InputContainer, stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


def _count_packets(source: MediaFile | Path) -> int:
    with open_video(source) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size)
