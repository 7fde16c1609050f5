"""What a user reads about a config that cannot be used: each key, its value and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from motive_pipeline.bucket.address import without_credentials
from motive_pipeline.config.schema import Settings
from motive_pipeline.config.section import section_names
from motive_pipeline.config.variants import VariantArm
from motive_pipeline.errors import did_you_mean

FRACTIONS = ("share", "dropout")
"""How the keys end whose value is a fraction of 1, as people also give it in per cent."""


def error_text(error: ValidationError, file: Path) -> str:
    """All mistakes of the config in ``file``, one line each."""
    lines = [f"{file}: {error.error_count()} setting(s) cannot be used:"]
    for problem in error.errors():
        key = ".".join(str(part) for part in _places(problem["loc"])) or "(file)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key.{_suggestion(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: missing, and it has no default")
        else:
            value = problem["input"] if not isinstance(problem["input"], dict | BaseModel) else None
            shown = f" = {without_credentials(value)!r}" if value is not None else ""
            lines.append(f"  {key}{shown}: {problem['msg'].removeprefix('Value error, ')}{_advice(key, problem)}")
    return "\n".join(lines)


def _places(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where the setting stands in the file: without the tag by which pydantic tells the two kinds of arms."""
    return (*loc[:2], *loc[3:]) if loc[:1] == ("arms",) else loc


def _advice(key: str, problem: ErrorDetails) -> str:
    """What was probably meant, where the value shows it; else nothing."""
    value = problem["input"]
    if problem["type"] == "literal_error":
        hint = did_you_mean(str(value), re.findall("'([^']+)'", problem.get("ctx", {}).get("expected", "")))
        return hint and f".{hint}"
    if problem["type"] in ("less_than", "less_than_equal") and key.endswith(FRACTIONS) and 1 < value <= 100:
        return f". It is a fraction: {value:g} % is {value / 100:g}"
    if problem["type"] == "tuple_type" and isinstance(value, str):
        return f". Write a list: [{value}]"
    return ""


def _suggestion(loc: tuple[int | str, ...]) -> str:
    """The key in the same section whose name is closest to the unknown one; without a close one, all keys there."""
    section: type[BaseModel] = Settings
    if loc[:1] == ("arms",):
        section, loc = VariantArm, _places(loc)[2:]
    for part in loc[:-1]:
        section = _section_of(section.model_fields[str(part)].annotation)
    names = section_names(section)
    return did_you_mean(str(loc[-1]), names) or f" Allowed here: {', '.join(names) or 'nothing'}."


def _section_of(annotation: Any) -> type[BaseModel]:
    """The section that a field of this type holds, where it may also be null."""
    return next(each for each in (annotation, *get_args(annotation)) if isinstance(each, type) and issubclass(each, BaseModel))
