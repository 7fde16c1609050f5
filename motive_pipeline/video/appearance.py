"""Perceptual hashes of a clip, whether it hides a cut (cuts.py), and whether it is frozen, all from its decoded frames.

Axes: T frames, H W height and width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from motive_pipeline.video.cuts import frame_steps, hidden_cut

NUM_HASHES = 4
"""Number of frames that are hashed: the first, the last and two between them."""

FROZEN_STEP = 0.5
"""A clip is frozen if no step has a mean difference (of 255) above this. A still picture that H.264 has encoded stays below it."""


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """``phash`` is 64 hex digits: four perceptual hashes of 64 bits. ``cut_frame`` is the first frame after a hidden cut, or None."""

    phash: str
    cut_frame: int | None
    is_frozen: bool

    def flags(self) -> tuple[str, ...]:
        """Which of frozen and hidden_cut hold; ``clips.policies`` has a policy of each name."""
        return tuple(name for name, holds in (("frozen", self.is_frozen), ("hidden_cut", self.cut_frame is not None)) if holds)


def appearance_of(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Appearance:
    """The appearance of the frames that a clip is used with."""
    step_S = frame_steps(frames_THWC)
    return Appearance(phash=_phash(frames_THWC), cut_frame=hidden_cut(step_S), is_frozen=bool(len(step_S) and step_S.max() <= FROZEN_STEP))


def _phash(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> str:
    import imagehash
    from PIL import Image

    last = len(frames_THWC) - 1
    chosen = [round(last * number / (NUM_HASHES - 1)) for number in range(NUM_HASHES)]
    return "".join(str(imagehash.phash(Image.fromarray(frames_THWC[frame]))) for frame in chosen)
