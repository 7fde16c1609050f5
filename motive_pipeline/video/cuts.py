"""Cuts inside a clip, from how much each frame differs from the one before.

Two questions are asked of the same differences. The catalog asks whether a clip shows two scenes (:func:`hidden_cut`): a flash does not count.
The motion mask asks which frames cannot be tracked from the frame before (:func:`cut_frames`): both ends of a flash count.

Axes: T decoded frames, S = T - 1 steps between neighbours, H W pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

CUT_STEP = 12.0
CUT_RATIO = 4.0
"""A cut is a step of at least ``CUT_STEP`` grey levels (of 255) and of ``CUT_RATIO`` times the steps it is compared with: a clip in fast motion
has many large steps."""

_NEAR_FRAMES = 3
_SMALL_PX = (48, 27)
"""Width and height at which frames are compared. Motion of a few pixels hardly changes a picture of this size."""


def frame_steps(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Float32[np.ndarray, " S"]:
    """Mean absolute difference of neighbouring frames, in grey levels of 0-255. Step s lies between frames s and s + 1."""
    small = np.stack([cv2.resize(frame, _SMALL_PX, interpolation=cv2.INTER_AREA) for frame in frames_THWC]).astype(np.float32)
    return np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))


def hidden_cut(step_S: Float32[np.ndarray, " S"]) -> int | None:
    """The first frame of a second scene, or None.

    It is the largest step that exceeds every other step within three frames by ``CUT_RATIO``, so a flash (two large steps) is not a cut.
    """
    for step in np.argsort(-step_S, kind="stable"):
        if step_S[step] < CUT_STEP:
            return None
        near = np.concatenate([step_S[max(0, step - _NEAR_FRAMES) : step], step_S[step + 1 : step + 1 + _NEAR_FRAMES]])
        if len(near) and step_S[step] >= CUT_RATIO * near.max():
            return int(step) + 1
    return None


def cut_frames(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Bool[np.ndarray, " T"]:
    """The frames that show something else than the frame before, compared with the clip's median step. Frame 0 is never among them."""
    step_S = frame_steps(frames_THWC)
    is_cut_T = np.zeros(len(frames_THWC), dtype=bool)
    if len(step_S):
        is_cut_T[1:] = step_S > max(CUT_STEP, CUT_RATIO * float(np.median(step_S)))
    return is_cut_T
