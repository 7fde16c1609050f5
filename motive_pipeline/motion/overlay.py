"""Draws a motion mask over a picture, the same way for previews, report and explanation.

Axes: H W pixels, h w latent cells (or pixels).
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8

MASK_COLOUR = (255, 64, 32)
"""The colour, in RGB, of weight 1."""

_OPACITY = 0.7


def overlay_mask(
    picture_HWC: UInt8[np.ndarray, "H W 3"], mask_hw: Float[np.ndarray, "h w"], *, as_cells: bool = False
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture with the mask (weights in [0, 1]) drawn over it: unchanged where the weight is 0, mostly red where it is 1.

    The mask is scaled to the picture: smoothly, or cell by cell with ``as_cells``.
    """
    height, width = picture_HWC.shape[:2]
    interpolation = cv2.INTER_NEAREST if as_cells else cv2.INTER_LINEAR
    weight_HW1 = cv2.resize(mask_hw.astype(np.float32), (width, height), interpolation=interpolation)[..., None].clip(0, 1)
    opacity_HW1 = _OPACITY * weight_HW1
    mixed_HWC = (1 - opacity_HW1) * picture_HWC + opacity_HW1 * np.array(MASK_COLOUR, np.float32)
    return np.rint(mixed_HWC).astype(np.uint8)
