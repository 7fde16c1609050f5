"""JSON files that show when they were cut or altered: each begins with the SHA-256 of the rest.

Commit records, publication records and the pointers to both are sealed. The file stays one plain JSON object with the extra key ``sha256``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic

_START = b'{"sha256": "'
_BODY_AT = len(_START) + 64 + len(b'",')


class Damaged(MotiveError):
    """A file of the store is empty, cut or altered. ``path`` is the file, ``what`` says what is wrong with it."""

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path} {what}")
        self.path = path
        self.what = what


def write_sealed(path: Path, value: dict[str, Any], *, indent: int | None = 1) -> None:
    """Put ``value`` at ``path`` in one step, with its seal. ``value`` has at least one key."""
    atomic.write_bytes(path, sealed(value, indent=indent))


def sealed(value: dict[str, Any], *, indent: int | None = 1) -> bytes:
    """The bytes that :func:`write_sealed` writes."""
    body = json.dumps(value, indent=indent, sort_keys=True, ensure_ascii=False).encode()[1:] + b"\n"
    return _START + hashlib.sha256(body).hexdigest().encode() + b'",' + body


def read_sealed(path: Path) -> dict[str, Any]:
    """The value that :func:`write_sealed` put at ``path``, without the seal.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the file is empty, cut or altered.
    """
    data = path.read_bytes()
    if not data:
        raise Damaged(path, "is empty")
    if not data.strip(b"\0"):
        raise Damaged(path, "holds only zeros")
    if not data.startswith(_START) or hashlib.sha256(data[_BODY_AT:]).hexdigest().encode() != data[len(_START) : len(_START) + 64]:
        raise Damaged(path, "is cut or altered: its content does not match its SHA-256")
    value = json.loads(data)
    del value["sha256"]
    return value
