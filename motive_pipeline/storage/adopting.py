"""Takes the rows of one row store into another: a shard's into the main root's.

A segment gets a second name (a hard link, or a copy on another file system; in a bucket a copy by the server), and its hash is checked under that name. Rows that the store has
already stay as they are: where only some rows of a commit are new, these are written to a segment of their own. Each commit is taken in one step.
A kill leaves at most a segment without a record, which the next writer removes, so the same call again finishes the work.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from safetensors import safe_open

from motive_pipeline.storage import atomic
from motive_pipeline.storage.commits import SEGMENT, Commit, Group, SegmentFile, new_name, write_record, write_segment
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.root_copy import copy_of
from motive_pipeline.storage.rows import MissingRow, RowStore


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """How many rows and rejections were taken in now; those that the store had before are not counted."""

    rows: int = 0
    rejects: int = 0

    def __add__(self, other: Adopted) -> Adopted:
        return Adopted(rows=self.rows + other.rows, rejects=self.rejects + other.rejects)


def adopt_rows(store: RowStore, source: RowStore) -> Adopted:
    """Take every row and rejection of ``source`` that ``store`` lacks into ``store``, commit by commit. ``source`` is only read, except
    that what is found damaged counts as missing from it from now on.

    Raises:
        Locked: another process is writing to ``store``.
        MissingRow: a segment of ``source`` is cut or altered. What was taken in before stays.
    """
    total = Adopted()
    source.refresh()
    with store.lock:
        store.prepare()
        for commit in source.commits():
            total += _adopt(store, source, commit)
    return total


def has_all(store: RowStore, source: RowStore) -> bool:
    """Whether ``store`` has every row and rejection of ``source``."""
    source.refresh()
    return all(store.find(key) is not None for commit in source.commits() for key in _all_keys(commit))


def _all_keys(commit: Commit) -> list[str]:
    return [*commit.keys, *(reject.key for reject in commit.rejects)]


def _adopt(store: RowStore, source: RowStore, commit: Commit) -> Adopted:
    kept = [row for row, key in enumerate(commit.keys) if store.find(key) is None]
    rejects = [reject for reject in commit.rejects if store.find(reject.key) is None]
    if not kept and not rejects:
        return Adopted()
    name = new_name(store.last_name())
    if len(kept) == len(commit.keys):
        groups, segments = _linked(store, source, commit, name)
    else:
        groups, segments = _copied(store, source, commit, name, kept)
    done = Commit(
        name=name,
        keys=[commit.keys[row] for row in kept],
        contents=[commit.contents[row] for row in kept],
        rejects=rejects,
        groups=groups,
        segments=segments,
    )
    write_record(store.segments, done)
    store.adopt(done)
    return Adopted(rows=len(kept), rejects=len(rejects))


def _linked(store: RowStore, source: RowStore, commit: Commit, name: str) -> tuple[list[Group], dict[str, SegmentFile]]:
    """The groups of ``commit`` with its segments linked under new names. The caller writes the record."""
    names = {old: f"{name}-{number}{SEGMENT}" for number, old in enumerate(commit.segments)}
    for old, new in names.items():
        file, target = source.bring(old), store.segments / new
        _link(file, target)
        if digest_file(target) != commit.segments[old].sha256:
            atomic.remove(target)
            source.damages()  # from now on its rows count as missing there, too
            if copy_of(source.folder) is not None:
                with source.lock:
                    source.prepare()  # in the bucket, too
            raise MissingRow(f"{source.segments / old} is cut or altered: its content does not match its SHA-256")
        if (copy := copy_of(target)) is not None and file.is_relative_to(copy.root):
            copy.is_content_of(copy.key(file), target)
    atomic.sync_folder(store.segments)
    groups = [group if group.segment is None else replace(group, segment=names[group.segment]) for group in commit.groups]
    return groups, {names[old]: file for old, file in commit.segments.items()}


def _link(source: Path, target: Path) -> None:
    try:
        atomic.link_or_copy(source, target)
    except FileNotFoundError:
        raise MissingRow(f"{source} is missing") from None
    atomic.sync_file(target)


def _copied(
    store: RowStore, source: RowStore, commit: Commit, name: str, kept: Sequence[int]
) -> tuple[list[Group], dict[str, SegmentFile]]:
    """The rows ``kept`` of ``commit``, written to one new segment. The caller writes the record."""
    wanted, segment = set(kept), f"{name}-0{SEGMENT}"
    groups: list[Group] = []
    stored: list[dict[str, np.ndarray]] = []
    dims: dict[str, tuple[str, ...]] = {}
    for group in commit.groups:
        rows = [place for place, row in enumerate(commit.rows_of(group)) if row in wanted]
        if not rows:
            continue
        arrays = {array: source.tensor(group, array)[:][rows] for array in group.arrays}
        if arrays:
            assert group.segment is not None
            dims |= _dims(source.segments / group.segment)
        columns = {column: values[rows] for column, values in group.columns.items()}
        place = (segment, len(stored)) if arrays else (None, 0)
        groups.append(Group(num_rows=len(rows), columns=columns, arrays=group.arrays, segment=place[0], number=place[1]))
        if arrays:
            stored.append(arrays)
    return groups, {segment: write_segment(store.segments, segment, stored, dims)} if stored else {}


def _dims(segment: Path) -> dict[str, tuple[str, ...]]:
    """The names of the axes after ``row`` of each array, as the segment has them."""
    with safe_open(segment, "np") as opened:
        axes = json.loads(opened.metadata()["dimensions"])
    return {array: tuple(names[1:]) for array, names in axes.items()}
