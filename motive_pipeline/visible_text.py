"""Text of others (captions, file names, messages about them) that is safe to show in a terminal: what acts instead of being shown is escaped."""

from __future__ import annotations

import logging
import sys
import unicodedata
from typing import Any

_ACTING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, format characters (such as those that turn the writing direction), surrogates and separators."""

_ORDINARY = frozenset("\u200c\u200d\u200e\u200f")
"""Format characters of ordinary text: joiners (Persian, Indic scripts, emoji) and marks of direction (Arabic, Hebrew)."""

LAYOUT = "\n\t"
"""The control characters that lay out a text of several lines."""


def visible_text(text: str, *, keep: str = "") -> str:
    r"""``text`` with every character that acts written as an escape: ``\x1b``, ``\u202e``. ``keep`` names those that stay.

    A terminal obeys such characters: they colour, delete or overwrite what stands before them.
    """
    return text if text.isprintable() else "".join(letter if letter in keep or _is_shown(letter) else _escape(letter) for letter in text)


def tell(text: object, *, file: Any = None, flush: bool = False) -> None:
    """Print ``text`` as :func:`visible_text`, its lines and tabs kept, to ``file`` (default: stdout)."""
    print(visible_text(str(text), keep=LAYOUT), file=file or sys.stdout, flush=flush)


class VisibleFormatter(logging.Formatter):
    """Formats a log line as :func:`visible_text`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, with the lines of a traceback behind it."""
        return visible_text(super().format(record), keep=LAYOUT)


def _is_shown(letter: str) -> bool:
    return letter in _ORDINARY or unicodedata.category(letter) not in _ACTING


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 2**8 else f"\\u{code:04x}" if code < 2**16 else f"\\U{code:08x}"
