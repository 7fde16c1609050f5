"""Picks from several orders, turns by shares, and limits on what is alike: numbers only, against slow and obvious versions."""

from fractions import Fraction
from itertools import islice, repeat

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from motive_pipeline.attribution.gradient_set import open_gradients, write_unit_rows
from motive_pipeline.curation.category_votes import query_weights, weighted_vote
from motive_pipeline.curation.picking import fair_turns, pick
from motive_pipeline.curation.redundancy import GroupLimit, SimilarityLimit, groups_of_names, groups_of_pairs
from motive_pipeline.curation.vote import majority_vote
from motive_pipeline.storage.zarr_groups import new_array, new_group, write_column, write_ids
from tests.curation_fixtures import clip_names, unit_rows

parts = st.lists(st.integers(0, 12), min_size=1, max_size=6).filter(any)


@settings(max_examples=60, deadline=None)
@example([1, 1, 3, 1, 3, 50, 50, 50])  # without deadlines someone is more than a turn behind
@given(parts)
def test_after_any_number_of_turns_each_has_its_share_to_within_one(parts):
    shares = [Fraction(part, sum(parts)) for part in parts]
    had = [0] * len(shares)
    others = sum(map(bool, parts)) - 1
    bound = 1 - Fraction(1, 2 * others) if others else 0  # Tijdeman's, the best there is
    for number, turn in enumerate(islice(fair_turns(shares), 120), start=1):
        had[turn] += 1
        assert all(abs(count - number * share) <= bound for count, share in zip(had, shares, strict=True))
    assert all(count == 0 for count, share in zip(had, shares, strict=True) if not share)


def test_equal_shares_take_turns_in_the_order_of_their_names():
    assert list(islice(fair_turns([Fraction(1, 2)] * 2), 6)) == [0, 1, 0, 1, 0, 1]
    assert list(islice(fair_turns([Fraction(1, 4), Fraction(3, 4)]), 4)) in ([1, 0, 1, 1], [1, 1, 0, 1])


ones = np.ones(12, dtype=np.int64)


def positions(picked) -> list[int]:
    return list(picked.positions)


def test_one_order_gives_its_first_clips():
    order = np.array([5, 2, 9, 0, 1])
    picked = pick([order], repeat(0), [], length_N=ones, most=3)
    assert (positions(picked), picked.amount, list(picked.orders)) == ([5, 2, 9], 3, [0, 0, 0])
    assert positions(pick([order], repeat(0), [], length_N=ones, most=99)) == [5, 2, 9, 0, 1], "no more than there are"
    assert positions(pick([order[:0]], repeat(0), [], length_N=ones, most=3)) == []


def test_a_clip_counts_for_the_order_that_took_it_first():
    first, second = np.array([0, 1, 2, 3]), np.array([0, 3, 2, 1])
    picked = pick([first, second], iter([0, 1, 1, 0]), [], length_N=ones, most=4)
    assert positions(picked) == [0, 3, 2, 1]
    assert list(picked.orders) == [0, 1, 1, 0]


def test_lengths_fill_a_budget_until_the_first_clip_that_does_not_fit():
    length = np.array([5, 4, 3, 1])
    order = np.arange(4)
    found = {most: positions(pick([order], repeat(0), [], length_N=length, most=most)) for most in (1, 5, 8, 9, 12, 100)}
    assert found == {1: [0], 5: [0], 8: [0], 9: [0, 1], 12: [0, 1, 2], 100: [0, 1, 2, 3]}, "one clip at least, and no later, shorter one"
    assert pick([order], repeat(0), [], length_N=length, most=11).amount == 9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 60), st.integers(0, 30), st.integers(0, 10**6))
def test_a_larger_budget_drops_no_clip_and_none_is_exceeded(lengths, most, more, seed):
    rng = np.random.default_rng(seed)
    length = np.array(lengths)
    orders = [rng.permutation(len(lengths)) for _ in range(3)]
    shares = [Fraction(1, 3), Fraction(1, 6), Fraction(1, 2)]
    small, large = (pick(orders, fair_turns(shares), [], length_N=length, most=m) for m in (most, most + more))
    assert positions(large)[: len(small.positions)] == positions(small)
    assert small.amount == sum(length[small.positions]) <= max(most, length[small.positions[0]])
    assert len(set(small.positions)) == len(small.positions) >= 1


def greedy(order: np.ndarray, rows: np.ndarray, most: float, count: int) -> tuple[list[int], dict[int, int]]:
    """The slow version: each clip against all chosen ones, in float64."""
    chosen: list[int] = []
    gave_way = {}
    for clip in order.tolist():
        if len(chosen) == count:
            break
        cosine = [float(rows[clip].astype(np.float64) @ rows[other].astype(np.float64)) for other in chosen]
        if cosine and max(cosine) > most:
            gave_way[clip] = chosen[int(np.argmax(cosine))]
        else:
            chosen.append(clip)
    return chosen, gave_way


@pytest.mark.parametrize("most", [0.1, 0.4, 0.9])
def test_no_two_chosen_clips_are_too_similar_and_each_gives_way_to_the_nearest(most):
    rows, order = unit_rows(300, 6, seed=1), np.random.default_rng(2).permutation(300)
    picked = pick([order], repeat(0), [SimilarityLimit(rows, most)], length_N=np.ones(300, dtype=np.int64), most=150)
    chosen, gave_way = greedy(order, rows, most, 150)
    assert positions(picked) == chosen
    assert {clip: refusal.other for clip, refusal in picked.refused} == gave_way
    cosine = rows[chosen] @ rows[chosen].T
    assert (cosine - 2 * np.eye(len(chosen))).max() <= most
    assert all(refusal.reason == "similar_gradient" for _, refusal in picked.refused)


