"""Rows taken from one store into another, and a store that lies over another one."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from motive_pipeline.storage import adopting, atomic
from motive_pipeline.storage.adopting import Adopted, adopt_rows, has_all
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.overlay import OverlayStore
from motive_pipeline.storage.rows import MissingRow, Row, RowRef, RowReject, RowStore

DIMS = {"g": ("proj",)}


def row(number: int, size: int = 5, *, value: int | None = None) -> Row:
    value = number if value is None else value
    return Row(key=f"k{number}", arrays={"g": np.full(size, value, np.float32), "n": np.int64(value)})


def values(store: RowStore) -> dict[str, tuple[list[float], int]]:
    found = {}
    for key in list(store.keys()):
        ref = store.find(key)
        assert isinstance(ref, RowRef)
        found[key] = (store.read(ref, "g").tolist(), int(store.read(ref, "n")))
    return found


def contents(store: RowStore) -> dict[str, str]:
    refs = [ref for key in list(store.keys()) if isinstance(ref := store.find(key), RowRef)]
    return {ref.key: ref.content for ref in refs}


def reopened(store: RowStore) -> RowStore:
    again = RowStore(store.folder, DIMS)
    again.refresh()
    return again


@pytest.fixture
def source(tmp_path: Path) -> RowStore:
    """Two commits: three rows of two shapes and a rejection, then two rows more."""
    store = RowStore(tmp_path / "source", DIMS)
    store.append([row(0), row(1, 3), row(2)], [RowReject(key="bad", reason="decode_error", detail="why")])
    store.append([row(3), row(4)])
    return store


@pytest.fixture
def main(tmp_path: Path) -> RowStore:
    return RowStore(tmp_path / "main", DIMS)


def test_rows_and_rejections_are_taken_over_as_they_are(source, main):
    assert not has_all(main, source)
    assert adopt_rows(main, source) == Adopted(rows=5, rejects=1)
    again = reopened(main)
    assert values(again) == values(source)
    assert contents(again) == contents(source)
    assert again.find("bad") == RowReject(key="bad", reason="decode_error", detail="why")
    assert len(again.commits()) == 2, "one commit for each"
    assert has_all(again, source)


def test_a_second_time_nothing_is_taken(source, main):
    adopt_rows(main, source)
    names = sorted(os.listdir(main.segments))
    assert adopt_rows(main, source) == Adopted()
    assert sorted(os.listdir(main.segments)) == names


def test_segments_are_linked_and_outlive_their_source(source, main):
    adopt_rows(main, source)
    inodes = {file.stat().st_ino for file in source.segments.glob("*.safetensors")}
    assert {file.stat().st_ino for file in main.segments.glob("*.safetensors")} == inodes
    expected = values(source)
    atomic.remove(source.folder)
    assert values(reopened(main)) == expected


def test_without_hard_links_they_are_copied(source, main, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", refuse)
    adopt_rows(main, source)
    assert values(reopened(main)) == values(source)
    assert all(file.stat().st_nlink == 1 for file in main.segments.iterdir())


def test_rows_that_are_there_already_stay_as_they_are(source, main):
    main.append([row(1, 3, value=70), row(3, value=71)], [RowReject(key="k4", reason="no_motion", detail="first")])
    assert adopt_rows(main, source) == Adopted(rows=2, rejects=1)
    again = reopened(main)
    expected = values(source)
    assert values(again) == {"k0": expected["k0"], "k2": expected["k2"], "k1": ([70] * 3, 70), "k3": ([71] * 5, 71)}
    assert again.find("k4") == RowReject(key="k4", reason="no_motion", detail="first")
    assert contents(again)["k2"] == contents(source)["k2"]


def test_the_names_of_the_axes_go_with_rows_that_are_copied(source, main):
    from safetensors import safe_open

    main.append([row(0)])
    adopt_rows(main, source)
    for file in main.segments.glob("*.safetensors"):
        with safe_open(file, "np") as opened:
            assert opened.metadata()["dimensions"] == '{"g": ["row", "proj"]}'


def test_what_was_taken_over_can_be_merged(source, main, tmp_path):
    for number in range(5, 12):
        part = RowStore(tmp_path / str(number), DIMS)
        part.append([row(number)])
        adopt_rows(main, part)
    adopt_rows(main, source)
    assert merge(main) == 9
    assert set(values(reopened(main))) == {f"k{number}" for number in range(12)}


def test_an_altered_segment_is_named_and_not_taken(source, main):
    file = max(source.segments.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(MissingRow, match=file.name):
        adopt_rows(main, source)
    again = reopened(main)
    assert set(values(again)) == {"k0", "k1", "k2"}, "the commit before it is kept"
    main.prepare()
    assert len(list(main.segments.glob("*.safetensors"))) == 1


def test_a_missing_segment_is_named(source, main):
    file = max(source.segments.glob("*.safetensors"))
    file.unlink()
    with pytest.raises(MissingRow, match=file.name):
        adopt_rows(main, source)


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("step", ["_link", "digest_file", "write_record", "adopt"])
@pytest.mark.parametrize("time", [1, 2])
def test_a_kill_at_any_step_loses_nothing_and_the_next_call_finishes(source, main, monkeypatch, step, time):
    main.append([row(0)])  # so that one commit is linked, and of the other one a part is copied
    owner = RowStore if step == "adopt" else adopting
    original, calls = getattr(owner, step), 0

    def dies(*arguments):
        nonlocal calls
        calls += 1
        if calls == time:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, dies)
        with suppress(Killed):
            adopt_rows(main, source)
    again = reopened(main)
    kept = values(again)
    assert kept.items() <= values(source).items()
    adopt_rows(again, source)
    assert values(reopened(main)) == values(source)
    assert not again.damages()
    needed = {segment for commit in again.commits() for segment in commit.segments}
    assert {file.name for file in main.segments.glob("*.safetensors")} == needed, "no leftovers"


def test_an_overlay_reads_both_stores_and_writes_its_own(source, tmp_path):
    over = OverlayStore(tmp_path / "over", source)
    over.refresh()
    over.append([row(9), row(5, 3)])
    refs = [over.find(key) for key in ("k9", "k0", "k5", "k4")]
    assert all(isinstance(ref, RowRef) for ref in refs)
    assert [over.read(ref, "g")[0] for ref in refs] == [9, 0, 5, 4]
    assert over.column(refs, "n").tolist() == [9, 0, 5, 4]
    assert {position: array[0] for position, array in over.read_many(refs, "g")} == {0: 9, 1: 0, 2: 5, 3: 4}
    assert [over.shape(ref, "g") for ref in refs] == [(5,), (5,), (3,), (5,)]
    assert isinstance(over.find("bad"), RowReject)
    assert (len(over), set(over.keys())) == (2, {"k9", "k5"})
    with pytest.raises(ValueError, match="there already"):
        over.append([row(0)])
    assert set(values(reopened(over))) == {"k9", "k5"}
    assert len(reopened(source)) == 5


def test_an_overlay_follows_merges_of_the_store_below(source, tmp_path):
    over = OverlayStore(tmp_path / "over", RowStore(source.folder))
    over.refresh()
    ref = over.find("k0")
    assert isinstance(ref, RowRef)
    for number in range(10, 17):
        source.append([row(number)])
    assert merge(source) == 9
    source.prepare()
    assert over.read(ref, "g").tolist() == [0] * 5
    over.refresh()
    assert isinstance(over.find("k16"), RowRef)
