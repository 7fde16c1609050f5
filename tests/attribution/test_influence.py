"""Influence (eq. 10): exact to the bit, independent of everything but the query and the clip."""

import math
import time
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from motive_pipeline.attribution import influence as influence_module
from motive_pipeline.attribution import tiles as tiles_module
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.influence_table import descending_order, ranks
from motive_pipeline.attribution.tiles import in_order, influence_tiles, on_grid, stream_influence, tile_clips
from motive_pipeline.errors import GateFailed
from tests.curation_fixtures import clip_names, publish_gradients, unit_rows

QUERIES, CLIPS = unit_rows(3, 64, seed=1), unit_rows(40, 64, seed=2)


def cosine_loop(queries: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Cosines in exact rational arithmetic, rounded once at the end."""

    def dot(a, b):
        return sum(Fraction(float(x)) * Fraction(float(y)) for x, y in zip(a, b, strict=True))

    return np.array([[float(dot(q, n)) / math.sqrt(dot(q, q) * dot(n, n)) if any(n) and any(q) else 0.0 for n in clips] for q in queries])


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def test_influence_is_the_cosine() -> None:
    # Each entry of a feature moves by at most 2^-27, so an inner product by at most 2 * sqrt(64) * 2^-27; half a float32 unit comes on top.
    tolerance = 2 * 8 * 2.0**-27 + 2.0**-25
    np.testing.assert_allclose(influence_tiles(QUERIES, CLIPS), cosine_loop(QUERIES, CLIPS), rtol=0, atol=tolerance)


def test_a_prefix_is_brought_to_unit_length_again() -> None:
    prefix = influence_tiles(QUERIES[:, :16], CLIPS[:, :16])
    np.testing.assert_allclose(prefix, cosine_loop(QUERIES[:, :16], CLIPS[:, :16]), rtol=0, atol=1e-6)


def test_dot_multiplies_the_cosine_by_both_norms() -> None:
    query_norm, clip_norm = np.array([2.0, 3.0, 0.5]), np.linspace(0.1, 9, 40)
    expected = cosine_loop(QUERIES, CLIPS) * query_norm[:, None] * clip_norm[None, :]
    np.testing.assert_allclose(
        influence_tiles(QUERIES, CLIPS, query_norm_Q=query_norm, clip_norm_N=clip_norm), expected, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("norms", [{}, {"query_norm_Q": np.array([0.0, 1, 1]), "clip_norm_N": np.zeros(40)}])
def test_a_zero_gradient_has_influence_zero(norms: dict) -> None:
    queries, clips = QUERIES.copy(), CLIPS.copy()
    queries[0], clips[5] = 0, 0
    found = influence_tiles(queries, clips, **norms)
    assert np.isfinite(found).all()
    assert bits(found[0]) == bits(np.zeros(40, np.float32)), "a query without gradient scores +0 on every clip"
    assert bits(found[:, 5]) == bits(np.zeros(3, np.float32))


def test_no_score_is_minus_zero() -> None:
    """Equal scores have equal bits, which the ranking relies on."""
    tiny = influence_tiles(QUERIES, CLIPS, query_norm_Q=np.full(3, 1e-60), clip_norm_N=np.ones(40))
    assert bits(tiny) == bits(np.zeros((3, 40), np.float32))


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(40)), st.integers(1, 39), st.sampled_from([1, 2, 3]))
def test_no_bit_depends_on_the_company_a_clip_or_query_is_in(order: list[int], kept: int, num_queries: int) -> None:
    whole = influence_tiles(QUERIES, CLIPS)
    chosen = np.array(order[:kept])
    assert bits(influence_tiles(QUERIES[:num_queries], CLIPS[chosen])) == bits(whole[:num_queries, chosen])


def test_the_product_is_exact() -> None:
    """Float64 holds every sum of the integers, which is why no order of summation can matter."""
    queries, clips = on_grid(QUERIES), on_grid(CLIPS)
    product = queries.integers_RP @ clips.integers_RP.T
    exact = [[sum(int(a) * int(b) for a, b in zip(q, n, strict=True)) for n in clips.integers_RP] for q in queries.integers_RP]
    assert product.long().tolist() == exact
    assert product.abs().max() <= 2**52


def test_features_longer_than_one_or_not_finite_are_refused() -> None:
    for bad in (1.01, float("nan"), float("inf")):
        rows = CLIPS.copy()
        rows[3] *= bad
        with pytest.raises(ValueError, match="unit length"):
            influence_tiles(QUERIES, rows)


@pytest.mark.parametrize("clips_per_tile", [1, 7, 14, 40, 100])
@pytest.mark.parametrize(("threads", "ahead_entries"), [(1, 2**22), (3, 2**22), (2, 0), (2, 60)])
def test_streaming_gives_the_same_bits_for_any_tile_and_number_of_threads(
    tmp_path, monkeypatch, clips_per_tile: int, threads: int, ahead_entries: int
) -> None:
    monkeypatch.setattr(tiles_module, "AHEAD_ENTRIES", ahead_entries)
    stored = zarr.create_array(tmp_path / "a.zarr", data=CLIPS, chunks=(7, 32), compressors=None)
    tiles = list(stream_influence(QUERIES[:, :48], stored, slice(0, 48), clips_per_tile=clips_per_tile, threads=threads))
    assert [start for start, _ in tiles] == list(range(0, 40, clips_per_tile))
    assert bits(np.concatenate([tile for _, tile in tiles], axis=1)) == bits(influence_tiles(QUERIES[:, :48], CLIPS[:, :48]))


def test_after_an_error_no_further_tile_is_begun() -> None:
    begun = []

    def function(start: int) -> None:
        begun.append(start)
        if start == 0:
            raise OSError("no space left")
        time.sleep(0.01)

    with pytest.raises(OSError, match="no space"):
        list(in_order(function, range(1000), threads=2, ahead=300))
    assert len(begun) < 100, "303 were waiting"


def test_features_of_any_size_are_refused_without_a_warning() -> None:
    with pytest.raises(ValueError, match="longer than 1"):
        on_grid(np.full((1, 4), 3e38, np.float32))


def test_a_tile_is_a_chunk_but_no_larger_than_memory_allows(tmp_path) -> None:
    stored = zarr.create_array(tmp_path / "a.zarr", shape=(10_000, 2048), chunks=(4096, 512), dtype="float32", compressors=None)
    assert [tile_clips(stored, proj_dim) for proj_dim in (64, 512, 2048, 2**24)] == [4096, 4096, 1024, 1]


def test_rank_one_is_the_highest_and_ties_go_to_the_earlier_clip() -> None:
    scores = np.array([0.5, -1.0, 0.5, 2.0, 0.0, -1.0, 0.25], np.float32)
    assert ranks(scores).tolist() == [2, 6, 3, 1, 5, 7, 4]


@settings(deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40)
    | st.lists(st.sampled_from([-1.0, -0.0, 0.0, 1.0]), min_size=1, max_size=200)
)
def test_the_order_is_that_of_a_stable_sort(values: list[float]) -> None:
    scores = np.array(values, np.float32)
    assert descending_order(scores).tolist() == sorted(range(len(values)), key=lambda n: (-scores[n], n))


def publish_both(ws, *, queries=QUERIES, clips=CLIPS, **attributes) -> list[str]:
    names = clip_names(len(clips))
    publish_gradients(
        ws, "query_gradients/motive", clip_names(len(queries), 1000), queries, norms=np.arange(1, len(queries) + 1), **attributes
    )
    publish_gradients(ws, "projected_gradients/motive", names, clips, norms=np.linspace(1, 2, len(clips)))
    return names


def small(make_config, **influence):
    from motive_pipeline.storage.workspace import Workspace

    settings = ", ".join(f"{key}: {value}" for key, value in ({"proj_dim": 16} | influence).items())
    return Workspace(
        make_config(f"clips: {{source: demo}}\nqueries: {{source: demo}}\ngradient: {{store_dim: 64}}\ninfluence: {{{settings}}}\n")
    )


def test_publishes_matrix_and_table(make_config) -> None:
    ws = small(make_config)
    names = publish_both(ws)
    publication = publish_influence(ws, "motive")
    group = zarr.open_group(publication.path, mode="r")
    assert group["influence"].metadata.dimension_names == ("query", "clip")
    assert group["clip_id"].dtype == np.uint8
    assert [bytes(each).decode() for each in group["clip_id"][:]] == names
    assert np.isnan(group["influence"].fill_value)
    matrix = group["influence"][:]
    assert bits(matrix) == bits(influence_tiles(QUERIES[:, :16], CLIPS[:, :16]))
    table = ws.scores.query("SELECT * FROM influence ORDER BY query_id, clip_id").df()
    assert table.columns.tolist() == ["variant", "query_id", "clip_id", "influence", "rank"]
    assert set(table["variant"]) == {"motive"}
    assert table["influence"].to_numpy().reshape(3, 40).astype(np.float32).tobytes() == matrix.tobytes()
    expected = pd.Series(matrix[1]).rank(ascending=False, method="first").astype(int)
    assert table["rank"].to_numpy().reshape(3, 40)[1].tolist() == expected.tolist()
    assert publication.facts["clips"] == 40
    assert publication.facts["highest"] == pytest.approx(matrix.max())
    assert publication.facts["mean"] == pytest.approx(matrix.mean(dtype=np.float64))


def test_dot_uses_the_stored_norms(make_config) -> None:
    ws = small(make_config, similarity="dot")
    publish_both(ws)
    matrix = zarr.open_group(publish_influence(ws, "motive").path, mode="r")["influence"][:]
    expected = cosine_loop(QUERIES[:, :16], CLIPS[:, :16]) * np.arange(1, 4)[:, None] * np.linspace(1, 2, 40)[None, :]
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("chunk_clips", "buffer", "tile"), [(7, 2**25, 16), (16, 2**25, 1), (10, 60, 512), (64, 2**25, 2**21)])
def test_the_published_matrix_is_the_same_for_any_chunking(make_config, monkeypatch, chunk_clips: int, buffer: int, tile: int) -> None:
    monkeypatch.setattr(influence_module, "CHUNK_CLIPS", chunk_clips)
    monkeypatch.setattr(influence_module, "MAX_BUFFER_ENTRIES", buffer)
    monkeypatch.setattr("motive_pipeline.attribution.tiles.TILE_ENTRIES", tile)
    ws = small(make_config)
    publish_both(ws)
    publication = publish_influence(ws, "motive")
    matrix = zarr.open_group(publication.path, mode="r")["influence"][:]
    assert bits(matrix) == bits(influence_tiles(QUERIES[:, :16], CLIPS[:, :16]))
    assert publication.facts["lowest"] == pytest.approx(matrix.min())


def test_adding_clips_and_queries_changes_no_bit_of_the_others(make_config) -> None:
    ws = small(make_config)
    publish_both(ws, queries=QUERIES[1:], clips=CLIPS[3:33])
    before = zarr.open_group(publish_influence(ws, "motive").path, mode="r")["influence"][:]
    publish_both(ws)
    after = zarr.open_group(publish_influence(ws, "motive").path, mode="r")["influence"][:]
    assert bits(after[1:, 3:33]) == bits(before)


def test_equal_gradients_give_an_equal_data_version(make_config) -> None:
    ws = small(make_config)
    publish_both(ws)
    first = publish_influence(ws, "motive")
    assert publish_influence(ws, "motive").data_version == first.data_version
    publish_both(ws, clips=CLIPS[::-1].copy())
    assert publish_influence(ws, "motive").data_version != first.data_version, "the same clips with other gradients"
    publish_both(ws, clips=CLIPS[:39])
    assert publish_influence(ws, "motive").data_version != first.data_version


def test_unprojected_gradients_are_read_whole(make_config) -> None:
    ws = small(make_config)
    publish_gradients(ws, "query_gradients/motive", clip_names(3), QUERIES, projection="exact")
    publish_gradients(ws, "projected_gradients/motive", clip_names(40), CLIPS, projection="exact")
    matrix = zarr.open_group(publish_influence(ws, "motive").path, mode="r")["influence"][:]
    assert bits(matrix) == bits(influence_tiles(QUERIES, CLIPS))


def test_dot_of_unprojected_gradients_is_their_inner_product(make_config) -> None:
    ws = small(make_config, similarity="dot")
    query_norms, clip_norms = np.array([2.0, 3.0, 0.5]), np.linspace(1, 2, 40)
    publish_gradients(ws, "query_gradients/motive", clip_names(3), QUERIES, norms=query_norms, projection="exact")
    publish_gradients(ws, "projected_gradients/motive", clip_names(40), CLIPS, norms=clip_norms, projection="exact")
    matrix = zarr.open_group(publish_influence(ws, "motive").path, mode="r")["influence"][:]
    expected = (QUERIES * query_norms[:, None]).astype(np.float64) @ (CLIPS * clip_norms[:, None]).T
    np.testing.assert_allclose(matrix, expected, rtol=1e-5, atol=1e-6)


def test_gradients_with_fewer_entries_than_are_asked_for_are_made_again(make_config) -> None:
    """As they are after ``store_dim`` and ``proj_dim`` were raised and only the influence is materialized."""
    ws = small(make_config)
    publish_both(ws, queries=QUERIES[:, :8], clips=CLIPS[:, :8])
    with pytest.raises(GateFailed, match=r"influence.proj_dim = 16, .* have 8 entries. Materialize query_gradients/motive and projected_"):
        publish_influence(ws, "motive")
    assert not ws.has_published("influence_matrix/motive")


def test_gradients_made_in_different_ways_are_not_compared(make_config) -> None:
    ws = small(make_config)
    publish_both(ws, timestep=250, model_hash="x")
    with pytest.raises(GateFailed, match=r"model_hash: x for the queries.*timestep: 250 for the queries, None for the clips"):
        publish_influence(ws, "motive")
    assert not ws.has_published("influence_matrix/motive")


def test_where_the_model_lies_is_no_difference(make_config) -> None:
    ws = small(make_config)
    publish_both(ws, model_path="/moved/model")
    publish_influence(ws, "motive")
    assert ws.has_published("influence_matrix/motive")
