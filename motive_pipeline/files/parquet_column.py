"""Videos stored as bytes in a column of a Parquet file, as Hugging Face data sets keep them. They are read in place.

A column holds bytes, or structs with bytes in them (``struct{bytes, path}``). A cell is named ``<column>/<row>``, with rows counted from 1.

Parquet can be entered only at the start of a row group, so reading one cell decodes its group up to that cell. The cells of a small group
are kept in memory. In a large group, a reader that goes forwards continues where its last read ended.
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
"""A row group whose cells have at most this many bytes together is kept in memory until another group is read."""
_BUFFER_BYTES = 2**20
_SAMPLED_VALUES = 8
_LONGEST_TEXT_BYTES = 2**16


def is_parquet(file: Path) -> bool:
    """Whether ``file`` begins like a Parquet file."""
    try:
        with file.open("rb") as opened:
            return opened.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def bytes_leaf(field: pa.Field) -> str | None:
    """The dotted name of the bytes in a column; None if the column holds none."""
    if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
        return field.name
    if not pa.types.is_struct(field.type):
        return None
    return next((f"{field.name}.{leaf}" for child in field.type if (leaf := bytes_leaf(child)) is not None), None)


def text_columns(table: pq.ParquetFile) -> list[str]:
    """The columns of bytes that hold texts, as old Spark and Impala write texts: their first values are UTF-8 without control characters.

    A video is no such text, since its container has bytes of zero in it. Columns of long values are not looked into.
    Raises :class:`pyarrow.ArrowException` or ``OSError`` for a damaged file.
    """
    names = [field.name for field in table.schema_arrow if bytes_leaf(field) == field.name]
    return [name for name in names if table.num_row_groups and _is_text(_first_values(table, name))]


def _first_values(table: pq.ParquetFile, column: str) -> list[bytes]:
    """The first values of a column of bytes. If these are long on average, one of them is enough to see what they are."""
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        wanted = _SAMPLED_VALUES if _num_bytes(table, column, group) <= num_rows * _LONGEST_TEXT_BYTES else 1
        found: list[bytes] = []
        for batch in table.iter_batches(batch_size=1, row_groups=[group], columns=[column], use_threads=False):
            found += [value for value in batch.column(0).to_pylist() if value]
            if len(found) >= wanted:
                break
        if found:
            return found
    return []


def _is_text(values: list[bytes]) -> bool:
    try:
        texts = [value.decode() for value in values]
    except UnicodeDecodeError:
        return False
    return bool(texts) and all(character.isprintable() or character.isspace() for text in texts for character in text)


def cell_name(column: str, row: int) -> str:
    """The name of a cell; ``row`` counts from 1. Names sort as rows do."""
    return f"{column}/{row:0{_ROW_DIGITS}d}"


def read_cell(file: Path, name: str) -> bytes:
    """The bytes of the cell called ``name``.

    Raises:
        RejectRow: ``missing_file`` (no such row or column, or the cell is null), ``damaged_archive``.
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
        cells = _GroupCells(file, leaf, group, file_stat(file).identity)
        found = _remembered(cells)[place] if is_small else _forward_reader.read(cells, place)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # Arrow's own errors for damaged data have no errno
            raise
        raise RejectRow("damaged_archive", f"{file.name} cannot be read as a Parquet file ({error}); was it downloaded whole?") from error
    if found is None:
        raise RejectRow("missing_file", f"row {int(row)} of {file.name} holds no bytes in column {column}, and names no file that is there")
    return found


def _opened(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)


def _place(table: pq.ParquetFile, row: int) -> tuple[int, int]:
    """(row group, row within it) of a row counted from 0; the group is -1 if there is no such row."""
    for group in range(table.num_row_groups):
        num_rows = table.metadata.row_group(group).num_rows
        if 0 <= row < num_rows:
            return group, row
        row -= num_rows
    return -1, 0


def _num_bytes(table: pq.ParquetFile, leaf: str, group: int) -> int:
    """The size of all cells of a group, decompressed."""
    chunks = table.metadata.row_group(group)
    columns = (chunks.column(number) for number in range(chunks.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == leaf)


@dataclass(frozen=True)
class _GroupCells:
    """The cells of one column in one row group, of the file with this identity."""

    file: Path
    leaf: str
    group: int
    identity: tuple[int, ...]

    def decoded(self) -> Iterator[bytes | None]:
        """The cells in order, decoded one by one."""
        with _opened(self.file) as table:
            for batch in table.iter_batches(batch_size=1, row_groups=[self.group], columns=[self.leaf], use_threads=False):
                for value in batch.column(0).to_pylist():
                    while isinstance(value, dict):
                        value = next(iter(value.values()), None)
                    yield value


@lru_cache(maxsize=1)
def _remembered(cells: _GroupCells) -> list[bytes | None]:
    return list(cells.decoded())


class _ForwardReader(threading.local):
    """Reads large groups cell by cell, and continues where it is when the next cell lies ahead. One for each thread."""

    def __init__(self) -> None:
        self._cells: _GroupCells | None = None
        self._decoded: Iterator[bytes | None] = iter(())
        self._next = 0

    def read(self, cells: _GroupCells, place: int) -> bytes | None:
        """The cell at ``place`` of its group."""
        if cells != self._cells or place < self._next:
            self._decoded, self._next = cells.decoded(), 0
        self._cells = None  # if decoding fails, the next call starts anew
        found = next(islice(self._decoded, place - self._next, None))
        self._cells, self._next = cells, place + 1
        return found


_forward_reader = _ForwardReader()
