"""The figures of the preference study against slow, obvious versions, published examples and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import special, stats

from motive_pipeline.evaluation.preference.statistics import bradley_terry, krippendorff_alpha, sign_test, strengths, win_rate


def crossed(score_RP: np.ndarray) -> pd.DataFrame:
    """Votes of R raters on P prompts; NaN is a vote not given."""
    rater, prompt = np.nonzero(~np.isnan(score_RP))
    return pd.DataFrame({"rater": rater, "prompt": prompt, "pair": prompt, "score": score_RP[rater, prompt]})


def simulated(
    rng: np.random.Generator, raters: int, prompts: int, *, mean: float, rater_sd: float, prompt_sd: float, ties: float
) -> np.ndarray:
    """Votes of people who differ, on prompts that differ."""
    odds_RP = mean + rng.normal(0, rater_sd, (raters, 1)) + rng.normal(0, prompt_sd, (1, prompts))
    score_RP = (rng.random((raters, prompts)) < special.expit(odds_RP)).astype(float)
    score_RP[rng.random((raters, prompts)) < ties] = 0.5
    return score_RP


def true_rate(*, mean: float, rater_sd: float, prompt_sd: float, ties: float) -> float:
    """The rate over all people and all prompts, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    average = float((weights * special.expit(mean + math.hypot(rater_sd, prompt_sd) * nodes)).sum() / weights.sum())
    return ties * 0.5 + (1 - ties) * average


@pytest.mark.parametrize(
    ("raters", "prompts", "given", "people"),
    [
        (17, 50, 1.0, {"mean": 1.0, "rater_sd": 0.5, "prompt_sd": 0.8, "ties": 0.1}),
        (8, 24, 0.5, {"mean": 0.7, "rater_sd": 0.5, "prompt_sd": 0.8, "ties": 0.15}),
        (5, 16, 1.0, {"mean": 0.0, "rater_sd": 0.0, "prompt_sd": 0.0, "ties": 0.2}),
        (6, 16, 1.0, {"mean": 0.5, "rater_sd": 0.7, "prompt_sd": 0.7, "ties": 0.1}),
    ],
)
def test_a_95_percent_interval_covers_the_truth_93_to_97_times_in_a_hundred(raters, prompts, given, people):
    rng = np.random.default_rng(0)
    truth, repeats, covered = true_rate(**people), 1000, 0
    for repeat in range(repeats):
        score_RP = simulated(rng, raters, prompts, **people)
        score_RP[rng.random(score_RP.shape) > given] = np.nan
        found = win_rate(crossed(score_RP), num_samples=500, seed=repeat)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / repeats <= 0.97


def test_votes_of_one_mind_are_no_more_certain_than_one_vote():
    """Raters who all say the same of a prompt add nothing: the interval must not shrink as if their votes were independent."""
    rng = np.random.default_rng(1)
    one = (rng.random((1, 24)) < 0.6).astype(float)
    many = win_rate(crossed(np.repeat(one, 20, axis=0)), num_samples=4000)
    alone = win_rate(crossed(one), num_samples=4000)
    assert many.high - many.low == pytest.approx(alone.high - alone.low, rel=0.03)
    naive = stats.binomtest(int(one.sum()) * 20, 480).proportion_ci(method="wilson")
    assert many.high - many.low > 3 * (naive.high - naive.low)


def test_raters_who_differ_widen_the_interval_beyond_that_of_prompts():
    split = np.tile(np.array([[1.0], [1.0], [0.0], [1.0]]), (1, 20))
    split[:, ::5] = 0.5
    found = win_rate(crossed(split), num_samples=2000)
    assert found.high - found.low > 0.5


def test_a_tie_counts_half_and_an_unfinished_rater_counts_with_what_was_given():
    votes = crossed(np.array([[1.0, 0.5, 0.0, 1.0], [1.0, np.nan, np.nan, np.nan]]))
    assert win_rate(votes, num_samples=100).value == pytest.approx((1 + 0.5 + 0 + 1 + 1) / 5)


