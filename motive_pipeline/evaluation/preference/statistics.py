"""Statistics of the votes: win rates with intervals, sign test, Bradley-Terry strengths, agreement.

Votes are not independent: a rater's votes share a taste, a prompt's votes share its videos. So intervals come from a bootstrap over both, like
that of ``evaluation/bootstrap.py`` over trainings and prompts:

    deviation = A* + B*

- ``B*``: prompts are resampled with replacement, with all votes on them, and stretched for their small number as there.
- ``A*``: there are usually too few raters to resample, so their part comes from Student's t, scaled by the standard error that they add. The
  variance of single votes is in ``B*`` already and is subtracted, as in two-way clustered variances (Cameron, Gelbach, Miller 2011, "Robust
  inference with multiway clustering": V = V_raters + V_prompts - V_votes).

The deviation is added on the scale of log-odds, where a rate near 1 has more room below than above, so intervals stay within 0 to 1. If all
votes agree, nothing varies. The interval is then that of Clopper and Pearson (1934) with each prompt as one vote, because votes on a prompt may agree
only because of its videos. Votes on fewer than three prompts do not show how much prompts differ: there is a rate and no interval.

Axes: R raters, P prompts, B bootstrap samples, K arms, V votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy import optimize, special, stats

from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS

SEED = 20_260_701
LEVEL = 0.95
_SWEEPS = 20
"""Sweeps of the least-squares fit; it converges long before this many."""

STRENGTH_SAMPLES = 300
"""The most resamples for the intervals of Bradley-Terry strengths; each needs a fit."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Share of votes won (a tie counts half) with its interval (NaN below three prompts)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class SignTest:
    """The number of prompts with a majority for, against, or neither, and the two-sided probability of such a split by chance."""

    num_for: int
    num_against: int
    num_even: int
    p_value: float


@dataclass(frozen=True, kw_only=True)
class Strength:
    """An arm's Bradley-Terry strength: log-odds against the average arm."""

    arm: str
    value: float
    low: float
    high: float


def win_rate(votes: pd.DataFrame, *, num_samples: int, seed: int = SEED) -> Rate:
    """The share of votes that ``arm_a`` won. ``votes`` has one row for each vote of one comparison: rater, prompt, score (1 won, 0.5 tie, 0 lost).

    Raises:
        ValueError: no vote.
    """
    if votes.empty:
        raise ValueError("at least one vote is needed")
    score_V = votes["score"].to_numpy(np.float64)
    rate = float(score_V.mean())
    num_prompts = len(set(votes["prompt"]))
    if num_prompts < MIN_PROMPTS:
        return Rate(value=rate, low=math.nan, high=math.nan)
    if np.ptp(score_V) == 0:
        low, high = _exact(rate, num_prompts)
        return Rate(value=rate, low=low, high=high)
    rng = np.random.default_rng(seed)
    rater_V, prompt_V = _codes(votes, "rater"), _codes(votes, "prompt")
    deviation_B = _prompt_deviation(rng, score_V, prompt_V, num_samples) + _rater_deviation(rng, score_V, rater_V, prompt_V, num_samples)
    tail = (1 - LEVEL) / 2
    low, high = special.expit(special.logit(rate) + np.quantile(deviation_B, (tail, 1 - tail)) / (rate * (1 - rate)))
    if low >= high:  # each prompt and each rater has the same share
        low, high = _exact(rate, num_prompts)
    return Rate(value=rate, low=float(low), high=float(high))


def sign_test(votes: pd.DataFrame) -> SignTest:
    """The sign test over prompts: each prompt counts once, by the majority of its votes."""
    balance = _cluster_means(votes["score"].to_numpy(np.float64), _codes(votes, "prompt")) - 0.5
    num_for, num_against = int((balance > 1e-12).sum()), int((balance < -1e-12).sum())
    decided = num_for + num_against
    p_value = float(stats.binomtest(num_for, decided, 0.5).pvalue) if decided else 1.0
    return SignTest(num_for=num_for, num_against=num_against, num_even=len(balance) - decided, p_value=p_value)


