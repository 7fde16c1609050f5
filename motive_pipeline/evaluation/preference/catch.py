"""Catch trials: a video beside a copy of itself that stands still and is coarse, to see who looks.

The copy holds the first frame and shows it in blocks. So it is worse in motion and in picture at once: whatever a person goes by, and
whatever the video shows, there is one right answer, and a tie is a wrong one. A copy of the video itself, not some other bad video, leaves
taste nothing to decide. A video that is blank or stands still would not differ enough from its copy, so those that differ most are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from motive_pipeline.storage.digest import digest
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4

BLOCKS = 8
"""Blocks along the shorter side of the copy."""

MIN_DIFFERENCE = 4.0
"""Grey levels (of 255) that video and copy differ by on average; with less a person could honestly miss it."""

CANDIDATES = 3
"""Videos looked at for each one that is needed."""


@dataclass(frozen=True, kw_only=True)
class CatchTrial:
    """``name`` is the neutral name of the video, ``copy`` the file of its spoilt copy."""

    name: str
    copy: Path


def spoilt(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """The first frame in coarse blocks, as often as there are frames."""
    height, width = frames_THWC.shape[1:3]
    block = max(2, min(height, width) // BLOCKS)
    small = cv2.resize(frames_THWC[0], (max(1, width // block), max(1, height // block)), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.repeat(coarse[None], len(frames_THWC), axis=0)


def make_catch_trials(videos: Mapping[str, Path], wanted: int, rule: FrameRule, seed: int, folder: Path) -> list[CatchTrial]:
    """Up to ``wanted`` catch trials out of ``videos`` (neutral name -> file), their copies written into ``folder``.

    Fewer where too few videos differ from their copies by :data:`MIN_DIFFERENCE`.

    Raises:
        RejectRow: a video cannot be read.
    """
    order = sorted(videos, key=lambda name: digest("catch candidate", seed, name))[: CANDIDATES * wanted]
    differences = {name: _difference(read_clip(videos[name], rule).frames_THWC) for name in order}
    clear = sorted((name for name in order if differences[name] >= MIN_DIFFERENCE), key=lambda name: -differences[name])[:wanted]
    trials = []
    for name in sorted(clear):
        copy = folder / f"copy of {name}"
        write_mp4(copy, spoilt(read_clip(videos[name], rule).frames_THWC), rule.fps)
        trials.append(CatchTrial(name=name, copy=copy))
    return trials


def _difference(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> float:
    """Mean absolute difference between a video and its spoilt copy, in grey levels."""
    return float(cv2.absdiff(frames_THWC, spoilt(frames_THWC)).mean())