@pytest.mark.parametrize("score", [1.0, 0.5, 0.0])
def test_where_all_agree_the_interval_is_the_exact_one_of_a_vote_for_each_prompt(score):
    expected = stats.binomtest(int(score * 10), 10).proportion_ci(method="exact")
    for shape in ((1, 10), (7, 10)):
        found = win_rate(crossed(np.full(shape, score)), num_samples=100)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high)), "more raters of one mind are no more prompts"


@pytest.mark.parametrize(("prompts", "is_clear"), [(5, False), (6, True)])
def test_votes_of_one_mind_are_clear_where_the_sign_test_says_so(prompts, is_clear):
    votes = crossed(np.ones((3, prompts)))
    assert (win_rate(votes, num_samples=100).low > 0.5) == is_clear == (sign_test(votes).p_value < 0.05)


def test_one_rater_on_one_prompt_has_no_interval_and_the_same_votes_the_same_one():
    alone = pd.DataFrame({"rater": ["a", "a"], "prompt": ["p", "p"], "score": [1.0, 0.0]})
    found = win_rate(alone, num_samples=100)
    assert found.value == 0.5
    assert math.isnan(found.low)
    votes = crossed(np.random.default_rng(0).integers(0, 2, (3, 8)).astype(float))
    assert win_rate(votes, num_samples=200) == win_rate(votes, num_samples=200)
    with pytest.raises(ValueError, match="at least one vote"):
        win_rate(votes.iloc[:0], num_samples=100)


def test_one_rater_leaves_the_prompts_to_vary_and_fewer_than_three_prompts_leave_nothing():
    score_P = np.random.default_rng(0).integers(0, 2, 12).astype(float)
    of_prompts = win_rate(crossed(score_P[None, :]), num_samples=4000)
    assert of_prompts.low < of_prompts.value < of_prompts.high
    for score_RP in (score_P[:, None], score_P.reshape(6, 2), np.ones((6, 2))):
        found = win_rate(crossed(score_RP), num_samples=100)
        assert found.value == pytest.approx(score_RP.mean())
        assert math.isnan(found.low)
        assert math.isnan(found.high)


