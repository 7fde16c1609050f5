"""The publisher's metadata of a clip, compared with its file. Where they differ, the catalog uses the file and keeps both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from motive_pipeline.sources.protocol import Scalar

SCORES = {
    "aesthetic_score": ("aesthetic_score", "aesthetic score", "aesthetic", "aesthetic_scores"),
    "motion_score": ("motion_score", "motion score", "motion"),
}
"""Columns of the catalog with a publisher's scores, and the names that publishers use for them."""

_NUMBERS = {
    "num_frames": ("num_frames", "frame", "frames", "n_frames", "frame_count"),
    "fps": ("fps", "frame_rate", "framerate"),
    "duration_s": ("seconds", "duration", "duration_s", "duration_seconds"),
    "width": ("width",),
    "height": ("height",),
}
_MARGIN = {"num_frames": 1.0, "fps": 0.02, "duration_s": 0.15, "width": 0.0, "height": 0.0}
"""Allowed differences. Publishers round rates and lengths, and may be off by one frame."""


_NO_METADATA: Mapping[str, Any] = dict.fromkeys(SCORES, math.nan) | {"published": "", "disagrees": ""}


def publisher_columns(metadata: Mapping[str, Scalar], probed: Mapping[str, float]) -> Mapping[str, Any]:
    """The catalog's columns for ``metadata``: ``aesthetic_score`` and ``motion_score`` (NaN if unknown), ``published`` (all of it, as JSON)
    and ``disagrees`` (comma-separated: the numbers in ``probed`` that it contradicts)."""
    if not metadata:
        return _NO_METADATA
    lowered = {name.strip().lower(): value for name, value in metadata.items()}
    wrong = [
        name
        for name, aliases in _NUMBERS.items()
        if not math.isnan(number := _first_number(lowered, aliases))
        and not math.isnan(probed[name])
        and abs(number - probed[name]) > _MARGIN[name] + 1e-9
    ]
    return {
        **{name: _first_number(lowered, aliases) for name, aliases in SCORES.items()},
        "published": json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True),
        "disagrees": ",".join(wrong),
    }


def _first_number(lowered: Mapping[str, Scalar], names: tuple[str, ...]) -> float:
    for name in names:
        try:
            number = float(lowered[name])
        except (KeyError, ValueError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return float("nan")
