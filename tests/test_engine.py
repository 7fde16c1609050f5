"""compute_rows: only what is missing is computed, what cannot be used is a row with a reason."""

import numpy as np
import pytest

from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import RejectRow
from motive_pipeline.storage.rows import RowStore


def double(number: int) -> dict[str, np.ndarray]:
    return {"x": np.float32(2 * number)}


def work(*numbers: int) -> list[Work[int]]:
    return [Work(key=f"k{n}", item=n) for n in numbers]


@pytest.mark.parametrize("commit_rows", [1, 3, 100])
def test_rows_are_computed_once(tmp_path, commit_rows):
    store = RowStore(tmp_path / "s")
    first = compute_rows(store, work(1, 2, 3, 4), double, what="rows", commit_rows=commit_rows)
    assert vars(first.counts) == {"computed": 4, "reused": 0, "rejected": 0}
    second = compute_rows(store, work(4, 5), double, what="rows", commit_rows=commit_rows)
    assert vars(second.counts) == {"computed": 1, "reused": 1, "rejected": 0}
    assert float(store.read(second.refs["k4"], "x")) == 8.0


def test_a_rejected_row_is_remembered_and_a_transient_one_is_tried_again(tmp_path):
    calls = []

    def picky(number: int) -> dict[str, np.ndarray]:
        calls.append(number)
        if number < 3:
            raise RejectRow("too_small", f"{number} is too small", transient=number == 2)
        return double(number)

    store = RowStore(tmp_path / "s")
    first = compute_rows(store, work(1, 2, 3), picky, what="rows")
    assert {key: reject.reason for key, reject in first.rejects.items()} == {"k1": "too_small", "k2": "too_small"}
    assert first.counts.rejected == 2
    compute_rows(store, work(1, 2, 3), picky, what="rows")
    assert calls == [1, 2, 3, 2]


def test_rows_finished_before_an_error_are_kept(tmp_path):
    def breaks(number: int) -> dict[str, np.ndarray]:
        if number == 3:
            raise RuntimeError("a bug")
        return double(number)

    store = RowStore(tmp_path / "s")
    with pytest.raises(RuntimeError, match="a bug"):
        compute_rows(store, work(1, 2, 3, 4), breaks, what="rows", commit_rows=100)
    assert store.find("k2") is not None
    assert store.find("k4") is None


def test_progress_names_rows_rate_and_what_became_of_them(tmp_path, caplog):
    caplog.set_level("INFO", logger="motive_pipeline")
    store = RowStore(tmp_path / "s")
    compute_rows(store, work(1), double, what="latents")
    compute_rows(store, work(1, 2), double, what="latents")
    assert "latents: 2 of 2 rows (1 computed, 1 reused, 0 rejected)" in caplog.text
