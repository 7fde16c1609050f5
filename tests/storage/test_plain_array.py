"""Arrays read straight from their chunks, against zarr."""

import os

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BytesCodec

from motive_pipeline.storage.plain_array import PlainArray


def matrix(folder, *, rows=11, columns=10, chunks=(4, 3), dtype="float32", **options) -> np.ndarray:
    values = np.random.default_rng(0).integers(1, 200, (rows, columns)).astype(dtype)
    values[4:8, 3:6] = 0  # a chunk of zeros, which has no file
    zarr.create_array(folder, data=values, chunks=chunks, **{"compressors": None} | options)
    return values


@settings(deadline=None, max_examples=60)
@given(
    chunks=st.tuples(st.integers(1, 12), st.integers(1, 11)),
    span=st.tuples(st.integers(0, 11), st.integers(0, 11)),
    columns=st.integers(1, 10),
)
def test_any_rows_and_first_columns_of_any_chunks(tmp_path_factory, chunks, span, columns):
    folder = tmp_path_factory.mktemp("array") / "a"
    values, (start, stop) = matrix(folder, chunks=chunks), sorted(span)
    array = PlainArray(folder)
    assert (array.shape, array.chunks) == ((11, 10), chunks)
    for found in (array.rows(start, stop, columns=columns), array.mapped(start, stop, columns=columns)):
        assert found.dtype == np.float32
        assert np.array_equal(found, values[start:stop, :columns])
    assert np.array_equal(array.rows(), values)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    chunks=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    steps=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_what_it_writes_is_what_zarr_reads(tmp_path_factory, shape, chunks, steps):
    folder = tmp_path_factory.mktemp("array") / "a"
    zarr.create_array(folder, shape=shape, chunks=chunks, dtype="float32", compressors=None)
    values = np.random.default_rng(0).random(shape)  # in float64: it is stored as the array's own type
    array, (high, wide) = PlainArray(folder), (chunk * step for chunk, step in zip(chunks, steps, strict=True))
    for row in range(0, shape[0], high):
        for column in range(0, shape[1], wide):
            array.write(values[row : row + high, column : column + wide], row=row, column=column)
    assert np.array_equal(zarr.open_array(folder, mode="r")[:], values.astype(np.float32))
    assert np.array_equal(array.rows(), values.astype(np.float32))
    assert {file.stat().st_size for file in folder.glob("c/*/*")} == {4 * chunks[0] * chunks[1]}, "the last chunks are padded"


@pytest.mark.parametrize(
    ("row", "column", "height", "width"),
    [(2, 0, 4, 10), (0, 1, 4, 3), (0, 0, 3, 10), (0, 0, 4, 4), (8, 0, 4, 10), (0, 9, 4, 3), (12, 0, 4, 3)],
)
def test_it_writes_whole_chunks_only(tmp_path, row, column, height, width):
    values = matrix(tmp_path / "a")
    with pytest.raises(ValueError, match=r"no whole chunks of \(4, 3\)"):
        PlainArray(tmp_path / "a").write(np.zeros((height, width), np.float32), row=row, column=column)
    assert np.array_equal(PlainArray(tmp_path / "a").rows(), values)


def test_it_writes_matrices_only(tmp_path):
    zarr.create_array(tmp_path / "a", data=np.zeros(4, np.float32), compressors=None)
    with pytest.raises(ValueError, match="only matrices"):
        PlainArray(tmp_path / "a").write(np.zeros((4, 1), np.float32))


def test_a_chunk_of_zeros_has_no_file(tmp_path, monkeypatch):
    matrix(tmp_path / "a")
    zarr.open_array(tmp_path / "a")[4:8, :3] = 0
    assert not (tmp_path / "a" / "c" / "1" / "0").exists()
    array = PlainArray(tmp_path / "a")
    monkeypatch.setattr(np, "empty", lambda shape, dtype: np.full(shape, 7, dtype))  # as memory may be that was used before
    assert not array.mapped(5, 7, columns=2).any()
    assert not array.rows(5, 7, columns=2).any()


def test_mapped_rows_cannot_be_changed(tmp_path):
    matrix(tmp_path / "a")
    with pytest.raises(ValueError, match="read-only"):
        PlainArray(tmp_path / "a").mapped(0, 2, columns=3)[0, 0] = 1


def test_more_rows_than_the_system_fills_at_once(tmp_path):
    values = matrix(tmp_path / "a", rows=1500, chunks=(1500, 3))
    assert np.array_equal(PlainArray(tmp_path / "a").rows(), values)


def test_what_it_cannot_read_is_refused(tmp_path):
    matrix(tmp_path / "packed", compressors="auto")
    with pytest.raises(ValueError, match="not an array of plain"):
        PlainArray(tmp_path / "packed")
    for number, chunks in enumerate([(2, 2, 4), (2, 2, 8), (2, 4, 8)]):
        zarr.create_array(tmp_path / f"cube{number}", shape=(4, 4, 4), chunks=chunks, dtype="float32", compressors=None)
        with pytest.raises(ValueError, match="divided across more than its rows"):
            PlainArray(tmp_path / f"cube{number}")


@pytest.mark.parametrize(
    "options", [{"fill_value": 3.0}, {"serializer": BytesCodec(endian="big")}, {"chunk_key_encoding": {"name": "v2", "separator": "."}}]
)
def test_other_ways_to_store_numbers_are_refused(tmp_path, options):
    zarr.create_array(tmp_path / "a", **{"shape": (4, 4), "chunks": (2, 4), "dtype": "float32", "compressors": None} | options)
    with pytest.raises(ValueError, match="not an array of plain"):
        PlainArray(tmp_path / "a")


def test_what_lies_outside_is_no_zero(tmp_path):
    matrix(tmp_path / "a")
    array = PlainArray(tmp_path / "a")
    for read in (array.rows, array.mapped):
        for start, stop, columns in [(0, 12, 3), (0, 4, 11), (-1, 2, 3), (3, 2, 3)]:
            with pytest.raises(IndexError, match=r"of shape \(11, 10\)"):
                read(start, stop, columns=columns)


def test_the_system_may_give_less_than_it_is_asked_for(tmp_path, monkeypatch):
    values = matrix(tmp_path / "a")
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, buffers, offset: preadv(descriptor, [buffers[0].cast("B")[:5]], offset))
    assert np.array_equal(PlainArray(tmp_path / "a").rows(), values)


def test_a_chunk_that_was_cut_short_is_no_data(tmp_path):
    matrix(tmp_path / "a")
    file = tmp_path / "a" / "c" / "0" / "0"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="c/0/0 ends before row 4"):
        PlainArray(tmp_path / "a").rows(0, 4)
    with pytest.raises(ValueError, match="greater than file size"):
        PlainArray(tmp_path / "a").mapped(0, 4, columns=3)
