"""A published set of gradients: an immutable Zarr v3 group, one row for each clip, ordered by clip_id.

Arrays: ``gradient`` (float32, [clip, proj], unit rows or zero rows, chunks at most 512 columns wide), ``clip_id`` (16 bytes), ``grad_norm``
(float64, length of the whole gradient), ``num_frames`` (decoded frames). The group's attributes hold the provenance.

Axes: N clips, P stored entries, p entries that are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Float32, Int

from motive_pipeline.storage.plain_array import PlainArray
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.zarr_groups import consolidate

TILE_ROWS = 4096
TILE_COLUMNS = 512
_ID_BYTES = "S16"


@dataclass(frozen=True, kw_only=True)
class GradientSet:
    """A published set, opened for reading. ``proj_dim`` is how many entries of each row are read."""

    group: zarr.Group
    clip_ids: list[str]
    proj_dim: int

    def __len__(self) -> int:
        return len(self.clip_ids)

    @property
    def norms_N(self) -> Float[np.ndarray, " N"]:
        """Length of each clip's whole gradient."""
        return _read(self.group, "grad_norm")

    @property
    def num_frames_N(self) -> Int[np.ndarray, " N"]:
        """Decoded frames of each clip."""
        return _read(self.group, "num_frames")

    def tiles(self) -> Iterator[tuple[int, Float32[np.ndarray, "n p"]]]:
        """``(number of the first row, rows)`` in order, ``TILE_ROWS`` rows at a time (fewer in the last), cut to ``proj_dim``, unit length."""
        gradient = self.group["gradient"]
        for start in range(0, len(self), TILE_ROWS):
            yield start, prefix(np.asarray(gradient[start : start + TILE_ROWS, : self.proj_dim]), self.proj_dim)  # type: ignore[index]

    def rows(self) -> Float32[np.ndarray, "N p"]:
        """All rows at once, for small sets such as queries."""
        tiles = [tile for _, tile in self.tiles()]
        return np.concatenate(tiles) if tiles else np.zeros((0, self.proj_dim), np.float32)


def prefix(rows_NP: Float[np.ndarray, "N P"], proj_dim: int) -> Float32[np.ndarray, "N p"]:
    """The first ``proj_dim`` entries of each row at unit length: a projection itself (projection.py). A zero row stays zero."""
    head = rows_NP[:, :proj_dim].astype(np.float64)
    norms_N1 = np.sqrt((head * head).sum(axis=1, keepdims=True))
    return np.divide(head, norms_N1, out=np.zeros_like(head), where=norms_N1 > 0).astype(np.float32)


def open_gradients(folder: Path, proj_dim: int) -> GradientSet:
    """The set at ``folder``, read to ``proj_dim`` entries; unprojected gradients (``exact``) are always read whole."""
    group = zarr.open_group(folder, mode="r")
    stored = int(group["gradient"].shape[1])  # type: ignore[union-attr]
    exact = group.attrs["projection"] == "exact"
    clip_ids = [clip_id.decode("ascii") for clip_id in _read(group, "clip_id").tolist()]
    return GradientSet(group=group, clip_ids=clip_ids, proj_dim=stored if exact else min(proj_dim, stored))


def write_gradients(
    folder: Path, *, store: RowStore, refs: Sequence[RowRef], clip_ids: Sequence[str], num_entries: int, attributes: dict[str, Any]
) -> None:
    """Write the rows ``refs``, in this order, as a group at ``folder``. Memory is one tile of rows, whatever their number."""
    group = zarr.open_group(folder, mode="a", zarr_format=3, attributes=attributes)
    num_rows = len(refs)
    group.create_array(
        "gradient",
        shape=(num_rows, num_entries),
        dtype="float32",
        chunks=(max(1, min(TILE_ROWS, num_rows)), min(TILE_COLUMNS, num_entries)),
        compressors=None,
        dimension_names=("clip", "proj"),
    )
    gradient = PlainArray(folder / "gradient")
    rows = np.empty((min(TILE_ROWS, num_rows), num_entries), np.float32)
    for start in range(0, num_rows, TILE_ROWS):
        tile = refs[start : start + TILE_ROWS]
        for positions, block in store.read_blocks(tile, "gradient"):
            rows[positions] = block
        gradient.write(rows[: len(tile)], row=start)
    _write_column(group, "clip_id", np.array(clip_ids, dtype=_ID_BYTES))
    _write_column(group, "grad_norm", store.column(refs, "grad_norm"))
    _write_column(group, "num_frames", store.column(refs, "num_frames"))
    consolidate(group)


def _write_column(group: zarr.Group, name: str, values: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
        array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=(max(1, len(values)),), dimension_names=("clip",))
    array[:] = values


def _read(group: zarr.Group, name: str) -> np.ndarray:
    return np.asarray(group[name][:])  # type: ignore[index]
