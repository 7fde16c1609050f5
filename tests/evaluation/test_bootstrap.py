"""The interval covers what it promises, and widens for the right reasons."""

import numpy as np
import pytest
from scipy import stats

from benchmarks.interval_coverage import coverage, scores, shares
from motive_pipeline.evaluation.bootstrap import Estimate, mean_interval

MANY = 200_000


def drawn(rng, trainings, prompts, *, training=0.0, prompt=0.0, rest=0.0):
    """Values whose true mean is 0, with luck of three kinds."""
    return (
        training * rng.normal(size=(trainings, 1)) + prompt * rng.normal(size=(1, prompts)) + rest * rng.normal(size=(trainings, prompts))
    )


@pytest.mark.parametrize(
    ("trainings", "prompts", "luck"),
    [
        (1, 3, {"prompt": 1.0}),
        (1, 8, {"prompt": 1.0}),
        (1, 24, {"prompt": 1.0}),
        (3, 8, {"training": 1.0, "prompt": 1.0, "rest": 1.0}),
        (3, 16, {"training": 1.0}),
        (3, 16, {"prompt": 1.0, "rest": 1.0}),
        (5, 16, {"training": 0.3, "prompt": 1.0, "rest": 0.5}),
    ],
)
def test_a_95_percent_interval_covers_the_truth_in_93_to_97_percent(trainings, prompts, luck):
    rng = np.random.default_rng(7)
    estimates = [mean_interval(drawn(rng, trainings, prompts, **luck), num_samples=400, seed=run) for run in range(1500)]
    coverage = np.mean([estimate.low <= 0.0 <= estimate.high for estimate in estimates])
    assert 0.93 <= coverage <= 0.97


def test_shares_of_a_few_prompts_are_covered_too():
    rng = np.random.default_rng(3)
    shares = [(rng.random((1, 40)) < 0.4) * 1.0 for _ in range(1500)]
    estimates = [mean_interval(share, num_samples=400, bounds=(0.0, 1.0), seed=run) for run, share in enumerate(shares)]
    assert 0.93 <= np.mean([estimate.low <= 0.4 <= estimate.high for estimate in estimates]) <= 0.97


@pytest.mark.parametrize("prompts", [8, 12, 40])
def test_over_prompts_alone_it_is_as_wide_as_students_interval(prompts):
    value = np.random.default_rng(1).normal(size=prompts)
    estimate = mean_interval(value[None], num_samples=MANY)
    half_width = stats.t.ppf(0.975, prompts - 1) * value.std(ddof=1) / np.sqrt(prompts)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(half_width, rel=0.05)
    assert estimate.value == pytest.approx(value.mean())


def test_over_trainings_alone_it_is_students_interval():
    training = np.array([1.0, 2.0, 4.0])
    estimate = mean_interval(np.repeat(training[:, None], 6, 1), num_samples=MANY)
    half_width = stats.t.ppf(0.975, 2) * training.std(ddof=1) / np.sqrt(3)
    assert estimate.high - estimate.value == pytest.approx(half_width, rel=0.03)
    assert estimate.value - estimate.low == pytest.approx(half_width, rel=0.03)


def test_repeating_the_same_training_adds_no_evidence():
    """Prompts are shared: three equal rows are as uncertain as one."""
    value = np.random.default_rng(2).normal(size=(1, 9))
    once, thrice = mean_interval(value, num_samples=MANY), mean_interval(np.repeat(value, 3, 0), num_samples=MANY)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), rel=0.02)


def test_noise_of_single_cells_is_not_counted_twice():
    """With cell noise alone the trainings' own share is 0 on average: about as wide as if all cells were independent."""
    rng = np.random.default_rng(5)
    widths = [(e := mean_interval(drawn(rng, 10, 40, rest=1.0), num_samples=400, seed=run)).high - e.low for run in range(200)]
    assert np.mean(widths) == pytest.approx(2 * 1.96 / np.sqrt(400), rel=0.2)


def test_the_interval_keeps_the_skew_of_the_data():
    estimate = mean_interval(np.r_[np.zeros(18), 10.0, 10.0][None], num_samples=MANY)
    assert estimate.high - estimate.value > 1.3 * (estimate.value - estimate.low)


def test_same_values_same_interval_and_the_seed_counts():
    value = np.random.default_rng(4).normal(size=(3, 8))
    assert mean_interval(value) == mean_interval(value.copy())
    assert mean_interval(value, seed=1).low != mean_interval(value, seed=2).low


def test_a_lower_level_is_narrower_and_bounds_are_kept():
    value = np.array([[0.0, 1, 1, 1, 1, 1, 1, 1]])
    wide, narrow = mean_interval(value, level=0.95), mean_interval(value, level=0.5)
    assert wide.low < narrow.low < 0.875 < narrow.high < wide.high
    assert mean_interval(value, bounds=(0.0, 1.0)).high == 1.0
    assert mean_interval(-value, bounds=(-1.0, 0.0)).low == -1.0


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 2), (3, 2)])
def test_fewer_than_three_prompts_have_a_value_and_no_interval(shape):
    estimate = mean_interval(np.arange(np.prod(shape), dtype=float).reshape(shape))
    assert estimate.value == (np.prod(shape) - 1) / 2
    assert np.isnan([estimate.low, estimate.high]).all()
    assert not estimate.excludes_zero


@pytest.mark.parametrize("num_trainings", [1, 3])
@pytest.mark.parametrize("num_prompts", [3, 14])
def test_shares_that_all_agree_have_clopper_and_pearsons_interval_over_prompts(num_trainings, num_prompts):
    for share in (0.0, 1.0):
        found = mean_interval(np.full((num_trainings, num_prompts), share), bounds=(0.0, 1.0))
        exact = stats.binomtest(int(share * num_prompts), num_prompts).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_differences_that_all_agree_leave_open_what_so_many_prompts_leave_open():
    found = mean_interval(np.zeros((3, 8)), bounds=(-1.0, 1.0))
    assert (found.low, found.high) == pytest.approx((-(1 - 0.025 ** (1 / 8)), 1 - 0.025 ** (1 / 8)))
    assert not found.excludes_zero
    for bounds in (None, (0.0, np.inf)):
        assert np.isnan(mean_interval(np.ones((3, 8)), bounds=bounds).low)


@pytest.mark.parametrize("num_prompts", [3, 5, 8, 14])
def test_the_figures_in_the_docs_are_near_what_is_promised(num_prompts):
    rng = np.random.default_rng(num_prompts)
    assert 0.935 <= coverage([scores(rng, num_prompts) for _ in range(800)], 0.0) <= 0.99
    for share in (0.05, 0.5):
        assert coverage([shares(rng, num_prompts, share) for _ in range(800)], share) >= 0.91


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.array([[1.0, np.nan]]), np.array([[np.inf]])])
def test_nothing_to_average_is_an_error(bad):
    with pytest.raises(ValueError, match="finite values"):
        mean_interval(bad)


@pytest.mark.parametrize(("low", "high", "excludes"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)])
def test_zero_is_excluded_only_from_outside(low, high, excludes):
    assert Estimate(value=0.0, low=low, high=high, num_trainings=3, num_prompts=3).excludes_zero is excludes
