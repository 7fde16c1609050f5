"""Reads tables of clips: CSV, JSON, JSON lines, Parquet. Rows are read one by one, so a file of gigabytes needs little memory.

A row that cannot be read is a :class:`BadRow` with its line. A file that cannot be read at all is an error that names it: without the
table, every clip would lose its caption.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.errors import MotiveError
from motive_pipeline.files.parquet_column import bytes_leaf, cell_name, text_columns
from motive_pipeline.sources.captions import LONE_SURROGATE, has_lone_surrogate
from motive_pipeline.sources.csv_rows import csv_rows
from motive_pipeline.sources.json_stream import json_stream
from motive_pipeline.sources.table_row import BadRow, TableRow

SUFFIXES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_PARQUET_ROWS = 4096
_LONGEST_LINE_BYTES = 2**20


def read_table(file: Path) -> Iterator[TableRow | BadRow]:
    """Every row of ``file``. The suffix tells the format.

    Raises:
        MotiveError: the file is missing, or is not a table of that format.
    """
    kind = SUFFIXES.get(file.suffix.lower())
    if kind is None:
        raise MotiveError(f"{file}: not a table this version reads; its name must end in {', '.join(SUFFIXES)}")
    try:
        yield from {"csv": csv_rows, "json": _json_rows, "jsonl": _json_lines, "parquet": _parquet_rows}[kind](file)
    except OSError as error:
        raise MotiveError(f"the table {file} cannot be read: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise MotiveError(f"the table {file} cannot be read ({error}). Was it downloaded whole?") from error


def read_json_values(file: Path) -> dict[str, Any]:
    """The one object in a JSON file.

    Raises:
        ValueError: it is not a JSON object.
    """
    values = json.loads(file.read_text(encoding="utf-8-sig"))
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")
    if has_lone_surrogate(values):
        raise ValueError(LONE_SURROGATE)
    return values


def _json_lines(file: Path) -> Iterator[TableRow | BadRow]:
    with file.open("rb") as opened:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield BadRow(where=f"line {number}", detail=f"no JSON: {error}")
                continue
            yield _json_row(f"line {number}", values)


def _json_rows(file: Path) -> Iterator[TableRow | BadRow]:
    """Reads a list of objects; or one object from files to captions or to objects; or lines of objects."""
    with file.open("rb") as opened:
        if opened.read(3) != b"\xef\xbb\xbf":
            opened.seek(0)
        start = opened.tell()
        first = next((each for each in iter(lambda: opened.read(1), b"") if not each.isspace()), b"")
        opened.seek(start)
        if first == b"{" and _has_lines(opened):
            yield from _json_lines(file)
            return
        opened.seek(start)
        try:
            if first == b"[":
                found = enumerate(ijson.items(json_stream(opened), "item", use_float=True), start=1)
                yield from (_json_row(f"entry {number}", values) for number, values in found)
            elif first == b"{":
                for key, value in ijson.kvitems(json_stream(opened), "", use_float=True):
                    yield _json_row(f"entry {key!r}", {"path": key} | (value if isinstance(value, dict) else {"caption": value}))
            else:
                raise MotiveError(f"{file}: expected a JSON list of objects, or an object with a caption for each file")
        except (ijson.JSONError, ValueError, OverflowError) as error:  # a number may be too long for Python
            raise MotiveError(f"{file}: not whole, or no JSON ({error}). Was it downloaded whole?") from error


def _json_row(where: str, values: Any) -> TableRow | BadRow:
    if not isinstance(values, dict):
        return BadRow(where=where, detail="no JSON object")
    try:
        return BadRow(where=where, detail=LONE_SURROGATE) if has_lone_surrogate(values) else TableRow(where=where, values=values)
    except RecursionError:
        return BadRow(where=where, detail="objects within objects, too deep to be read")


def _has_lines(opened: IO[bytes]) -> bool:
    """Whether each of the first lines is a JSON object, as in a JSON lines file."""
    lines = [opened.readline(_LONGEST_LINE_BYTES) for _ in range(2)]
    try:
        return all(isinstance(json.loads(line), dict) for line in lines)
    except ValueError:
        return False


def _parquet_rows(file: Path) -> Iterator[TableRow | BadRow]:
    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise MotiveError(f"{file}: no Parquet file ({error})") from error
    with table:
        texts = text_columns(table)
        binary = [column.name for column in table.schema_arrow if bytes_leaf(column) is not None and column.name not in texts]
        names = [*texts, *(name for column in table.schema_arrow for name in _without_bytes(column.type, column.name))]
        number = 0
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=names):
            for values in _parquet_values(batch, texts) if names else [{}] * batch.num_rows:
                number += 1
                if isinstance(values, str):
                    yield BadRow(where=f"row {number}", detail=values)
                else:
                    yield TableRow(where=f"row {number}", values=values, cells={name: cell_name(name, number) for name in binary})


def _parquet_values(batch: pa.RecordBatch, texts: Sequence[str]) -> Iterator[dict[str, Any] | str]:
    """The values of each row, or why they cannot be read. Values of the columns ``texts`` are bytes in the file."""
    try:
        yield from _decoded(batch.to_pylist(), texts)
        return
    except (ValueError, OverflowError):
        pass
    for place in range(batch.num_rows):
        try:
            yield from _decoded(batch.slice(place, 1).to_pylist(), texts)
        except UnicodeDecodeError:
            yield "not valid UTF-8"
        except (ValueError, OverflowError) as error:  # a date that Python does not have
            yield f"a value cannot be read: {error}"


def _decoded(rows: list[dict[str, Any]], texts: Sequence[str]) -> list[dict[str, Any]]:
    """``rows`` with the bytes in the columns ``texts`` as text."""
    return [row | {name: row[name].decode() for name in texts if row[name] is not None} for row in rows] if texts else rows


def _without_bytes(kind: pa.DataType, name: str) -> Iterator[str]:
    """The dotted names of the parts of a column that hold no bytes. Bytes, such as whole videos, are not read here."""
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _without_bytes(child.type, f"{name}.{child.name}")
    elif not _are_bytes(kind):
        yield name


def _are_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _are_bytes(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
