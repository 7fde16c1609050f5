"""The report's tables and numbers: built once, rendered as HTML and as Markdown, and saved as ``numbers.parquet``.

Every number in a table is a :class:`Number` whose ``shown`` is the text of the cell, so the three forms cannot disagree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.graph import ARMS
from motive_pipeline.graph.metrics import Metric, Style
from motive_pipeline.visible_text import visible_text


@dataclass(frozen=True, kw_only=True)
class Number:
    """One number of the report: its place (table, row, column), raw value and interval in the stored unit, count, unit, text, backend, and
    the asset it was read from (``provenance.json`` has that asset's version)."""

    table: str
    row: str
    column: str
    value: float
    ci_low: float
    ci_high: float
    num: int
    unit: str
    shown: str
    backend: str = "exact"
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as it is displayed. The first column is a heading, ``strong_rows`` are highlighted, ``words`` are columns of text, and
    ``origin`` names the backends and the assets of the numbers."""

    key: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    strong_rows: frozenset[int] = field(default_factory=frozenset)
    words: frozenset[int] = field(default_factory=frozenset)
    origin: str = ""


def format_estimate(found: Estimate, style: Style, *, signed: bool = False) -> str:
    """``12.3 [9.8, 15.1]``, or only ``12.3`` where there is no interval."""
    value = format_number(found.value * style.factor, style.decimals, signed=signed)
    if math.isnan(found.low):
        return value
    low, high = (format_number(bound * style.factor, style.decimals, signed=signed) for bound in (found.low, found.high))
    return f"{value} [{low}, {high}]"


def format_number(value: float, decimals: int, *, signed: bool = False) -> str:
    """A number with a typographic minus sign, and never a negative zero."""
    rounded = round(value, decimals) + 0.0
    text = f"{rounded:+.{decimals}f}" if signed and rounded else f"{rounded:.{decimals}f}"
    return text.replace("-", "−")


def estimate_number(table: str, row: str, metric: Metric, found: Estimate, *, source: str, signed: bool = False) -> Number:
    """The number of one estimate of a metric."""
    style = metric.style
    return Number(
        table=table,
        row=row,
        column=metric.label,
        value=found.value,
        ci_low=found.low,
        ci_high=found.high,
        num=found.num_prompts,
        unit=style.unit,
        shown=format_estimate(found, style, signed=signed),
        backend=metric.backend,
        source=source,
    )


def column_heading(metric: Metric) -> str:
    """A column's heading: name, backend mark, unit."""
    style = metric.style
    return f"{metric.label} ({style.unit})"


def arm_name(arm: str) -> str:
    """What people call an arm (or a control)."""
    return ARMS[arm].label if arm in ARMS else arm


def markdown(table: Table) -> str:
    """The table in Markdown, its cells escaped."""
    lines = ["| " + " | ".join(_cell(name) for name in table.columns) + " |"]
    lines.append(
        "|" + "|".join(" --- " if number in table.words or number == 0 else " ---: " for number in range(len(table.columns))) + "|"
    )
    lines += ["| " + " | ".join(_cell(text) for text in row) + " |" for row in table.rows]
    return "\n".join(lines)


def escaped_markdown(text: str) -> str:
    """Untrusted text, escaped so that Markdown (and HTML made from it) shows it literally, on one line."""
    line = visible_text(" ".join(text.split()))
    for character in "\\`*_{}[]()#|<>!~":
        line = line.replace(character, "\\" + character)
    return line.replace("&", "&amp;")


def _cell(text: str) -> str:
    line = visible_text(" ".join(text.split()))
    for character in "\\`*|<>~":
        line = line.replace(character, "\\" + character)
    return line.replace("](", "]\\(")  # brackets mark intervals and backends; before a parenthesis they would make a link


def plain_text(table: Table) -> str:
    """The table as text with aligned columns, for a terminal."""
    rows = [[visible_text(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    left = table.words | {0}
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width) for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def with_origin(table: Table, numbers: Sequence[Number]) -> Table:
    """The table with a sentence that names the backends of its numbers and the assets they were read from."""
    backends = sorted({number.backend for number in numbers})
    sources = sorted({asset.partition("/")[0] for number in numbers for asset in number.source.split(", ")})
    return replace(table, origin=f"Computed by {joined(backends)}, read from {joined(sources)}.") if backends else table


def joined(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def numbers_frame(numbers: Sequence[Number]) -> pd.DataFrame:
    """All numbers of the report as one table."""
    return pd.DataFrame([vars(number) for number in numbers])
