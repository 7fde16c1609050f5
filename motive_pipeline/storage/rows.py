"""The row store: rows appended in committed batches and found by key.

Layout of a store: ``store.json`` (its format) and ``segments/`` with the commits (commits.py). A batch is one commit: a reader, or a run after
a kill or a power cut, sees it whole or not at all. Segments are memory-mapped. The SHA-256 of a segment is checked when a process opens it
first; a record or segment that is missing, cut or altered is named in the log, and its rows count as missing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.commits import (
    RECORD,
    SEGMENT,
    ArrayKind,
    Commit,
    Group,
    RowReject,
    SegmentFile,
    new_name,
    read_record,
    write_record,
    write_segment,
)
from motive_pipeline.storage.digest import digest_arrays, digest_file
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.root_copy import copy_of
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed

__all__ = ["MissingRow", "Row", "RowRef", "RowReject", "RowStore"]

log = logging.getLogger(__name__)

FORMAT = 2
BLOCK_BYTES = 2**26
"""Most bytes that :meth:`RowStore.read_blocks` gives at once."""

_OPEN_SEGMENTS = 64
_ROW_BITS = 40
"""An entry of the index is the commit's place, shifted by this many bits, plus the row."""


class MissingRow(MotiveError):
    """A row that was committed is no longer there, or no longer what was committed."""


class SegmentGone(MissingRow):
    """A segment has gone; its rows may have been merged into another one by another process."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row to append: its key and its named arrays. The arrays ``left_out`` are hashed and not stored."""

    key: str
    arrays: dict[str, np.ndarray | np.generic]
    left_out: frozenset[str] = frozenset()

    @property
    def stored(self) -> dict[str, np.ndarray | np.generic]:
        """The arrays to write."""
        return {name: array for name, array in self.arrays.items() if name not in self.left_out}


@dataclass(frozen=True, kw_only=True, slots=True)
class RowRef:
    """Where a committed row lies, and the hash of its content. It stays valid when commits are merged."""

    key: str
    commit: str
    row: int
    content: str


