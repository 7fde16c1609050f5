"""Rows of CSV and TSV tables. A quotation mark that is never closed costs its own row, not the rows behind it.

A CSV file is read with quoting: a cell in quotation marks may hold commas and line breaks. Published TSV files mostly have none: there a cell
counts as quoted only when it is so as a whole, and a quotation mark anywhere else is a character of the text.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from motive_pipeline.errors import MotiveError
from motive_pipeline.sources.table_row import BadRow, TableRow

DELIMITERS = (",", ";", "|", "\t")
"""A CSV file is parted by the first of these that gives its first line more than one column."""

_LONGEST_CELL = 2**24
_WHOLLY_QUOTED = re.compile(r'"(?:[^"]|"")*"', re.DOTALL)
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}$")

csv.field_size_limit(_LONGEST_CELL)


def csv_rows(file: Path) -> Iterator[TableRow | BadRow]:
    """Every row of the table, with its line; a row that cannot be read is a :class:`BadRow`.

    Bytes that are not UTF-8 become surrogates, so that the row with them is reported and the other rows are used.

    Raises:
        MotiveError: the table is empty, its first line is not UTF-8, or it names two columns alike.
    """
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as opened:
        lines = _Lines(opened)
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise MotiveError(f"{file}: the table is empty; its first line must name the columns")
        tabbed = file.suffix.lower() == ".tsv"
        delimiter = "\t" if tabbed else next((mark for mark in DELIMITERS if len(_cells(first, mark)) > 1), ",")
        header = [name.strip() for name in _cells(first, delimiter)]
        if _is_no_utf8(header):
            raise MotiveError(f"{file}: its first line, which names the columns, is not valid UTF-8; save the table as UTF-8")
        if len(set(header)) < len(header):
            raise MotiveError(f"{file}: two columns have one name in its first line: {', '.join(header)}")
        for line in lines:
            if line.strip():
                yield _unquoted_row(lines, line, header) if tabbed else _quoted_row(lines, line, header, delimiter)


class _Lines:
    """The lines of a file, one after the other; lines that were read ahead can be put back. ``number`` is that of the last one."""

    def __init__(self, opened: IO[str]) -> None:
        self.number = 0
        self._opened = opened
        self._put_back: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._put_back.popleft() if self._put_back else next(self._opened)
        self.number += 1
        return line

    def put_back(self, lines: list[str]) -> None:
        """Give ``lines``, the last ones that were read, again."""
        self._put_back.extendleft(reversed(lines))
        self.number -= len(lines)


def _quoted_row(lines: _Lines, line: str, header: list[str], delimiter: str) -> TableRow | BadRow:
    """The row that begins with ``line``. If a quotation mark in it swallows further rows, these are put back."""
    where = f"line {lines.number}"
    cells, taken, error = _through_line_breaks(lines, line, delimiter)
    if len(taken) > 1 and (error or _holds_rows(cells, taken[1:], header, delimiter)):
        lines.put_back(taken[1:])
        return BadRow(where=where, detail="a quotation mark is opened and not closed in this row; write it twice inside a quoted cell")
    if error:
        return BadRow(where=where, detail=f"not a row of a CSV file: {error}")
    return _row(where, cells, header)


def _unquoted_row(lines: _Lines, line: str, header: list[str]) -> TableRow | BadRow:
    """The row that begins with ``line`` of a TSV file. Quoting counts where the row does not fit without it."""
    where = f"line {lines.number}"
    literal = line.rstrip("\r\n").split("\t")
    if any(cell.startswith('"') and not _WHOLLY_QUOTED.fullmatch(cell) for cell in literal):
        cells, taken, error = _through_line_breaks(lines, line, "\t")
        is_needed = len(taken) > 1 or len(literal) != len(header)
        if is_needed and not error and len(cells) == len(header) and not _holds_rows(cells, taken[1:], header, "\t"):
            return _row(where, cells, header)
        lines.put_back(taken[1:])
    return _row(where, [cell[1:-1].replace('""', '"') if _WHOLLY_QUOTED.fullmatch(cell) else cell for cell in literal], header)


def _through_line_breaks(lines: _Lines, line: str, delimiter: str) -> tuple[list[str], list[str], str]:
    """(cells of the row that begins with ``line``, the lines that it took, an error or nothing), with quoting."""
    taken = [line]

    def further() -> Iterator[str]:
        yield line
        for each in lines:
            taken.append(each)
            yield each

    try:
        return next(csv.reader(further(), delimiter=delimiter, skipinitialspace=True)), taken, ""
    except csv.Error as error:
        return [], taken, str(error)


def _holds_rows(cells: list[str], inner: list[str], header: list[str], delimiter: str) -> bool:
    """Whether ``inner``, lines behind the first one of a row, are rows of their own: as wide as the header, with a file of the same kind in the
    same column. A caption with line breaks has no such lines."""
    if len(header) < 2:
        return False
    kinds = {column: suffix for column, cell in enumerate(cells[: len(header)]) if (suffix := _suffix(cell))}
    for line in inner:
        row = _cells(line, delimiter)
        if len(row) == len(header):
            alike = any(_suffix(row[column]) == suffix for column, suffix in kinds.items())
            if alike or len(cells) != len(header):
                return True
    return False


def _suffix(cell: str) -> str:
    found = _SUFFIX.search(cell.strip())
    return found.group().lower() if found else ""


def _cells(line: str, delimiter: str) -> list[str]:
    """The cells of one line by itself."""
    return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])


def _row(where: str, cells: list[str], header: list[str]) -> TableRow | BadRow:
    problem = _problem(cells, header)
    return BadRow(where=where, detail=problem) if problem else TableRow(where=where, values=dict(zip(header, cells, strict=True)))


def _problem(cells: list[str], header: list[str]) -> str | None:
    if len(cells) != len(header):
        return f"{len(cells)} cells where the first line names {len(header)} columns"
    if [cell.strip() for cell in cells] == header:
        return "the first line again"
    return "not valid UTF-8" if _is_no_utf8(cells) else None


def _is_no_utf8(cells: list[str]) -> bool:
    return any("\udc80" <= character <= "\udcff" for cell in cells for character in cell)
