"""A clip's motion at pixel resolution: tracks -> magnitude -> weights, with the options that go beyond the paper's equations.

Axes: T decoded frames, F latent frames, H W pixels, h w latent cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from motive_pipeline.config import Motion
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.motion.camera import downweight_uniform, subtract_camera
from motive_pipeline.motion.mask import magnitude, saliency, to_latent_grid
from motive_pipeline.motion.trackers import Reference, Tracker, Tracks
from motive_pipeline.video.cuts import cut_frames

PEAK_SHARE = 0.005
"""The share of the pixels, over all frames, that move faster than a clip's peak: a thing that covers a hundredth of the picture counts, a few
pixels of coding noise do not."""


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """How tracks become a mask. With the defaults and ``floor_px`` = 0 it is the paper's rule (eq. 12-14)."""

    floor_px: float
    camera: Literal["keep", "subtract", "downweight"] = "keep"
    cuts: Literal["keep", "skip"] = "keep"
    weigh_by: Literal["none", "visibility", "confidence", "both"] = "none"

    @classmethod
    def of(cls, motion: Motion) -> MaskRule:
        """The rule that the section ``motion`` states."""
        return cls(floor_px=motion.floor_px, camera=motion.camera, cuts=motion.cuts, weigh_by=motion.weigh_by)


@dataclass(frozen=True, kw_only=True)
class MotionField:
    """Magnitude in pixels, the weight W in [0, 1] that the mask is made of, and two figures over the frames that count: the mean magnitude,
    and the peak (:func:`peak`)."""

    magnitude_THW: Float32[np.ndarray, "T H W"]
    weight_THW: Float32[np.ndarray, "T H W"]
    magnitude_px: float
    peak_px: float

    def mask(self, grid: LatentGrid) -> Float32[np.ndarray, "F h w"]:
        """The mask on the latent grid."""
        return to_latent_grid(self.weight_THW, grid)


def motion_field(frames_THWC: UInt8[np.ndarray, "T H W 3"], tracker: Tracker, rule: MaskRule) -> MotionField:
    """Track the frames and weight their pixels by ``rule``."""
    is_skipped_T = np.zeros(len(frames_THWC), dtype=bool)
    if rule.cuts == "skip":
        is_skipped_T = _frames_without_tracks(cut_frames(frames_THWC), tracker.reference)
    return weigh(tracker.track(frames_THWC), rule, is_skipped_T)


def weigh(tracks: Tracks, rule: MaskRule, is_skipped_T: Bool[np.ndarray, " T"]) -> MotionField:
    """The motion field of ``tracks``. Skipped frames have weight 0 and count neither for the range nor for the mean."""
    displacement_THW2 = subtract_camera(tracks.displacement_THW2) if rule.camera == "subtract" else tracks.displacement_THW2
    magnitude_THW = magnitude(displacement_THW2)
    counted_THW = magnitude_THW[~is_skipped_T] if is_skipped_T.any() else magnitude_THW
    if not len(counted_THW):
        nothing_THW = np.zeros_like(magnitude_THW)
        return MotionField(magnitude_THW=nothing_THW, weight_THW=nothing_THW, magnitude_px=0.0, peak_px=0.0)
    magnitude_THW[is_skipped_T] = counted_THW.min()
    weight_THW = saliency(magnitude_THW, floor_px=rule.floor_px)
    if rule.camera == "downweight":
        weight_THW = downweight_uniform(weight_THW)
    for factor_THW in _factors(tracks, rule):
        weight_THW = weight_THW * factor_THW
    mean_px = float(counted_THW.mean(dtype=np.float64))
    return MotionField(magnitude_THW=magnitude_THW, weight_THW=weight_THW, magnitude_px=mean_px, peak_px=peak(counted_THW))


def peak(magnitude_THW: Float32[np.ndarray, "T H W"]) -> float:
    """How fast the fastest part of a clip moves relative to its slowest part, in pixels: M - min M at the quantile 1 - :data:`PEAK_SHARE`."""
    values = magnitude_THW.ravel()
    place = int((1 - PEAK_SHARE) * (values.size - 1))
    return float(np.partition(values, place)[place] - values.min())


def _factors(tracks: Tracks, rule: MaskRule) -> list[Float32[np.ndarray, "T H W"]]:
    wanted = {"none": (), "visibility": ("visibility",), "confidence": ("confidence",), "both": ("visibility", "confidence")}[rule.weigh_by]
    factors = [getattr(tracks, f"{name}_THW") for name in wanted]
    assert all(factor is not None for factor in factors), "the config rejects weigh_by for a tracker without visibility and confidence"
    return factors


def _frames_without_tracks(is_cut_T: Bool[np.ndarray, " T"], reference: Reference) -> Bool[np.ndarray, " T"]:
    """The frames whose reference frame lies across a cut: for ``previous`` the frame at each cut, for ``first`` all from the first cut on."""
    if reference == "first":
        return np.logical_or.accumulate(is_cut_T)
    is_skipped_T = is_cut_T.copy()
    is_skipped_T[0] = len(is_cut_T) > 1 and is_cut_T[1]  # frame 0 is tracked to frame 1
    return is_skipped_T
