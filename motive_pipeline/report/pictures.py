"""Small looping pictures inside a self-contained page: animated WebP as data URIs.

Axes: T decoded frames, F latent frames, H W pixels, h w latent cells.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from motive_pipeline.motion.overlay import overlay_mask

MAX_WIDTH_PX, MAX_HEIGHT_PX = 128, 96
MAX_FRAMES = 20
QUALITY = 60


@dataclass(frozen=True, kw_only=True)
class Animation:
    """A looping picture: its data URI, a still frame for readers who want no motion, and its size in pixels."""

    uri: str
    still: str
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames of a clip, scaled down to fit 128 x 96 pixels (or a multiple): at most 20, evenly spaced. ``numbers`` are their numbers in the clip."""

    pictures: Sequence[UInt8[np.ndarray, "H W 3"]]
    numbers: Sequence[int]
    duration_ms: int
    """For which each frame is shown."""


def film(frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float, *, scale: int = 1) -> Film:
    """The frames that a loop shows; with ``scale``, this many times as large as usual."""
    step = -(-len(frames_THWC) // MAX_FRAMES)
    numbers = range(0, len(frames_THWC), step)
    return Film(pictures=[_small(frames_THWC[number], scale) for number in numbers], numbers=numbers, duration_ms=round(1000 * step / fps))


def animation(
    frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float, *, mask_FHW: Float[np.ndarray, "F h w"] | None = None, temporal_stride: int = 4
) -> Animation:
    """The frames as a loop at their own speed (:func:`film`). The mask is drawn over them in red. ``temporal_stride`` frames share one latent frame of it."""
    shown = film(frames_THWC, fps)
    return looped(masked(shown, mask_FHW, temporal_stride), shown.duration_ms)


def masked(shown: Film, mask_FHW: Float[np.ndarray, "F h w"] | None, temporal_stride: int) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The pictures with the mask drawn over them."""
    if mask_FHW is None:
        return list(shown.pictures)
    return [
        overlay_mask(picture_HWC, at_frame(mask_FHW, number, temporal_stride))
        for picture_HWC, number in zip(shown.pictures, shown.numbers, strict=True)
    ]


def at_frame(grid_FHW: Float[np.ndarray, "F h w"], frame: int, temporal_stride: int) -> Float[np.ndarray, "h w"]:
    """The part of a mask or map that belongs to a decoded frame."""
    return grid_FHW[min(latent_frame(frame, temporal_stride), len(grid_FHW) - 1)]


def looped(pictures: Sequence[UInt8[np.ndarray, "H W 3"]], duration_ms: int) -> Animation:
    """The pictures as a loop, each shown for ``duration_ms``. The still is the middle one."""
    height, width = pictures[0].shape[:2]
    return Animation(uri=_data_uri(loop_webp(pictures, duration_ms)), still=_data_uri(still_webp(pictures)), width=width, height=height)


def loop_webp(pictures: Sequence[UInt8[np.ndarray, "H W 3"]], duration_ms: int) -> bytes:
    """The pictures as a looping WebP file, each shown for ``duration_ms``."""
    first, *others = (Image.fromarray(picture_HWC) for picture_HWC in pictures)
    return _webp(first, save_all=True, append_images=others, duration=duration_ms, loop=0, method=4, minimize_size=True)


def still_webp(pictures: Sequence[UInt8[np.ndarray, "H W 3"]]) -> bytes:
    """The middle picture as a WebP file."""
    return _webp(Image.fromarray(pictures[len(pictures) // 2]))


def _webp(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, **options)
    return stream.getvalue()


def _data_uri(webp: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(webp).decode("ascii")


def latent_frame(frame: int, temporal_stride: int) -> int:
    """The latent frame that a decoded frame belongs to: 0 is alone, then ``temporal_stride`` share one (docs/motion.md)."""
    return 0 if frame == 0 else (frame - 1) // temporal_stride + 1


def _small(frame_HWC: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame_HWC.shape[:2]
    scale = min(1.0, times * MAX_WIDTH_PX / width, times * MAX_HEIGHT_PX / height)
    if scale == 1.0:
        return frame_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)
