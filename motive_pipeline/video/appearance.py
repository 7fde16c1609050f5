"""How a clip looks, in a few numbers: perceptual hashes to find its likes, whether a cut hides in it, whether anything changes at all.

Axes: T frames, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import UInt8

NUM_HASHES = 4
"""Frames that are hashed: the first, the last and two between them."""

CUT_STEP = 12.0
CUT_RATIO = 4.0
"""A cut is a step between two frames of at least this mean difference (of 255) that is so many times the largest step near it: fast motion
has many large steps, a flash two."""

FROZEN_STEP = 0.5
"""Nothing changes where no step has a mean difference (of 255) above this; what H.264 makes of a still picture stays below."""

_NEAR_FRAMES = 3
_SMALL = (48, 27)


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """``phash`` is 64 hex digits: four hashes of 64 bits. ``cut_frame`` is the first frame after a hidden cut, or None."""

    phash: str
    cut_frame: int | None
    is_frozen: bool

    def flags(self) -> tuple[str, ...]:
        """The policies (``clips.policies``) that concern it."""
        return tuple(name for name, holds in (("frozen", self.is_frozen), ("hidden_cut", self.cut_frame is not None)) if holds)


def appearance_of(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Appearance:
    """The look of the frames that a clip is used with."""
    steps_T = _steps(frames_THWC)
    return Appearance(phash=_phash(frames_THWC), cut_frame=_cut(steps_T), is_frozen=bool(len(steps_T) and steps_T.max() <= FROZEN_STEP))


def _phash(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> str:
    import imagehash
    from PIL import Image

    last = len(frames_THWC) - 1
    chosen = [round(last * number / (NUM_HASHES - 1)) for number in range(NUM_HASHES)]
    return "".join(str(imagehash.phash(Image.fromarray(frames_THWC[frame]))) for frame in chosen)


def _steps(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> np.ndarray:
    """Mean absolute difference between neighbours, of the frames made small: what is between frame t and t + 1 stands at t."""
    small = np.stack([cv2.resize(frame, _SMALL, interpolation=cv2.INTER_AREA) for frame in frames_THWC]).astype(np.float32)
    return np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))


def _cut(steps_T: np.ndarray) -> int | None:
    for step in np.argsort(-steps_T, kind="stable"):
        if steps_T[step] < CUT_STEP:
            return None
        near = np.concatenate([steps_T[max(0, step - _NEAR_FRAMES) : step], steps_T[step + 1 : step + 1 + _NEAR_FRAMES]])
        if len(near) and steps_T[step] >= CUT_RATIO * near.max():
            return int(step) + 1
    return None
