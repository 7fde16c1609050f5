"""Merges the small commits of a row store: fewer files to open, and segments of 64 to 128 MB.

A merge writes new segments and one record that names the commits it replaces, and removes these afterwards. A reader ignores a replaced
commit, so a crash at any point loses no row and shows none twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from motive_pipeline.storage.commits import SEGMENT, Commit, Group, SegmentFile, new_name, write_record, write_segment
from motive_pipeline.storage.rows import MissingRow, RowStore

FULL_ROWS = 2**16
"""A commit with this many rows is left alone; smaller commits are merged up to this many rows."""

FULL_BYTES = 2**26
"""A segment of this many bytes is left alone; smaller ones are merged until they have this many."""

MIN_COMMITS = 8
"""Fewer small commits are not worth a merge."""


def merge(store: RowStore) -> int:
    """Merge the small commits of ``store`` if there are many; returns how many were merged.

    Raises:
        Locked: another process is writing to this store.
    """
    if len(_small(store)) < MIN_COMMITS:
        return 0
    with store.lock:
        store.prepare()
        units = list(_units(_small(store)))
        for unit in units:
            _merge(store, unit)
            store.prepare()
    return sum(map(len, units))


def _small(store: RowStore) -> list[Commit]:
    return [commit for commit in store.commits() if len(commit.keys) + len(commit.rejects) < FULL_ROWS]


def _units(commits: Sequence[Commit]) -> Iterator[list[Commit]]:
    """Commits to be merged into one, in order."""
    unit: list[Commit] = []
    for commit in commits:
        unit.append(commit)
        if sum(len(each.keys) + len(each.rejects) for each in unit) >= FULL_ROWS:
            yield unit
            unit = []
    if len(unit) > 1:
        yield unit


class _Merged:
    """The commit that a merge writes, group by group."""

    def __init__(self, store: RowStore) -> None:
        self.store = store
        self.name = new_name(store.last_name())
        self.keys: list[str] = []
        self.contents: list[str] = []
        self.groups: list[Group] = []
        self.segments: dict[str, SegmentFile] = {}

    def keep(self, commit: Commit, group: Group) -> None:
        """Take over a group whose segment stays as it is."""
        assert group.segment is not None
        self._add([(commit, group)], group)
        self.segments[group.segment] = commit.segments[group.segment]

    def write(self, parts: Sequence[tuple[Commit, Group]]) -> None:
        """Write the groups ``parts`` into one new segment. Groups of a damaged segment are left out: their rows are lost."""
        segment = f"{self.name}-{len(self.segments)}{SEGMENT}"
        stored: list[dict[str, np.ndarray]] = []
        for same in _by_kind(parts):
            read = [(part, arrays) for part in same if (arrays := self._arrays(part[1])) is not None]
            if not read:
                continue
            joined = [part for part, _ in read]
            arrays = {name: np.concatenate([each[name] for _, each in read]) for name in joined[0][1].arrays}
            group = Group(
                num_rows=sum(group.num_rows for _, group in joined),
                columns={name: np.concatenate([group.columns[name] for _, group in joined]) for name in joined[0][1].columns},
                arrays=joined[0][1].arrays,
                segment=segment if arrays else None,
                number=len(stored) if arrays else 0,
            )
            self._add(joined, group)
            if arrays:
                stored.append(arrays)
        if stored:
            self.segments[segment] = write_segment(self.store.segments, segment, stored, self.store.dims)

    def _arrays(self, group: Group) -> dict[str, Any] | None:
        try:
            return {name: self.store.tensor(group, name)[:] for name in group.arrays}
        except MissingRow:
            return None

    def _add(self, parts: Sequence[tuple[Commit, Group]], group: Group) -> None:
        for commit, part in parts:
            rows = commit.rows_of(part)
            self.keys += commit.keys[rows.start : rows.stop]
            self.contents += commit.contents[rows.start : rows.stop]
        self.groups.append(group)


def _merge(store: RowStore, commits: Sequence[Commit]) -> None:
    merged = _Merged(store)
    waiting: list[tuple[Commit, Group]] = []
    num_bytes = 0
    for commit in commits:
        for group in commit.groups:
            size = commit.segments[group.segment].num_bytes if group.segment is not None else 0
            if store.is_lost(group):
                continue
            if size >= FULL_BYTES:
                merged.keep(commit, group)
                continue
            waiting.append((commit, group))
        num_bytes += sum(file.num_bytes for file in commit.segments.values() if file.num_bytes < FULL_BYTES)
        if num_bytes >= FULL_BYTES:
            merged.write(waiting)
            waiting, num_bytes = [], 0
    if waiting:
        merged.write(waiting)
    done = Commit(
        name=merged.name,
        keys=merged.keys,
        contents=merged.contents,
        rejects=[reject for commit in commits for reject in commit.rejects],
        groups=merged.groups,
        segments=merged.segments,
        replaces=[commit.name for commit in commits],
    )
    write_record(store.segments, done)
    store.adopt(done)


def _by_kind(parts: Sequence[tuple[Commit, Group]]) -> list[list[tuple[Commit, Group]]]:
    """The groups that can be stacked: with equal arrays and equal scalars."""
    found: dict[Any, list[tuple[Commit, Group]]] = {}
    for commit, group in parts:
        columns = sorted((name, column.dtype.str) for name, column in group.columns.items())
        found.setdefault((tuple(columns), tuple(sorted(group.arrays.items()))), []).append((commit, group))
    return list(found.values())
