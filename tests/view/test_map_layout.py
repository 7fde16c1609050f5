"""The map: principal components agree with their definition whatever the pieces, and a better layout is kept."""

import subprocess
import time

import numpy as np
import pytest

from motive_pipeline.view import map_layout
from motive_pipeline.view.clip_view import BadRequest
from motive_pipeline.view.map_layout import LEAST_FOR_TSNE, LayoutMaker, principal_components
from tests.curation_fixtures import clip_names, publish_gradients, unit_rows
from tests.eval_fixtures import open_workspace


def pieces(rows: np.ndarray, size: int):
    return lambda: (rows[start : start + size] for start in range(0, len(rows), size))


def test_components_are_those_of_the_singular_value_decomposition():
    rows = (np.random.default_rng(0).standard_normal((60, 12)) * np.arange(1, 13) + 3).astype(np.float32)
    found = principal_components(pieces(rows, 7), 4)
    left, scale, _ = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    expected = (left * scale)[:, :4]
    assert np.abs(found) == pytest.approx(np.abs(expected), abs=1e-3)
    assert principal_components(pieces(rows, 60), 4) == pytest.approx(found, abs=1e-3), "in one piece"


def test_fewer_rows_than_components_are_no_error():
    assert principal_components(pieces(unit_rows(3, 8), 2), 50).shape == (3, 3)
    assert principal_components(pieces(unit_rows(1, 8), 2), 50).shape == (1, 1)


def test_a_layout_whose_process_has_died_is_not_waited_for(tmp_path, tiny_model, monkeypatch):
    pytest.importorskip("openTSNE")
    ws = open_workspace(tmp_path, tiny_model)
    publish_gradients(ws, "projected_gradients/motive", clip_names(LEAST_FOR_TSNE), unit_rows(LEAST_FOR_TSNE, 256))
    monkeypatch.setattr(map_layout, "_begin", lambda *_, **__: subprocess.Popen(["false"]))
    maker = LayoutMaker(ws, tmp_path / "view")
    assert not maker.layout("gradients", improve=True).is_final
    maker._processes[next(iter(maker._processes))].wait()
    assert maker.layout("gradients", improve=True).is_final


@pytest.mark.slow
def test_a_layout_is_computed_beside_kept_and_found_again(tmp_path, tiny_model):
    pytest.importorskip("openTSNE")
    ws = open_workspace(tmp_path, tiny_model)
    ids = clip_names(LEAST_FOR_TSNE)
    apart = np.where(np.arange(LEAST_FOR_TSNE)[:, None] < 50, 4.0, -4.0) * unit_rows(1, 256)
    publish_gradients(ws, "projected_gradients/motive", ids, unit_rows(LEAST_FOR_TSNE, 256) + apart.astype(np.float32))
    maker = LayoutMaker(ws, tmp_path / "view")
    assert maker.spaces() == ["gradients"]
    for improve in (False, True):
        first = maker.layout("gradients", improve=improve)
    assert (first.method, first.is_final) == ("components", False)
    deadline = time.monotonic() + 120
    while not (better := maker.layout("gradients", improve=True)).is_final and time.monotonic() < deadline:
        time.sleep(0.1)
    assert (better.method, better.is_final) == ("tsne", True)
    assert better.clip_id_N.astype(str).tolist() == ids
    groups = better.place_N2[:50], better.place_N2[50:]
    middles = [group.mean(axis=0) for group in groups]
    spread = max(np.linalg.norm(group - middle, axis=1).max() for group, middle in zip(groups, middles, strict=True))
    assert np.linalg.norm(middles[0] - middles[1]) > spread, "clips that push the model alike lie together"
    again = LayoutMaker(ws, tmp_path / "view").layout("gradients", improve=False)
    assert np.array_equal(again.place_N2, better.place_N2)
    with pytest.raises(BadRequest, match="no map by embeddings"):
        maker.layout("embeddings", improve=False)
