"""Small videos, good and bad, made on the fly; a project folder around them."""

import errno
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import yaml

from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.config import parse_config
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule

RULE = FrameRule(num_frames=9, min_frames=5, fps=8.0, width=64, height=48)


def counting_frames(num_frames: int, *, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames whose grey value is 10 + 5 * index, so that a decoded frame tells which one it is."""
    values_T = 10 + 5 * np.arange(num_frames)
    return np.broadcast_to(values_T[:, None, None, None], (num_frames, height, width, 3)).astype(np.uint8)


def which_frames(frames_THWC: np.ndarray) -> list[int]:
    """Indices of :func:`counting_frames` that ``frames_THWC`` show."""
    return [round((float(frame_HWC.mean()) - 10) / 5) for frame_HWC in frames_THWC]


def moving_square(num_frames: int = 9, *, step_px: float = 2.0, width: int = 64, height: int = 48, seed: int = 0) -> np.ndarray:
    """A textured square that moves to the right over a still, textured ground."""
    rng = np.random.default_rng(seed)
    ground_HWC = np.kron(rng.integers(40, 120, (height // 4, width // 4, 3)), np.ones((4, 4, 1))).astype(np.uint8)
    square_HWC = np.kron(rng.integers(120, 250, (8, 8, 3)), np.ones((2, 2, 1))).astype(np.uint8)
    frames_THWC = np.repeat(ground_HWC[None], num_frames, axis=0)
    for frame in range(num_frames):
        left = round(4 + step_px * frame)
        frames_THWC[frame, 16:32, left : left + 16] = square_HWC
    return frames_THWC


def noise(num_frames: int = 48, *, width: int = 64, height: int = 48) -> np.ndarray:
    """Frames that do not compress, so that the bytes of a file lie evenly over its time."""
    return np.random.default_rng(0).integers(0, 255, (num_frames, height, width, 3), dtype=np.uint8)


def write_video(
    path: Path,
    frames_THWC: np.ndarray,
    *,
    fps: float = 8.0,
    times_s: list[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: int = 0,
    pixel_aspect: Fraction | None = None,
    transfer: int | None = None,
    matrix: int | None = None,
    full_range: bool = False,
    interlaced: bool = False,
) -> Path:
    """Encode frames, at ``fps`` or at their own times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(
            codec, rate=Fraction(fps).limit_denominator(1001), options=({"crf": "12"} if codec == "libx264" else {}) | (options or {})
        )
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = pix_fmt
        context = stream.codec_context
        context.thread_count = 1
        if times_s is not None:
            context.time_base = Fraction(1, 1000)
        if pixel_aspect is not None:
            context.sample_aspect_ratio = pixel_aspect
        if transfer is not None:
            context.color_trc = transfer
        if matrix is not None:
            context.colorspace = matrix
        if full_range:
            context.color_range = 2
        if interlaced:
            context.flags |= av.codec.context.Flags.interlaced_dct
        if rotation:
            stream.set_display_rotation(rotation)
        for number, frame_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            if pix_fmt not in ("rgb24", "argb"):
                frame = frame.reformat(format=pix_fmt, dst_color_range=2 if full_range else 1)
            if times_s is not None:
                frame.pts, frame.time_base = round(times_s[number] * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        for number in range(20):
            frame.pts = number * 1024
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


CLICK_S = 0.005


def write_film_with_sound(
    path: Path,
    frames_THWC: np.ndarray,
    *,
    fps: float,
    clicks_s: list[float],
    begins_s: float = 0.0,
    length_s: float | None = None,
    pause_s: tuple[float, float] | None = None,
    rate: int = 44100,
    layout: str = "stereo",
    codec: str = "aac",
) -> Path:
    """H.264 with sound that is silent but for clicks at these times. The sound begins at ``begins_s`` and ends with the picture, or after ``length_s``; in ``pause_s`` the file has no samples."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_samples = round((len(frames_THWC) / fps if length_s is None else length_s) * rate)
    samples_CS = np.zeros((2 if layout == "stereo" else 1, num_samples), np.float32)
    for click_s in clicks_s:
        start = round((click_s - begins_s) * rate)
        samples_CS[:, start : start + round(CLICK_S * rate)] = 0.9
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": "12", "g": "12"})
        video.height, video.width, video.pix_fmt = *frames_THWC.shape[1:3], "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout=layout)
        for start in range(0, num_samples, 1024):
            if pause_s is not None and pause_s[0] * rate <= start < pause_s[1] * rate:
                continue
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples_CS[:, start : start + 1024]), format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, start + round(begins_s * rate), Fraction(1, rate)
            container.mux(sound.encode(frame))
        container.mux(sound.encode())
        for frame_HWC in frames_THWC:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")))
        container.mux(video.encode())
    return path


def clicks_in(samples_CS: np.ndarray, rate: int) -> list[float]:
    """The times (s) at which clicks begin."""
    loud = np.flatnonzero(np.abs(samples_CS).max(axis=0) > 0.3)
    return [float(place) / rate for number, place in enumerate(loud) if not number or place - loud[number - 1] > rate // 50]


def cut(path: Path, share: float) -> Path:
    """Keep the first ``share`` of the file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def damage(path: Path, share: float, num_bytes: int) -> Path:
    """Overwrite ``num_bytes`` bytes, ``share`` into the file."""
    data = bytearray(path.read_bytes())
    start = int(share * len(data))
    data[start : start + num_bytes] = np.random.default_rng(1).integers(0, 255, num_bytes, dtype=np.uint8).tobytes()
    path.write_bytes(bytes(data))
    return path


def project(folder: Path, **sections) -> Workspace:
    """A workspace over ``folder/clips``, ``folder/queries`` and, where it is there, ``folder/held_out``, with the tiny model."""
    settings = {
        "clips": {"path": "clips", "num_frames": 9, "min_frames": 5, "fps": 8, "width": 64, "height": 48},
        "queries": {"path": "queries", **({"held_out_path": "held_out"} if (folder / "held_out").exists() else {})},
        "model": {"path": "tiny", "dtype": "float32", "max_prompt_tokens": 64},
        "engine": {"threads": 1},
    }
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values if isinstance(values, dict) else values
    return Workspace(parse_config(yaml.safe_dump(settings), folder / "motive.yaml"))


def catalogued(ws: Workspace) -> Workspace:
    """The same workspace with both catalogs published."""
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    return ws


def write_project(folder: Path) -> None:
    """Three clips (one still), two queries in one category and one held-out query."""
    for number, step_px in enumerate((1.0, 2.0, 0.0)):
        write_video(folder / "clips" / f"clip_{number}.mp4", moving_square(step_px=step_px, seed=number))
        (folder / "clips" / f"clip_{number}.txt").write_text(f"a square of kind {number}\n")
    for number in range(2):
        write_video(folder / "queries" / "slide" / f"query_{number}.mp4", moving_square(step_px=3.0, seed=10 + number))
    write_video(folder / "held_out" / "held.mp4", moving_square(step_px=3.0, seed=20))


def forbid_listing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``folder`` cannot be listed, as one without the right to read. Tests run as root, whom no permission stops."""
    listed = os.scandir

    def scandir(path=".") -> Iterator[os.DirEntry]:
        if Path(path) == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
