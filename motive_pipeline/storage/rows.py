"""The row store: rows appended in committed batches and found by key.

Layout of a store: ``store.json`` (its format), then ``segments/<number>/``, one folder for each commit, holding ``index.json``
(keys, content hashes, rejected rows) and, where rows were accepted, ``rows.zarr`` (a Zarr v3 group, one array for each name, first
dimension ``row``). A segment is written under a temporary name and renamed, so a reader or a restarted run sees a batch whole or
not at all, and no commit ever touches a chunk of another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import zarr

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest_arrays
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.plain_array import PlainArray

FORMAT = 1
CHUNK_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row to append: its key and its named arrays. Those ``left_out`` count for the content's hash only and are not stored."""

    key: str
    arrays: dict[str, np.ndarray | np.generic]
    left_out: frozenset[str] = frozenset()

    @property
    def stored(self) -> dict[str, np.ndarray | np.generic]:
        """The arrays to write."""
        return {name: array for name, array in self.arrays.items() if name not in self.left_out}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRef:
    """Where a committed row lies, and the hash of its content."""

    key: str
    segment: str
    row: int
    content: str


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReject:
    """A row that could not be computed, remembered so that it is not tried again under the same key."""

    key: str
    reason: str
    detail: str


@dataclass
class RowStore:
    """Rows of one stage under one setting. ``dims`` names the dimensions of each array after ``row``.

    Readers need no lock. :meth:`append` takes the store's lock and refuses when another process holds it.
    """

    folder: Path
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._index: dict[str, RowRef | RowReject] = {}
        self._seen: set[str] = set()
        self._arrays: dict[tuple[str, str], PlainArray] = {}
        self._lock = FileLock(self.folder / ".lock", f"the row store {self.folder}")
        _require_format(self.folder)

    def find(self, key: str) -> RowRef | RowReject | None:
        """The committed row (or rejection) under ``key``; see :meth:`refresh` for what other processes wrote."""
        return self._index.get(key)

    def refresh(self) -> None:
        """Take in the segments committed since the last look; segments that have gone (by hand) are forgotten."""
        segments = os.path.join(self.folder, "segments")
        names = {name for name in os.listdir(segments) if name.isdecimal()} if os.path.isdir(segments) else set()
        if self._seen - names:
            self._index.clear()
            self._seen.clear()
            self._arrays.clear()
        for name in sorted(names - self._seen):
            with open(os.path.join(segments, name, "index.json"), "rb") as file:
                self._take_in(name, json.loads(file.read()))

    def append(self, rows: Sequence[Row], rejects: Sequence[RowReject] = ()) -> list[RowRef]:
        """Commit ``rows`` and ``rejects``, and give where each row lies, in order.

        Rows of one shape are one atomic commit; rows of several shapes are one commit for each shape.

        Raises:
            Locked: another process is writing to this store.
            ValueError: a key stands twice in the batch or is in the store already.
        """
        keys = [row.key for row in rows] + [reject.key for reject in rejects]
        if len(set(keys)) != len(keys) or any(key in self._index for key in keys):
            raise ValueError(f"row store {self.folder}: a key of the batch is there already")
        by_shape: dict[tuple[tuple[str, tuple[int, ...]], ...], list[Row]] = {}
        for row in rows:
            by_shape.setdefault(tuple((name, array.shape) for name, array in sorted(row.stored.items())), []).append(row)
        with self._lock:
            self._prepare()
            for number, batch in enumerate(by_shape.values() or [[]]):
                self._commit(batch, rejects if number == 0 else ())
        found = [self._index[row.key] for row in rows]
        return [ref for ref in found if isinstance(ref, RowRef)]

    def read(self, ref: RowRef, name: str) -> np.ndarray:
        """Array ``name`` of one row."""
        return self._array(ref.segment, name).row(ref.row)

    def has(self, ref: RowRef, name: str) -> bool:
        """Whether array ``name`` of the row is stored."""
        return (ref.segment, name) in self._arrays or (self.folder / "segments" / ref.segment / "rows.zarr" / name).is_dir()

    def shape(self, ref: RowRef, name: str) -> tuple[int, ...]:
        """Shape of array ``name`` of one row, without reading it."""
        return self._array(ref.segment, name).shape[1:]

    def read_blocks(self, refs: Sequence[RowRef], name: str) -> Iterator[tuple[list[int], np.ndarray]]:
        """``(positions in refs, their arrays stacked)``, segment by segment."""
        by_segment: dict[str, list[int]] = {}
        for position, ref in enumerate(refs):
            by_segment.setdefault(ref.segment, []).append(position)
        for segment, positions in by_segment.items():
            array = self._array(segment, name)
            rows = [refs[position].row for position in positions]
            if 2 * len(rows) <= array.shape[0]:
                yield positions, np.stack([array.row(row) for row in rows])
            else:
                block = array.rows()
                yield positions, block if rows == list(range(len(block))) else block[rows]

    def read_many(self, refs: Sequence[RowRef], name: str) -> Iterator[tuple[int, np.ndarray]]:
        """``(position in refs, array)`` for each row, segment by segment; not in the order of ``refs``."""
        for positions, block in self.read_blocks(refs, name):
            yield from zip(positions, block, strict=True)

    def column(self, refs: Sequence[RowRef], name: str) -> np.ndarray:
        """The scalar ``name`` of each row, in the order of ``refs``."""
        found = np.empty(0)
        for positions, block in self.read_blocks(refs, name):
            if not len(found):
                found = np.empty(len(refs), block.dtype)
            found[positions] = block
        return found

    def _array(self, segment: str, name: str) -> PlainArray:
        if (segment, name) not in self._arrays:
            self._arrays[segment, name] = PlainArray(os.path.join(self.folder, "segments", segment, "rows.zarr", name))
        return self._arrays[segment, name]

    def _prepare(self) -> None:
        """Under the lock: the folder exists, leftovers of a killed writer are gone, others' commits are known."""
        (self.folder / "segments").mkdir(parents=True, exist_ok=True)
        if not (self.folder / "store.json").exists():
            atomic.write_json(self.folder / "store.json", {"format": FORMAT})
        atomic.remove_leftovers(self.folder / "segments")
        self.refresh()

    def _commit(self, rows: Sequence[Row], rejects: Sequence[RowReject]) -> None:
        if not rows and not rejects:
            return
        number = max((int(name) for name in self._seen), default=-1) + 1
        name = f"{number:08d}"
        index = {
            "keys": [row.key for row in rows],
            "content": [digest_arrays(row.arrays) for row in rows],
            "rejects": [[reject.key, reject.reason, reject.detail] for reject in rejects],
        }
        with atomic.new_folder(self.folder / "segments" / name) as folder:
            if rows:
                self._write_arrays(folder / "rows.zarr", rows)
            atomic.write_json(folder / "index.json", index)
        self._take_in(name, index)

    def _write_arrays(self, path: Path, rows: Sequence[Row]) -> None:
        group = zarr.open_group(path, mode="w", zarr_format=3)
        for name in rows[0].stored:
            stacked = np.stack([row.arrays[name] for row in rows])
            row_bytes = max(1, stacked.nbytes // len(rows))
            chunk_rows = min(len(rows), max(1, CHUNK_BYTES // row_bytes))
            group.create_array(
                name,
                data=stacked,
                chunks=(chunk_rows, *(max(1, size) for size in stacked.shape[1:])),
                compressors=None,
                dimension_names=("row", *self.dims.get(name, tuple(f"dim_{i}" for i in range(stacked.ndim - 1)))),
            )

    def _take_in(self, name: str, index: dict[str, list]) -> None:
        for row, (key, content) in enumerate(zip(index["keys"], index["content"], strict=True)):
            self._index[key] = RowRef(key=key, segment=name, row=row, content=content)
        for key, reason, detail in index["rejects"]:
            self._index[key] = RowReject(key=key, reason=reason, detail=detail)
        self._seen.add(name)


def _require_format(folder: Path) -> None:
    file = folder / "store.json"
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["format"] > FORMAT:
        raise MotiveError(
            f"the row store {folder} was written by a newer version of motive-pipeline. Upgrade this installation, or set storage.root to another folder."
        )
