"""JSON as Python and pandas write it: with ``NaN`` and ``Infinity``, which a strict reader refuses. They are read as null."""

from __future__ import annotations

import re
from io import BufferedReader

_NO_NUMBER = re.compile(rb"NaN|Infinity")
_TOKEN = re.compile(rb'(?P<text>"[^"\\]*(?:\\.[^"\\]*)*")|(?P<open>")|-?(?:NaN|Infinity)', re.DOTALL)
_BLOCK_BYTES = 2**16
_LONGEST_TOKEN = len(b"-Infinity")


def json_stream(opened: BufferedReader) -> BufferedReader | StrictStream:
    """``opened`` from where it is, as a stream of strict JSON. A file without such numbers is read as it is."""
    start = opened.tell()
    tail, is_strict = b"", True
    while is_strict and (block := opened.read(2**20)):
        is_strict = _NO_NUMBER.search(tail + block) is None
        tail = block[-_LONGEST_TOKEN:]
    opened.seek(start)
    return opened if is_strict else StrictStream(opened)


class StrictStream:
    """Replaces numbers that strict JSON does not have, outside texts, block by block."""

    def __init__(self, opened: BufferedReader) -> None:
        self._opened = opened
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        """The next bytes, about as many as ``size``; none at the end only."""
        if size == 0:
            return b""
        while block := self._opened.read(_BLOCK_BYTES):
            if found := self._replaced(self._rest + block, is_last=False):
                return found
        return self._replaced(self._rest, is_last=True)

    def _replaced(self, data: bytes, *, is_last: bool) -> bytes:
        """``data`` without such numbers. A text or a number that may go on in the next block is kept for it."""
        parts, end = [], 0
        for token in _TOKEN.finditer(data):
            if token["open"] is not None:
                parts.append(data[end : token.start()])
                end = token.start()
                break
            parts += [data[end : token.start()], b"null" if token["text"] is None else token["text"]]
            end = token.end()
        else:
            kept = end if is_last else max(end, len(data) - _LONGEST_TOKEN)
            parts.append(data[end:kept])
            end = kept
        self._rest = b"" if is_last else data[end:]
        return b"".join([*parts, data[end:]] if is_last else parts)
