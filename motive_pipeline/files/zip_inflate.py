"""Opens compressed members of a zip so that none takes more memory than it may: a few KB of bzip2 can stand for gigabytes.

Python's reader limits what Deflate gives at once, but not what bzip2 and LZMA give: it inflates a whole piece and only then cuts it to the size
that the archive states.
"""

from __future__ import annotations

import bz2
import zipfile
from typing import Any

from motive_pipeline.errors import RejectRow

MAX_INFLATION = 100
"""A compressed member that grows by more than this factor is refused: video data hardly compress."""

MAX_INFLATED_BYTES = 16 * 2**30
"""A compressed member larger than this is refused. It is unpacked into a temporary file whenever it is read."""

SLACK_BYTES = 2**24
"""What a short piece may grow by beyond the factor."""

_PIECE_BYTES = 1024
"""LZMA makes at most about 7 MB of so many bytes."""

_UNBOUNDED = (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def open_in_zip(zipped: zipfile.ZipFile, name: str) -> zipfile.ZipExtFile:
    """The member ``name``. Raises as :meth:`zipfile.ZipFile.open` does, and while reading also RejectRow (``suspicious_archive``)."""
    info = zipped.getinfo(name)
    stream = zipped.open(info)
    assert isinstance(stream, zipfile.ZipExtFile)
    if info.compress_type in _UNBOUNDED:
        stream._decompressor = _Bounded(stream._decompressor, info.file_size)  # type: ignore[attr-defined]
    return stream


class _Bounded:
    """A decompressor that gives no more than ``num_bytes`` in all, and none that grows too much at once."""

    def __init__(self, decompressor: Any, num_bytes: int) -> None:
        self._decompressor = decompressor
        self._left = num_bytes

    @property
    def eof(self) -> bool:
        """Whether the compressed data have ended."""
        return self._decompressor.eof

    def decompress(self, data: bytes) -> bytes:
        """``data`` decompressed.

        Raises:
            RejectRow: ``suspicious_archive``.
        """
        allowed = min(self._left, MAX_INFLATION * len(data) + SLACK_BYTES)
        parts: list[bytes] = []
        num_bytes = 0
        for start in range(0, len(data), _PIECE_BYTES):
            if self._decompressor.eof:
                break
            parts.append(self._inflated(data[start : start + _PIECE_BYTES], allowed + 1 - num_bytes))
            num_bytes += len(parts[-1])
            if num_bytes > allowed:
                raise RejectRow(
                    "suspicious_archive", f"unpacks to more than the {self._left} bytes that the archive states, or grows too fast"
                )
        self._left -= num_bytes
        return b"".join(parts)

    def _inflated(self, piece: bytes, most: int) -> bytes:
        if isinstance(self._decompressor, bz2.BZ2Decompressor):
            return self._decompressor.decompress(piece, max_length=most)
        return self._decompressor.decompress(piece)
