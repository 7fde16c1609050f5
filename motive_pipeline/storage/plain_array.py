"""Reads and fills Zarr v3 arrays that are not compressed, straight in their chunks' files. zarr itself takes about a millisecond a call, as much as
a small row costs, reads through one thread, and copies what it writes twice: most of what multiplying or publishing a tile of gradients costs.

Chunks may be several across the second dimension of a matrix; every other dimension but the first lies in one. The last ones are padded, and zarr
writes no file for a chunk of zeros.
"""

from __future__ import annotations

import json
import math
import os
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from zarr.dtype import parse_dtype

_BUFFERS = 1024
"""How many rows that do not lie side by side the system fills at once."""


class PlainArray:
    """One array at ``folder``; its first dimension is the row.

    Raises:
        ValueError: it is compressed, or divided in a way that this class does not read.
    """

    def __init__(self, folder: str | Path) -> None:
        with open(os.path.join(folder, "zarr.json"), "rb") as file:
            layout = _layout(file.read())
        self.shape, self.chunks, self.dtype = layout.shape, layout.chunks, layout.dtype
        self._folder = str(folder)
        self._chunk_entries = math.prod(self.chunks[1:])
        self._row_entries = math.prod(self.shape[1:])
        if not layout.is_plain:
            raise ValueError(f"{folder} is not an array of plain little-endian chunks in folders of their own")
        if len(self.shape) > 2 and self.chunks[1:] != tuple(max(1, size) for size in self.shape[1:]):
            raise ValueError(f"{folder} is divided across more than its rows: {self.chunks}")

    def row(self, number: int) -> np.ndarray:
        """One row, without reading the others."""
        return self.rows(number, number + 1).reshape(self.shape[1:])

    def rows(self, start: int = 0, stop: int | None = None, *, columns: int | None = None) -> np.ndarray:
        """Rows ``start`` to ``stop`` - 1; of a matrix the first ``columns`` entries of each."""
        stop = self.shape[0] if stop is None else stop
        width = self._row_entries if columns is None else columns
        self._require_inside(start, stop, width)
        found = np.empty((stop - start, width), self.dtype)
        for chunk in range(start // self.chunks[0], math.ceil(stop / self.chunks[0])):
            first = chunk * self.chunks[0]
            place = slice(max(start - first, 0), min(stop - first, self.chunks[0]))
            part = found[first + place.start - start : first + place.stop - start]
            for number, left in enumerate(range(0, width, self._chunk_entries)):
                self._read(chunk, number, place.start, part[:, left : left + self._chunk_entries])
        return found.reshape(stop - start, *self.shape[1:]) if columns is None else found

    def mapped(self, start: int, stop: int, *, columns: int) -> np.ndarray:
        """The same rows of a matrix to look at, not to keep or change: in the system's own memory of the file where they lie in one chunk."""
        self._require_inside(start, stop, columns)
        chunk, first = divmod(start, self.chunks[0])
        if first + stop - start > self.chunks[0] or columns > self._chunk_entries:
            return self.rows(start, stop, columns=columns)
        try:
            stored = np.memmap(self._file(chunk, 0), self.dtype, "r", shape=self.chunks)
        except FileNotFoundError:
            return np.zeros((stop - start, columns), self.dtype)
        return np.asarray(stored)[first : first + stop - start, :columns]

    def write(self, block: np.ndarray, *, row: int = 0, column: int = 0) -> None:
        """Fill the chunks of a matrix, in which nobody reads yet, from ``block``, whose first entry stands at (``row``, ``column``). It begins where a
        chunk begins and ends where one ends, or the array.

        Raises:
            ValueError: it does not.
        """
        if len(self.shape) != 2:
            raise ValueError(f"{self._folder} is of shape {self.shape}, and only matrices are written")
        for start, size, chunk, end in zip((row, column), block.shape, self.chunks, self.shape, strict=True):
            stop = start + size
            if start % chunk or stop > end or (stop != end and stop % chunk):
                raise ValueError(f"{self._folder}: {block.shape} entries from ({row}, {column}) on are no whole chunks of {self.chunks}")
        for top in range(0, block.shape[0], self.chunks[0]):
            for left in range(0, block.shape[1], self.chunks[1]):
                part = block[top : top + self.chunks[0], left : left + self.chunks[1]]
                if part.shape != self.chunks:
                    part = np.pad(part, [(0, whole - size) for whole, size in zip(self.chunks, part.shape, strict=True)])
                file = self._file((row + top) // self.chunks[0], (column + left) // self.chunks[1])
                os.makedirs(os.path.dirname(file), exist_ok=True)
                with open(file, "wb") as opened:
                    opened.write(np.ascontiguousarray(part, self.dtype).data)

    def _require_inside(self, start: int, stop: int, width: int) -> None:
        if not (0 <= start <= stop <= self.shape[0] and 0 <= width <= self._row_entries):
            raise IndexError(f"{self._folder} is of shape {self.shape}: it has no rows {start} to {stop} of {width} entries")

    def _file(self, chunk: int, number: int) -> str:
        return "/".join((self._folder, "c", str(chunk), *(str(number) for _ in self.shape[1:2]), *("0" for _ in self.shape[2:])))

    def _read(self, chunk: int, number: int, first: int, out: np.ndarray) -> None:
        """Fill ``out`` with rows of chunk ``chunk`` (along the columns: ``number``), from its row ``first`` on."""
        file = self._file(chunk, number)
        whole = out.shape[1] == self._chunk_entries and (out.flags.c_contiguous or len(out) <= _BUFFERS)
        rows = out if whole else np.empty((len(out), self._chunk_entries), self.dtype)
        try:
            descriptor = os.open(file, os.O_RDONLY)
        except FileNotFoundError:
            out[...] = 0
            return
        try:
            buffers = [part.view(np.uint8).reshape(-1).data for part in ([rows] if rows.flags.c_contiguous else rows) if rows.size]
            if not _filled(descriptor, buffers, first * self._chunk_entries * self.dtype.itemsize):
                raise ValueError(f"{file} ends before row {first + len(out)}")
        finally:
            os.close(descriptor)
        if not whole:
            out[...] = rows[:, : out.shape[1]]


def _filled(descriptor: int, buffers: list[memoryview], offset: int) -> bool:
    """Fill ``buffers`` with what the file holds from ``offset`` on; whether it holds so much. The system may give less at a time than it is asked
    for.
    """
    while buffers:
        read = os.preadv(descriptor, buffers, offset)
        if not read:
            return False
        offset += read
        while buffers and read >= len(buffers[0]):
            read -= len(buffers.pop(0))
        if buffers:
            buffers[0] = buffers[0][read:]
    return True


class _Layout(NamedTuple):
    """What an array's ``zarr.json`` says."""

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype
    is_plain: bool


@lru_cache(maxsize=256)
def _layout(metadata: bytes) -> _Layout:
    """Remembered, since the segments of a row store are nearly all alike."""
    told = json.loads(metadata)
    return _Layout(
        shape=tuple(told["shape"]),
        chunks=tuple(told["chunk_grid"]["configuration"]["chunk_shape"]),
        dtype=parse_dtype(told["data_type"], zarr_format=3).to_native_dtype().newbyteorder("<"),
        is_plain=[codec["name"] for codec in told["codecs"]] == ["bytes"]
        and told["codecs"][0].get("configuration", {}).get("endian", "little") == "little"
        and told["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and not (isinstance(told["fill_value"], int | float) and told["fill_value"]),
    )