@dataclass
class RowStore:
    """Rows of one stage under one setting. ``dims`` names the dimensions of each array after ``row``.

    Readers need no lock. :meth:`append` and :meth:`~motive_pipeline.storage.merging.merge` take the store's lock and refuse when another
    process holds it.
    """

    folder: Path
    dims: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.segments = self.folder / "segments"
        self.losses = 0
        """How often this process has found a part of the store missing or damaged."""
        self.lock = FileLock(self.folder / ".lock", f"the row store {self.folder}")
        self._commits: dict[str, Commit] = {}
        self._order: list[Commit] = []
        self._index: dict[str, int] = {}
        self._rejects: dict[str, RowReject] = {}
        self._lost: set[str] = set()
        self._bad_records: set[str] = set()
        self._checked: set[str] = set()
        self._segment_files: dict[str, SegmentFile] = {}
        self._opened: OrderedDict[str, Any] = OrderedDict()
        self._opening = threading.Lock()
        self._left: tuple[int, ...] | None = None
        """The store's state after the last append: while it is the same, nobody else has written, and the next one need not look at every commit."""
        self._copy = copy_of(self.folder)
        _require_format(self.folder)

    def __len__(self) -> int:
        """How many rows are there; rejects are not counted."""
        return len(self._index)

    def find(self, key: str) -> RowRef | RowReject | None:
        """The committed row (or rejection) under ``key``; see :meth:`refresh` for what other processes wrote."""
        place = self._index.get(key)
        if place is None:
            return self._rejects.get(key)
        commit, row = self._order[place >> _ROW_BITS], place & ((1 << _ROW_BITS) - 1)
        return RowRef(key=key, commit=commit.name, row=row, content=commit.contents[row])

    @property
    def num_rejects(self) -> int:
        """How many rejections are there."""
        return len(self._rejects)

    def keys(self) -> Iterator[str]:
        """The keys of all rows."""
        return iter(self._index)

    def commits(self) -> list[Commit]:
        """The commits that count, in order."""
        return list(self._order)

    def refresh(self) -> None:
        """Read what was committed since the last call, and forget rows whose record or segment is gone."""
        far = self._far()
        names = set(os.listdir(self.segments)) | far.keys() if self.segments.is_dir() else set()
        records = {name.removesuffix(RECORD) for name in names if name.endswith(RECORD) and not name.startswith(atomic.TEMP_PREFIX)}
        gone = self._commits.keys() - records
        for name in gone:
            del self._commits[name]
        new = sorted(records - self._commits.keys() - self._bad_records)
        for name in new:
            self._read_record(name)
        replaced = {old for commit in self._commits.values() for old in commit.replaces}
        self.losses += bool(gone - replaced)
        lost = self._missing_segments(names, fresh={name for name in new if name in self._commits})
        if gone or lost or replaced & self._commits.keys():
            self._lost |= lost
            self._rebuild(replaced)
        else:
            for name in new:
                if name in self._commits:
                    self._take_in(self._commits[name])

    def append(self, rows: Sequence[Row], rejects: Sequence[RowReject] = ()) -> list[RowRef]:
        """Commit ``rows`` and ``rejects`` in one step; returns where each row lies, in order. Rows may have different shapes.

        Raises:
            Locked: another process is writing to this store.
            ValueError: a key occurs twice in the batch or is in the store already.
        """
        if not rows and not rejects:
            return []
        keys = [row.key for row in rows] + [reject.key for reject in rejects]
        with self.lock:
            if self._left is None or self._left != self._state():
                self.prepare()
            if len(set(keys)) != len(keys) or any(self.find(key) is not None for key in keys):
                raise ValueError(f"row store {self.folder}: a key of the batch is there already")
            commit = self._write(rows, rejects)
            self._push(commit)
            self._left = self._state()
        self._commits[commit.name] = commit
        self._take_in(commit)
        found = [self.find(row.key) for row in rows]
        return [ref for ref in found if isinstance(ref, RowRef)]

    def read(self, ref: RowRef, name: str) -> np.ndarray:
        """Array ``name`` of one row.

        Raises:
            MissingRow: the row is damaged or has gone; it counts as missing from now on.
        """
        group, row = self._place(ref)
        if name in group.columns:
            column = group.columns[name]
            return np.array(column[row], column.dtype)
        try:
            return self.tensor(group, name)[row : row + 1][0]
        except SegmentGone:
            return self.read(self._ref_after_merge(ref), name)

    def has(self, ref: RowRef, name: str) -> bool:
        """Whether array ``name`` of the row is stored."""
        group, _ = self._place(ref)
        return name in group.columns or name in group.arrays

    def names(self, ref: RowRef) -> list[str]:
        """The names of the row's stored arrays."""
        group, _ = self._place(ref)
        return sorted({*group.columns, *group.arrays})

    def shape(self, ref: RowRef, name: str) -> tuple[int, ...]:
        """Shape of array ``name`` of one row, without reading it."""
        group, _ = self._place(ref)
        return () if name in group.columns else group.arrays[name].shape

    def read_blocks(self, refs: Sequence[RowRef], name: str) -> Iterator[tuple[list[int], np.ndarray]]:
        """``(positions in refs, their arrays stacked)``, at most :data:`BLOCK_BYTES` at a time (but one row at least).

        Raises:
            MissingRow: a row is damaged or has gone; it counts as missing from now on.
        """
        by_group: dict[int, tuple[Group, list[int], list[int]]] = {}
        for position, ref in enumerate(refs):
            group, row = self._place(ref)
            _, positions, rows = by_group.setdefault(id(group), (group, [], []))
            positions.append(position)
            rows.append(row)
        for group, positions, rows in by_group.values():
            if name in group.columns:
                yield positions, group.columns[name][rows]
                continue
            step = max(1, BLOCK_BYTES // max(1, group.arrays[name].num_bytes))
            for first in range(0, len(rows), step):
                part = slice(first, first + step)
                try:
                    yield positions[part], _rows_of(self.tensor(group, name), rows[part])
                except SegmentGone:
                    again = [self._ref_after_merge(refs[position]) for position in positions[part]]
                    yield from (([positions[part][place] for place in places], block) for places, block in self.read_blocks(again, name))

    def read_many(self, refs: Sequence[RowRef], name: str) -> Iterator[tuple[int, np.ndarray]]:
        """``(position in refs, array)`` for each row, segment by segment; not in the order of ``refs``."""
        for positions, block in self.read_blocks(refs, name):
            yield from zip(positions, block, strict=True)

    def column(self, refs: Sequence[RowRef], name: str) -> np.ndarray:
        """The scalar ``name`` of each row, in the order of ``refs``. Scalars lie in the records, so no segment is opened."""
        found = np.empty(0)
        for positions, block in self.read_blocks(refs, name):
            if not len(found):
                found = np.empty(len(refs), block.dtype)
            found[positions] = block
        return found

    def damages(self) -> list[str]:
        """Check every record and every segment; returns what is wrong with which file. What is damaged counts as missing from now on."""
        self._bad_records.clear()
        self.refresh()
        found = [str(Damaged(self.segments / f"{name}{RECORD}", "is cut or altered")) for name in sorted(self._bad_records)]
        for commit in self.commits():
            for segment in commit.segments:
                if segment in self._lost:
                    found.append(f"{self.segments / segment} is missing or cut")
                    continue
                self._checked.discard(segment)
                self._opened.pop(segment, None)
                try:
                    self._open(segment)
                except MissingRow as error:
                    found.append(str(error))
        return found

    def tensor(self, group: Group, name: str) -> Any:
        """Array ``name`` of all rows of ``group``, to be sliced; what is not read stays on disk.

        Raises:
            KeyError: the rows have no such array.
            MissingRow: the segment is damaged or has gone.
        """
        if name not in group.arrays:
            raise KeyError(name)
        assert group.segment is not None
        return self._open(group.segment).get_slice(group.tensor(name))

    def is_lost(self, group: Group) -> bool:
        """Whether the segment of ``group`` is missing or damaged."""
        return group.segment in self._lost

    def prepare(self) -> None:
        """Prepare for writing, under the lock: make the folder, read others' commits, and delete what no commit needs (leftovers of a killed
        writer, merged commits, damaged files)."""
        atomic.make_folder(self.segments)
        if not (self.folder / "store.json").exists():
            write_sealed(self.folder / "store.json", {"format": FORMAT})
            if self._copy is not None:
                self._copy.push([self.folder / "store.json"])
        self.refresh()
        for commit in self.commits():
            if not self._lost.isdisjoint(commit.segments):
                self._drop_lost(commit)
        needed = {f"{commit.name}{RECORD}" for commit in self._order}
        needed |= {segment for commit in self._order for segment in commit.segments}
        unneeded = [name for name in {*os.listdir(self.segments), *self._far()} if name not in needed]
        for name in sorted(unneeded, key=lambda name: not name.endswith(RECORD)):  # a record goes before its segments
            atomic.remove(self.segments / name)
            self._commits.pop(name.removesuffix(RECORD), None)
        if self._copy is not None and (gone := self._far().keys() & set(unneeded)):
            self._copy.delete(self.segments / name for name in gone)

    def _state(self) -> tuple[int, ...] | None:
        """What changes when a file comes into the folder or leaves it, and with every loss; None if the folder has gone.

        The folder is opened, because a network file system asks its server only then. Its time stamp has the resolution of the system's clock, a few milliseconds: of
        a commit that another process makes within the same tick the next append learns nothing, :meth:`refresh` does.
        """
        try:
            opened = os.open(self.segments, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(opened)
        finally:
            os.close(opened)
        return self.losses, status.st_ino, status.st_mtime_ns

    def _far(self) -> Mapping[str, int]:
        """Name and size of what the bucket holds of this store; nothing for a local root."""
        return {} if self._copy is None else self._copy.rows_in(self.segments)

    def _push(self, commit: Commit) -> None:
        """Write a commit of a root in a bucket there: segments first, then the record. If that fails, the commit does not count here, either."""
        if self._copy is None:
            return
        record = self.segments / f"{commit.name}{RECORD}"
        far = self._far()
        try:
            self._copy.push([self.segments / name for name in commit.segments if name not in far], once=True)
            self._copy.push([record], once=True)
        except MotiveError:
            atomic.remove(record)
            raise

    def _drop_lost(self, commit: Commit) -> None:
        """Write ``commit`` anew without its lost rows, so that nobody has to look for them again."""
        left = commit.without(self._lost, new_name(self.last_name()))
        if left.keys or left.rejects:
            write_record(self.segments, left)
            self.adopt(left)
        else:
            del self._commits[commit.name]
            self._rebuild({old for each in self._commits.values() for old in each.replaces})

    def adopt(self, commit: Commit) -> None:
        """Add a commit whose record has just been written, and which may replace others."""
        self._push(commit)
        self._commits[commit.name] = commit
        if commit.replaces:
            self._rebuild({old for each in self._commits.values() for old in each.replaces})
        else:
            self._take_in(commit)

    def last_name(self) -> str:
        """The name of the newest commit, '' when there is none."""
        return max(self._commits, default="")

    def _write(self, rows: Sequence[Row], rejects: Sequence[RowReject]) -> Commit:
        name = new_name(self.last_name())
        by_kind: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            by_kind.setdefault(tuple((name, array.shape, array.dtype.str) for name, array in sorted(row.stored.items())), []).append(row)
        groups: list[Group] = []
        stored: list[dict[str, np.ndarray]] = []
        for batch in by_kind.values():
            stacked = {name: np.stack([row.arrays[name] for row in batch]) for name in batch[0].stored}
            columns = {name: array for name, array in stacked.items() if array.ndim == 1}
            arrays = {name: array for name, array in stacked.items() if array.ndim > 1}
            kinds = {name: ArrayKind(array.dtype.str, array.shape[1:]) for name, array in arrays.items()}
            place = (f"{name}{SEGMENT}", len(stored)) if arrays else (None, 0)
            groups.append(Group(num_rows=len(batch), columns=columns, arrays=kinds, segment=place[0], number=place[1]))
            if arrays:
                stored.append(arrays)
        ordered = [row for batch in by_kind.values() for row in batch]
        segments = {f"{name}{SEGMENT}": write_segment(self.segments, f"{name}{SEGMENT}", stored, self.dims)} if stored else {}
        commit = Commit(
            name=name,
            keys=[row.key for row in ordered],
            contents=[digest_arrays(row.arrays) for row in ordered],
            rejects=list(rejects),
            groups=groups,
            segments=segments,
        )
        write_record(self.segments, commit)
        return commit

    def _read_record(self, name: str) -> None:
        try:
            self._commits[name] = read_record(self.segments / f"{name}{RECORD}")
        except FileNotFoundError:  # merged by another process since the folder was listed
            return
        except Damaged as error:
            log.warning("%s; its rows count as missing and are computed again", error)
            self._bad_records.add(name)
            self.losses += 1

    def _missing_segments(self, names: set[str], fresh: set[str]) -> set[str]:
        """Segments that do not exist or, in the commits ``fresh``, have another size than was committed."""
        missing = set()
        far = self._far()
        for commit in self._commits.values():
            for segment, committed in commit.segments.items():
                if segment in self._lost:
                    continue
                if segment not in names:
                    what = "is missing"
                elif commit.name in fresh and (size := self._size(segment, far)) != committed.num_bytes:
                    what = f"has {size} bytes of {committed.num_bytes}"
                else:
                    continue
                log.warning("%s %s; its rows count as missing and are computed again", self.segments / segment, what)
                missing.add(segment)
        self.losses += bool(missing)
        return missing

    def _size(self, segment: str, far: Mapping[str, int]) -> int:
        return far[segment] if segment in far else (self.segments / segment).stat().st_size

    def _rebuild(self, replaced: set[str]) -> None:
        self._order.clear()
        self._segment_files.clear()
        self._index.clear()
        self._rejects.clear()
        for name in sorted(self._commits.keys() - replaced):
            self._take_in(self._commits[name])

    def _take_in(self, commit: Commit) -> None:
        first = len(self._order) << _ROW_BITS
        self._order.append(commit)
        self._segment_files.update(commit.segments)
        if self._lost.isdisjoint(commit.segments):
            self._index.update(zip(commit.keys, range(first, first + len(commit.keys)), strict=True))
        else:
            rows = [row for group in commit.groups if not self.is_lost(group) for row in commit.rows_of(group)]
            self._index.update((commit.keys[row], first + row) for row in rows)
        self._rejects.update((reject.key, reject) for reject in commit.rejects)

    def _place(self, ref: RowRef) -> tuple[Group, int]:
        """The group and the row in it, even if the commit was merged after ``ref`` was returned."""
        commit = self._commits.get(ref.commit)
        if commit is not None:
            group, row = commit.place(ref.row)
            if not self.is_lost(group):
                return group, row
        now = self._ref_after_merge(ref)
        return self._commits[now.commit].place(now.row)

    def _ref_after_merge(self, ref: RowRef) -> RowRef:
        """Where the row lies after a merge."""
        self.refresh()
        now = self.find(ref.key)
        if not isinstance(now, RowRef) or now.content != ref.content:
            raise MissingRow(f"the row {ref.key} of {self.folder} is missing. `motive run` makes it again; all other rows are kept.")
        return now

    def _open(self, segment: str) -> Any:
        with self._opening:
            if segment in self._opened:
                self._opened.move_to_end(segment)
                return self._opened[segment]
            path = self.bring(segment)
            if segment not in self._checked:
                self._check(segment, path)
                self._checked.add(segment)
            try:
                self._opened[segment] = safe_open(path, "np")
            except FileNotFoundError:
                raise self._gone(path) from None
            if len(self._opened) > _OPEN_SEGMENTS:
                self._opened.popitem(last=False)
            return self._opened[segment]

    def bring(self, segment: str) -> Path:
        """The file of a segment, which need not be there. That of a root in a bucket is fetched."""
        path = self.segments / segment
        if self._copy is not None and not path.exists():
            self._checked.discard(segment)
            self._copy.fetch(path)
        return path

    def _gone(self, path: Path) -> SegmentGone:
        self.refresh()
        return SegmentGone(f"{path} is missing. Its rows count as missing now: `motive run` makes them again; all other rows are kept.")

    def _check(self, segment: str, path: Path) -> None:
        try:
            is_whole = digest_file(path) == self._segment_files[segment].sha256
            wrong = None if is_whole else "is cut or altered: its content does not match its SHA-256"
        except FileNotFoundError:
            raise self._gone(path) from None
        if wrong is not None and self._copy is not None and self._copy.fetch_again(path):
            is_whole = digest_file(path) == self._segment_files[segment].sha256
            wrong = None if is_whole else wrong
        if wrong is None:
            return
        log.warning("%s %s; its rows count as missing and are computed again", path, wrong)
        self._lost.add(segment)
        self.losses += 1
        try:
            os.replace(path, path.with_name(f"{segment}.damaged"))
        except OSError as error:
            log.debug("%s cannot be renamed: %s", path, error)
        self._rebuild({old for commit in self._commits.values() for old in commit.replaces})
        raise MissingRow(f"{path} {wrong}. Its rows count as missing now: `motive run` makes them again; all other rows are kept.")


def _rows_of(tensor: Any, rows: Sequence[int]) -> np.ndarray:
    """The ``rows`` of a tensor on disk, stacked. If most rows are wanted, they are read as one slice; if few, one by one."""
    first, last = min(rows), max(rows)
    if 2 * len(rows) > last - first:
        block = tensor[first : last + 1]
        places = [row - first for row in rows]
        return block if places == list(range(len(block))) else block[places]
    return np.concatenate([tensor[row : row + 1] for row in rows])


def _require_format(folder: Path) -> None:
    file = folder / "store.json"
    try:
        found = read_sealed(file)["format"]
    except (FileNotFoundError, Damaged):  # written anew with the next commit
        return
    if found > FORMAT:
        raise MotiveError(
            f"the row store {folder} was written by a newer version of motive-pipeline. Upgrade this installation, or set storage.root to "
            "another folder."
        )
