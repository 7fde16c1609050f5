"""What the page asks for: which clips, in which order. Read from JSON, checked, and put into SQL whose values are all parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motive_pipeline.errors import MotiveError

MAX_TEXT = 1000
"""Letters of a search."""

PARTS = ("chosen", "came", "went")
TICKED = ("keep", "drop", "noted", "none")


class BadRequest(MotiveError):
    """The page, or whoever wrote the address, asked for something that there is not."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A choice of the slider: the clips that it chooses, or those that came or went beside ``arm``."""

    variant: str
    share: float
    percentile: float
    part: str
    arm: str

    @classmethod
    def parse(cls, value: Any) -> Wanted:
        """Raises BadRequest."""
        given = _mapping(value, "choice")
        share, percentile = _number(given.get("share"), "choice.share"), _number(given.get("percentile"), "choice.percentile")
        part = str(given.get("part", "chosen"))
        if share is None or not 0 < share <= 1:
            raise BadRequest(f"choice.share: {share} is not above 0 and up to 1")
        if percentile is None or not 0 <= percentile <= 100:
            raise BadRequest(f"choice.percentile: {percentile} is not from 0 to 100")
        if part not in PARTS:
            raise BadRequest(f"choice.part: {part!r} is none of {', '.join(PARTS)}")
        return cls(variant=str(given.get("variant", "")), share=share, percentile=percentile, part=part, arm=str(given.get("arm", "")))


@dataclass(frozen=True, kw_only=True)
class ClipView:
    """Filters and order. An empty filter lets every clip through; several filters must all hold, and of the values of one filter any.

    ``sort`` and the keys of ``ranges`` are keys of columns, or ``influence:<query>`` (by the variant ``variant``). ``in_arm`` is whether the clips are those that
    ``arm`` chose or the others. ``selection`` names clips that the page has sent (:class:`~.snapshot.Snapshot`).
    """

    sort: str = ""
    descending: bool = False
    text: str = ""
    category: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    flag: tuple[str, ...] = ()
    arm: str = ""
    in_arm: bool = True
    tick: str = ""
    is_harmful: bool = False
    variant: str = ""
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    choice: Wanted | None = None
    selection: str = ""

    @classmethod
    def parse(cls, value: Any) -> ClipView:
        """The view that the page's JSON describes.

        Raises:
            BadRequest: a key is unknown, or a value is of another kind.
        """
        given = _mapping(value, "view")
        if unknown := sorted(set(given) - set(_KEYS)):
            raise BadRequest(f"view: unknown key {unknown[0]!r}. There are: {', '.join(_KEYS)}")
        text = str(given.get("text", ""))
        if len(text) > MAX_TEXT:
            raise BadRequest(f"view.text has {len(text)} letters; at most {MAX_TEXT} are allowed")
        tick = str(given.get("tick", ""))
        if tick and tick not in TICKED:
            raise BadRequest(f"view.tick: {tick!r} is none of {', '.join(TICKED)}")
        ranges = _mapping(given.get("ranges", {}), "view.ranges")
        return cls(
            sort=str(given.get("sort", "")),
            descending=bool(given.get("descending", False)),
            text=text,
            category=_texts(given.get("category", []), "view.category"),
            source=_texts(given.get("source", []), "view.source"),
            flag=_texts(given.get("flag", []), "view.flag"),
            arm=str(given.get("arm", "")),
            in_arm=bool(given.get("in_arm", True)),
            tick=tick,
            is_harmful=bool(given.get("harmful", False)),
            variant=str(given.get("variant", "")),
            ranges=tuple((str(key), *_ends(ends, f"view.ranges.{key}")) for key, ends in sorted(ranges.items())),
            choice=None if given.get("choice") is None else Wanted.parse(given["choice"]),
            selection=str(given.get("selection", "")),
        )


_KEYS = ("sort", "descending", "text", "category", "source", "flag", "arm", "in_arm", "tick", "harmful", "variant", "ranges", "choice", "selection")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Conditions of SQL on the table ``clips`` (``c``), all of which must hold, and their parameters in order."""

    conditions: Sequence[str]
    parameters: Sequence[Any]


def filters_of(view: ClipView, sql_of: Mapping[str, str], sets: Sequence[str]) -> Filters:
    """The filters of a view. ``sql_of`` has the SQL of each column it may name; ``sets`` are names of relations of numbers ``n``, in each of which a clip must be.

    Raises:
        BadRequest: the view filters by a column that there is not.
    """
    conditions: list[str] = [f"c.n IN (SELECT n FROM {name})" for name in sets]
    parameters: list[Any] = []
    for word in view.text.lower().split():
        conditions.append("contains(c.words, ?)")
        parameters.append(word)
    for values, condition in ((view.category, "list_contains(?::VARCHAR[], c.category)"), (view.source, "list_contains(?::VARCHAR[], c.source)"), (view.flag, "list_has_any(?::VARCHAR[], c.flags)")):  # fmt: skip
        if values:
            conditions.append(condition)
            parameters.append(list(values))
    if view.arm:
        conditions.append("list_contains(c.arms, ?)" if view.in_arm else "NOT list_contains(c.arms, ?)")
        parameters.append(view.arm)
    if view.is_harmful:
        conditions.append("c.harmful IS NOT NULL")
    for key, low, high in view.ranges:
        sql = column_sql(key, sql_of)
        for bound, comparison in ((low, ">="), (high, "<=")):
            if bound is not None:
                conditions.append(f"{sql} {comparison} ?")
                parameters.append(bound)
    return Filters(conditions=conditions, parameters=parameters)


def column_sql(key: str, sql_of: Mapping[str, str]) -> str:
    """The SQL of the column ``key``. Raises BadRequest if there is none."""
    if key not in sql_of:
        raise BadRequest(f"there is no column {key!r}")
    return sql_of[key]


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be a JSON object, not {type(value).__name__}")
    return value


def _texts(value: Any, name: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise BadRequest(f"{name} must be a list of texts")
    return tuple(value)


def _ends(value: Any, name: str) -> tuple[float | None, float | None]:
    if not isinstance(value, list) or len(value) != 2:
        raise BadRequest(f"{name} must be [lowest, highest]; null is no limit")
    return _number(value[0], name), _number(value[1], name)


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRequest(f"{name}: {value!r} is not a number")
    return float(value)
