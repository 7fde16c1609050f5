"""Reads and writes a published set of gradients: an immutable Zarr v3 group, one row for each clip, ordered by clip_id.

Arrays: ``gradient`` (float32, [clip, proj], unit rows or zero rows, chunks at most 512 columns wide), ``clip_id`` (uint8, [clip, 16]),
``grad_norm`` (float64, length of the whole gradient), ``num_frames`` (decoded frames). The group's attributes hold the provenance.

Axes: N clips, P stored entries, p entries that are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Float32, Float64, Int, Shaped

from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.zarr_groups import (
    array_of,
    consolidate,
    new_array,
    new_group,
    open_group,
    read_column,
    read_ids,
    write_column,
    write_ids,
)

TILE_ROWS = 4096
TILE_COLUMNS = 512


@dataclass(frozen=True, kw_only=True)
class GradientSet:
    """A published set, opened for reading: ids and norms in memory, gradients on disk. ``proj_dim`` is how many entries of each row are read."""

    gradient_NP: zarr.Array
    id_N: Shaped[np.ndarray, " N"]
    norms_N: Float64[np.ndarray, " N"]
    """Length of each clip's whole gradient."""
    num_frames_N: Int[np.ndarray, " N"]
    """Decoded frames of each clip."""
    attributes: dict[str, Any]
    proj_dim: int

    def __len__(self) -> int:
        return len(self.id_N)

    @cached_property
    def clip_ids(self) -> list[str]:
        """The ids as strings, in order."""
        return self.id_N.astype(str).tolist()

    @property
    def num_entries(self) -> int:
        """Stored entries of each row."""
        return self.gradient_NP.shape[1]

    def tiles(self) -> Iterator[tuple[int, Float32[np.ndarray, "n p"]]]:
        """Yield ``(number of the first row, rows)`` in order: at most ``TILE_ROWS`` rows, cut to ``proj_dim`` entries, at unit length."""
        for start in range(0, len(self), TILE_ROWS):
            yield start, prefix(np.asarray(self.gradient_NP[start : start + TILE_ROWS, : self.proj_dim]), self.proj_dim)

    def rows(self) -> Float32[np.ndarray, "N p"]:
        """All rows at once, for small sets such as queries."""
        tiles = [tile for _, tile in self.tiles()]
        return np.concatenate(tiles) if tiles else np.zeros((0, self.proj_dim), np.float32)


def write_unit_rows(gradients: GradientSet, place_n: Int[np.ndarray, " n"], file: Path) -> Float32[np.ndarray, "n p"]:
    """Write the rows ``place_n`` to ``file`` and map it into memory: cut to ``proj_dim`` entries, at unit length. Memory holds one tile.

    A set with several features in a row (a gradient for each draw) gets those of every draw, scaled so that an inner product is the mean of the draws' cosines.
    """
    num_parts = gradients.attributes.get("features_in_a_row", 1)
    width = gradients.num_entries // num_parts
    dim = min(gradients.proj_dim, width)
    rows_np = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(len(place_n), num_parts * dim))
    for start in range(0, len(gradients), TILE_ROWS):
        here = np.flatnonzero((start <= place_n) & (place_n < start + TILE_ROWS))
        if not len(here):
            continue
        for part in range(num_parts):
            tile_NP = np.asarray(gradients.gradient_NP[start : start + TILE_ROWS, part * width : part * width + dim])
            rows_np[here, part * dim : (part + 1) * dim] = prefix(tile_NP[place_n[here] - start], dim) / np.float32(num_parts**0.5)
    return rows_np


def prefix(rows_NP: Float[np.ndarray, "N P"], proj_dim: int) -> Float32[np.ndarray, "N p"]:
    """The first ``proj_dim`` entries of each row, at unit length; they are a projection themselves (projection.py). A zero row stays zero."""
    head = rows_NP[:, :proj_dim].astype(np.float64)
    norms_N1 = np.sqrt((head * head).sum(axis=1, keepdims=True))
    return np.divide(head, norms_N1, out=np.zeros_like(head), where=norms_N1 > 0).astype(np.float32)


def open_gradients(folder: Path, proj_dim: int) -> GradientSet:
    """Open the set at ``folder``, to read at most ``proj_dim`` entries of each row; unprojected gradients (``exact``) are read whole.

    Raises:
        Damaged: it is not a set of gradients, or an array lacks chunks.
    """
    group = open_group(folder)
    gradient = array_of(group, "gradient")
    attributes = dict(group.attrs)
    return GradientSet(
        gradient_NP=gradient,
        id_N=read_ids(group, "clip_id"),
        norms_N=read_column(group, "grad_norm"),
        num_frames_N=read_column(group, "num_frames"),
        attributes=attributes,
        proj_dim=gradient.shape[1] if attributes["projection"] == "exact" else min(proj_dim, gradient.shape[1]),
    )


def write_gradients(
    folder: Path, *, store: RowStore, refs: Sequence[RowRef], clip_ids: Sequence[str], num_entries: int, attributes: dict[str, Any]
) -> None:
    """Write the rows ``refs``, in this order, as a group at ``folder``. Memory holds one tile of rows, whatever their number."""
    group = new_group(folder, attributes)
    shape = (len(refs), num_entries)
    gradient = new_array(group, "gradient", shape=shape, dtype="float32", chunks=(TILE_ROWS, TILE_COLUMNS), dims=("clip", "proj"))
    rows = np.empty((min(TILE_ROWS, len(refs)), num_entries), np.float32)
    for start in range(0, len(refs), TILE_ROWS):
        tile = refs[start : start + TILE_ROWS]
        for positions, block in store.read_blocks(tile, "gradient"):
            rows[positions] = block
        gradient[start : start + len(tile)] = rows[: len(tile)]
    write_ids(group, "clip_id", np.array(clip_ids), "clip")
    write_column(group, "grad_norm", store.column(refs, "grad_norm"), "clip")
    write_column(group, "num_frames", store.column(refs, "num_frames"), "clip")
    consolidate(group)
