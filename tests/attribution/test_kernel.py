"""TRAK's kernel against explicit matrices, and what its lambda means."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from motive_pipeline.attribution import kernel
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.kernel import gram_matrix, kernel_directions
from motive_pipeline.attribution.tiles import influence_tiles
from motive_pipeline.config import parse_config
from motive_pipeline.errors import ConfigError
from tests.attribution.test_influence import bits, small
from tests.curation_fixtures import clip_names, publish_gradients, unit_rows

QUERIES, CLIPS = unit_rows(3, 64, seed=1), unit_rows(40, 64, seed=2)
CLIP_NORM, QUERY_NORM = np.linspace(0.5, 4, 40), np.array([2.0, 3.0, 0.5])


def on_disk(folder: Path, rows: np.ndarray) -> zarr.Array:
    return zarr.create_array(folder, data=rows, chunks=(7, 32), compressors=None)


@pytest.fixture
def stored(tmp_path):
    return on_disk(tmp_path / "a.zarr", CLIPS)


def unit(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def explicit(queries: np.ndarray, clips: np.ndarray, relative_lambda: float) -> np.ndarray:
    """phi(q)^T (Phi^T Phi / m + lambda 1)^-1 phi(v), with the inverse written out."""
    gram = clips.T @ clips
    return queries @ np.linalg.inv(gram / np.diag(gram).mean() + relative_lambda * np.eye(len(gram))) @ clips.T


def scores(queries, stored, proj_dim, relative_lambda, *, query_norm=None, clip_norm=None, threads=1) -> np.ndarray:
    gram = gram_matrix(stored, slice(0, proj_dim), clip_norm_N=clip_norm, threads=threads)
    found = kernel_directions(queries[:, :proj_dim], gram, relative_lambda=relative_lambda, query_norm_Q=query_norm)
    return influence_tiles(found.unit_Qp, np.asarray(stored[:, :proj_dim]), query_norm_Q=found.length_Q, clip_norm_N=clip_norm)


@pytest.mark.parametrize("relative_lambda", [0.01, 1.0, 30.0])
def test_scores_are_those_of_the_inverse_matrix(stored, relative_lambda):
    """The second with features as long as their gradients. Tolerance: 2^-26 of the grid times the longest solution, 1 / lambda."""
    expected = explicit(unit(QUERIES), unit(CLIPS), relative_lambda)
    np.testing.assert_allclose(scores(QUERIES, stored, 64, relative_lambda), expected, rtol=1e-5, atol=1e-6 / relative_lambda)
    long = explicit(unit(QUERIES) * QUERY_NORM[:, None], unit(CLIPS) * CLIP_NORM[:, None], relative_lambda)
    found = scores(QUERIES, stored, 64, relative_lambda, query_norm=QUERY_NORM, clip_norm=CLIP_NORM)
    np.testing.assert_allclose(found, long, rtol=1e-5, atol=1e-5 / relative_lambda)


def test_a_prefix_is_brought_to_unit_length_before_the_kernel(stored):
    expected = explicit(unit(QUERIES[:, :16]), unit(CLIPS[:, :16]), 0.5)
    np.testing.assert_allclose(scores(QUERIES, stored, 16, 0.5), expected, rtol=1e-5, atol=1e-6)


def test_a_large_lambda_leaves_the_plain_inner_product(stored):
    np.testing.assert_allclose(1e6 * scores(QUERIES, stored, 64, 1e6), influence_tiles(QUERIES, CLIPS), atol=1e-4)


def test_lambda_means_the_same_for_twice_as_many_of_the_same_clips(stored, tmp_path):
    twice = on_disk(tmp_path / "b.zarr", np.concatenate([CLIPS, CLIPS]))
    np.testing.assert_allclose(scores(QUERIES, twice, 64, 0.3)[:, :40], scores(QUERIES, stored, 64, 0.3), rtol=1e-5, atol=1e-7)


def test_what_all_clips_share_counts_less_than_what_one_has_alone(tmp_path):
    shared, alone = np.eye(8, dtype=np.float32)[0], np.eye(8, dtype=np.float32)[1]
    clips = np.stack([*[shared] * 9, alone])
    query = unit((shared + alone)[None]).astype(np.float32)
    gram = gram_matrix(on_disk(tmp_path / "c.zarr", clips), slice(0, 8), clip_norm_N=None, threads=1)
    found = kernel_directions(query, gram, relative_lambda=0.1)
    influence = influence_tiles(found.unit_Qp, clips, query_norm_Q=found.length_Q)[0]
    assert influence[9] > 3 * influence[0] > 0


@pytest.mark.parametrize("threads", [1, 3])
def test_equal_inputs_give_equal_bits_for_any_number_of_threads(stored, monkeypatch, threads):
    monkeypatch.setattr(kernel, "TILE_CLIPS", 7)
    first = scores(QUERIES, stored, 64, 0.5)
    assert bits(scores(QUERIES, stored, 64, 0.5, threads=threads)) == bits(first)
    np.testing.assert_allclose(first, explicit(unit(QUERIES), unit(CLIPS), 0.5), rtol=1e-5, atol=1e-6)


def test_a_query_does_not_change_the_bits_of_another(stored):
    assert bits(scores(QUERIES[1:], stored, 64, 0.5)) == bits(scores(QUERIES, stored, 64, 0.5)[1:])


def test_zero_gradients_score_zero_and_nothing_is_nan(tmp_path):
    clips, queries = CLIPS.copy(), QUERIES.copy()
    clips[5], queries[0] = 0, 0
    found = scores(queries, on_disk(tmp_path / "some.zarr", clips), 64, 0.5)
    assert np.isfinite(found).all()
    assert not found[0].any()
    assert not found[:, 5].any()
    assert not scores(queries, on_disk(tmp_path / "all.zarr", np.zeros_like(CLIPS)), 64, 0.5).any(), "no clip has a gradient"


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_the_published_matrix_is_the_kernels(make_config, similarity):
    ws = small(make_config, preconditioner="trak", trak_lambda=0.4, similarity=similarity)
    publish_gradients(ws, "query_gradients/motive", clip_names(3, 1000), QUERIES, norms=QUERY_NORM)
    publish_gradients(ws, "projected_gradients/motive", clip_names(40), CLIPS, norms=CLIP_NORM)
    publication = publish_influence(ws, "motive")
    group = zarr.open_group(publication.path, mode="r")
    queries, clips = unit(QUERIES[:, :16]), unit(CLIPS[:, :16])
    if similarity == "dot":
        queries, clips = queries * QUERY_NORM[:, None], clips * CLIP_NORM[:, None]
    np.testing.assert_allclose(group["influence"][:], explicit(queries, clips, 0.4), rtol=1e-4, atol=1e-5)
    assert group.attrs["influence.trak_lambda"] == 0.4
    assert "K^-1" in group.attrs["equation"]
    assert publication.facts["preconditioner"] == "trak"


@pytest.mark.parametrize(
    "text",
    [
        "influence: {preconditioner: trak}\ngradient: {projection: exact}",
        "influence: {preconditioner: trak, proj_dim: 16384}\ngradient: {store_dim: 16384}",
    ],
)
def test_a_kernel_too_large_is_refused_before_any_work(tmp_path, text):
    with pytest.raises(ConfigError, match="preconditioner: trak"):
        parse_config(f"clips: {{source: demo}}\nqueries: {{source: demo}}\n{text}\n", tmp_path / "motive.yaml")
