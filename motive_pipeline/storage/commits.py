"""One commit of a row store on disk: a JSON record and the segment files that it names.

``segments/<name>.json`` is the record: keys, content hashes, rejected rows, scalars, and size and SHA-256 of each segment. A segment
``<name>.safetensors`` holds the other arrays, rows stacked along the first axis. Both are written once and never changed. Writing the record
is the commit: a segment without a record is not part of the store.

A commit consists of groups: rows whose arrays have equal names, shapes and dtypes. ``<number>/<array>`` names a group's array in its segment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import save

from motive_pipeline.storage import atomic
from motive_pipeline.storage.sealed import read_sealed, write_sealed

RECORD, SEGMENT = ".json", ".safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class RowReject:
    """A row that could not be computed, remembered so that it is not tried again under the same key."""

    key: str
    reason: str
    detail: str


class ArrayKind(NamedTuple):
    """dtype (numpy's string) and shape of an array of one row."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Size of the array of one row."""
        return np.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows with equal arrays. ``columns`` holds scalars [row]; ``arrays`` lie in ``segment`` under the prefix ``number``."""

    num_rows: int
    columns: Mapping[str, np.ndarray]
    arrays: Mapping[str, ArrayKind]
    segment: str | None = None
    number: int = 0

    def tensor(self, name: str) -> str:
        """The name of array ``name`` in the segment."""
        return f"{self.number}/{name}"


class SegmentFile(NamedTuple):
    """Size and SHA-256 that a segment must have."""

    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One commit. ``keys`` and ``contents`` list its rows, group after group; ``replaces`` names the commits that were merged into it."""

    name: str
    keys: Sequence[str]
    contents: Sequence[str]
    rejects: Sequence[RowReject] = ()
    groups: Sequence[Group] = ()
    segments: Mapping[str, SegmentFile] = field(default_factory=dict)
    replaces: Sequence[str] = ()

    @cached_property
    def _starts(self) -> list[int]:
        return [0, *accumulate(group.num_rows for group in self.groups)]

    def place(self, row: int) -> tuple[Group, int]:
        """The group of a row of the commit, and the row's number within it."""
        number = bisect_right(self._starts, row) - 1
        return self.groups[number], row - self._starts[number]

    def rows_of(self, group: Group) -> range:
        """The rows of the commit that ``group`` holds."""
        number = next(place for place, each in enumerate(self.groups) if each is group)
        return range(self._starts[number], self._starts[number + 1])

    def without(self, segments: Collection[str], name: str) -> Commit:
        """A commit ``name`` that replaces this one and lacks the rows of ``segments``."""
        groups = [group for group in self.groups if group.segment not in segments]
        rows = [row for group in groups for row in self.rows_of(group)]
        return Commit(
            name=name,
            keys=[self.keys[row] for row in rows],
            contents=[self.contents[row] for row in rows],
            rejects=self.rejects,
            groups=groups,
            segments={segment: file for segment, file in self.segments.items() if segment not in segments},
            replaces=[self.name],
        )


def new_name(last: str) -> str:
    """A name that sorts after ``last`` ('' for the first) and is never used again."""
    number = int(last.split("-")[0]) + 1 if last else 0
    return f"{number:08d}-{uuid.uuid4().hex[:8]}"


def write_segment(folder: Path, name: str, groups: Sequence[Mapping[str, np.ndarray]], dims: Mapping[str, tuple[str, ...]]) -> SegmentFile:
    """Write the arrays of ``groups`` to ``folder/<name>``; ``dims`` names their axes in the file's metadata.

    The hash is that of the data in memory, so a fault of the disk is noticed when the file is read.
    """
    tensors = {f"{number}/{array}": np.ascontiguousarray(group[array]) for number, group in enumerate(groups) for array in group}
    axes = {array: ["row", *dims[array]] for group in groups for array in group if array in dims}
    data = save(tensors, {"dimensions": json.dumps(axes)})
    atomic.write_bytes(folder / name, data)
    return SegmentFile(len(data), hashlib.sha256(data).hexdigest())


def write_record(folder: Path, commit: Commit) -> None:
    """Write the record of ``commit``, whose segments are on disk already."""
    write_sealed(
        folder / f"{commit.name}{RECORD}",
        {
            "keys": list(commit.keys),
            "content": list(commit.contents),
            "rejects": [[reject.key, reject.reason, reject.detail] for reject in commit.rejects],
            "groups": [_group_json(group) for group in commit.groups],
            "segments": {name: list(file) for name, file in commit.segments.items()},
            "replaces": list(commit.replaces),
        },
        indent=None,
    )


def read_record(file: Path) -> Commit:
    """The commit whose record is ``file``.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the record is cut or altered.
    """
    saved = read_sealed(file)
    return Commit(
        name=file.name.removesuffix(RECORD),
        keys=saved["keys"],
        contents=saved["content"],
        rejects=[RowReject(key=key, reason=reason, detail=detail) for key, reason, detail in saved["rejects"]],
        groups=[_group(group) for group in saved["groups"]],
        segments={name: SegmentFile(*file) for name, file in saved["segments"].items()},
        replaces=saved["replaces"],
    )


def _group_json(group: Group) -> dict[str, Any]:
    columns = {name: [column.dtype.str, base64.b64encode(column.tobytes()).decode()] for name, column in group.columns.items()}
    return {"rows": group.num_rows, "columns": columns, "arrays": group.arrays, "segment": group.segment, "number": group.number}


def _group(saved: dict[str, Any]) -> Group:
    return Group(
        num_rows=saved["rows"],
        columns={name: np.frombuffer(base64.b64decode(data), dtype) for name, (dtype, data) in saved["columns"].items()},
        arrays={name: ArrayKind(dtype, tuple(shape)) for name, (dtype, shape) in saved["arrays"].items()},
        segment=saved["segment"],
        number=saved["number"],
    )
