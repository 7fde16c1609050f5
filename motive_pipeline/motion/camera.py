"""Camera motion: subtracted from the displacement, or given less weight in the mask.

Axes: T decoded frames, H W pixels, 2 = (dx, dy), N grid points.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, Float32

POINTS_A_SIDE = 40
"""The fit uses a grid of at most this many points along each side of a frame."""

INLIER_PX = 0.5
INLIER_SHARE = 0.5
"""The fitted motion is subtracted only if at least this share of the picture follows it to within INLIER_PX."""

_ROUNDS = 500


def subtract_camera(displacement_THW2: Float32[np.ndarray, "T H W 2"]) -> Float32[np.ndarray, "T H W 2"]:
    """The displacement minus the camera's motion.

    The camera's motion in a frame is the similarity transform (shift, zoom, roll) that most of the picture follows. It is fitted by least median
    of squares (Rousseeuw, 1984), which needs no scale, so sub-pixel motion of objects does not leak into it. A frame in which less than half of
    the picture agrees on one transform is left unchanged: its camera motion cannot be told from that of objects. Deterministic: OpenCV's sampling
    has a fixed seed.
    """
    height, width = displacement_THW2.shape[1:3]
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float32)
    position_HW2 = np.stack([x_HW, y_HW], axis=-1)
    own_THW2 = displacement_THW2.copy()
    for frame, displacement_HW2 in enumerate(displacement_THW2):
        matrix_23 = _similarity(position_HW2, displacement_HW2)
        if matrix_23 is not None:
            own_THW2[frame] -= position_HW2 @ matrix_23[:, :2].T + matrix_23[:, 2] - position_HW2
    return own_THW2


def _similarity(position_HW2: Float32[np.ndarray, "H W 2"], displacement_HW2: Float32[np.ndarray, "H W 2"]) -> np.ndarray | None:
    """The 2 x 3 matrix that maps a position to where the camera's motion moves it; None if less than half of the picture agrees on one."""
    step_y, step_x = (max(1, size // POINTS_A_SIDE) for size in position_HW2.shape[:2])
    on_grid = (slice(step_y // 2, None, step_y), slice(step_x // 2, None, step_x))
    from_N2 = np.ascontiguousarray(position_HW2[on_grid].reshape(-1, 2))
    to_N2 = from_N2 + displacement_HW2[on_grid].reshape(-1, 2)
    if not np.isfinite(to_N2).all():
        return None
    matrix_23, _ = cv2.estimateAffinePartial2D(from_N2, to_N2, method=cv2.LMEDS, maxIters=_ROUNDS, refineIters=10)
    if matrix_23 is None:
        return None
    miss_N = np.linalg.norm(from_N2 @ matrix_23[:, :2].T + matrix_23[:, 2] - to_N2, axis=1)
    return np.asarray(matrix_23, dtype=np.float32) if float(np.mean(miss_N < INLIER_PX)) >= INLIER_SHARE else None


def evenness(saliency_THW: Float32[np.ndarray, "T H W"]) -> Float[np.ndarray, " T"]:
    """How evenly each frame's weight is spread: (mean W)^2 / mean W^2, the share of the picture that holds it; 0 without any weight."""
    weight_THW = saliency_THW.astype(np.float64)
    power_T = (weight_THW**2).mean(axis=(1, 2))
    return np.divide(weight_THW.mean(axis=(1, 2)) ** 2, power_T, out=np.zeros(len(power_T)), where=power_T > 0)


def downweight_uniform(saliency_THW: Float32[np.ndarray, "T H W"]) -> Float32[np.ndarray, "T H W"]:
    """W, each frame times min(1, 2 (1 - evenness)): unchanged while motion fills at most half of the picture, 0 where all of it moves alike.

    The paper proposes this as a next step: camera-only motion gives a spatially uniform mask and should weigh less (Wu et al., arXiv 2601.08828).
    """
    factor_T = np.clip(2.0 * (1.0 - evenness(saliency_THW)), 0.0, 1.0)
    return saliency_THW * factor_T.astype(np.float32)[:, None, None]
