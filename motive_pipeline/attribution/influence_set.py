"""Reads a published influence matrix, a Zarr v3 group.

Arrays: ``influence`` (float32, [query, clip]), ``query_id`` and ``clip_id`` (uint8, [row, 16]), both in order of the ids.

Axes: Q queries, B a block of queries, N clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from jaxtyping import Float, Float32, Shaped

from motive_pipeline.config import Variant
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.storage.zarr_groups import array_of, open_group, read_ids


@dataclass(frozen=True, kw_only=True)
class InfluenceSet:
    """Ids in memory (as fixed-length bytes), the matrix on disk."""

    influence_QN: zarr.Array
    query_id_Q: Shaped[np.ndarray, " Q"]
    clip_id_N: Shaped[np.ndarray, " N"]

    @property
    def query_ids(self) -> list[str]:
        """The queries' ids as strings, in order."""
        return self.query_id_Q.astype(str).tolist()

    @property
    def clip_ids(self) -> list[str]:
        """The clips' ids as strings, in order."""
        return self.clip_id_N.astype(str).tolist()

    def columns(self, clip_id_n: Shaped[np.ndarray, " n"]) -> slice | np.ndarray:
        """The columns of the clips ``clip_id_n``, which must all be in the matrix."""
        return slice(None) if np.array_equal(clip_id_n, self.clip_id_N) else np.searchsorted(self.clip_id_N, clip_id_n)

    def query(self, query_id: str) -> Float32[np.ndarray, " N"]:
        """The influence of every clip on one query.

        Raises:
            ValueError: the query is not in the matrix.
        """
        return np.asarray(self.influence_QN[self.query_ids.index(query_id)])

    def blocks(self, clip_id_n: Shaped[np.ndarray, " n"] | None = None) -> Iterator[Float32[np.ndarray, "B n"]]:
        """The matrix, or its columns of the clips ``clip_id_n``, in blocks of as many queries as a chunk holds."""
        columns = slice(None) if clip_id_n is None else self.columns(clip_id_n)
        step = self.influence_QN.chunks[0]
        for first in range(0, len(self.query_id_Q), step):
            block_BN = np.asarray(self.influence_QN[first : first + step])
            yield block_BN if isinstance(columns, slice) else np.ascontiguousarray(block_BN[:, columns])


def both_ends(influence_N: Float[np.ndarray, " N"], count: int) -> tuple[list[int], list[int]]:
    """The places of the ``count`` highest values, the highest first, and of the lowest, the lowest first; fewer where one would stand at both ends."""
    order_N = np.argsort(-influence_N, kind="stable")
    side = min(count, len(order_N) // 2)
    return order_N[:side].tolist(), order_N[::-1][:side].tolist()


def load_influence(ws: Workspace, variant: Variant) -> InfluenceSet:
    """The published influence of every clip on every query.

    Raises:
        NotPublished: there is none yet.
    """
    return open_influence(ws.published(f"influence_matrix/{variant}").path)


def open_influence(folder: Path) -> InfluenceSet:
    """The matrix at ``folder``.

    Raises:
        Damaged: it is not an influence matrix, or an array lacks chunks.
    """
    group = open_group(folder)
    return InfluenceSet(
        influence_QN=array_of(group, "influence"), query_id_Q=read_ids(group, "query_id"), clip_id_N=read_ids(group, "clip_id")
    )