def strengths(votes: pd.DataFrame, *, num_samples: int, seed: int = SEED) -> list[Strength]:
    """Bradley-Terry strengths of all arms, the strongest first; empty with fewer than three arms or if the votes do not connect all arms.

    ``votes`` holds rater, prompt, arm_a, arm_b and score. Intervals resample raters and prompts together, which makes them rather too wide. They
    are NaN if all votes on each pair of arms agree, because every resample is then the same.
    """
    arms = sorted(set(votes["arm_a"]) | set(votes["arm_b"]))
    if len(arms) < 3 or not _connected(votes, len(arms)):
        return []
    position = {arm: number for number, arm in enumerate(arms)}
    first_V, second_V = (np.array([position[arm] for arm in votes[column]]) for column in ("arm_a", "arm_b"))
    score_V = votes["score"].to_numpy(np.float64)
    fitted_K = bradley_terry(_wins(first_V, second_V, score_V, np.ones(len(votes)), len(arms)))
    rng = np.random.default_rng(seed)
    weight_BV = np.ones((min(num_samples, STRENGTH_SAMPLES), len(votes)))
    for column in ("rater", "prompt"):
        codes_V = _codes(votes, column)
        size = int(codes_V.max()) + 1
        if size > 1:
            weight_BV *= rng.multinomial(size, np.full(size, 1 / size), size=len(weight_BV))[:, codes_V]
    fitted_BK = np.stack([bradley_terry(_wins(first_V, second_V, score_V, weight_V, len(arms))) for weight_V in weight_BV])
    tail = (1 - LEVEL) / 2
    low_K, high_K = np.quantile(fitted_BK, (tail, 1 - tail), axis=0)
    pairs = list(zip(votes["arm_a"], votes["arm_b"], strict=True))
    if len(set(zip(pairs, score_V.tolist(), strict=True))) == len(set(pairs)):
        low_K = high_K = np.full(len(arms), np.nan)
    found = [Strength(arm=arm, value=float(fitted_K[k]), low=float(low_K[k]), high=float(high_K[k])) for k, arm in enumerate(arms)]
    return sorted(found, key=lambda each: (-each.value, each.arm))


def bradley_terry(win_KK: Float[np.ndarray, "K K"]) -> Float[np.ndarray, " K"]:
    """The maximum-likelihood strengths for the wins ``[winner, loser]``, with mean 0 (Bradley and Terry 1952).

    Half a win is added in both directions between compared arms, so that an arm that won every vote has a finite strength.
    """
    padded_KK = win_KK + 0.5 * ((win_KK + win_KK.T) > 0)
    total_KK = padded_KK + padded_KK.T
    won_K = padded_KK.sum(1)

    def surprise(strength_K: np.ndarray) -> float:
        difference_KK = strength_K[:, None] - strength_K[None, :]
        return float((padded_KK * np.logaddexp(0.0, -difference_KK)).sum())

    def slope(strength_K: np.ndarray) -> np.ndarray:
        chance_KK = 1 / (1 + np.exp(strength_K[None, :] - strength_K[:, None]))
        return (total_KK * chance_KK).sum(1) - won_K

    found = optimize.minimize(surprise, np.zeros(len(win_KK)), jac=slope, method="BFGS", options={"gtol": 1e-7})
    return found.x - found.x.mean()


def krippendorff_alpha(votes: pd.DataFrame) -> float:
    """Agreement of raters on pairs that several of them saw: 1 full, 0 as by chance (Krippendorff's alpha, interval scale 0, 0.5, 1).

    ``votes`` holds rater, pair and score. NaN if no pair has two votes, or all votes are the same.
    """
    code_V, score_V = _codes(votes, "pair"), votes["score"].to_numpy(np.float64)
    is_paired_V = np.bincount(code_V)[code_V] > 1
    score_V, code_V = score_V[is_paired_V], np.unique(code_V[is_paired_V], return_inverse=True)[1]
    if not len(score_V) or np.ptp(score_V) == 0:
        return math.nan
    size_U = np.bincount(code_V)
    variance_U = np.bincount(code_V, weights=(score_V - _cluster_means(score_V, code_V)[code_V]) ** 2) / size_U
    # Within n values the squared differences over all ordered pairs add up to 2 n^2 times their variance.
    observed = float((2 * size_U**2 * variance_U / (size_U - 1)).sum()) / len(score_V)
    expected = 2 * len(score_V) * float(score_V.var()) / (len(score_V) - 1)
    return 1 - observed / expected


