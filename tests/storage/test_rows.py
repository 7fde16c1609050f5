"""The row store: committed rows survive anything, torn ones are never seen, keys are found again."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.rows import Row, RowRef, RowReject, RowStore


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


def test_arrays_are_plain_zarr_v3_with_named_dimensions(tmp_path):
    RowStore(tmp_path / "s", {"g": ("proj",)}).append([row(1), row(2)])
    group = zarr.open_group(tmp_path / "s" / "segments" / "00000000" / "rows.zarr", mode="r")
    assert group.metadata.zarr_format == 3
    assert group["g"].metadata.dimension_names == ("row", "proj")


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_what_is_read_is_what_zarr_reads(tmp_path, monkeypatch, shape, dtype):
    monkeypatch.setattr("motive_pipeline.storage.rows.CHUNK_BYTES", 2 * max(1, math.prod(shape)) * np.dtype(dtype).itemsize)
    random = np.random.default_rng(0)
    values = [random.integers(0, 2 if dtype == "bool" else 200, shape).astype(dtype) for _ in range(7)]
    values[2:4] = [np.zeros(shape, dtype)] * 2  # a chunk of zeros, which has no file
    store = RowStore(tmp_path / "s")
    refs = store.append([Row(key=str(number), arrays={"a": value}) for number, value in enumerate(values)])
    array = zarr.open_group(tmp_path / "s" / "segments" / "00000000" / "rows.zarr", mode="r")["a"]
    assert math.prod(shape) == 0 or array.chunks[0] == 2
    many, few = dict(store.read_many(refs, "a")), dict(store.read_many(refs[:3], "a"))
    for number, (ref, value) in enumerate(zip(refs, values, strict=True)):
        expected = np.asarray(array[number])
        for found in (store.read(ref, "a"), many[number], few.get(number, value)):
            assert np.asarray(found).dtype == expected.dtype == np.dtype(dtype)
            assert np.array_equal(found, expected)
            assert np.array_equal(found, value)
        assert store.shape(ref, "a") == shape


def test_a_second_writer_is_refused_by_name(tmp_path):
    code = (
        "import sys,time; from pathlib import Path; from motive_pipeline.storage.rows import RowStore\n"
        "s=RowStore(Path(sys.argv[1])); s._lock.acquire(); print('held', flush=True); time.sleep(30)"
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


def test_segments_missing_on_disk_count_as_missing(tmp_path):
    import shutil

    store = RowStore(tmp_path / "s")
    store.append([row(1)])
    shutil.rmtree(tmp_path / "s" / "segments" / "00000000")
    store.refresh()
    assert store.find("k1") is None
    store.append([row(1)])
    assert isinstance(store.find("k1"), RowRef)


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "store.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(MotiveError, match=r"newer version.*Upgrade"):
        RowStore(tmp_path / "s")


KILLED_WRITER = """
import sys, itertools
from pathlib import Path
import numpy as np
from motive_pipeline.storage.rows import Row, RowStore
store = RowStore(Path(sys.argv[1])); store.refresh()
start = len(store._index)
print("go", flush=True)
for b in itertools.count():
    ids = range(start + 8 * b, start + 8 * b + 8)
    store.append([Row(key=f"k{i}", arrays={"g": np.full(4096, i, np.float32)}) for i in ids])
    print(ids[-1], flush=True)
"""


def test_committed_batches_survive_kill_9_at_any_instant(tmp_path):
    rng = np.random.default_rng(0)
    announced = -1
    for _ in range(6):
        writer = subprocess.Popen([sys.executable, "-c", KILLED_WRITER, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
        assert writer.stdout.readline() == "go\n"
        time.sleep(rng.uniform(0.01, 0.25))
        os.kill(writer.pid, signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
        writer.wait()
        announced = max([announced, *(int(line) for line in rest if line.isdigit() and rest.index(line) < len(rest))])
        store = RowStore(tmp_path / "s")
        store.refresh()
        rows = len(store._index)
        assert rows > announced - 8
        assert rows % 8 == 0
        for i in range(rows):
            ref = store.find(f"k{i}")
            assert isinstance(ref, RowRef)
        last = store.find(f"k{rows - 1}") if rows else None
        if isinstance(last, RowRef):
            assert (store.read(last, "g") == rows - 1).all()
    store.append([row(10**6)])
    leftovers = [p for p in Path(tmp_path / "s" / "segments").iterdir() if p.name.startswith(".tmp")]
    assert leftovers == []
