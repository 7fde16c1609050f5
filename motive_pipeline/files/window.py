"""A part of a video: from a time or a frame on, up to another. Tables that name several pieces of one long file use it.

In tables a window follows the file: ``/data/film.mp4#t=1.0625,2.125`` in seconds, ``/data/film.mp4#frames=17,34`` in frames.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

WHOLE = "#t="
"""Ends the location of a whole file whose own name ends like a window, so that no location means two things."""

_TICKS_PER_S = 1_000_000
_SUFFIX = re.compile(r"(?P<place>.+)#(?P<unit>t|frames)=(?P<start>\d+(?:\.\d{1,6})?),(?P<end>\d+(?:\.\d{1,6})?)", re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """The frames of a video from ``start`` on and before ``end``.

    In ``s`` both are seconds from the video's first frame, rounded to microseconds; in ``frames`` they are numbers of frames, the first one 0.
    """

    start: Fraction
    end: Fraction
    unit: Literal["s", "frames"]

    def __post_init__(self) -> None:
        """Raises ValueError: it is empty, or starts before the video."""
        for name in ("start", "end"):
            value = getattr(self, name)
            if self.unit == "frames" and value.denominator != 1:
                raise ValueError(f"{float(value):g} is not a frame number")
            object.__setattr__(self, name, Fraction(round(value * _TICKS_PER_S), _TICKS_PER_S))
        if self.start < 0:
            raise ValueError(f"it starts before the video, at {_text(self.start)}")
        if self.end <= self.start:
            raise ValueError(f"it ends at {_text(self.end)} and starts at {_text(self.start)}")

    @property
    def suffix(self) -> str:
        """The end of the location; equal windows have equal texts."""
        return f"#{'t' if self.unit == 's' else 'frames'}={_text(self.start)},{_text(self.end)}"

    def __str__(self) -> str:
        """For a message to a person."""
        numbers = f"{_text(self.start)} to {_text(self.end)}"
        return f"the window from {numbers} s" if self.unit == "s" else f"the window of frames {numbers}"

    def fields(self) -> list[str]:
        """The window as texts, for a message between processes; :meth:`of_fields` reads them."""
        return [str(self.start), str(self.end), self.unit]

    @classmethod
    def of_fields(cls, fields: list[str]) -> Window:
        """The window that :meth:`fields` has written."""
        start, end, unit = fields
        return cls(start=Fraction(start), end=Fraction(end), unit="s" if unit == "s" else "frames")


def num_overlapping(windows: Sequence[Window | None]) -> int:
    """How many of the windows of one file overlap another one, or the whole file (None). Windows in different units are not compared."""
    if None in windows:
        return sum(window is not None for window in windows)
    count = 0
    for unit in ("s", "frames"):
        known = sorted((window.start, window.end) for window in windows if window is not None and window.unit == unit)
        latest_end = Fraction(-1)
        for place, (start, end) in enumerate(known):
            next_start = known[place + 1][0] if place + 1 < len(known) else end
            count += start < latest_end or next_start < end
            latest_end = max(latest_end, end)
    return count


def split_location(location: str) -> tuple[str, Window | None]:
    """(the file's own location, the window) of a location."""
    found = _SUFFIX.fullmatch(location)
    if found is not None:
        unit = "s" if found["unit"] == "t" else "frames"
        try:
            return found["place"], Window(start=Fraction(found["start"]), end=Fraction(found["end"]), unit=unit)
        except ValueError:
            return location, None
    whole = location.removesuffix(WHOLE)
    return (whole, None) if whole != location and _looks_windowed(whole) else (location, None)


def join_location(place: str, window: Window | None) -> str:
    """The text that :func:`split_location` takes apart."""
    return place + (window.suffix if window is not None else WHOLE if _looks_windowed(place) else "")


def _looks_windowed(place: str) -> bool:
    """Whether :func:`split_location` would take something off ``place``."""
    while place.endswith(WHOLE):
        place = place.removesuffix(WHOLE)
    return split_location(place) != (place, None)


def _text(value: Fraction) -> str:
    """A decimal number without exponent and trailing zeros."""
    text = f"{Decimal(value.numerator) / Decimal(value.denominator):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
