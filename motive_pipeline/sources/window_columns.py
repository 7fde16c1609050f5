"""The window that a row of a table names: which columns say it, and in which forms.

A pair of columns (``start``, ``end``) has one number or time each; a single column (``cut``) holds both. See docs/data.md.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

from motive_pipeline.files.window import Window
from motive_pipeline.sources.captions import CAPTION_COLUMNS

_CLOCK = re.compile(r"(?:(?P<hours>\d+):)?(?P<minutes>\d+):(?P<seconds>\d+(?:\.\d*)?)")
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|[+-]?\.\d+")
_MOST = 10**9
"""No video is longer, in seconds or in frames."""


class WindowError(ValueError):
    """A window that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class WindowColumns:
    """The columns that hold the start and the end, or the one that holds both, and their unit.

    ``no_window`` is a pattern of values that are none, since the name has other meanings, too (``timestamp``: a date).
    """

    names: tuple[str, ...]
    unit: Literal["s", "frames"]
    no_window: str = ""


_SCALAR = r"[+-]?\d+(?:\.\d*)?|true|false"
_NO_LIST = r"[^\[({].*"

ALL_WINDOWS = (
    WindowColumns(names=("start", "end"), unit="s"),
    WindowColumns(names=("start_time", "end_time"), unit="s"),
    WindowColumns(names=("timestamp",), unit="s", no_window=_NO_LIST),
    WindowColumns(names=("start_frame", "end_frame"), unit="frames"),
    WindowColumns(names=("frame_idx",), unit="frames", no_window=_SCALAR),
    WindowColumns(names=("cut",), unit="frames", no_window=_SCALAR),
)
"""In the order in which they count: times are true of a copy with another frame rate, too."""

OPEN_SORA_PLAN_WINDOWS = (WindowColumns(names=("frame_idx",), unit="frames"), WindowColumns(names=("cut",), unit="frames"))


def window_of_row(values: Mapping[str, Any], columns: tuple[WindowColumns, ...]) -> Window | None:
    """The window that a row names, by the first of ``columns`` that is not empty; None if all are.

    Raises:
        WindowError: they hold no window.
    """
    for each in columns:
        if all(name in values for name in each.names):
            window = _window(each, [_plain(values[name]) for name in each.names])
            if window is not None:
                return window
    return None


def pieces_of_row(values: Mapping[str, Any], columns: tuple[WindowColumns, ...]) -> list[dict[str, Any]]:
    """The values of each piece, if one cell lists the windows of all pieces of a video (Panda-70M's ``timestamp``); else those of the row. Of every
    other list with as many items, such as the captions, a piece gets its own item.

    Raises:
        WindowError: a column of captions has a list of another length.
    """
    names = [each.names[0] for each in columns if each.names == ("timestamp",) and each.names[0] in values]
    pairs = _plain(values[names[0]]) if names else None
    if not isinstance(pairs, list) or not pairs or not all(isinstance(pair, list) for pair in pairs):
        return [dict(values)]
    lists = {name: items for name, value in values.items() if isinstance(items := _plain(value), list)}
    for name in (name for name in CAPTION_COLUMNS if name in lists and len(lists[name]) != len(pairs)):
        raise WindowError(f"it lists {len(pairs)} windows and {len(lists[name])} texts in {name}")
    own = [name for name, items in lists.items() if len(items) == len(pairs)]
    return [{**values, **{name: lists[name][number] for name in own}} for number in range(len(pairs))]


def _window(columns: WindowColumns, cells: list[Any]) -> Window | None:
    label = " and ".join(columns.names)
    if len(cells) == 1:
        if _is_empty(cells[0]) or (columns.no_window and re.fullmatch(columns.no_window, str(cells[0]), re.DOTALL | re.IGNORECASE)):
            return None
        pair = _pair(cells[0], columns.unit)
        if pair is None:
            raise WindowError(f"its {label} is not a window: {str(cells[0])[:80]!r}")
    else:
        pair = cells
    if all(_is_empty(cell) for cell in pair):
        return None
    try:
        start, end = (_number(cell) if columns.unit == "frames" else _time_s(cell) for cell in pair)
        return Window(start=start, end=end, unit=columns.unit)
    except ValueError as error:
        raise WindowError(f"its window in {label} ({', '.join(str(cell)[:40] for cell in pair)}): {error}") from error


def _pair(cell: Any, unit: str) -> list[Any] | None:
    """The start and the end in one cell: [0, 51], {"start": 0, "end": 51}, "0:51" (frames), or a list with one pair in it. None if it is no pair.

    Raises:
        WindowError: it is a list or an object, but no pair.
    """
    if isinstance(cell, dict):
        if not {"start", "end"} <= cell.keys():
            raise WindowError(f"an object without start and end: {str(cell)[:80]}")
        return [cell["start"], cell["end"]]
    if isinstance(cell, list):
        if len(cell) == 1 and isinstance(cell[0], list):
            return _pair(cell[0], unit)
        if len(cell) != 2 or any(isinstance(each, list | dict) for each in cell):
            raise WindowError(f"no pair of a start and an end: {str(cell)[:80]}")
        return cell
    if isinstance(cell, str):
        if cell.startswith(("[", "(", "{")):
            raise WindowError(f"no list or object that can be read: {cell[:80]!r}")
        if unit == "frames" and re.fullmatch(r"\s*-?\d+\s*:\s*-?\d+\s*", cell):
            return cell.split(":")
    return None


def _plain(value: Any) -> Any:
    """A cell as Python values: a text that is a list or an object (in JSON, or as Python writes it) is read; tuples become lists."""
    if isinstance(value, str):
        value = value.strip()
        if value.startswith(("[", "(", "{")):
            for read in (json.loads, ast.literal_eval):
                with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
                    return _plain(read(value))
        return value
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def _is_empty(cell: Any) -> bool:
    return cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell))


def _time_s(cell: Any) -> Fraction:
    """Seconds: a number, or a text like ``0:00:04.000``.

    Raises:
        ValueError: it is neither.
    """
    found = _CLOCK.fullmatch(cell.strip()) if isinstance(cell, str) else None
    if found is None:
        return _number(cell)
    return 3600 * int(found["hours"] or 0) + 60 * int(found["minutes"]) + Fraction(found["seconds"])


def _number(cell: Any) -> Fraction:
    text = str(cell).strip()
    if _is_empty(cell) or isinstance(cell, bool) or not _NUMBER.fullmatch(text):
        raise ValueError("one of them is missing" if _is_empty(cell) else f"{text[:40]!r} is not a number" + " or time" * (":" in text))
    value = Fraction(text)
    if abs(value) > _MOST:
        raise ValueError(f"{text} is too large")
    return value
