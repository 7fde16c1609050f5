"""The outermost boxes of an MP4, whole, cut off and odd."""

import io

import pytest

from motive_pipeline.video.mp4_boxes import top_level_boxes


def box(name: bytes, body: bytes = b"") -> bytes:
    return (8 + len(body)).to_bytes(4, "big") + name + body


def wide_box(name: bytes, body: bytes) -> bytes:
    """A box whose length has 64 bits."""
    return (1).to_bytes(4, "big") + name + (16 + len(body)).to_bytes(8, "big") + body


def boxes(data: bytes) -> list[tuple[str, int, int]]:
    return [(each.name, each.start, each.end) for each in top_level_boxes(io.BufferedReader(io.BytesIO(data)), len(data))]


def test_boxes_follow_one_another_with_lengths_of_32_or_64_bits():
    data = box(b"ftyp", b"isom") + wide_box(b"mdat", bytes(100)) + box(b"moov", bytes(5))
    assert boxes(data) == [("ftyp", 0, 12), ("mdat", 12, 128), ("moov", 128, 141)]


@pytest.mark.parametrize("length", [0, 7])
def test_a_box_without_a_length_reaches_to_the_end(length):
    assert boxes(box(b"ftyp") + length.to_bytes(4, "big") + b"mdat" + bytes(50)) == [("ftyp", 0, 8), ("mdat", 8, 66)]


def test_a_box_that_is_cut_off_ends_behind_the_file():
    data = box(b"ftyp") + box(b"mdat", bytes(100))
    assert boxes(data[:-1])[-1] == ("mdat", 8, 116)
    assert boxes(data[:15])[-1] == ("", 8, 16)
    assert boxes(b"") == []
