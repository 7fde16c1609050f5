"""Text of others (captions, names, messages of files) that is safe to show in a terminal and to store in a table."""

from __future__ import annotations

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of control characters, format characters (among them those that turn the writing direction), surrogates and separators."""

_JOINERS = frozenset("\u200c\u200d")
"""Format characters that ordinary text needs: between letters of Persian and Indic scripts, and within emoji."""


def plain_text(text: str, *, keep: str = "") -> str:
    r"""``text`` with every character that is not shown, but acts, written as an escape: ``\x1b``, ``\u202e``.

    A terminal obeys such characters: they colour, delete or overwrite what stands before them. ``keep`` names those that stay.
    """
    return text if text.isprintable() else "".join(letter if _is_plain(letter) or letter in keep else _escape(letter) for letter in text)


def _is_plain(letter: str) -> bool:
    return letter in _JOINERS or unicodedata.category(letter) not in _UNSEEN


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