def _codes(votes: pd.DataFrame, column: str) -> Int[np.ndarray, " V"]:
    """The column's values as consecutive integers."""
    return np.unique(votes[column].to_numpy(dtype=object), return_inverse=True)[1].astype(np.int64)


def _prompt_deviation(rng: np.random.Generator, score_V: np.ndarray, prompt_V: np.ndarray, num_samples: int) -> np.ndarray | float:
    """The change of the rate when whole prompts are resampled."""
    size = int(prompt_V.max()) + 1
    if size < 2:
        return 0.0
    count_P = np.bincount(prompt_V, minlength=size).astype(np.float64)
    sum_P = np.bincount(prompt_V, weights=score_V, minlength=size)
    times_BP = rng.multinomial(size, np.full(size, 1 / size), size=num_samples)
    tail = (1 - LEVEL) / 2
    stretch = float(stats.t.ppf(tail, size - 1) / stats.norm.ppf(tail) * math.sqrt(size / (size - 1)))
    return stretch * (times_BP @ sum_P / (times_BP @ count_P) - score_V.mean())


def _rater_deviation(
    rng: np.random.Generator, score_V: np.ndarray, rater_V: np.ndarray, prompt_V: np.ndarray, num_samples: int
) -> np.ndarray | float:
    """The additional deviation from the choice of raters, beyond that from prompts and single votes."""
    size = int(rater_V.max()) + 1
    if size < 2:
        return 0.0
    effect_V, vote_variance = _rater_effects(score_V, rater_V, prompt_V)
    effect_V = effect_V - effect_V.mean()
    between = float((np.bincount(rater_V, weights=effect_V) ** 2).sum()) / len(score_V) ** 2 * size / (size - 1)
    counted_already = vote_variance / len(score_V) if prompt_V.any() else 0.0
    return math.sqrt(max(0.0, between - counted_already)) * rng.standard_t(size - 1, size=num_samples)


def _rater_effects(score_V: np.ndarray, rater_V: np.ndarray, prompt_V: np.ndarray) -> tuple[np.ndarray, float]:
    """Each vote's rater effect in the least-squares fit rater + prompt, and the variance of the residuals (0 without degrees of freedom).

    The fit separates raters from prompts: a rater with other prompts than the rest does not count as one with another taste.
    """
    rater_effect_V = np.zeros_like(score_V)
    prompt_effect_V = np.zeros_like(score_V)
    for _ in range(_SWEEPS):
        prompt_effect_V = _cluster_means(score_V - rater_effect_V, prompt_V)[prompt_V]
        rater_effect_V = _cluster_means(score_V - prompt_effect_V, rater_V)[rater_V]
    freedom = len(score_V) - int(rater_V.max()) - int(prompt_V.max()) - 1
    left_V = score_V - rater_effect_V - prompt_effect_V
    return rater_effect_V, float((left_V**2).sum() / freedom) if freedom > 0 else 0.0


def _cluster_means(value_V: np.ndarray, cluster_V: np.ndarray) -> np.ndarray:
    return np.bincount(cluster_V, weights=value_V) / np.bincount(cluster_V)


def _exact(rate: float, num: int) -> tuple[float, float]:
    """Clopper and Pearson's interval for a rate among ``num`` independent votes; with ties the number won may be fractional."""
    won, tail = rate * num, (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, won, num - won + 1)) if won else 0.0
    high = float(stats.beta.ppf(1 - tail, won + 1, num - won)) if won < num else 1.0
    return low, high


def _wins(first_V: np.ndarray, second_V: np.ndarray, score_V: np.ndarray, weight_V: np.ndarray, num_arms: int) -> np.ndarray:
    win_KK = np.zeros((num_arms, num_arms))
    np.add.at(win_KK, (first_V, second_V), weight_V * score_V)
    np.add.at(win_KK, (second_V, first_V), weight_V * (1 - score_V))
    return win_KK


def _connected(votes: pd.DataFrame, num_arms: int) -> bool:
    """Whether a chain of comparisons connects every arm to every other."""
    edges: Sequence[tuple[str, str]] = list(set(zip(votes["arm_a"], votes["arm_b"], strict=True)))
    reached = {edges[0][0]}
    for _ in edges:
        reached |= {arm for edge in edges if reached & set(edge) for arm in edge}
    return len(reached) == num_arms
