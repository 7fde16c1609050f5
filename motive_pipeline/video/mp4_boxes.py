"""The boxes of MP4 and MOV files (ISO/IEC 14496-12, 4.2), read without FFmpeg: they tell why a file cannot be opened, and which part of its
picture is to be shown."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import NamedTuple

MAX_BOXES = 10_000
"""So many boxes of one file are looked at: no real file has more before what is looked for."""

_TRACK_NUMBER_AT = {0: 12, 1: 20}
"""Where the number of a track stands in its header, by the header's version."""

_TABLE_HEAD_BYTES, _SAMPLE_ENTRY_BYTES = 8, 78
"""What comes before the boxes of a sample description and of a visual sample entry in it (8.5.2, 12.1.3)."""


class Mp4Box(NamedTuple):
    """A box: its four-letter name, where it starts, where it says that it ends, and where its body starts. The end may lie behind the end of
    a file cut off."""

    name: str
    start: int
    end: int
    body: int


def top_level_boxes(stream: BufferedReader, num_bytes: int) -> Iterator[Mp4Box]:
    """The boxes of a file of ``num_bytes`` bytes, in order."""
    return boxes_between(stream, 0, num_bytes)


def boxes_between(stream: BufferedReader, start: int, stop: int) -> Iterator[Mp4Box]:
    """The boxes between two positions, in order.

    A box that says no length reaches to ``stop``. Of a header that is cut off, the name is empty.
    """
    while start < stop:
        stream.seek(start)
        header = stream.read(16)
        if len(header) < 8:
            yield Mp4Box("", start, start + 8, start + 8)
            return
        name, length, body = header[4:8].decode("latin-1"), int.from_bytes(header[:4], "big"), start + 8
        if length == 1:
            length, body = int.from_bytes(header[8:16], "big"), start + 16
        if length < 8:
            yield Mp4Box(name, start, stop, body)
            return
        yield Mp4Box(name, start, start + length, body)
        start += length


def clean_aperture(stream: BufferedReader, num_bytes: int, track: int) -> tuple[int, ...] | None:
    """The eight numbers of the box ``clap`` of a track: numerators and denominators of the aperture's width and height, and of its middle's
    distance from the picture's, to the right and down. None if there is none. ``track`` is its number (``track_ID``)."""
    file = _Boxes(stream)
    moov = file.first("moov", Mp4Box("", 0, num_bytes, 0))
    trak = next((each for each in file.all("trak", moov) if file.track_number(each) == track), None) if moov else None
    return None if trak is None else file.clap(trak)


@dataclass
class _Boxes:
    """Looks boxes up by name. After ``left`` boxes there are no more."""

    stream: BufferedReader
    left: int = MAX_BOXES

    def all(self, name: str | None, outer: Mp4Box, *, head: int = 0) -> Iterator[Mp4Box]:
        """The boxes of this name inside of ``outer``, behind ``head`` bytes of its body; with None, of any name. None ends behind ``outer``."""
        for box in boxes_between(self.stream, outer.body + head, outer.end):
            if self.left <= 0:
                return
            self.left -= 1
            if name in (None, box.name):
                yield box._replace(end=min(box.end, outer.end))

    def first(self, name: str, outer: Mp4Box | None) -> Mp4Box | None:
        """The first box of this name inside of ``outer``, None in None."""
        return None if outer is None else next(self.all(name, outer), None)

    def track_number(self, trak: Mp4Box) -> int | None:
        """The number in a track's header."""
        header = self.first("tkhd", trak)
        body = b"" if header is None else self._read(header, 24)
        at = _TRACK_NUMBER_AT.get(body[0]) if body else None
        return None if at is None else int.from_bytes(body[at : at + 4], "big")

    def clap(self, trak: Mp4Box) -> tuple[int, ...] | None:
        """The ``clap`` of a track; of several, the last one, as in FFmpeg."""
        table: Mp4Box | None = trak
        for name in ("mdia", "minf", "stbl", "stsd"):
            table = self.first(name, table)
        entries = self.all(None, table, head=_TABLE_HEAD_BYTES) if table else ()
        found = [self._read(box, 32) for entry in entries for box in self.all("clap", entry, head=_SAMPLE_ENTRY_BYTES)]
        whole = [body for body in found if len(body) == 32]
        return struct.unpack(">8i", whole[-1]) if whole else None

    def _read(self, box: Mp4Box, num_bytes: int) -> bytes:
        self.stream.seek(box.body)
        return self.stream.read(max(0, min(num_bytes, box.end - box.body)))
