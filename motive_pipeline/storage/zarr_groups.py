"""Writes the arrays of every published Zarr group, and checks a group when it is opened.

Arrays are Zarr v3, with one crc32c checksum per chunk (a flipped bit makes every reader fail), NaN as the fill value of floats, and every chunk
written, so that a missing chunk shows in the count. Ids are unsigned bytes [row, 16]: Zarr v3 has no specification of fixed-length text.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Shaped
from zarr.codecs import Crc32cCodec

from motive_pipeline.storage.sealed import Damaged

ID_BYTES = 16
ID_DTYPE = f"S{ID_BYTES}"
"""Ids in memory: numpy's fixed-length bytes, which sort and compare like strings."""


def new_group(folder: Path, attributes: dict[str, Any] | None = None) -> zarr.Group:
    """An empty Zarr v3 group in ``folder``, which may exist already."""
    return zarr.open_group(folder, mode="a", zarr_format=3, attributes=attributes or {})


def new_array(
    group: zarr.Group, name: str, *, shape: tuple[int, ...], dtype: str, chunks: tuple[int, ...], dims: tuple[str, ...]
) -> zarr.Array:
    """An array of ``group`` to be filled; ``dims`` names its dimensions."""
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=tuple(max(1, min(chunk, size)) for chunk, size in zip(chunks, shape, strict=True)),
        compressors=[Crc32cCodec()],
        fill_value=np.nan if np.dtype(dtype).kind == "f" else 0,
        config={"write_empty_chunks": True},
        dimension_names=dims,
    )


def write_column(group: zarr.Group, name: str, values: np.ndarray, dim: str) -> None:
    """Write numbers along one dimension, in one chunk."""
    new_array(group, name, shape=values.shape, dtype=values.dtype.str, chunks=values.shape, dims=(dim,))[:] = values


def write_ids(group: zarr.Group, name: str, ids: Shaped[np.ndarray, " R"], dim: str) -> None:
    """Write ids (strings or bytes of at most 16 ASCII characters) as unsigned bytes [row, 16]; zeros pad a shorter one."""
    values = np.ascontiguousarray(ids.astype(ID_DTYPE)).view(np.uint8).reshape(len(ids), ID_BYTES)
    new_array(group, name, shape=values.shape, dtype="uint8", chunks=values.shape, dims=(dim, "id_byte"))[:] = values


def read_ids(group: zarr.Group, name: str) -> Shaped[np.ndarray, " R"]:
    """The ids that :func:`write_ids` wrote, as fixed-length bytes (:data:`ID_DTYPE`)."""
    return np.ascontiguousarray(read_column(group, name)).view(ID_DTYPE).reshape(-1)


def read_column(group: zarr.Group, name: str) -> np.ndarray:
    """All of one array."""
    return np.asarray(array_of(group, name)[:])


def array_of(group: zarr.Group, name: str) -> zarr.Array:
    """Array ``name`` of ``group``."""
    found = group[name]
    assert isinstance(found, zarr.Array)
    return found


def open_group(folder: Path) -> zarr.Group:
    """The group in ``folder``, to be read.

    Raises:
        Damaged: it is not a group, or an array lacks chunks.
    """
    try:
        group = zarr.open_group(folder, mode="r")
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise Damaged(folder, f"cannot be opened as a Zarr group ({type(error).__name__}: {error})") from error
    for name, array in group.arrays():
        if (there := array.nchunks_initialized) != array.nchunks:
            raise Damaged(folder / name, f"lacks {array.nchunks - there} of its {array.nchunks} chunks")
    return group


def consolidate(group: zarr.Group) -> None:
    """Gather the metadata of all arrays in the group's own. Readers then open it without listing folders, and xarray without a warning.

    Call it once the last array and the last attribute are written.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata", category=UserWarning)  # it is an extension of Zarr v3
        zarr.consolidate_metadata(group.store)
