"""A clip laid out in rows for a person to look at: frames, magnitude, and the mask on pixels and on the latent grid, below each other.

Axes: T decoded frames, F latent frames, H W pixels, h w latent cells, K columns of the sheet.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from motive_pipeline.motion.field import MotionField
from motive_pipeline.motion.overlay import overlay_mask
from motive_pipeline.report.pictures import Animation, latent_frame

COLUMNS = 6
TILE_WIDTH_PX = 192
_GAP_PX = 4
_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row: what it shows, and the picture."""

    title: str
    note: str
    picture: Animation


def shown_frames(num_frames: int, temporal_stride: int) -> list[int]:
    """Up to six frames, evenly spread, the last of a latent frame each."""
    last = (num_frames - 1) // temporal_stride
    count = min(COLUMNS, last + 1)
    return [temporal_stride * round(step * last / max(1, count - 1)) for step in range(count)]


def strips(
    frames_THWC: UInt8[np.ndarray, "T H W 3"], field: MotionField, mask_Fhw: Float[np.ndarray, "F h w"], temporal_stride: int
) -> list[Strip]:
    """The four rows of a clip. ``mask_Fhw`` is the published mask, which the method used."""
    at = shown_frames(len(frames_THWC), temporal_stride)
    grey_KHWC = [_grey(frames_THWC[frame]) for frame in at]
    most_px = float(field.magnitude_THW.max())
    cells = [mask_Fhw[min(latent_frame(frame, temporal_stride), len(mask_Fhw) - 1)] for frame in at]
    numbers = ", ".join(str(frame) for frame in at)
    return [
        _strip("frames", f"numbers {numbers}", [frames_THWC[frame] for frame in at]),
        _strip(
            "magnitude",
            f"black is 0, yellow {most_px:.2f} px, the clip's largest",
            [_coloured(field.magnitude_THW[frame], most_px) for frame in at],
        ),
        _strip(
            "mask on pixels",
            "red is weight 1",
            [overlay_mask(grey_HWC, field.weight_THW[frame]) for frame, grey_HWC in zip(at, grey_KHWC, strict=True)],
        ),
        _strip(
            "mask on the latent grid",
            f"{mask_Fhw.shape[2]} x {mask_Fhw.shape[1]} cells, as the loss is weighed; {temporal_stride} frames share one",
            [overlay_mask(grey_HWC, cell_hw, as_cells=True) for grey_HWC, cell_hw in zip(grey_KHWC, cells, strict=True)],
        ),
    ]


def _grey(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """Without colours, which could be taken for the mask's."""
    return np.repeat(cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def _coloured(magnitude_HW: Float32[np.ndarray, "H W"], most_px: float) -> UInt8[np.ndarray, "H W 3"]:
    grey_HW = np.rint(255 * magnitude_HW / max(most_px, 1e-6)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(grey_HW, cv2.COLORMAP_INFERNO)[..., ::-1])


def _strip(title: str, note: str, pictures: list[UInt8[np.ndarray, "H W 3"]]) -> Strip:
    height, width = pictures[0].shape[:2]
    size = (TILE_WIDTH_PX, max(1, round(height * TILE_WIDTH_PX / width)))
    sheet = Image.new("RGBA", (len(pictures) * (size[0] + _GAP_PX) - _GAP_PX, size[1]))
    for column, picture_HWC in enumerate(pictures):
        method = Image.Resampling.NEAREST if width < size[0] else Image.Resampling.LANCZOS
        sheet.paste(Image.fromarray(picture_HWC).resize(size, method), (column * (size[0] + _GAP_PX), 0))
    stream = io.BytesIO()
    sheet.save(stream, "WEBP", quality=_QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Strip(title=title, note=note, picture=Animation(uri=uri, still=uri, width=sheet.width, height=sheet.height))
