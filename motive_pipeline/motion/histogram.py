"""Histograms of optical flow: direction, speed and, on request, the part of the picture and of the clip.

A pixel counts as much as it moves, so a small moving object weighs more than a large still background. The share that is left when little or
nothing moves goes into one last bin, so that still clips are like each other and unlike all others. No weights, no training; after Chaudhry et
al. (CVPR 2009), who describe a clip by histograms of oriented optical flow.

Axes: T decoded frames, P pairs of frames, H W pixels, 2 = (dx, dy), A directions, S speeds, B = cells * A * S + 1 bins.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from motive_pipeline.motion.trackers import DisTracker

NUM_DIRECTIONS = 8
"""Of 45 degrees each; the first is centred on "to the right", the third on "down"."""

SPEED_EDGES = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Lower edges of the speed bins, in shorter sides of the picture per second. Slower motion counts as noise of the flow, that is, as still."""

STILL_SPEED = 0.002
"""Mean speed below which the still bin gets a share. A hundredth of the picture moving at 0.2 has this mean."""

_SAMPLED_FPS = 8.0
_TRACKER = DisTracker(preset="medium", reference="first", min_side_px=128)


def sampling_step(fps: float) -> int:
    """The step between sampled frames of a video of this rate: VBench's rule, about eight frames a second."""
    return max(1, round(fps / _SAMPLED_FPS))


def sampled_flow(frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float) -> Float32[np.ndarray, "P H W 2"]:
    """DIS flow between consecutive sampled frames (:func:`sampling_step`), each on the earlier frame's grid, in its pixels."""
    sampled = frames_THWC[:: sampling_step(fps)]
    flows = [_TRACKER.displacement(np.stack(pair))[1] for pair in itertools.pairwise(sampled)]
    return np.stack(flows) if flows else np.zeros((0, *frames_THWC.shape[1:3], 2), np.float32)


def velocity(flow_PHW2: Float[np.ndarray, "P H W 2"], fps: float) -> Float32[np.ndarray, "P H W 2"]:
    """The sampled flow of a video of ``fps`` frames a second, in shorter sides of the picture per second."""
    per_second = fps / sampling_step(fps) / min(flow_PHW2.shape[1:3])
    return (flow_PHW2 * np.float32(per_second)).astype(np.float32, copy=False)


def flow_histogram(velocity_PHW2: Float[np.ndarray, "P H W 2"], *, spans: int = 1, cells: int = 1) -> Float32[np.ndarray, " B"]:
    """Shares of all motion by span of time, cell of the picture, direction and speed, then the share of stillness; they sum to 1.

    ``spans`` divides the pairs of frames, and ``cells`` each side of the picture, into that many equal parts.
    """
    num_pairs, height, width = velocity_PHW2.shape[:3]
    speed_PHW = np.linalg.norm(velocity_PHW2, axis=-1)
    part_PHW = np.ravel_multi_index(
        np.ix_(*(np.arange(size) * parts // max(size, 1) for size, parts in ((num_pairs, spans), (height, cells), (width, cells)))),
        (spans, cells, cells),
    )
    bin_PHW = (part_PHW * NUM_DIRECTIONS + direction(velocity_PHW2)) * len(SPEED_EDGES) + np.digitize(speed_PHW, SPEED_EDGES) - 1
    moving_PHW = speed_PHW >= SPEED_EDGES[0]
    num_bins = spans * cells * cells * NUM_DIRECTIONS * len(SPEED_EDGES)
    motion_B = np.bincount(bin_PHW[moving_PHW], weights=speed_PHW[moving_PHW], minlength=num_bins) / max(speed_PHW.size, 1)
    share_B = motion_B / max(float(motion_B.sum()), STILL_SPEED)
    return np.append(share_B, max(0.0, 1.0 - float(share_B.sum()))).astype(np.float32)


def direction(vector: Float[np.ndarray, "*x 2"]) -> Int[np.ndarray, "*x"]:
    """The number of each vector's direction, 0 to :data:`NUM_DIRECTIONS` - 1, clockwise on the screen from "to the right"."""
    angle = np.arctan2(vector[..., 1], vector[..., 0])
    return np.rint(angle * (NUM_DIRECTIONS / (2 * np.pi))).astype(np.int64) % NUM_DIRECTIONS


def speed_by_direction(vector_PHW2: Float[np.ndarray, "P H W 2"]) -> Float[np.ndarray, "P A"]:
    """For each pair of frames, the length of its vectors by direction, averaged over the whole picture."""
    num_pairs, height, width = vector_PHW2.shape[:3]
    bin_PHW = direction(vector_PHW2) + NUM_DIRECTIONS * np.arange(num_pairs)[:, None, None]
    total = np.bincount(bin_PHW.ravel(), weights=np.linalg.norm(vector_PHW2, axis=-1).ravel(), minlength=num_pairs * NUM_DIRECTIONS)
    return total.reshape(num_pairs, NUM_DIRECTIONS) / (height * width)
