"""Where a clip is cut: frames that no motion leads to.

Axes: T decoded frames, H W pixels, C channels (RGB).
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

SMALL_PX = 32
"""Frames are compared at this size, at which motion of a few pixels leaves them much alike."""

LEAST_CHANGE = 12.0
TYPICAL_CHANGES = 4.0
"""A frame is cut to when it differs from the one before by more grey levels than the first, and than this many times the clip's median."""


def cut_frames(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Bool[np.ndarray, " T"]:
    """Which frames show something else than the frame before (a cut, the two ends of a flash); never frame 0."""
    small_Thw = np.stack([_small(frame_HWC) for frame_HWC in frames_THWC])
    change_T = _changes(small_Thw)
    is_cut_T = np.zeros(len(frames_THWC), dtype=bool)
    if len(change_T):
        is_cut_T[1:] = change_T > max(LEAST_CHANGE, TYPICAL_CHANGES * float(np.median(change_T)))
    return is_cut_T


def _changes(small_Thw: Float[np.ndarray, "T h w"]) -> Float[np.ndarray, " pairs"]:
    """Mean absolute difference of each frame from the one before, in grey levels."""
    return np.abs(np.diff(small_Thw, axis=0)).mean(axis=(1, 2))


def _small(frame_HWC: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "h w"]:
    grey_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey_HW, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA), dtype=np.float32)
