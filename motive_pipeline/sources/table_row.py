"""A row of a table of clips, as any format gives it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A row, and where it is in the table (``line 7``, ``entry 7``).

    ``cells`` maps each binary column to the name of the row's cell (files/parquet_column.py). ``values`` excludes binary columns.
    """

    where: str
    values: dict[str, Any]
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row that cannot be read, and why."""

    where: str
    detail: str
