"""Markdown that Dagster's UI renders: tables, pictures, and text of others (captions, file names), which is shown and never acts."""

import base64
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from PIL import Image

from motive_pipeline.visible_text import visible_text

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LINKS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
"""Where the UI's Markdown would see a link or an address in plain text."""

NO_LINK = "\u2060"
"""A word joiner: it is not seen, and what it divides is no link."""


def escaped(value: Any) -> str:
    """``value`` on one line, without any markup, link or picture."""
    line = visible_text(" ".join(str(value).split()))
    line = re.sub(r"[\\`*_{}\[\]()#|!~]", r"\\\g<0>", line)
    line = re.sub(r"[&<>]", lambda found: _ENTITIES[found[0]], line)
    return _LINKS.sub(NO_LINK, line)


def cell(value: Any) -> str:
    """A figure or a text, as a cell of a table."""
    return f"{value:.4g}" if isinstance(value, float) else escaped(value)


def table(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of texts that are Markdown already (:func:`cell`)."""
    lines = ["| " + " | ".join(map(escaped, columns)) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def picture_url(picture: Image.Image, size: tuple[int, int], quality: int) -> str:
    """``picture`` in at most that many pixels, within the text itself: the event log keeps it for every materialization, so it must be small."""
    picture.thumbnail(size, Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=quality)
    return f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
