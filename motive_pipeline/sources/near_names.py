"""Finds the video that a row means when the name in the row is spelled in another way: as another system, tool or trainer writes it.

Taken as the same: upper and lower case, composed and decomposed letters (NFC, NFD), ``\\`` and ``/``, ``%20`` and a space, spaces around the
name, and an id without the ending of a video. Only a match with exactly one video counts.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from motive_pipeline.sources.endings import VIDEO_SUFFIXES

_SHOWN = 3


class NearNames:
    """Names of videos, by what they are in any spelling. Each name stands for a value (``names`` has pairs)."""

    def __init__(self, names: Iterable[tuple[str, str]]) -> None:
        self._whole: dict[str, set[str]] = {}
        self._without_ending: dict[str, set[str]] = {}
        self._last_parts: dict[str, set[str]] = {}
        for name, value in names:
            plain = _plain(name)
            self._whole.setdefault(plain, set()).add(value)
            self._without_ending.setdefault(_without_ending(plain), set()).add(value)
            self._last_parts.setdefault(_last_stem(plain), set()).add(value)

    def matches(self, named: Iterable[str]) -> set[str]:
        """The values of the videos that the first of ``named`` that has any may mean."""
        spelled = [_plain(text) for name in named for text in spellings(name)]
        for name in spelled:
            if found := self._whole.get(name):
                return found
        return next((found for name in spelled if (found := self._without_ending.get(name))), set())

    def similar(self, named: str) -> list[str]:
        """The values of some videos whose name, without folders and ending, is that of ``named``: to be shown to a person."""
        found = {value for text in spellings(named) for value in self._last_parts.get(_last_stem(_plain(text)), ())}
        return sorted(found)[:_SHOWN]


def spellings(named: str) -> list[str]:
    """``named`` with slashes in place of backslashes; and the same with ``%20`` and its like decoded, if there are any."""
    slashed = named.strip().replace("\\", "/")
    decoded = unquote(slashed)
    return [slashed] if decoded == slashed or "\0" in decoded else [slashed, decoded]


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name.replace("\\", "/")).casefold())


def _without_ending(plain: str) -> str:
    stem, suffix = os.path.splitext(plain)
    return stem if suffix in VIDEO_SUFFIXES else plain


def _last_stem(plain: str) -> str:
    return _without_ending(PurePosixPath(plain).name)
