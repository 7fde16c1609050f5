"""The linear datamodeling score against its definition, against dattri's formula, and on a model whose influence is exact."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from motive_pipeline.evaluation.audit.lds import (
    ceiling,
    holm,
    lds,
    predicted_effects,
    reliability,
    resampled_scores,
    spearman_brown,
)


def subsets(num_subsets: int, size: int, num_clips: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    member = np.zeros((num_subsets, num_clips), bool)
    for row in member:
        row[rng.permutation(num_clips)[:size]] = True
    return member


def test_it_is_the_rank_correlation_of_summed_influence_and_effect():
    """dattri 0.3.0's metric, `dattri.metric.lds`, by its formula: spearmanr over subsets of the summed scores, query by query."""
    rng = np.random.default_rng(0)
    influence, member = rng.normal(size=(3, 20)), subsets(15, 5, 20)
    effect = predicted_effects(influence, member) + rng.normal(size=(3, 15))
    expected = []
    for query in range(3):
        sums = [sum(influence[query, clip] for clip in range(20) if member[subset, clip]) for subset in range(15)]
        expected.append(stats.spearmanr(sums, effect[query]).statistic)
    np.testing.assert_allclose(lds(predicted_effects(influence, member), effect), expected, atol=1e-12)


def test_exact_influence_predicts_a_retrained_linear_model_perfectly():
    """One step of gradient descent on the summed loss of a subset, retrained for each subset; the query's loss is linear in the weights."""
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.randn(30, 4, generator=generator).double(), torch.randn(30, generator=generator).double()
    questions = torch.randn(2, 4, generator=generator).double()
    start = torch.zeros(4, dtype=torch.float64)
    member = subsets(25, 8, 30)
    drops = np.empty((2, 25))
    for subset, chosen in enumerate(member):
        weights = start.clone().requires_grad_(True)
        ((inputs[chosen] @ weights - labels[chosen]) ** 2).sum().backward()
        trained = start - 0.01 * weights.grad
        drops[:, subset] = (questions @ start - questions @ trained).numpy()
    gradients = -2 * labels[:, None] * inputs  # of each clip's loss at the start
    influence = (questions @ gradients.T).numpy()
    np.testing.assert_allclose(lds(predicted_effects(influence, member), drops), 1.0, atol=1e-12)
    np.testing.assert_allclose(lds(predicted_effects(-influence, member), drops), -1.0, atol=1e-12)


def test_equal_influences_predict_nothing_and_a_missing_one_counts_as_zero():
    member = subsets(15, 5, 20)
    effect = np.random.default_rng(1).normal(size=(1, 15))
    assert lds(predicted_effects(np.zeros((1, 20)), member), effect).tolist() == [0.0]
    influence = np.random.default_rng(2).normal(size=(1, 20))
    zero, missing = influence.copy(), influence.copy()
    zero[0, 3], missing[0, 3] = 0.0, np.nan
    assert predicted_effects(missing, member).tolist() == predicted_effects(zero, member).tolist()


def test_reliability_is_the_mean_rank_correlation_between_trainings():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(2, 40))
    trainings = truth + 0.8 * rng.normal(size=(3, 2, 40))
    for query in range(2):
        pairs = [stats.spearmanr(trainings[a, query], trainings[b, query]).statistic for a, b in ((0, 1), (0, 2), (1, 2))]
        assert reliability(trainings)[query] == pytest.approx(np.mean(pairs))
    with pytest.raises(ValueError, match="two trainings"):
        reliability(trainings[:1])


def test_the_mean_of_trainings_is_as_reliable_as_spearman_and_brown_say():
    """200,000 subsets stand for all: two means of k trainings correlate as predicted, and a perfect prediction correlates by the ceiling."""
    rng = np.random.default_rng(4)
    truth = rng.normal(size=200_000)
    noisy = truth + rng.normal(size=(6, 200_000))
    single = np.corrcoef(noisy[0], noisy[1])[0, 1]
    assert np.corrcoef(noisy[:3].mean(0), noisy[3:].mean(0))[0, 1] == pytest.approx(spearman_brown(single, 3), abs=0.01)
    assert np.corrcoef(truth, noisy[:3].mean(0))[0, 1] == pytest.approx(ceiling(single, 3), abs=0.01)
    assert spearman_brown(0.58, 1) == pytest.approx(0.58)
    assert spearman_brown(-0.2, 2) == 0.0
    assert math.isnan(ceiling(-0.2, 2))