def test_where_each_prompt_and_each_rater_has_the_same_share_the_interval_is_exact_too():
    found = win_rate(crossed(np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])), num_samples=100)
    expected = stats.binomtest(2, 4).proportion_ci(method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_sign_test_counts_each_prompt_once_and_is_scipys():
    score_RP = np.array([[1, 1, 0, 0.5, 1, 1, 1], [1, 0.5, 0, 0.5, 0, 1, 1], [0, 1, 1, 0.5, 0.5, 1, 1]], float)
    found = sign_test(crossed(score_RP))
    assert (found.num_for, found.num_against, found.num_even) == (4, 1, 2)
    assert found.p_value == pytest.approx(stats.binomtest(4, 5, 0.5).pvalue)
    assert found.p_value == pytest.approx(2 * (5 + 1) / 2**5)
    assert sign_test(crossed(np.full((2, 3), 0.5))).p_value == 1.0


def likelihood(win_KK: np.ndarray, strength_K: np.ndarray) -> float:
    """The probability of the wins, term by term, with half a win added each way between arms that met."""
    total = 0.0
    for first in range(len(win_KK)):
        for second in range(len(win_KK)):
            if win_KK[first, second] + win_KK[second, first]:
                chance = np.exp(strength_K[first]) / (np.exp(strength_K[first]) + np.exp(strength_K[second]))
                total += (win_KK[first, second] + 0.5) * np.log(chance)
    return total


def test_bradley_terry_is_the_maximum_of_the_likelihood_found_by_trying_everything():
    win_KK = np.array([[0, 7.5, 9], [2.5, 0, 6], [1, 4, 0]])
    grid = np.arange(-2.0, 2.0001, 0.02)
    best = max(((likelihood(win_KK, np.array([a, b, -a - b])), a, b) for a in grid for b in grid), key=lambda each: each[0])
    found = bradley_terry(win_KK)
    assert found == pytest.approx([best[1], best[2], -best[1] - best[2]], abs=0.011)
    assert found.sum() == pytest.approx(0, abs=1e-9)
    for nudge in np.eye(3) * 0.05:
        assert likelihood(win_KK, found) >= max(likelihood(win_KK, found + nudge), likelihood(win_KK, found - nudge))


def test_two_arms_that_met_through_a_third_are_placed_by_their_odds():
    """In a star each strength is the arm's own log-odds against the centre."""
    found = bradley_terry(np.array([[0, 15, 10], [5, 0, 0], [10, 0, 0]], float))
    assert found[0] - found[1] == pytest.approx(np.log(15.5 / 5.5), abs=1e-5)
    assert found[0] - found[2] == pytest.approx(0, abs=1e-5)


def test_an_arm_that_won_every_vote_has_a_finite_strength():
    assert np.isfinite(bradley_terry(np.array([[0, 20.0], [0, 0]]))).all()


def compared(*pairs: tuple[str, str, float]) -> pd.DataFrame:
    """Three raters on eight prompts, for each pair of arms with this rate of wins."""
    rng = np.random.default_rng(0)
    rows = [
        {"rater": rater, "prompt": prompt, "arm_a": a, "arm_b": b, "score": float(rng.random() < rate)}
        for a, b, rate in pairs
        for rater in range(3)
        for prompt in range(8)
    ]
    return pd.DataFrame(rows)


def test_strengths_rank_three_arms_with_intervals_around_them():
    found = strengths(compared(("x", "y", 0.9), ("y", "z", 0.8), ("x", "z", 0.95)), num_samples=100)
    assert [each.arm for each in found] == ["x", "y", "z"]
    for each in found:
        assert each.low < each.value < each.high
    assert found == strengths(compared(("x", "y", 0.9), ("y", "z", 0.8), ("x", "z", 0.95)), num_samples=100)


def test_strengths_have_no_interval_where_every_vote_on_a_pair_is_the_same():
    found = strengths(compared(("x", "y", 1.0), ("x", "z", 1.0)), num_samples=50)
    assert found[0].arm == "x"
    assert all(np.isnan(each.low) and np.isnan(each.high) for each in found), "resampling cannot tell how certain that is"


def test_there_is_no_scale_for_two_arms_or_for_arms_that_nothing_connects():
    assert strengths(compared(("x", "y", 0.9)), num_samples=10) == []
    assert strengths(compared(("x", "y", 0.9), ("v", "w", 0.5)), num_samples=10) == []


def slow_alpha(votes: pd.DataFrame) -> float:
    """Krippendorff's alpha by its definition: every pair of values of a unit, and every pair of all values."""
    units = [group["score"].tolist() for _, group in votes.groupby("pair") if len(group) > 1]
    values = [value for unit in units for value in unit]
    observed = sum((x - y) ** 2 / (len(unit) - 1) for unit in units for i, x in enumerate(unit) for j, y in enumerate(unit) if i != j)
    expected = sum((x - y) ** 2 for i, x in enumerate(values) for j, y in enumerate(values) if i != j)
    return 1 - (observed / len(values)) / (expected / (len(values) * (len(values) - 1)))


def test_agreement_is_krippendorffs_published_example():
    """Three coders and fifteen units (Wikipedia's example after Krippendorff): alpha 0.811 on the interval scale."""
    gap = np.nan
    score_RP = np.array(
        [
            [gap, gap, gap, gap, gap, 3, 4, 1, 2, 1, 1, 3, 3, gap, 3],
            [1, gap, 2, 1, 3, 3, 4, 3, gap, gap, gap, gap, gap, gap, gap],
            [gap, gap, 2, 1, 3, 4, 4, gap, 2, 1, 1, 3, 3, gap, 4],
        ]
    )
    assert krippendorff_alpha(crossed(score_RP)) == pytest.approx(0.810845, abs=1e-6)


def test_agreement_is_its_definition_on_any_votes():
    rng = np.random.default_rng(3)
    for _ in range(20):
        score_RP = rng.choice([0.0, 0.5, 1.0], size=(5, 12))
        score_RP[rng.random(score_RP.shape) < 0.4] = np.nan
        votes = crossed(score_RP)
        assert krippendorff_alpha(votes) == pytest.approx(slow_alpha(votes))


def test_agreement_is_unknown_where_nobody_could_disagree():
    assert math.isnan(krippendorff_alpha(crossed(np.ones((3, 4)))))
    assert math.isnan(krippendorff_alpha(crossed(np.array([[1.0, 0.0, np.nan], [np.nan, np.nan, 1.0]]))))
