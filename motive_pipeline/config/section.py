"""What every section of ``motive.yaml`` shares: the base class, the types of its fields, and checks that several sections use."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

Share = Annotated[float, Field(gt=0.0, le=1.0)]
RejectShare = Annotated[float, Field(ge=0.0, le=1.0)]
FrameCount = Annotated[int, Field(ge=1, le=100_000)]


class Section(BaseModel):
    """A frozen group of settings. An unknown key is an error, and so is a number that is infinite or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def section_names(section: type[BaseModel]) -> list[str]:
    """The keys that a section has in ``motive.yaml``."""
    return [field.alias or name for name, field in section.model_fields.items()]


def require_power_of_two(value: int) -> int:
    """``value``, or a ValueError that suggests the nearest power of two below it."""
    if value & (value - 1):
        raise ValueError(f"must be a power of two, for instance {2 ** (value.bit_length() - 1)}")
    return value


def require_regular_expression(value: str) -> str:
    """``value``, or a ValueError if it is no regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from error
    return value


def require_table_used(source: str, table: Path | None, column: str | None) -> None:
    """Raise ValueError when a table or a column is set for a source that reads no table."""
    if source in ("demo", "folder", "zip", "webdataset", "ai_toolkit", "video2dataset") and (table or column):
        raise ValueError(
            f"source: {source} reads no table, so table, path_column and caption_column have no meaning here; name another source"
        )


def _timesteps(value: object) -> float | tuple[float, ...]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [float(each) for each in listed if isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < 1000]
    if not numbers or len(numbers) < len(listed) or len(set(numbers)) < len(numbers):
        raise ValueError("must be a number from 1 to below 1000, or a list of different ones, for instance [250, 500, 750]")
    if fractions := [number for number in numbers if number < 1]:
        raise ValueError(f"is on diffusers' scale, 0 to 1000, and not 0 to 1. Did you mean {fractions[0] * 1000:g}?")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


AUTO = "auto"

# Validated as a whole: pydantic would report two errors for one mistake in a union.
Timesteps = Annotated[
    Literal["auto"] | float | tuple[float, ...],
    PlainValidator(lambda value: value if value == AUTO else _timesteps(value)),
    PlainSerializer(lambda value: value),
]
"""``auto``, one timestep, or several different ones."""

DrawTimesteps = Annotated[
    Literal["stratified"] | float | tuple[float, ...],
    PlainValidator(lambda value: value if value == "stratified" else _timesteps(value)),
    PlainSerializer(lambda value: value),
]
"""``stratified``, or one or several timesteps."""

_PRECONDITIONERS = ("adam", "trak")


def _preconditioner(value: object) -> str | tuple[str, ...]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    if listed == ["none"]:
        return "none"
    if not listed or any(each not in _PRECONDITIONERS for each in listed) or len(set(listed)) < len(listed):
        raise ValueError("must be 'none', 'adam', 'trak' or both: [adam, trak]")
    chosen = tuple(name for name in _PRECONDITIONERS if name in listed)
    return chosen[0] if len(chosen) == 1 else chosen


Preconditioner = Annotated[str | tuple[str, ...], PlainValidator(_preconditioner), PlainSerializer(lambda value: value)]
"""``none``, ``adam``, ``trak``, or both as a list."""