def test_the_standard_error_is_what_scores_vary_by_when_subsets_and_queries_are_drawn_anew():
    """Queries differ in how well they are predicted, and subsets are few: both must be in the error, and in that of a difference."""
    rng = np.random.default_rng(5)
    scores, differences, errors, difference_errors, covered = [], [], [], [], 0
    for _ in range(120):
        effect = rng.normal(size=(8, 40))
        strength = rng.uniform(0, 1.6, size=(8, 1))
        shared = rng.normal(size=40)
        effect = effect + shared  # a subset is good or bad for all queries
        good = strength * effect + rng.normal(size=(8, 40))
        poor = 0.3 * effect + rng.normal(size=(8, 40))
        found = resampled_scores(np.stack([good, poor]), effect, num_samples=100)
        score, difference = found.score(0), found.difference(0, 1)
        scores.append(score.value)
        differences.append(difference.value)
        errors.append(score.std_error)
        difference_errors.append(difference.std_error)
    assert np.mean(errors) == pytest.approx(np.std(scores), rel=0.25)
    assert np.mean(difference_errors) == pytest.approx(np.std(differences), rel=0.25)
    expected = np.mean(differences)
    covered = np.mean([abs(value - expected) < 2.365 * error for value, error in zip(differences, difference_errors, strict=True)])
    assert covered > 0.9
    assert score.value - score.low == pytest.approx(2.3646 * score.std_error, rel=1e-3), "Student's t of eight queries"
    assert score.high == pytest.approx(min(1.0, 2 * score.value - score.low))
    assert score.p_value == pytest.approx(2 * stats.t(7).sf(abs(score.value) / score.std_error))


def test_a_difference_is_paired():
    """Two estimators that are one and the same differ by exactly nothing, however noisy each is."""
    rng = np.random.default_rng(6)
    effect, predicted = rng.normal(size=(4, 20)), rng.normal(size=(4, 20))
    found = resampled_scores(np.stack([predicted, predicted]), effect, num_samples=50)
    assert found.score(0).std_error > 0
    assert (found.difference(0, 1).value, found.difference(0, 1).std_error, found.difference(0, 1).p_value) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("num_queries", [1, 2])
def test_one_or_two_queries_give_a_value_and_no_interval(num_queries):
    rng = np.random.default_rng(7)
    effect = rng.normal(size=(num_queries, 20))
    score = resampled_scores((effect + rng.normal(size=effect.shape))[None], effect, num_samples=20).score(0)
    assert score.value > 0.3
    assert all(math.isnan(each) for each in (score.std_error, score.low, score.high, score.p_value))


def test_holm_steps_down_and_never_back():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.6, 0.9, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([math.nan, 0.02])
    assert math.isnan(adjusted[0])
    assert adjusted[1] == 0.02


def test_holm_keeps_false_rejections_of_a_family_at_the_level():
    rng = np.random.default_rng(8)
    families = rng.uniform(size=(2000, 5))
    plain = np.mean(families.min(axis=1) <= 0.05)
    controlled = np.mean([min(holm(family.tolist())) <= 0.05 for family in families])
    assert plain > 0.2
    assert controlled == pytest.approx(0.05, abs=0.02)


def test_a_resample_draws_subsets_and_queries_and_ranks_anew():
    """The slow way: with the same draws, every drawn query on every drawn subset, one by one."""
    rng = np.random.default_rng(9)
    effect = rng.normal(size=(5, 14))
    predicted = np.stack([effect + rng.normal(size=effect.shape), rng.normal(size=effect.shape)])
    found = resampled_scores(predicted, effect, num_samples=6, seed=3)
    draws = np.random.default_rng(3)
    for sample in range(6):
        queries, chosen = draws.integers(5, size=5), draws.integers(14, size=14)
        for estimator in range(2):
            slow = [stats.spearmanr(predicted[estimator, query, chosen], effect[query, chosen]).statistic for query in queries]
            assert found.mean_BV[sample, estimator] == pytest.approx(np.mean(slow), abs=1e-12)


def test_no_interval_leaves_what_a_score_can_be():
    rng = np.random.default_rng(10)
    effect = rng.normal(size=(3, 12))
    wild = effect * rng.choice([-1.0, 1.0], size=(3, 1))
    found = resampled_scores(np.stack([wild, -wild]), effect, num_samples=100)
    assert (found.score(0).low, found.score(0).high) == (-1.0, 1.0)
    assert max(abs(found.difference(0, 1).low), abs(found.difference(0, 1).high)) == 2.0
