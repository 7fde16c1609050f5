"""Displacement -> motion mask on the latent grid (docs/motion.md; Wu et al., arXiv 2601.08828, eq. 12-14).

Axes: T decoded frames, F latent frames, H W pixels, h w latent cells, 2 = (dx, dy).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32

from motive_pipeline.models.grid import LatentGrid

ZETA = 1e-6
"""Keeps the min-max of a clip without any motion finite (eq. 13)."""


def magnitude(displacement_THW2: Float[np.ndarray, "T H W 2"]) -> Float32[np.ndarray, "T H W"]:
    """M = ||D||_2 in pixels (eq. 12)."""
    return np.hypot(displacement_THW2[..., 0], displacement_THW2[..., 1]).astype(np.float32)


def saliency(magnitude_THW: Float32[np.ndarray, "T H W"], *, floor_px: float) -> Float32[np.ndarray, "T H W"]:
    """W = (M - min M) / max(max M - min M + zeta, floor_px), min and max over the whole clip (eq. 13), in [0, 1].

    With ``floor_px`` = 0 this is the paper's equation. A clip whose magnitudes differ by less than ``floor_px`` stays below 1, so
    noise on a still clip is not scaled up to motion.
    """
    low, high = float(magnitude_THW.min()), float(magnitude_THW.max())
    return (magnitude_THW - np.float32(low)) / np.float32(max(high - low + ZETA, floor_px))


def to_latent_grid(saliency_THW: Float32[np.ndarray, "T H W"], grid: LatentGrid) -> Float32[np.ndarray, "F h w"]:
    """W on the grid of the latents (eq. 14): bilinear in space, cell centres aligned; in time, latent frame 0 is frame 0 and latent
    frame k is the mean of frames s(k-1)+1 ... sk, with s the temporal stride.

    Raises:
        ValueError: the number of frames is not n * s + 1.
    """
    num_frames, height, width = saliency_THW.shape
    stride = grid.temporal_stride
    if (num_frames - 1) % stride:
        raise ValueError(f"{num_frames} frames do not fit the temporal stride {stride}: n * {stride} + 1 are needed")
    _, num_latent_frames, latent_height, latent_width = grid.shape(num_frames, height, width)
    resized_Thw = torch.nn.functional.interpolate(
        torch.from_numpy(saliency_THW)[None], size=(latent_height, latent_width), mode="bilinear", align_corners=False
    )[0].numpy()
    mask_Fhw = np.empty((num_latent_frames, latent_height, latent_width), dtype=np.float32)
    mask_Fhw[0] = resized_Thw[0]
    mask_Fhw[1:] = resized_Thw[1:].reshape(num_latent_frames - 1, stride, latent_height, latent_width).mean(axis=1)
    return mask_Fhw
