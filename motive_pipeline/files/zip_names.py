"""Names in a zip that are not text. Python's reader refuses the whole archive for one of them; here it costs its own member."""

from __future__ import annotations

import struct
import zipfile
from io import BufferedIOBase
from typing import Any

_UTF8_NAME = 0x800
_CENTRAL = b"PK\x01\x02"
_CENTRAL_BYTES = 46


class _AnyNames:
    """The file of a zip, in whose directory the names that are no UTF-8 are not marked as UTF-8. They are then read as cp437, which takes all bytes."""

    def __init__(self, file: BufferedIOBase) -> None:
        self.file = file
        self.raw_names: set[bytes] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        return self._unmarked(bytearray(data)) if data.startswith(_CENTRAL) else data

    def _unmarked(self, directory: bytearray) -> bytes:
        start = 0
        while directory[start : start + 4] == _CENTRAL and start + _CENTRAL_BYTES <= len(directory):
            (flags,) = struct.unpack_from("<H", directory, start + 8)
            lengths = struct.unpack_from("<3H", directory, start + 28)
            name = bytes(directory[start + _CENTRAL_BYTES : start + _CENTRAL_BYTES + lengths[0]])
            if flags & _UTF8_NAME and _is_no_utf8(name):
                struct.pack_into("<H", directory, start + 8, flags & ~_UTF8_NAME)
                self.raw_names.add(name)
            start += _CENTRAL_BYTES + sum(lengths)
        return bytes(directory)


def open_zip(file: BufferedIOBase) -> zipfile.ZipFile:
    """The zip in ``file``, whatever its names are. Raises as :class:`zipfile.ZipFile` does."""
    try:
        return zipfile.ZipFile(file)
    except UnicodeDecodeError:
        return zipfile.ZipFile(_AnyNames(file))  # type: ignore[arg-type]


def name_of(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> str:
    """The name of a member. Bytes of a name that is not text are surrogates."""
    raw = getattr(opened.fp, "raw_names", ())
    if raw and not info.flag_bits & _UTF8_NAME and (name := info.orig_filename.encode("cp437")) in raw:
        return name.decode("utf-8", "surrogateescape")
    return info.filename


def _is_no_utf8(name: bytes) -> bool:
    try:
        name.decode()
    except UnicodeDecodeError:
        return True
    return False
