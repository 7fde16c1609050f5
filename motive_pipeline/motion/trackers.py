"""Trackers: frames -> the displacement of every pixel, in pixels of the decoded frame.

Axes: T decoded frames, H W pixels, C channels (RGB), 2 = (dx, dy) with x to the right and y downwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from motive_pipeline.config import Motion
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.graph.trackers import TRACKERS

Reference = Literal["first", "previous"]

_PRESETS = {"medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST}


@dataclass(frozen=True, kw_only=True)
class Tracks:
    """A tracker's result for a clip: displacements (dx, dy) in pixels of the given frames. Some trackers also give the visibility of the point in
    the other frame and their confidence, both in [0, 1]."""

    displacement_THW2: Float32[np.ndarray, "T H W 2"]
    visibility_THW: Float32[np.ndarray, "T H W"] | None = None
    confidence_THW: Float32[np.ndarray, "T H W"] | None = None


@runtime_checkable
class Tracker(Protocol):
    """Displacement of every pixel of every frame, relative to a reference frame."""

    @property
    def reference(self) -> Reference:
        """``previous``: from each frame to the one before it, on its own grid; frame 0 to frame 1.
        ``first``: from frame 0 to each frame, on frame 0's grid; zero in frame 0."""
        ...

    def track(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
        """The clip's motion; zero for a clip of one frame. The same frames give the same bits."""
        ...


@dataclass(frozen=True, kw_only=True)
class DisTracker:
    """Dense inverse search (Kroeger et al., ECCV 2016), OpenCV's optical flow between two frames.

    Frames whose smaller side is below ``min_side_px`` are enlarged to it for tracking (its patches are 8 pixels wide), and the flow is scaled
    back to their own pixels.
    """

    preset: Literal["medium", "fast"] = "medium"
    reference: Reference = "previous"
    min_side_px: int = 128

    def track(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Tracks:
        """See :meth:`Tracker.track`."""
        return Tracks(displacement_THW2=self.displacement(frames_THWC))

    def displacement(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, "T H W 2"]:
        """The displacement alone, all that DIS gives."""
        num_frames, height, width = frames_THWC.shape[:3]
        displacement_THW2 = np.zeros((num_frames, height, width, 2), dtype=np.float32)
        with _one_thread():
            grey_T = [self._tracked_picture(frame_HWC) for frame_HWC in frames_THWC]
            for frame, (source, target) in enumerate(frame_pairs(num_frames, self.reference)):
                if source != target:
                    flow_HW2 = cv2.DISOpticalFlow.create(_PRESETS[self.preset]).calc(grey_T[source], grey_T[target], None)  # type: ignore[call-overload]
                    displacement_THW2[frame] = rescaled_flow(flow_HW2, height, width)
        return displacement_THW2

    def _tracked_picture(self, frame_HWC: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
        grey_HW = cv2.cvtColor(frame_HWC, cv2.COLOR_RGB2GRAY)
        height, width = grey_HW.shape
        scale = self.min_side_px / min(height, width)
        if scale > 1:
            grey_HW = cv2.resize(grey_HW, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_CUBIC)
        return np.asarray(grey_HW, dtype=np.uint8)


def build_tracker(motion: Motion, *, device: str = "auto", threads: int = 1) -> Tracker:
    """The tracker that the section ``motion`` names. ``reference: auto`` means ``previous`` for DIS and ``first`` for AllTracker.

    ``device`` and ``threads`` are for a tracker that is a network.

    Raises:
        MotiveError: AllTracker's code, weights or libraries are missing or not the expected ones.
    """
    return resolve_dotted(TRACKERS[motion.tracker].build)(motion, device=device, threads=threads)


def build_dis(motion: Motion, **_: object) -> DisTracker:
    """DIS with the settings of the section ``motion``; it runs on one thread of the CPU."""
    reference: Reference = "previous" if motion.reference == "auto" else motion.reference
    return DisTracker(preset=motion.preset, reference=reference, min_side_px=motion.min_side_px)


def frame_pairs(num_frames: int, reference: Reference) -> Iterator[tuple[int, int]]:
    """(frame whose pixels move, frame they move to) for each frame."""
    for frame in range(num_frames):
        if reference == "first":
            yield 0, frame
        else:
            yield frame, frame - 1 if frame else min(1, num_frames - 1)


def rescaled_flow(flow_hw2: Float[np.ndarray, "h w 2"], height: int, width: int) -> Float32[np.ndarray, "H W 2"]:
    """Convert the flow of an enlarged picture to the grid and the pixels of the original one."""
    if flow_hw2.shape[:2] == (height, width):
        return flow_hw2.astype(np.float32, copy=False)
    per_pixel_2 = np.array([width / flow_hw2.shape[1], height / flow_hw2.shape[0]], dtype=np.float32)
    return cv2.resize(flow_hw2, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32, copy=False) * per_pixel_2


@contextmanager
def _one_thread() -> Iterator[None]:
    """A context in which OpenCV uses one thread: DIS cuts a frame into as many strips as threads, and its result depends on them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
