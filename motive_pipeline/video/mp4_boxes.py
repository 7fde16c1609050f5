"""The outermost boxes of MP4 and MOV files (ISO/IEC 14496-12, 4.2), read without FFmpeg: they tell why a file cannot be opened."""

from __future__ import annotations

from collections.abc import Iterator
from io import BufferedReader
from typing import NamedTuple


class Mp4Box(NamedTuple):
    """A box: its four-letter name, where it starts and where it says that it ends. The end may lie behind the end of a file cut off."""

    name: str
    start: int
    end: int


def top_level_boxes(stream: BufferedReader, num_bytes: int) -> Iterator[Mp4Box]:
    """The boxes of a file of ``num_bytes`` bytes, in order.

    A box that says no length reaches to the end of the file. Of a header that is cut off, the name is empty.
    """
    start = 0
    while start < num_bytes:
        stream.seek(start)
        header = stream.read(16)
        if len(header) < 8:
            yield Mp4Box("", start, start + 8)
            return
        name, length = header[4:8].decode("latin-1"), int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:
            yield Mp4Box(name, start, num_bytes)
            return
        yield Mp4Box(name, start, start + length)
        start += length
