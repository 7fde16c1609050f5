"""The row store: committed rows survive anything, torn ones are never seen, keys are found again."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.commits import Commit, Group, write_record
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.merging import FULL_ROWS, MIN_COMMITS, merge
from motive_pipeline.storage.rows import MissingRow, Row, RowRef, RowReject, RowStore
from motive_pipeline.storage.sealed import write_sealed


def row(number: int, size: int = 5) -> Row:
    return Row(key=f"k{number}", arrays={"g": np.full(size, number, np.float32), "n": np.int64(number)})


def reopened(store: RowStore) -> RowStore:
    again = RowStore(store.folder, store.dims)
    again.refresh()
    return again


def test_rows_are_found_by_key_after_reopening(tmp_path):
    store = RowStore(tmp_path / "s", {"g": ("proj",)})
    store.append([row(i) for i in range(7)])
    store.append([row(7)])
    again = reopened(store)
    for i in range(8):
        ref = again.find(f"k{i}")
        assert isinstance(ref, RowRef)
        assert again.read(ref, "g").tolist() == [i] * 5
        assert again.read(ref, "n") == i
    assert again.find("k8") is None


def test_rows_of_different_shapes_live_in_one_store(tmp_path):
    store = RowStore(tmp_path / "s")
    refs = store.append([row(0, 3), row(1, 4), row(2, 3)])
    assert [ref.key for ref in refs] == ["k0", "k1", "k2"]
    assert [reopened(store).read(ref, "g").shape for ref in refs] == [(3,), (4,), (3,)]


def test_read_many_gives_every_row_at_its_position(tmp_path):
    store = RowStore(tmp_path / "s")
    refs = store.append([row(i) for i in range(4)]) + store.append([row(i) for i in range(4, 6)])
    order = [5, 0, 3, 4, 1]
    got = dict(store.read_many([refs[i] for i in order], "g"))
    assert [got[p][0] for p in range(5)] == order


def test_a_column_is_in_the_order_asked_for(tmp_path):
    store = RowStore(tmp_path / "s")
    refs = [ref for numbers in (range(4), range(4, 6), range(6, 8)) for ref in store.append([row(i) for i in numbers])]
    order = [7, 0, 3, 5, 1]
    column = store.column([refs[i] for i in order], "n")
    assert column.dtype == np.int64
    assert column.tolist() == order
    assert not len(store.column([], "n"))


def test_equal_content_has_equal_hash_and_other_content_another(tmp_path):
    a = Row(key="a", arrays={"g": np.ones(3, np.float32)})
    b = Row(key="b", arrays={"g": np.ones(3, np.float32)})
    c = Row(key="c", arrays={"g": np.ones(3, np.float64)})
    refs = RowStore(tmp_path / "s").append([a, b, c])
    assert refs[0].content == refs[1].content != refs[2].content


def test_a_rejection_is_remembered(tmp_path):
    store = RowStore(tmp_path / "s")
    store.append([], [RowReject(key="bad", reason="r", detail="d")])
    assert reopened(store).find("bad") == RowReject(key="bad", reason="r", detail="d")


def test_a_key_is_never_written_twice(tmp_path):
    store = RowStore(tmp_path / "s")
    store.append([row(1)])
    with pytest.raises(ValueError, match="already"):
        store.append([row(1)])
    with pytest.raises(ValueError, match="already"):
        store.append([row(2), row(2)])


def test_a_commit_leaves_committed_files_untouched(tmp_path):
    store = RowStore(tmp_path / "s")
    store.append([row(1)])
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "s" / "segments").rglob("*") if p.is_file()}
    store.append([row(2)])
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


def test_segments_are_safetensors_with_named_dimensions(tmp_path):
    store = RowStore(tmp_path / "s", {"g": ("proj",)})
    store.append([row(1), row(2)])
    (segment,) = store.segments.glob("*.safetensors")
    with safe_open(segment, "np") as file:
        assert json.loads(file.metadata()["dimensions"]) == {"g": ["row", "proj"]}
        assert file.get_tensor("0/g").tolist() == [[1] * 5, [2] * 5]


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_what_is_read_is_what_was_appended(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr("motive_pipeline.storage.rows.BLOCK_BYTES", 2 * max(1, math.prod(shape)) * np.dtype(dtype).itemsize)
    random = np.random.default_rng(0)
    values = [random.integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype) for _ in range(7)]
    values[2:4] = [np.zeros(shape, dtype)] * 2
    refs = RowStore(tmp_path / "s").append([Row(key=str(number), arrays={"a": value}) for number, value in enumerate(values)])
    store = reopened(RowStore(tmp_path / "s"))
    many, few = dict(store.read_many(refs, "a")), dict(store.read_many([refs[0], refs[6]], "a"))
    assert sorted(many) == list(range(7))
    for number, (ref, value) in enumerate(zip(refs, values, strict=True)):
        for found in (store.read(ref, "a"), many[number], few.get(number, value) if number == 0 else value):
            assert np.asarray(found).dtype == np.dtype(dtype)
            assert np.array_equal(found, value)
        assert store.shape(ref, "a") == shape
        assert store.has(ref, "a")
        assert not store.has(ref, "b")
    assert np.array_equal(few[1], values[6])


def test_scalars_of_any_type_keep_their_bits(tmp_path):
    values = {"f": np.float32(0.1), "nan": np.float64("nan"), "label": np.array(b"left", "S16"), "flag": np.bool_(True)}
    ref = RowStore(tmp_path / "s").append([Row(key="a", arrays=values)])[0]
    store = reopened(RowStore(tmp_path / "s"))
    assert list(store.segments.glob("*.safetensors")) == [], "they lie in the record"
    for name, value in values.items():
        assert store.read(ref, name).tobytes() == np.asarray(value).tobytes()
        assert store.read(ref, name).dtype == value.dtype


def test_a_block_holds_no_more_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.storage.rows.BLOCK_BYTES", 3 * 20)
    store = RowStore(tmp_path / "s")
    refs = store.append([row(i) for i in range(7)])
    assert [(positions, block[:, 0].tolist()) for positions, block in store.read_blocks(refs, "g")] == [
        ([0, 1, 2], [0, 1, 2]),
        ([3, 4, 5], [3, 4, 5]),
        ([6], [6]),
    ]


def test_a_second_writer_is_refused_by_name(tmp_path):
    code = (
        "import sys,time; from pathlib import Path; from motive_pipeline.storage.rows import RowStore\n"
        "s=RowStore(Path(sys.argv[1])); s.lock.acquire(); print('held', flush=True); time.sleep(30)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(Locked, match=str(holder.pid)):
            RowStore(tmp_path / "s").append([row(1)])
    finally:
        holder.kill()
        holder.wait()
    RowStore(tmp_path / "s").append([row(1)])


def test_another_process_commits_are_seen_after_a_refresh(tmp_path):
    reader = RowStore(tmp_path / "s")
    RowStore(tmp_path / "s").append([row(1)])
    assert reader.find("k1") is None
    reader.refresh()
    assert isinstance(reader.find("k1"), RowRef)


def test_an_append_looks_at_all_commits_only_if_somebody_else_wrote_or_something_is_lost(tmp_path, monkeypatch):
    looks = []
    prepare = RowStore.prepare
    monkeypatch.setattr(RowStore, "prepare", lambda store: (looks.append(len(store.commits())), prepare(store)))
    store = RowStore(tmp_path / "s")
    for number in range(5):
        store.append([row(number)])
    assert looks == [0]

    RowStore(tmp_path / "s").append([row(5)])  # another process
    store.append([row(6)])
    assert [each.keys for each in store.commits()] == [[f"k{number}"] for number in range(7)]
    assert looks[2:] == [5]

    (damaged, *_) = sorted(store.segments.glob("*.safetensors"))
    damage(damaged, "zeroed")
    with pytest.raises(MissingRow):
        store.read(store.find("k0"), "g")
    store.append([row(0)])
    assert looks[3:] == [7]
    shutil.rmtree(store.segments)
    store.append([row(8)])
    assert list(reopened(store).keys()) == ["k8"]


def damage(file: Path, how: str) -> None:
    """Do to a file what a disk or a hand does."""
    data = bytearray(file.read_bytes())
    if how == "missing":
        file.unlink()
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "cut":
        file.write_bytes(data[:-3])
    elif how == "zeroed":
        file.write_bytes(bytes(len(data)))
    else:
        data[int(how) % len(data)] ^= 1
        file.write_bytes(data)


HOW = ["missing", "empty", "cut", "zeroed", "0", "-2", "100"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("kind", [".json", ".safetensors"])
def test_what_is_missing_cut_or_altered_counts_as_missing_and_is_named(tmp_path, caplog, kind, how):
    store = RowStore(tmp_path / "s")
    bad, good = store.append([row(1), row(3)])[0], store.append([row(2)])[0]
    damage(store.segments / f"{bad.commit}{kind}", how)
    again = reopened(store)
    for ref in (again.find("k1"), again.find("k3")):
        if ref is not None:  # the size is right, so the hash tells when the segment is opened
            with pytest.raises(MissingRow, match=f"({bad.commit}{kind}|k3).*all other rows are kept"):
                again.read(ref, "g")
            assert again.find(ref.key) is None
    assert again.find("k1") is None
    assert again.find("k3") is None
    assert again.losses or (how == "missing" and kind == ".json")
    if not (how == "missing" and kind == ".json"):
        assert f"{bad.commit}{kind}" in caplog.text
        assert "its rows count as missing and are computed again" in caplog.text
    assert again.read(good, "g").tolist() == [2] * 5
    again.append([row(1), row(3)])
    final = reopened(store)
    assert [final.read(final.find(f"k{number}"), "g")[0] for number in (1, 2, 3)] == [1, 2, 3]
    assert final.losses == 0, "what was damaged is gone"


def test_a_segment_that_goes_while_the_store_is_open_is_noticed(tmp_path):
    store = RowStore(tmp_path / "s")
    ref = store.append([row(1)])[0]
    (store.segments / f"{ref.commit}.safetensors").unlink()
    store.refresh()
    assert store.find("k1") is None
    assert store.losses == 1
    store.append([row(1)])
    assert isinstance(store.find("k1"), RowRef)


def test_a_record_that_goes_while_the_store_is_open_is_noticed(tmp_path):
    store = RowStore(tmp_path / "s")
    ref = store.append([row(1)])[0]
    (store.segments / f"{ref.commit}.json").unlink()
    store.refresh()
    assert store.find("k1") is None
    assert store.losses == 1
    with pytest.raises(MissingRow, match="k1"):
        store.read(ref, "g")


@pytest.mark.parametrize("kind", [".json", ".safetensors"])
def test_damages_names_every_damaged_file(tmp_path, kind):
    store = RowStore(tmp_path / "s")
    refs = [store.append([row(number)])[0] for number in range(3)]
    assert store.damages() == []
    damage(store.segments / f"{refs[1].commit}{kind}", "100")
    (problem,) = reopened(store).damages()
    assert f"{refs[1].commit}{kind} is cut or altered" in problem


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    write_sealed(tmp_path / "s" / "store.json", {"format": 99})
    with pytest.raises(MotiveError, match=r"newer version.*Upgrade"):
        RowStore(tmp_path / "s")


def commits_of(store: RowStore) -> list[str]:
    return sorted(file.name.removesuffix(".json") for file in store.segments.glob("*.json"))


def filled(folder: Path, num_commits: int = 10) -> RowStore:
    """Commits of three rows of two shapes, two scalars and a reject each."""
    store = RowStore(folder, {"g": ("proj",)})
    for first in range(0, 3 * num_commits, 3):
        rows = [row(first), row(first + 1, 7), row(first + 2)]
        store.append(rows, [RowReject(key=f"bad{first}", reason="r", detail=str(first))])
    return store


def holds_everything(store: RowStore, num_commits: int = 10) -> None:
    assert len(store) == 3 * num_commits
    keys = [key for commit in store.commits() for key in commit.keys]
    assert len(keys) == len(set(keys)), "no row twice"
    for number in range(3 * num_commits):
        ref = store.find(f"k{number}")
        assert isinstance(ref, RowRef)
        assert store.read(ref, "g").tolist() == [number] * (7 if number % 3 == 1 else 5)
        assert store.read(ref, "n") == number
    assert store.find("bad3") == RowReject(key="bad3", reason="r", detail="3")


def test_small_commits_are_merged_into_one(tmp_path):
    store = filled(tmp_path / "s")
    before = [store.find(f"k{number}") for number in range(30)]
    assert merge(store) == 10
    assert len(commits_of(store)) == 1
    assert len(list(store.segments.glob("*.safetensors"))) == 1
    for again in (store, reopened(store)):
        holds_everything(again)
        assert [again.find(f"k{number}").content for number in range(30)] == [ref.content for ref in before]
        assert [again.read(ref, "n") for ref in before] == list(range(30)), "where rows lay before still leads to them"
    assert merge(store) == 0
    with safe_open(next(store.segments.glob("*.safetensors")), "np") as file:
        assert json.loads(file.metadata()["dimensions"]) == {"g": ["row", "proj"]}


def test_few_commits_are_not_merged(tmp_path):
    store = filled(tmp_path / "s", MIN_COMMITS - 1)
    assert merge(store) == 0
    assert len(commits_of(store)) == MIN_COMMITS - 1


def test_merged_segments_and_commits_do_not_outgrow_their_size(tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.storage.merging.FULL_BYTES", 1000)
    monkeypatch.setattr("motive_pipeline.storage.merging.FULL_ROWS", 12)
    store = filled(tmp_path / "s")
    store.append([row(number, 400) for number in (100, 101)])  # a large segment: its file stays as it is
    large = next(file for file in store.segments.glob("*.safetensors") if file.stat().st_size > 1000)
    assert merge(store) == 11
    assert large.exists()
    rows = [len(commit.keys) for commit in store.commits()]
    assert all(count <= 15 for count in rows)
    assert len(rows) == 4
    sizes = [file.stat().st_size for file in store.segments.glob("*.safetensors")]
    assert max(size for size in sizes if size != large.stat().st_size) < 2000
    again = reopened(store)
    assert len(again) == 32
    assert again.read(again.find("k101"), "g").tolist() == [101] * 400
    assert [again.read(again.find(f"k{number}"), "n") for number in range(30)] == list(range(30))


def test_another_process_that_has_the_store_open_finds_merged_rows(tmp_path):
    store = filled(tmp_path / "s")
    reader = reopened(store)
    refs = [reader.find(f"k{number}") for number in range(30)]
    merge(store)
    assert [reader.read(ref, "g")[0] for ref in refs] == list(range(30))
    assert reader.losses == 0, "merged is not lost"
    holds_everything(reader)


def test_a_merge_leaves_out_what_is_damaged_and_names_it(tmp_path, caplog):
    store = filled(tmp_path / "s")
    bad = store.find("k4").commit
    damage(store.segments / f"{bad}.safetensors", "-1")
    again = reopened(store)
    merge(again)
    assert f"{bad}.safetensors is cut or altered" in caplog.text
    assert {f"k{number}" for number in range(30)} - set(again.keys()) == {"k3", "k4", "k5"}
    assert set(reopened(store).keys()) == set(again.keys())


class Stopped(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("step", range(14))
def test_a_merge_that_is_stopped_at_any_point_loses_and_doubles_nothing(tmp_path, monkeypatch, step):
    store = filled(tmp_path / "s")
    steps = iter(range(1000))

    def dying(call):
        def run(*arguments, **more):
            if next(steps) == step:
                raise Stopped
            return call(*arguments, **more)

        return run

    for name in ("write_bytes", "replace", "remove"):
        monkeypatch.setattr(atomic, name, dying(getattr(atomic, name)))
    try:
        merge(store)
        died = False
    except Stopped:
        died = True
    monkeypatch.undo()
    assert died, "fewer steps than this test thinks"
    again = reopened(store)
    holds_everything(again)
    merge(again)
    again.append([row(1000)])
    assert len(list(store.segments.iterdir())) == 2 * len(commits_of(store)), "no leftovers"
    assert len(reopened(store)) == 31


KILLED_WRITER = """
import sys, itertools
from pathlib import Path
import numpy as np
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.rows import Row, RowStore
store = RowStore(Path(sys.argv[1])); store.refresh()
start = len(store)
print("go", start, flush=True)
for b in itertools.count():
    ids = range(start + 8 * b, start + 8 * b + 8)
    store.append([Row(key=f"k{i}", arrays={"g": np.full(4096, i, np.float32)}) for i in ids])
    print(ids[-1], flush=True)
    merge(store)
