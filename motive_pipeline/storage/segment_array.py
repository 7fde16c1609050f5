"""Reads an array of a row store's segment without zarr, whose every call costs as much as a small row.

What rows.py writes is plain Zarr v3: chunks of whole rows, little-endian, not compressed. The last chunk is padded with rows, and zarr writes
no file for a chunk of zeros.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from zarr.dtype import parse_dtype


class SegmentArray:
    """One array at ``folder``; its first dimension is the row."""

    def __init__(self, folder: Path) -> None:
        metadata = json.loads((folder / "zarr.json").read_bytes())
        self.shape: tuple[int, ...] = tuple(metadata["shape"])
        self._dtype = parse_dtype(metadata["data_type"], zarr_format=3).to_native_dtype().newbyteorder("<")
        self._chunk_rows: int = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
        self._row_entries = math.prod(self.shape[1:])
        self._folder = folder

    def row(self, number: int) -> np.ndarray:
        """One row, without reading the others."""
        chunk, within = divmod(number, self._chunk_rows)
        return self._read(chunk, within, 1).reshape(self.shape[1:])

    def rows(self) -> np.ndarray:
        """All rows."""
        first = range(0, self.shape[0], self._chunk_rows)
        chunks = [self._read(chunk, 0, min(self._chunk_rows, self.shape[0] - start)) for chunk, start in enumerate(first)]
        return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)

    def _read(self, chunk: int, first: int, count: int) -> np.ndarray:
        """``count`` rows of a chunk from row ``first`` on."""
        shape = (count, *self.shape[1:])
        file = self._folder.joinpath("c", str(chunk), *("0" for _ in self.shape[1:]))
        try:
            flat = np.fromfile(file, self._dtype, count * self._row_entries, offset=first * self._row_entries * self._dtype.itemsize)
        except FileNotFoundError:
            return np.zeros(shape, self._dtype)
        return flat.reshape(shape)