def test_a_clip_whose_gradient_is_zero_is_like_no_other():
    rows = np.zeros((3, 4), np.float32)
    assert positions(pick([np.arange(3)], repeat(0), [SimilarityLimit(rows, 0.01)], length_N=ones, most=3)) == [0, 1, 2]


def test_a_group_gives_at_most_so_many():
    group = np.array([0, 0, 1, 0, 1, 2])
    picked = pick([np.arange(6)], repeat(0), [GroupLimit(group, 2, reason="near_duplicate", what="alike")], length_N=ones, most=5)
    assert positions(picked) == [0, 1, 2, 4, 5]
    assert [(clip, refusal.other, refusal.reason, refusal.detail) for clip, refusal in picked.refused] == [
        (3, 0, "near_duplicate", "alike, of which 2 are chosen already")
    ]


def test_a_refused_clip_counts_against_no_other_limit():
    limits = [GroupLimit(np.array([0, 0, 1]), 1, reason="a", what=""), GroupLimit(np.array([0, 1, 1]), 1, reason="b", what="")]
    picked = pick([np.arange(3)], repeat(0), limits, length_N=ones, most=3)
    assert positions(picked) == [0, 2], "1 was refused by the first limit, so 2 does not give way to it"


def test_a_clip_that_a_limit_refuses_does_not_end_a_budget():
    limit = GroupLimit(np.array([0, 0, 1]), 1, reason="a", what="")
    picked = pick([np.arange(3)], repeat(0), [limit], length_N=np.array([5, 9, 5]), most=10)
    assert positions(picked) == [0, 2]


def test_nothing_is_refused_after_the_last_clip_is_chosen():
    picked = pick([np.arange(4)], repeat(0), [GroupLimit(np.zeros(4, dtype=np.int64), 1, reason="a", what="")], length_N=ones, most=1)
    assert (positions(picked), list(picked.refused)) == ([0], [])


def test_groups_are_what_chains_of_pairs_connect():
    group = groups_of_pairs(6, iter([(0, 3), (3, 5)]))
    assert group[0] == group[3] == group[5]
    assert len(set(group.tolist())) == 4
    assert len(set(groups_of_pairs(3, []).tolist())) == 3
    names = groups_of_names(["b", "a", "b"])
    assert names[0] == names[2] != names[1]


def test_weights_of_one_give_the_vote_itself_bit_for_bit():
    influence = np.random.default_rng(0).normal(size=(8, 50)).astype(np.float32)
    plain = majority_vote([influence[:4], influence[4:]], 80.0)
    weighted = weighted_vote([influence[:4], influence[4:]], 80.0, np.ones((1, 8)))
    assert np.array_equal(weighted.votes_GN[0], plain.votes_N)
    assert np.array_equal(weighted.mean_influence_GN[0], plain.mean_influence_N)


def test_weights_are_those_of_the_queries_categories():
    categories = ["a", "b", "a", "c"]
    weight = query_weights(categories, {"a": 2.0, "c": 0.0}, ["b", "a"])
    assert weight.tolist() == [[2, 1, 2, 0], [0, 1, 0, 0], [1, 0, 1, 0]]
    influence = np.random.default_rng(1).normal(size=(4, 30)).astype(np.float32)
    found = weighted_vote([influence], 50.0, weight)
    votes = np.array([row > np.sort(row)[14] for row in influence])
    for way, weights in enumerate(weight):
        assert np.allclose(found.votes_GN[way], weights @ votes)
        assert np.allclose(found.mean_influence_GN[way], weights @ influence / weights.sum(), atol=1e-7)


def gradient_folder(folder, gradient, **attributes):
    group = new_group(folder, {"projection": "fastfood"} | attributes)
    write_ids(group, "clip_id", np.array(clip_names(len(gradient))), "clip")
    write_column(group, "grad_norm", np.ones(len(gradient)), "clip")
    write_column(group, "num_frames", np.full(len(gradient), 17), "clip")
    new_array(group, "gradient", shape=gradient.shape, dtype="float32", chunks=(7, 512), dims=("clip", "proj"))[:] = gradient
    return folder


def test_gradients_are_those_that_influence_compares(tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.attribution.gradient_set.TILE_ROWS", 4)
    gradient = unit_rows(10, 12)
    places = np.array([9, 0, 5, 3])
    prefix = gradient[places, :5] / np.linalg.norm(gradient[places, :5], axis=1, keepdims=True)
    gradients = open_gradients(gradient_folder(tmp_path / "g", gradient), 5)
    assert np.allclose(write_unit_rows(gradients, places, tmp_path / "a.npy"), prefix, atol=1e-6)
    whole = open_gradients(gradient_folder(tmp_path / "e", gradient, projection="exact"), 5)
    assert np.allclose(write_unit_rows(whole, places, tmp_path / "b.npy"), gradient[places], atol=1e-6)


def test_of_several_draws_the_cosine_is_the_mean_of_the_draws_cosines(tmp_path):
    draws = unit_rows(30, 8).reshape(10, 3, 8)
    gradients = open_gradients(gradient_folder(tmp_path / "g", draws.reshape(10, 24), features_in_a_row=3), 4)
    rows = write_unit_rows(gradients, np.arange(10), tmp_path / "a.npy")
    prefix = draws[:, :, :4] / np.linalg.norm(draws[:, :, :4], axis=2, keepdims=True)
    assert np.allclose(rows @ rows.T, np.einsum("ndp,mdp->nm", prefix, prefix) / 3, atol=1e-6)
