"""Motion metrics of a video that need no network weights: stand-ins for VBench's, each named with its backend.

``temporal_flickering`` is VBench's own formula (backend ``exact``). ``dynamic_degree`` and ``motion_smoothness`` follow VBench's rules with
DIS optical flow in place of RAFT and AMT-S (backend ``dis``). Their values differ from VBench's and serve to compare arms with each other.

A frozen video is perfectly smooth and never flickers, so read both metrics together with ``dynamic_degree``.

Axes: T decoded frames, H W pixels, 2 = (dx, dy) in pixels.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from motive_pipeline.graph import resolve_dotted
from motive_pipeline.graph.metrics import Metric, video_metrics
from motive_pipeline.motion.histogram import sampled_flow, sampling_step
from motive_pipeline.motion.trackers import DisTracker

_TRACKER = DisTracker(preset="medium", reference="first", min_side_px=128)
_TOP_SHARE = 0.05
_THRESHOLD_PX = 6.0
_THRESHOLD_SIDE_PX = 256.0
_PAIRS_SHARE = 4 / 16


@dataclass(frozen=True, kw_only=True)
class Video:
    """One video to measure: its frames as ``clips.decode`` gives them, its rate, its :func:`sampled_flow` and its file."""

    frames_THWC: UInt8[np.ndarray, "T H W 3"]
    fps: float
    flow_PHW2: Float[np.ndarray, "P H W 2"]
    path: Path


def measure(video: Video) -> dict[Metric, float]:
    """The value of every metric of single videos (``graph/metrics.py``).

    Raises:
        ValueError: the video is too short for one of them.
    """
    return {metric: resolve_dotted(str(metric.measure))(video) for metric in video_metrics()}


def measure_dynamic_degree(video: Video) -> float:
    """:func:`dynamic_degree` of the video."""
    return dynamic_degree(video.frames_THWC, video.fps, video.flow_PHW2)


def measure_motion_smoothness(video: Video) -> float:
    """:func:`motion_smoothness` of the video."""
    return motion_smoothness(video.frames_THWC)


def measure_temporal_flickering(video: Video) -> float:
    """:func:`temporal_flickering` of the pixels that VBench reads: the backend ``exact`` promises VBench's value of this file."""
    return temporal_flickering(opencv_frames(video.path))


def temporal_flickering(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> float:
    """VBench's formula (255 - mean absolute difference of consecutive frames) / 255: 1 for a frozen video, 0 for alternating black and white.

    Raises:
        ValueError: fewer than two frames.
    """
    _require_frames(frames_THWC, 2)
    return 1.0 - float(np.mean([_mean_abs_difference(a, b) for a, b in itertools.pairwise(frames_THWC)])) / 255.0


def opencv_frames(path: Path) -> UInt8[np.ndarray, "T H W 3"]:
    """Every frame of the file as OpenCV, and therefore VBench, reads it (BGR).

    Other pixels than ``clips.decode`` gives: OpenCV repeats chroma samples where a picture for people interpolates them.

    Raises:
        ValueError: no frame can be read.
    """
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    if not frames:
        raise ValueError(f"OpenCV reads no frame of {path.name}")
    return np.stack(frames)


def dynamic_degree(frames_THWC: UInt8[np.ndarray, "T H W 3"], fps: float, flow_PHW2: Float[np.ndarray, "P H W 2"] | None = None) -> float:
    """1 if the video moves by VBench's rule, else 0.

    Consecutive frames among every max(1, round(fps / 8))-th frame, n in total, are compared. A pair moves if the mean of its largest 5 % flow
    magnitudes is above 6 min(H, W) / 256 px. The video moves if at least round(4 n / 16) pairs move (at least one: for two sampled frames
    VBench's own rule would ask for none).

    Raises:
        ValueError: fewer than two frames are left at that rate.
    """
    step = sampling_step(fps)
    sampled_THWC = frames_THWC[::step]
    _require_frames(sampled_THWC, 2, f" at every {step}. frame" if step > 1 else "")
    threshold_px = _THRESHOLD_PX * min(frames_THWC.shape[1:3]) / _THRESHOLD_SIDE_PX
    needed = max(1, round(_PAIRS_SHARE * len(sampled_THWC)))
    flows = sampled_flow(frames_THWC, fps) if flow_PHW2 is None else flow_PHW2
    moving = sum(_top_magnitude_px(flow_HW2) > threshold_px for flow_HW2 in flows)
    return float(moving >= needed)


def motion_smoothness(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> float:
    """VBench's rule (255 - mean absolute error) / 255 over the odd frames, each interpolated half-way between its even neighbours.

    A last frame without a successor does not count.

    Raises:
        ValueError: fewer than three frames.
    """
    _require_frames(frames_THWC, 3)
    errors = [
        _mean_abs_difference(frames_THWC[middle], midpoint(frames_THWC[middle - 1], frames_THWC[middle + 1]))
        for middle in range(1, len(frames_THWC) - 1, 2)
    ]
    return 1.0 - float(np.mean(errors)) / 255.0


def midpoint(before_HWC: UInt8[np.ndarray, "H W 3"], after_HWC: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """The frame half-way in time: both frames warped by half the flow towards each other, and averaged."""
    half_HW2 = (dis_flow(before_HWC, after_HWC) - dis_flow(after_HWC, before_HWC)) / 4.0
    blend_HWC = (_warped(before_HWC, -half_HW2) + _warped(after_HWC, half_HW2)) / 2.0
    return np.clip(np.rint(blend_HWC), 0, 255).astype(np.uint8)


def dis_flow(before_HWC: UInt8[np.ndarray, "H W 3"], after_HWC: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "H W 2"]:
    """DIS optical flow from ``before`` to ``after`` on ``before``'s grid, in pixels of the given frames."""
    return _TRACKER.displacement(np.stack((before_HWC, after_HWC)))[1]


def _top_magnitude_px(flow_HW2: np.ndarray) -> float:
    """Mean of the largest 5 % of the flow magnitudes (at least one pixel)."""
    magnitude = np.linalg.norm(flow_HW2, axis=-1).ravel()
    num_top = max(1, int(magnitude.size * _TOP_SHARE))
    return float(np.partition(magnitude, -num_top)[-num_top:].mean())


def _warped(frame_HWC: np.ndarray, displacement_HW2: np.ndarray) -> np.ndarray:
    """``frame`` sampled at each pixel's position plus ``displacement`` (bilinear, edges repeated)."""
    height, width = frame_HWC.shape[:2]
    x_HW, y_HW = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    source = (x_HW + displacement_HW2[..., 0], y_HW + displacement_HW2[..., 1])
    return cv2.remap(frame_HWC.astype(np.float32), *source, interpolation=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _mean_abs_difference(a_HWC: np.ndarray, b_HWC: np.ndarray) -> float:
    return sum(cv2.mean(cv2.absdiff(a_HWC, b_HWC))[:3]) / 3


def _require_frames(frames_THWC: np.ndarray, least: int, where: str = "") -> None:
    if len(frames_THWC) < least:
        raise ValueError(f"a video of at least {least} frames is needed{where}, this one has {len(frames_THWC)}")
