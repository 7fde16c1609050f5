"""Opens a video file, or gives the reason why it is none.

Every package opens videos through :func:`open_video`, so that a bad file has the same reason code everywhere. Only real container formats are
allowed: a playlist or an image sequence could name other files or addresses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BufferedReader
from itertools import islice
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
from motive_pipeline.storage.mirror import held
from motive_pipeline.video.container_crop import MP4, StatedCrop, stated_crop
from motive_pipeline.video.mp4_boxes import MAX_BOXES, top_level_boxes

FORMATS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,ogg,asf,mxf,h264,hevc,ivf,gif,nut"

_WHITELIST = f"{FORMATS},mov,mp4,m4a,3gp,3g2,mj2,matroska,webm"
"""FFmpeg compares whole names, and some of its demuxers have several (``mov,mp4,m4a,...``)."""

_OWN_LENGTHS = (MP4, "avi", "mpegts", "mxf", "nut")
"""Formats, by FFmpeg's names, in which each stream has a length of its own."""

_ROUNDED_S = 0.002
_TAGGED_LENGTH = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


@contextmanager
def open_video(source: MediaFile | Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The open container and its video stream.

    Raises:
        RejectRow: ``missing_file``, ``broken_symlink``, ``is_a_directory``, ``not_a_file``, ``unreadable``, ``empty_file``, ``no_moov``,
            ``not_a_video``, ``no_video_stream``, ``unsupported_codec``; for a member of an archive also those of
            :meth:`~motive_pipeline.files.media_file.MediaFile.open`, which can come while the block reads.
    """
    with _opened_with_data(media_file(source)) as (container, stream, _):
        yield container, stream


@contextmanager
def open_pictures(source: MediaFile | Path) -> Iterator[tuple[InputContainer, VideoStream, StatedCrop | None]]:
    """What :func:`open_video` gives, and the crop that the container states: for readers of pixels. Raises as :func:`open_video` does."""
    file = media_file(source)
    with _opened_with_data(file) as (container, stream, data):
        track, position = stream.id, container.streams.video.index(stream)
        with file.open() if data is None else nullcontext(data) as readable:
            crop = stated_crop(readable, container.format.name, track, position)
        yield container, stream, crop


@contextmanager
def _opened_with_data(file: MediaFile) -> Iterator[tuple[InputContainer, VideoStream, BufferedReader | None]]:
    """The open container, its video stream, and the stream of bytes that FFmpeg reads if it does not open the file itself."""
    if not file.member:
        if regular_file_stat(file.path).size == 0:
            raise RejectRow("empty_file", "the file has 0 bytes")
        with held(file.path), _opened(file, str(file.path)) as container:
            yield container, _video_stream(container), None
        return
    with file.open() as data:
        if not data.peek(1):
            raise RejectRow("empty_file", "the archive's member has 0 bytes")
        with _opened(file, data) as container:
            yield container, _video_stream(container), data


def stated_length_s(container: InputContainer, stream: VideoStream) -> float | None:
    """The length of the video in seconds, as its tag (Matroska), the stream or the container states it; None if none does.

    Many containers state one length for all streams, which FFmpeg passes on as the stream's. It counts only where nothing else is in the
    container: sound may go on after the last picture.
    """
    if tag := _TAGGED_LENGTH.fullmatch(stream.metadata.get("DURATION", "")):
        hours, minutes, seconds = map(float, tag.groups())
        return 3600 * hours + 60 * minutes + seconds
    of_all = container.duration / av.time_base if container.duration else None
    own = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
    if len(container.streams) == 1:
        return own or of_all
    is_passed_on = own is not None and of_all is not None and abs(own - of_all) < _ROUNDED_S
    return None if is_passed_on and container.format.name not in _OWN_LENGTHS else own


def first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    """The first frame that the decoder gives.

    Raises:
        RejectRow: ``zero_frames``, ``decode_error``, ``unsupported_codec``.
    """
    try:
        for frame in container.decode(stream):
            return frame
    except av.error.DecoderNotFoundError as error:
        raise RejectRow("unsupported_codec", "this installation of FFmpeg has no decoder for the video stream") from error
    except av.error.FFmpegError as error:
        raise RejectRow("decode_error", f"the first frame cannot be decoded: {error.strerror}") from error
    raise RejectRow("zero_frames", "the video stream holds no frame")


@contextmanager
def _opened(file: MediaFile, source: str | BufferedReader) -> Iterator[InputContainer]:
    try:
        container = av.open(source, "r", metadata_errors="replace", options={"format_whitelist": _WHITELIST, "protocol_whitelist": "file"})
    except (av.error.InvalidDataError, av.error.ArgumentError, av.error.EOFError) as error:
        raise _no_video(file, error) from error
    except av.error.OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error
    except av.error.FFmpegError as error:
        raise RejectRow("not_a_video", f"cannot be opened as a video: {error.strerror}") from error
    with container:
        yield container


def _no_video(file: MediaFile, error: av.error.FFmpegError) -> RejectRow:
    with file.open() as stream:
        names = {box.name for box in islice(top_level_boxes(stream, file.num_bytes()), MAX_BOXES)}
    if "ftyp" in names and "moov" not in names:
        return RejectRow("no_moov", "an MP4 without its index (moov): the download or the recording was cut off")
    return RejectRow("not_a_video", f"no video container ({error.strerror}); perhaps an error page that was saved under a video's name")


def _video_stream(container: InputContainer) -> VideoStream:
    """FFmpeg's own choice among the video streams, without cover pictures."""
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
