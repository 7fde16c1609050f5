"""Windows as values: which are valid, their text behind a location, and how that is read back."""

from fractions import Fraction
from pathlib import Path

import pytest

from motive_pipeline.files.hash_memory import HashMemory, clip_id_of
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import Window, num_overlapping, split_location


def seconds(start: object, end: object) -> Window:
    return Window(start=Fraction(str(start)), end=Fraction(str(end)), unit="s")


def frames(start: int, end: int) -> Window:
    return Window(start=Fraction(start), end=Fraction(end), unit="frames")


@pytest.mark.parametrize(("window", "suffix", "words"), [
    (seconds("1.0625", "2.125"), "#t=1.0625,2.125", "the window from 1.0625 to 2.125 s"),
    (seconds("0", "100"), "#t=0,100", "the window from 0 to 100 s"),
    (seconds("0.30000000000000004", "1e2"), "#t=0.3,100", "the window from 0.3 to 100 s"),
    (seconds("0.0000004", "3723.000001"), "#t=0,3723.000001", "the window from 0 to 3723.000001 s"),
    (frames(0, 510), "#frames=0,510", "the window of frames 0 to 510"),
])  # fmt: skip
def test_a_window_has_one_text_that_leads_back_to_it(window, suffix, words):
    assert (window.suffix, str(window)) == (suffix, words)
    assert split_location(f"/d/a.mp4{suffix}") == ("/d/a.mp4", window)
    assert Window.of_fields(window.fields()) == window


@pytest.mark.parametrize(
    ("start", "end", "unit"), [("-1", "2", "s"), ("2", "2", "s"), ("3", "2", "s"), ("0", "1.5", "frames"), ("0", "0.0000001", "s")]
)
def test_an_empty_window_or_half_a_frame_is_none(start, end, unit):
    with pytest.raises(ValueError):
        Window(start=Fraction(start), end=Fraction(end), unit=unit)


@pytest.mark.parametrize("window", [None, seconds(1, 2), frames(3, 9)])
@pytest.mark.parametrize(
    "name",
    [
        "a.mp4",
        "a#t=1,2.mp4",
        "a.mp4#t=1,2",
        "a.mp4#t=",
        "a.mp4#t=1,2#t=",
        "a.mp4#frames=4,9#t=#t=",
        "a.mp4#t=2,1",
        "a.mp4#t=1.0,2",
        "#t=1,2",
        "é\n#t=1,2",
    ],
)
@pytest.mark.parametrize("member", ["", "in/b.mp4", "in/b.mp4#t=1,2"])
def test_a_location_leads_back_whatever_the_file_is_called(tmp_path, name, window, member):
    (tmp_path / name).write_bytes(b"film")
    (tmp_path / "a.mp4").write_bytes(b"another film")
    file = MediaFile(path=tmp_path / name, member=member, window=window)
    assert MediaFile.parse(file.location) == file
    assert MediaFile.parse(file.location).window == window
    assert file.whole == MediaFile(path=tmp_path / name, member=member)
    assert file.location.isprintable() or "\n" in name


def test_the_location_of_a_file_without_window_is_its_path_unless_its_name_ends_like_a_window(tmp_path):
    for name in ("a.mp4", "a#t=1,2.mp4", "a.mp4#t="):
        assert MediaFile(path=tmp_path / name).location == f"{tmp_path}/{name}"
    assert MediaFile(path=Path("/d/a.mp4#t=1,2")).location == "/d/a.mp4#t=1,2#t="
    assert MediaFile(path=Path("/d/a.mp4"), window=seconds(1, 2)).name == "a.mp4#t=1,2"


def test_the_path_of_an_existing_file_is_that_file(tmp_path):
    odd = tmp_path / "a.mp4#t=1,2"
    odd.write_bytes(b"film")
    assert MediaFile.parse(odd) == MediaFile(path=odd)
    (tmp_path / "a.mp4").write_bytes(b"another film")
    assert MediaFile.parse(odd) == MediaFile(path=tmp_path / "a.mp4", window=seconds(1, 2))


def test_the_id_is_of_the_bytes_and_the_window(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"film")
    memory = HashMemory(tmp_path / "state")
    whole = memory.clip_id(tmp_path / "a.mp4")
    ids = {
        memory.clip_id(MediaFile(path=tmp_path / "a.mp4", window=window))
        for window in (seconds(1, 2), seconds(1, 3), seconds(0, 2), frames(1, 2))
    }
    assert len(ids | {whole}) == 5
    assert all(len(clip_id) == 16 for clip_id in ids)
    assert memory.clip_id(MediaFile(path=tmp_path / "b.mp4", window=seconds(1, 2))) in ids, "a renamed file is the same clip"
    assert clip_id_of("ab" * 32, None) == "ab" * 8
    assert clip_id_of("ab" * 32, seconds(1, 2)) == "e7b340008d7dd3e0", "a fixed record: another text would make all windows new clips"


def test_overlapping_windows_are_counted():
    assert num_overlapping([seconds(0, 1), seconds(1, 2), seconds(2, 3)]) == 0
    assert num_overlapping([seconds(0, 10), seconds(1, 2), seconds(3, 4), seconds(10, 11)]) == 3
    assert num_overlapping([seconds(0, 2), frames(0, 5), frames(4, 9), frames(9, 10)]) == 2
    assert num_overlapping([None, seconds(0, 1), frames(0, 1)]) == 2
    assert num_overlapping([None, None]) == num_overlapping([]) == 0
