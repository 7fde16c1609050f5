"""Text of others (captions, file names) in Markdown that Dagster's UI renders: it is shown and never acts."""

import re
from typing import Any

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
