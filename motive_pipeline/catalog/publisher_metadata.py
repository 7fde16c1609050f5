"""What a data set's own table says of a clip, beside what its file is. The file wins; both are kept."""

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
"""Columns of the catalog that hold a publisher's scores, and the names under which publishers keep them."""

_NUMBERS = {
    "num_frames": ("num_frames", "frame", "frames", "n_frames", "frame_count"),
    "fps": ("fps", "frame_rate", "framerate"),
    "duration_s": ("seconds", "duration", "duration_s", "duration_seconds"),
    "width": ("width",),
    "height": ("height",),
}
_MARGIN = {"num_frames": 1.0, "fps": 0.02, "duration_s": 0.15, "width": 0.0, "height": 0.0}
"""How far the two may lie apart: publishers round rates and lengths, and count a frame more or less."""


_NOTHING: Mapping[str, Any] = dict.fromkeys(SCORES, math.nan) | {"published": "", "disagrees": ""}


def publisher_columns(metadata: Mapping[str, Scalar], probed: Mapping[str, float]) -> Mapping[str, Any]:
    """``aesthetic_score`` and ``motion_score`` (NaN where there is none), ``published`` (JSON) and ``disagrees`` (comma-separated names)."""
    if not metadata:
        return _NOTHING
    told = {name.strip().lower(): value for name, value in metadata.items()}
    wrong = [
        name
        for name, aliases in _NUMBERS.items()
        if not math.isnan(number := _first_number(told, aliases))
        and not math.isnan(probed[name])
        and abs(number - probed[name]) > _MARGIN[name] + 1e-9
    ]
    return {
        **{name: _first_number(told, aliases) for name, aliases in SCORES.items()},
        "published": json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True),
        "disagrees": ",".join(wrong),
    }


def _first_number(told: Mapping[str, Scalar], names: tuple[str, ...]) -> float:
    for name in names:
        try:
            number = float(told[name])
        except (KeyError, ValueError, OverflowError):
            continue
        if math.isfinite(number):
            return number
    return float("nan")