"""


def test_committed_batches_survive_kill_9_at_any_instant(tmp_path):
    rng = np.random.default_rng(0)
    announced = 0
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == f"go {announced}\n"
        time.sleep(rng.uniform(0.05, 0.6))
        os.kill(writer.pid, signal.SIGKILL)
        lines = writer.stdout.read().split("\n")
        writer.wait()
        announced = max([announced, *(int(line) + 1 for line in lines[:-1])])  # what follows the last line end may be cut
        store = reopened(RowStore(tmp_path / "s"))
        assert len(store) in (announced, announced + 8), "all that was announced, and one batch at most that was not"
        announced = len(store)
        for number in range(announced):
            ref = store.find(f"k{number}")
            assert isinstance(ref, RowRef)
            assert (store.read(ref, "g") == number).all()
    assert announced, "some batch was committed"
    store.append([row(10**6)])
    assert not [path for path in store.segments.iterdir() if path.name.startswith(".tmp")]


def test_a_million_rows_are_opened_in_two_seconds(tmp_path):
    """Sixteen merged commits with two scalars, as gradients have. In processor time, since other tests run beside this one."""
    store = RowStore(tmp_path / "s")
    atomic.make_folder(store.segments)
    for number in range(16):
        keys = [f"{number * FULL_ROWS + row:032x}" for row in range(FULL_ROWS)]
        columns = {"grad_norm": np.random.default_rng(number).random(FULL_ROWS), "num_frames": np.full(FULL_ROWS, 81)}
        groups = [Group(num_rows=FULL_ROWS, columns=columns, arrays={})]
        write_record(store.segments, Commit(name=f"{number:08d}-0", keys=keys, contents=keys[::-1], groups=groups))
    started = time.process_time()
    store.refresh()
    took_s = time.process_time() - started
    assert len(store) == 2**20
    assert store.find(f"{5:032x}").row == 5
    assert took_s < 2
