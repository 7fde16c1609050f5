"""The linear datamodeling score (LDS): does the summed influence of a subset predict what training on it does to a query?

Park et al., "TRAK", 2023 (arXiv 2303.14186), section 2: for a query q and subsets s of the training set,
``LDS(q) = Spearman over s of ( sum of the influence of the clips in s, measured effect of training on s )``; the score is its mean over queries.

The effect is measured by trainings that vary by chance, so no score can reach 1. Two trainings of the same subsets show how much: the rank
correlation between them is the *reliability* r of one training, that of the mean of k trainings is ``k r / (1 + (k - 1) r)`` (Spearman 1910,
Brown 1910), and a perfect prediction would correlate with such a mean by its root: the ceiling (attenuation, Spearman 1904).

Axis suffixes: V estimators, T trainings of a subset, Q queries, S subsets, N clips, B resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats

from motive_pipeline.evaluation.audit.agreement import spearman
from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS, SEED

MIN_SUBSETS = 12
"""With fewer subsets there is no score: even with 12 a correlation is significant (5 %, two-sided) only above .58."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A value with its standard error and 95 % interval (NaN where there is none), and the two-sided p-value of being zero."""

    value: float
    std_error: float
    low: float
    high: float
    p_value: float


def predicted_effects(influence_QN: Float[np.ndarray, "Q N"], member_SN: Bool[np.ndarray, "S N"]) -> Float[np.ndarray, "Q S"]:
    """The summed influence of the clips of each subset on each query. NaN in the influence (a clip without a gradient) counts as 0."""
    return np.nan_to_num(np.asarray(influence_QN, np.float64), nan=0.0) @ member_SN.T.astype(np.float64)


def lds(predicted_QS: Float[np.ndarray, "Q S"], effect_QS: Float[np.ndarray, "Q S"]) -> Float[np.ndarray, " Q"]:
    """The score of each query. A prediction that is equal for all subsets predicts nothing: 0."""
    found_Q = spearman(predicted_QS, effect_QS)
    return np.where(np.ptp(predicted_QS, axis=1) == 0, 0.0, found_Q)


def reliability(effect_TQS: Float[np.ndarray, "T Q S"]) -> Float[np.ndarray, " Q"]:
    """The rank correlation over subsets between two trainings of the same subsets, for each query; the mean over all pairs of trainings.

    Raises:
        ValueError: there are fewer than two trainings.
    """
    if len(effect_TQS) < 2:
        raise ValueError("the reliability needs at least two trainings of each subset")
    return np.mean([spearman(effect_TQS[first], effect_TQS[second]) for first, second in combinations(range(len(effect_TQS)), 2)], axis=0)


def spearman_brown(single: float, count: int) -> float:
    """The reliability of the mean of ``count`` trainings, if that of one is ``single``. Below zero a reliability is chance: 0."""
    return count * max(0.0, single) / (1 + (count - 1) * max(0.0, single))


def ceiling(single: float, count: int) -> float:
    """The highest score that a perfect prediction of the expected effect can reach against the mean of ``count`` trainings; NaN if nothing is reliable."""
    return math.sqrt(found) if (found := spearman_brown(single, count)) > 0 else math.nan


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """The mean score of each estimator as measured (``mean_V``), and under each resample of subsets and queries, the same for all estimators."""

    mean_V: Float[np.ndarray, " V"]
    mean_BV: Float[np.ndarray, "B V"]
    num_queries: int
    num_subsets: int

    def score(self, estimator: int) -> Scored:
        """The mean score of one estimator."""
        return self._scored(float(self.mean_V[estimator]), self.mean_BV[:, estimator], most=1.0)

    def difference(self, first: int, second: int) -> Scored:
        """The mean score of ``first`` minus that of ``second``, in pairs: on the same subsets and queries."""
        return self._scored(float(self.mean_V[first] - self.mean_V[second]), self.mean_BV[:, first] - self.mean_BV[:, second], most=2.0)

    def _scored(self, value: float, resampled_B: np.ndarray, *, most: float) -> Scored:
        """With fewer than three queries nobody knows how queries differ: no interval, no p-value. No value lies outside of -``most`` to ``most``."""
        if self.num_queries < MIN_PROMPTS:
            return Scored(value=value, std_error=math.nan, low=math.nan, high=math.nan, p_value=math.nan)
        std_error = float(resampled_B.std(ddof=1)) * math.sqrt(self.num_queries / (self.num_queries - 1))
        if std_error == 0:
            return Scored(value=value, std_error=0.0, low=math.nan, high=math.nan, p_value=1.0 if value == 0 else math.nan)
        t = stats.t(min(self.num_queries, self.num_subsets) - 1)
        reach = float(t.ppf(0.975)) * std_error
        low, high = max(-most, value - reach), min(most, value + reach)
        return Scored(value=value, std_error=std_error, low=low, high=high, p_value=2 * float(t.sf(abs(value) / std_error)))


def resampled_scores(
    predicted_VQS: Float[np.ndarray, "V Q S"], effect_QS: Float[np.ndarray, "Q S"], *, num_samples: int = 1000, seed: int = SEED
) -> Resampled:
    """The mean score of each estimator, resampled: in each of ``num_samples`` resamples, subsets and queries are drawn with replacement.

    Drawing a subset twice makes a tie, which ranks as one; the correlation is of the ranks within the resample. The standard error from so few queries is
    widened by sqrt(Q / (Q - 1)), and the interval is Student's t with (the smaller of Q and S) - 1 degrees of freedom.
    """
    rng = np.random.default_rng(seed)
    num_queries, num_subsets = effect_QS.shape
    mean_BV = np.empty((num_samples, len(predicted_VQS)))
    for sample in range(num_samples):
        query_q = rng.integers(num_queries, size=num_queries) if num_queries > 1 else np.zeros(1, np.int64)
        subset_s = rng.integers(num_subsets, size=num_subsets)
        different_q, times_q = np.unique(query_q, return_counts=True)
        effect_qs = effect_QS[np.ix_(different_q, subset_s)]
        for number, predicted_QS in enumerate(predicted_VQS):
            found_q = np.nan_to_num(lds(predicted_QS[np.ix_(different_q, subset_s)], effect_qs), nan=0.0)
            mean_BV[sample, number] = found_q @ times_q / num_queries
    mean_V = np.array([lds(predicted_QS, effect_QS).mean() for predicted_QS in predicted_VQS])
    return Resampled(mean_V=mean_V, mean_BV=mean_BV, num_queries=num_queries, num_subsets=num_subsets)


def holm(p_values: list[float]) -> list[float]:
    """The p-values adjusted for how many there are (Holm 1979): reject those that are at most the level, and at most that share of families has a
    false rejection, however the tests depend on each other. NaN (no test was possible) stays NaN and does not count."""
    known = [number for number, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = list(p_values)
    largest = 0.0
    for place, number in enumerate(sorted(known, key=lambda each: p_values[each])):
        largest = max(largest, min(1.0, (len(known) - place) * p_values[number]))
        adjusted[number] = largest
    return adjusted
