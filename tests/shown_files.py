"""Writes into a video's container how its stored picture is to be shown: turned, mirrored, cropped. Cameras and editors do so, and PyAV cannot."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

_ENTRY_HEADS = {b"stsd": 8, b"avc1": 78, b"mp4v": 78}
_WAY = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
_CROP_IDS = {"bottom": 0x54AA, "top": 0x54BB, "left": 0x54CC, "right": 0x54DD}
_SEGMENT, _TRACKS, _TRACK_ENTRY, _VIDEO = 0x18538067, 0x1654AE6B, 0xAE, 0xE0
_POSITIONS = (0x114D9B74, 0x1C53BB6B)
"""SeekHead and Cues: they hold positions, which change. As Void they are passed over."""


ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), lambda picture: picture),
    "mirrored": ((-1, 0, 0, 1), np.fliplr),
    "upside down and mirrored": ((1, 0, 0, -1), np.flipud),
    "half a turn": ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
    "a quarter turn clockwise": ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),
    "a quarter turn counter-clockwise": ((0, -1, 1, 0), np.rot90),
    "transposed": ((0, 1, 1, 0), lambda picture: picture.swapaxes(0, 1)),
    "transposed over the other diagonal": ((0, -1, -1, 0), lambda picture: np.rot90(picture, 2).swapaxes(0, 1)),
}
"""(a, b, c, d) of the display matrix, and what it does to a picture: the point (x, y) is shown at (a x + c y, b x + d y). These are the pictures
that ``ffmpeg -i`` gives (FFmpeg 5.1)."""


def with_display_matrix(path: Path, matrix: tuple[float, float, float, float]) -> Path:
    """Write a display matrix into the track header of an MP4; the offsets stay zero, as no player needs them."""
    data = path.read_bytes()
    place = data.index(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    a, b, c, d = (round(value * 65536) for value in matrix)
    path.write_bytes(data[:place] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[place + 36 :])
    return path


def clap(width: float, height: float, x: float = 0, y: float = 0) -> bytes:
    """The body of a ``clap`` box: a clean aperture of this size, its middle moved by (x, y), in pixels with halves."""
    return struct.pack(">8i", *(part for value in (width, height, x, y) for part in (round(2 * value), 2)))


def with_clap(path: Path, body: bytes) -> Path:
    """Put a box ``clap`` at the end of the first track's sample description, and move the chunks where the index lies before them."""
    data, box = path.read_bytes(), struct.pack(">I4s", 8 + len(body), b"clap") + body
    is_index_first = data.index(b"moov") < data.index(b"mdat")

    def rebuilt(piece: bytes, way: tuple[bytes, ...]) -> bytes:
        out, at = b"", 0
        while at < len(piece):
            length, name = struct.unpack(">I4s", piece[at : at + 8])
            inner, at, head = piece[at + 8 : at + length], at + length, _ENTRY_HEADS.get(name, 0)
            if way and name == way[0]:
                inner, way = inner[:head] + rebuilt(inner[head:], way[1:]), ()
            elif not way and name in (b"avc1", b"mp4v"):
                inner += box
            out += struct.pack(">I4s", 8 + len(inner), name) + inner
        return out

    data = rebuilt(data, _WAY)
    path.write_bytes(_moved_chunks(data, len(box)) if is_index_first else data)
    return path


def _moved_chunks(data: bytes, num_bytes: int) -> bytes:
    moved, at = bytearray(data), data.index(b"stco") + 8
    for place in range(at + 4, at + 4 + 4 * int.from_bytes(data[at : at + 4], "big"), 4):
        moved[place : place + 4] = (int.from_bytes(data[place : place + 4], "big") + num_bytes).to_bytes(4, "big")
    return bytes(moved)


def with_pixel_crop(path: Path, **sides: int) -> Path:
    """Put ``PixelCropTop`` and its like (px, by side) into the first video track of a Matroska file."""
    crop = b"".join(element(_CROP_IDS[side], size.to_bytes(2, "big")) for side, size in sides.items())
    path.write_bytes(_rebuilt(path.read_bytes(), (_SEGMENT, _TRACKS, _TRACK_ENTRY, _VIDEO), lambda video: video + crop))
    return path


def element(name: int, body: bytes) -> bytes:
    """An EBML element with a size of 8 bytes."""
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + (1 << 56 | len(body)).to_bytes(8, "big") + body


def _rebuilt(piece: bytes, way: tuple[int, ...], change: Callable[[bytes], bytes]) -> bytes:
    if not way:
        return change(piece)
    out, at = b"", 0
    while at < len(piece):
        id_length = 9 - piece[at].bit_length()
        name, at = int.from_bytes(piece[at : at + id_length], "big"), at + id_length
        size_length = 9 - piece[at].bit_length()
        size = int.from_bytes(piece[at : at + size_length], "big") & ((1 << 7 * size_length) - 1)
        body, at = piece[at + size_length : at + size_length + size], at + size_length + size
        out += element(0xEC if name in _POSITIONS else name, _rebuilt(body, way[1:], change) if name == way[0] else body)
    return out
