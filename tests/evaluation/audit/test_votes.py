"""Stability of the vote and overlap of categories, against doing each by hand."""

import numpy as np
import pytest

from motive_pipeline.evaluation.audit.votes import between_halves, category_overlaps, chosen, without_each_query

INFLUENCE = np.random.default_rng(0).normal(size=(5, 30)).astype(np.float32)


def test_leaving_a_query_out_is_voting_without_it():
    for influence in (INFLUENCE, np.round(INFLUENCE), np.round(INFLUENCE + 0.5)):  # rounded: many clips lie on the threshold
        whole = set(chosen(influence, 80.0, 6).tolist())
        expected = [len(whole & set(chosen(np.delete(influence, query, axis=0), 80.0, 6).tolist())) / 6 for query in range(5)]
        assert without_each_query(influence, 80.0, 6) == pytest.approx(np.array(expected))


def test_queries_that_agree_choose_the_same_clips_without_any_one_of_them():
    alike = np.tile(INFLUENCE[:1], (4, 1))
    assert without_each_query(alike, 80.0, 6).tolist() == [1.0] * 4
    assert between_halves(alike, 80.0, 6).tolist() == [1.0] * 20


def test_halves_of_queries_that_know_nothing_of_each_other_agree_by_chance():
    noise = np.random.default_rng(1).normal(size=(8, 400)).astype(np.float32)
    assert between_halves(noise, 90.0, 40, num_splits=40).mean() == pytest.approx(0.1, abs=0.05)
    assert len(set(between_halves(noise, 90.0, 40).tolist())) > 3, "each split is another one"
    assert between_halves(noise, 90.0, 40, seed=1).tolist() == between_halves(noise, 90.0, 40, seed=1).tolist()


def test_an_odd_query_stays_out_of_both_halves(monkeypatch):
    seen = []
    from motive_pipeline.evaluation.audit import votes

    monkeypatch.setattr(votes, "chosen", lambda part, *_: seen.append(len(part)) or np.arange(2))
    between_halves(INFLUENCE, 80.0, 6, num_splits=1)
    assert seen == [2, 2]


def test_categories_overlap_by_their_mean_influence():
    influence = np.array([[9.0, 8, 1, 0], [8.0, 9, 0, 1], [0.0, 9, 8, 1]])
    assert category_overlaps(influence, ["grow", "grow", "sway"], 2) == {("grow", "sway"): 0.5}
    opposed = np.array([[9.0, 0, 0, 0], [-9.0, 0, 8, 0], [9.0, 0, 8, 0]])
    assert category_overlaps(opposed, ["grow", "grow", "sway"], 1) == {("grow", "sway"): 0.0}, (
        "the mean over the queries, not the best query"
    )
    assert category_overlaps(influence, ["grow"] * 3, 2) == {}


def test_equal_influences_are_chosen_by_id():
    assert chosen(np.zeros((2, 10)), 90.0, 3).tolist() == [0, 1, 2]
    assert without_each_query(np.zeros((2, 10)), 90.0, 3).tolist() == [1.0, 1.0]
