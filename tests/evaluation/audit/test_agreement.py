"""Rank agreement against scipy and against counting by hand; what a projection costs against a simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from motive_pipeline.evaluation.audit.agreement import (
    correlation,
    cosines,
    hashed_sample,
    left_out_error,
    pairs_of,
    predicted_cosine_error,
    prefix_widths,
    set_overlap,
    spearman,
    top_overlap,
)


def test_spearman_equals_scipys_also_with_ties():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (3, 4, 12)).astype(float), rng.normal(size=(3, 4, 12))
    found = spearman(first, second)
    expected = [[stats.spearmanr(first[row, column], second[row, column]).statistic for column in range(4)] for row in range(3)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_constant_side_has_no_rank_correlation():
    assert np.isnan(spearman(np.ones((1, 5)), np.arange(5.0)[None])).all()
    assert np.isnan(spearman(np.zeros((1, 1)), np.zeros((1, 1)))).all()


def test_the_standard_error_of_a_correlation_is_what_samples_vary_by():
    rng = np.random.default_rng(1)
    samples = []
    for _ in range(400):
        first = rng.normal(size=60)
        samples.append(correlation(first, 0.5 * first + rng.normal(size=60)))
    values, errors = np.array(samples).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert correlation(np.arange(3), np.arange(3))[0] != correlation(np.arange(3), np.arange(3))[0], "NaN below four clips"


def test_the_overlap_of_the_best_is_a_share_of_them():
    first, second = np.array([5.0, 4, 3, 2, 1]), np.array([1.0, 5, 4, 0, 0])
    assert top_overlap(first, second, 2) == 0.5
    assert top_overlap(first, first[::-1].copy(), 2) == 0.0
    assert top_overlap(np.ones(5), first, 2) == 1.0, "of equal scores the earlier clip is the better one"
    assert set_overlap(np.array([1, 2, 3, 4]), np.array([2, 4, 9])) == 0.5


def test_cosines_of_a_prefix_are_renormalised_and_zero_rows_stay_zero():
    rows = np.array([[3.0, 4.0, 12.0], [0.0, 0.0, 5.0]])
    assert cosines(rows, rows, 2)[0, 0] == pytest.approx(1.0)
    assert cosines(rows, rows, 2)[1].tolist() == [0.0, 0.0]
    assert cosines(rows, rows, 3)[0, 1] == pytest.approx(12 / 13)


def test_pairs_come_once_each_in_order():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(pairs_of(rows), [0.0, math.sqrt(0.5), math.sqrt(0.5)], atol=1e-12)


def test_the_jackknife_leaves_out_items_with_all_their_pairs():
    rng = np.random.default_rng(2)
    first = rng.normal(size=(6, 8))
    second = first + 0.7 * rng.normal(size=(6, 8))
    found = []
    for item in range(6):
        kept = [n for n in range(6) if n != item]
        pairs = [(a, b) for a in kept for b in kept if a < b]

        def cosine(rows, a, b):
            return rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b])

        found.append(stats.spearmanr([cosine(first, *pair) for pair in pairs], [cosine(second, *pair) for pair in pairs]).statistic)
    assert left_out_error([first, second]) == pytest.approx(math.sqrt(5 / 6 * sum((each - np.mean(found)) ** 2 for each in found)))
    assert math.isnan(left_out_error([first[:4], second[:4]]))


@pytest.mark.parametrize("cosine", [0.0, 0.4, 0.8])
def test_theory_predicts_the_error_of_projected_cosines(cosine):
    """3,000 Gaussian projections of one pair of vectors; the narrow one is a prefix of the wide one."""
    rng = np.random.default_rng(3)
    narrow, wide = [], []
    for _ in range(3000):
        noise = rng.normal(size=(2, 256))
        projected = np.stack([noise[0], cosine * noise[0] + math.sqrt(1 - cosine**2) * noise[1]])
        narrow.append(cosines(projected, projected, 64)[0, 1])
        wide.append(cosines(projected, projected, 256)[0, 1])
    narrow, wide = np.array(narrow), np.array(wide)
    assert np.sqrt(((narrow - cosine) ** 2).mean()) == pytest.approx(predicted_cosine_error(np.array([cosine]), 64), rel=0.06)
    assert np.sqrt(((narrow - wide) ** 2).mean()) == pytest.approx(predicted_cosine_error(np.array([cosine]), 64, of=256), rel=0.06)


def test_the_prediction_averages_squares_and_is_zero_against_itself():
    both = predicted_cosine_error(np.array([0.0, 1.0]), 100)
    assert both == pytest.approx(math.sqrt(0.5) / 10)
    assert predicted_cosine_error(np.array([0.3]), 64, of=64) == 0


def test_prefixes_are_powers_of_two_below_the_width():
    assert prefix_widths(512) == [64, 128, 256]
    assert prefix_widths(64) == []


def test_a_sample_by_hash_changes_by_at_most_one_when_an_id_joins():
    ids = np.array([f"{number:016x}" for number in range(60)], "S16")
    before = set(ids[hashed_sample(ids[:-1], 10, "x")].tolist())
    assert len(before) == 10
    assert len(before - set(ids[hashed_sample(ids, 10, "x")].tolist())) <= 1
    assert before != set(ids[hashed_sample(ids[:-1], 10, "y")].tolist())
    assert sorted(hashed_sample(ids[:3], 10, "x").tolist()) == [0, 1, 2]
