"""The elements of Matroska and WebM files (RFC 8794, RFC 9559), read without FFmpeg: which part of the picture is to be shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import islice
from typing import NamedTuple

MAX_ELEMENTS = 10_000
"""So many elements of one file are looked at: no real file has more before what is looked for."""

_SEGMENT, _TRACKS, _TRACK_ENTRY, _TRACK_TYPE, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0x83, 0xE0
_TYPE_VIDEO = 1
_CROP = {0x54BB: "top", 0x54AA: "bottom", 0x54CC: "left", 0x54DD: "right"}
_LONGEST_HEADER = 4 + 8


class Element(NamedTuple):
    """An element: its id, and where its body starts and ends."""

    id: int
    body: int
    end: int


def elements(stream: BufferedReader, start: int, stop: int) -> Iterator[Element]:
    """The elements between two positions, in order, up to the first bytes that are none. One of unknown size, or that ends behind ``stop``,
    reaches to ``stop``."""
    while start < stop:
        stream.seek(start)
        header = stream.read(_LONGEST_HEADER)
        id_length = 9 - header[0].bit_length() if header else 9
        if id_length > 4 or len(header) <= id_length:
            return
        size_length = 9 - header[id_length].bit_length()
        head_length = id_length + size_length
        if size_length > 8 or len(header) < head_length:
            return
        unknown = (1 << 7 * size_length) - 1
        size = int.from_bytes(header[id_length:head_length], "big") & unknown
        body = min(stop, start + head_length)
        end = stop if size == unknown else min(stop, body + size)
        yield Element(int.from_bytes(header[:id_length], "big"), body, end)
        start = end


def pixel_crop(stream: BufferedReader, num_bytes: int, position: int) -> dict[str, int] | None:
    """``PixelCrop`` of a video track: how many pixels are not shown, by side (``top``, ``bottom``, ``left``, ``right``). None if the file says
    nothing. ``position`` is the track's place among the video tracks, from 0."""
    file = _Elements(stream)
    whole = Element(0, 0, num_bytes)
    tracks = file.first(_TRACKS, file.first(_SEGMENT, whole))
    entries = file.all(_TRACK_ENTRY, tracks) if tracks else iter(())
    wanted = next(islice((entry for entry in entries if file.number(file.first(_TRACK_TYPE, entry)) == _TYPE_VIDEO), position, None), None)
    video = file.first(_VIDEO, wanted)
    sides = {_CROP[each.id]: file.number(each) for each in file.all(None, video) if each.id in _CROP} if video else {}
    return dict.fromkeys(_CROP.values(), 0) | sides if sides else None


@dataclass
class _Elements:
    """Looks elements up by id. After ``left`` elements there are no more."""

    stream: BufferedReader
    left: int = MAX_ELEMENTS

    def all(self, name: int | None, outer: Element) -> Iterator[Element]:
        """The elements of this id inside of ``outer``; with None, of any id."""
        for each in elements(self.stream, outer.body, outer.end):
            if self.left <= 0:
                return
            self.left -= 1
            if name in (None, each.id):
                yield each

    def first(self, name: int, outer: Element | None) -> Element | None:
        """The first element of this id inside of ``outer``, None in None."""
        return None if outer is None else next(self.all(name, outer), None)

    def number(self, element: Element | None) -> int:
        """The number that an element holds; 0 of an empty one and of None."""
        if element is None:
            return 0
        self.stream.seek(element.body)
        return int.from_bytes(self.stream.read(min(8, element.end - element.body)), "big")
