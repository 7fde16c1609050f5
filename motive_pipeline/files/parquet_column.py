"""Videos that lie as bytes in a column of a Parquet file, as Hugging Face data sets keep them: read where they lie.

A column holds bytes, or structs with bytes in them (``struct{bytes, path}``). A video's name within the file is ``<column>/<row>``, rows counted from
1. Parquet can be entered at the start of a row group only, so reading one video decodes its group up to it. Small groups are remembered, and in a large one
whoever reads forwards goes on from where the last reading ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.file_stat import file_stat

MAGIC = b"PAR1"

_ROW_DIGITS = 8
_REMEMBERED_BYTES = 64 * 2**20
"""A row group's videos are kept until the next group is read, if they are not more than this together."""
_BUFFER_BYTES = 2**20


def is_parquet(file: Path) -> bool:
    """Whether ``file`` begins as a Parquet file does."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def bytes_leaf(field: pa.Field) -> str | None:
    """The dotted name of the bytes in a column, or None where it holds none."""
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return field.name
    if not pa.types.is_struct(field.type):
        return None
    return next((f"{field.name}.{leaf}" for child in field.type if (leaf := bytes_leaf(child)) is not None), None)


def cell_name(column: str, row: int) -> str:
    """What the video of ``row`` (from 1 on) is called within its file; names sort as rows do."""
    return f"{column}/{row:0{_ROW_DIGITS}d}"


def read_cell(file: Path, name: str) -> bytes:
    """The bytes of the video called ``name``.

    Raises:
        RejectRow: ``missing_file``: there is no such row or column, or the cell is null; ``damaged_archive``.
        OSError: the file cannot be read.
    """
    column, _, row = name.rpartition("/")
    try:
        with _opened(file) as table:
            leaf = next((bytes_leaf(field) for field in table.schema_arrow if field.name == column), None)
            group, place = _place(table, int(row) - 1) if row.isdecimal() else (-1, 0)
            if leaf is None or group < 0:
                raise RejectRow("missing_file", f"{file.name} holds no {name} (any more)", transient=True)
            is_small = _num_bytes(table, leaf, group) <= _REMEMBERED_BYTES
        where = _Group(file, leaf, group, file_stat(file).identity)
        found = _remembered(where)[place] if is_small else _forwards.value(where, place)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Arrow's own, for what it cannot decode, have none
            raise
        raise RejectRow("damaged_archive", f"{file.name} cannot be read as a Parquet file ({error}); was it downloaded whole?") from error
    if found is None:
        raise RejectRow("missing_file", f"row {int(row)} of {file.name} holds no bytes in column {column}, and names no file that is there")
    return found


def _opened(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _place(table: pq.ParquetFile, row: int) -> tuple[int, int]:
    """(row group, row within it) of a row counted from 0; the group is -1 where there is no such row."""
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        if 0 <= row < num_rows:
            return group, row
        row -= num_rows
    return -1, 0


def _num_bytes(table: pq.ParquetFile, leaf: str, group: int) -> int:
    """How large the group's videos are together."""
    chunks = table.metadata.row_group(group)
    columns = (chunks.column(number) for number in range(chunks.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == leaf)


@dataclass(frozen=True)
class _Group:
    """The bytes of one column in one row group of a file as it is now."""

    file: Path
    leaf: str
    group: int
    identity: tuple[int, ...]

    def values(self) -> Iterator[bytes | None]:
        """One after the other, decoded as they are asked for."""
        with _opened(self.file) as table:
            for batch in table.iter_batches(batch_size=1, row_groups=[self.group], columns=[self.leaf], use_threads=False):
                for value in batch.column(0).to_pylist():
                    while isinstance(value, dict):
                        value = next(iter(value.values()), None)
                    yield value


@lru_cache(maxsize=1)
def _remembered(where: _Group) -> list[bytes | None]:
    return list(where.values())


class _Forwards(threading.local):
    """A group that is being read, and how far."""

    def __init__(self) -> None:
        self._where: _Group | None = None
        self._values: Iterator[bytes | None] = iter(())
        self._next = 0

    def value(self, where: _Group, place: int) -> bytes | None:
        """The value at ``place`` of the group; from where the last call ended, if it comes after that."""
        if where != self._where or place < self._next:
            self._values, self._next = where.values(), 0
        self._where = None  # should decoding fail
        found = next(islice(self._values, place - self._next, None))
        self._where, self._next = where, place + 1
        return found


_forwards = _Forwards()
