"""Limits on clips that are too much alike: in projected-gradient space, to the eye, or because they are parts of one file.

Axis suffixes: N clips, C chosen clips, P entries of a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float32, Int64
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from motive_pipeline.curation.picking import Refusal


class GroupLimit:
    """At most ``most`` clips of a group. ``group_N`` is the group of each clip; ``what`` says in words what makes a group."""

    def __init__(self, group_N: Int64[np.ndarray, " N"], most: int, *, reason: str, what: str) -> None:
        self._group_N, self._most, self._reason, self._what = group_N, most, reason, what
        self._chosen: dict[int, list[int]] = {}

    def refusal(self, position: int) -> Refusal | None:
        """See :class:`~motive_pipeline.curation.picking.Limit`. The clip gives way to the first one of its group."""
        before = self._chosen.get(int(self._group_N[position]))
        if before is None or len(before) < self._most:
            return None
        number = "one is" if self._most == 1 else f"{self._most} are"
        return Refusal(reason=self._reason, other=before[0], detail=f"{self._what}, of which {number} chosen already")

    def add(self, position: int) -> None:
        """The clip is chosen."""
        self._chosen.setdefault(int(self._group_N[position]), []).append(position)


class SimilarityLimit:
    """No chosen clip has a cosine above ``most`` with one chosen before. ``unit_NP`` are the gradients of all clips (unit rows, or zero rows), in memory or mapped from
    a file; those of chosen clips are held in memory.

    A clip is compared with every clip chosen so far: time grows with the clips that are looked at times those that are chosen.
    """

    def __init__(self, unit_NP: Float32[np.ndarray, "N P"], most: float) -> None:
        self._unit_NP, self._most = unit_NP, most
        self._rows_CP = np.empty((64, unit_NP.shape[1]), np.float32)
        self._chosen: list[int] = []

    def refusal(self, position: int) -> Refusal | None:
        """See :class:`~motive_pipeline.curation.picking.Limit`. The clip gives way to the nearest of those chosen."""
        if not self._chosen:
            return None
        cosine_C = self._rows_CP[: len(self._chosen)] @ np.asarray(self._unit_NP[position])
        nearest = int(np.argmax(cosine_C))
        if cosine_C[nearest] <= self._most:
            return None
        detail = f"its gradient has a cosine of {cosine_C[nearest]:.3f} with that of a chosen clip (at most {self._most:g})"
        return Refusal(reason="similar_gradient", other=self._chosen[nearest], detail=detail)

    def add(self, position: int) -> None:
        """The clip is chosen."""
        if len(self._chosen) == len(self._rows_CP):
            self._rows_CP = np.concatenate([self._rows_CP, np.empty_like(self._rows_CP)])
        self._rows_CP[len(self._chosen)] = self._unit_NP[position]
        self._chosen.append(position)


def groups_of_pairs(num_clips: int, pairs: Iterable[tuple[int, int]]) -> Int64[np.ndarray, " N"]:
    """The group of each clip, where two clips of a pair belong together, and so do all that a chain of pairs connects."""
    ends = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), dtype=bool), (ends[:, 0], ends[:, 1])), shape=(num_clips, num_clips))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def groups_of_names(names: Sequence[str]) -> Int64[np.ndarray, " N"]:
    """The group of each clip: that of all clips with the same name."""
    return np.unique(np.array(names, dtype=object), return_inverse=True)[1].astype(np.int64)
