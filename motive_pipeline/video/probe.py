"""What a video is, from its container and its first frame. Of a window, the number of frames and the length are its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from av.video.stream import VideoStream

from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.video.container import first_frame, open_pictures, open_video, stated_length_s
from motive_pipeline.video.geometry import frame_flags, geometry
from motive_pipeline.video.window_frames import window_facts

_SANE_FPS = (0.01, 100_000)


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What the container and the first frame say.

    ``width`` and ``height`` are those of the picture as shown: cropped as the container says, turned, and with square pixels. ``num_frames``
    is the container's count, or the number of packets if it states none. ``fps`` and ``duration_s`` are NaN when neither is known. ``flags`` are among
    :data:`~.flags.FLAGS`.
    """

    num_frames: int
    fps: float
    width: int
    height: int
    duration_s: float
    flags: tuple[str, ...]


def probe(source: MediaFile | Path) -> VideoFacts:
    """Read the container and decode the first frame.

    Raises:
        RejectRow: see :func:`~.container.open_video`; ``zero_frames``, ``decode_error`` or ``unsupported_codec`` for the first frame; for a
            window those of :func:`~.window_frames.window_facts`.
    """
    file = media_file(source)
    with open_pictures(file) as (container, stream, crop):
        first = first_frame(container, stream)
        shape = geometry(first, stream, crop)
        width, height = shape.shown_size(first.width, first.height)
        num_frames = stream.frames or None
        rate = _rate(stream)
        flags = frame_flags(first, shape)
        duration_s = stated_length_s(container, stream)
    if file.window is not None:
        part = window_facts(file)
        num_frames, duration_s = part.num_frames, float(part.length_s)
    if num_frames is None:
        num_frames = _count_packets(source)
    if duration_s is None:
        duration_s = num_frames / rate if rate else float("nan")
    fps = rate or (num_frames / duration_s if duration_s else float("nan"))
    return VideoFacts(num_frames=num_frames, fps=fps, width=width, height=height, duration_s=duration_s, flags=flags)


def _rate(stream: VideoStream) -> float | None:
    rate = float(stream.average_rate or stream.guessed_rate or 0)
    return rate if _SANE_FPS[0] <= rate <= _SANE_FPS[1] else None


def _count_packets(source: MediaFile | Path) -> int:
    with open_video(source) as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size)
