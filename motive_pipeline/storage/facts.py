"""Figures of a publication for a person, each a number of its own: what shows them can then plot them over time."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

_DIGITS = 6


def spread(name: str, values: Shaped[np.ndarray, " N"]) -> dict[str, float]:
    """The smallest, the median and the largest of the values that are known (not NaN), as ``name, smallest`` and so on; nothing if none is."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return {}
    found = {"smallest": known.min(), "median": np.median(known), "largest": known.max()}
    return {f"{name}, {which}": float(f"{value:.{_DIGITS}g}") for which, value in found.items()}
