"""Small looping pictures inside a self-contained page: animated WebP as data URIs.

Axes: T decoded frames, F latent frames, H W pixels, h w latent cells.
"""

from __future__ import annotations

import base64
import io
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


def animation(
    frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float, *, mask_FHW: Float[np.ndarray, "F h w"] | None = None, temporal_stride: int = 4
) -> Animation:
    """The frames as a loop at their own speed, scaled down to fit 128 x 96 pixels, at most 20 frames. The mask is drawn over them in red.

    ``temporal_stride`` frames share one latent frame of the mask.
    """
    step = -(-len(frames_THWC) // MAX_FRAMES)
    pictures = []
    for frame in range(0, len(frames_THWC), step):
        picture_HWC = _small(frames_THWC[frame])
        if mask_FHW is not None:
            picture_HWC = overlay_mask(picture_HWC, mask_FHW[min(latent_frame(frame, temporal_stride), len(mask_FHW) - 1)])
        pictures.append(Image.fromarray(picture_HWC))
    loop = _webp(
        pictures[0], save_all=True, append_images=pictures[1:], duration=round(1000 * step / fps), loop=0, method=4, minimize_size=True
    )
    return Animation(uri=loop, still=_webp(pictures[len(pictures) // 2]), width=pictures[0].width, height=pictures[0].height)


def _webp(picture: Image.Image, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=QUALITY, **options)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def latent_frame(frame: int, temporal_stride: int) -> int:
    """The latent frame that a decoded frame belongs to: 0 is alone, then ``temporal_stride`` share one (docs/motion.md)."""
    return 0 if frame == 0 else (frame - 1) // temporal_stride + 1


def _small(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
    height, width = frame_HWC.shape[:2]
    scale = min(1.0, MAX_WIDTH_PX / width, MAX_HEIGHT_PX / height)
    if scale == 1.0:
        return frame_HWC
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(frame_HWC, size, interpolation=cv2.INTER_AREA), np.uint8)
