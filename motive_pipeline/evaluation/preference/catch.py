"""Catch trials: a video beside a still, coarse copy of itself, to find raters who do not look.

The copy repeats the first frame in coarse blocks, so it is worse in motion and in picture quality. Whatever a rater pays attention to and
whatever the video shows, there is one right answer, and a tie is wrong. Because it is a copy of the same video, taste does not matter. A video
that is blank or still would not differ enough from its copy, so the videos that differ most are used.
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
"""The smallest mean difference between video and copy in grey levels (of 255); a smaller one could be missed honestly."""

CANDIDATES = 3
"""Videos that are examined for each one that is needed."""


@dataclass(frozen=True, kw_only=True)
class CatchTrial:
    """``name`` is the neutral name of the video, ``copy`` the file of its spoilt copy."""

    name: str
    copy: Path


def spoilt(frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """The first frame in coarse blocks, repeated for every frame."""
    height, width = frames_THWC.shape[1:3]
    block = max(2, min(height, width) // BLOCKS)
    small = cv2.resize(frames_THWC[0], (max(1, width // block), max(1, height // block)), interpolation=cv2.INTER_AREA)
    coarse = cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.repeat(coarse[None], len(frames_THWC), axis=0)


def make_catch_trials(videos: Mapping[str, Path], wanted: int, rule: FrameRule, seed: int, folder: Path) -> list[CatchTrial]:
    """Up to ``wanted`` catch trials from ``videos`` (neutral name -> file); their copies are written into ``folder``.

    There are fewer if too few videos differ from their copies by :data:`MIN_DIFFERENCE`.

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
