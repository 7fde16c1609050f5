"""Intervals for a mean over trainings and prompts, by a seeded bootstrap with correct coverage for few prompts and very few trainings.

A table of values ``[training, prompt]`` varies by chance in two ways: by the trainings that were run and by the prompts that were chosen.
The same prompts serve every training, so whole trainings and whole prompts are resampled:

    mean* = mean + A* + B*

- ``B*``, the prompts: the mean of n prompts drawn with replacement minus the mean, stretched by t / z sqrt(n / (n - 1)). The stretch
  corrects plain percentiles, which are too narrow for small n (Hesterberg, "What teachers should know about the bootstrap", 2015, moves
  the percentile outwards to the same effect). t and z are the quantiles of Student's t with n - 1 degrees of freedom and of the normal
  distribution.
- ``A*``, the trainings: drawn from Student's t with (trainings - 1) degrees of freedom, scaled by the standard error of the training
  means. Three trainings are too few to resample: the percentiles of three values cover at most 75 %. The part of this error that the
  prompts already explain (the residual of a cell after its row and column) is subtracted, so that it does not count twice.

With one training, only the prompts are resampled. The interval is the percentiles of mean*. Two exceptions:

- Fewer than three prompts (queries) do not show how much prompts differ: there is a value and no interval.
- If all values agree, resampling shows no spread, although other prompts could differ. For a quantity between a and b the interval is then
  ``[v - u (v - a), v + u (b - v)]`` with ``u = 1 - tail^(1/n)``: with more than the share u of other values among all prompts, n prompts would all agree with
  probability below the tail. For a share of 0 or 1 it is the interval of Clopper and Pearson (1934). Without bounds there is no interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import special  # not stats, which takes a second to import

SEED = 20_260_108

MIN_PROMPTS = 3
"""With fewer prompts (queries) there is no interval."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean with its interval, and the number of trainings and prompts behind it. The interval is NaN where there is none (see above)."""

    value: float
    low: float
    high: float
    num_trainings: int
    num_prompts: int

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0


def mean_interval(
    value_SJ: Float[np.ndarray, "S J"],
    *,
    num_samples: int = 2000,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    seed: int = SEED,
) -> Estimate:
    """The mean over S trainings and J prompts with its interval.

    ``bounds`` is the range of the quantity, for instance (0, 1) for a share. The same values give the same interval.

    Raises:
        ValueError: there is no value, or one is not finite.
    """
    value_SJ = np.asarray(value_SJ, np.float64)
    if value_SJ.ndim != 2 or value_SJ.size == 0 or not np.isfinite(value_SJ).all():
        raise ValueError(f"finite values [training, prompt] are needed, not shape {value_SJ.shape}")
    num_trainings, num_prompts = value_SJ.shape
    mean = float(value_SJ.mean())
    low = high = np.nan
    if num_prompts >= MIN_PROMPTS:
        rng = np.random.default_rng(seed)
        tail = (1 - level) / 2
        prompts_B = _stretch(num_prompts, tail) * _prompt_deviation(rng, value_SJ.mean(0), num_samples)
        explained = _residual_variance(value_SJ) if num_trainings > 1 else 0.0
        mean_B = mean + _training_deviation(rng, value_SJ.mean(1), explained, num_samples) + prompts_B
        low, high = _interval(mean_B, num_prompts, tail, bounds)
    return Estimate(value=mean, low=low, high=high, num_trainings=num_trainings, num_prompts=num_prompts)


def prompt_resamples(num_prompts: int, num_samples: int, *, seed: int = SEED) -> Float[np.ndarray, "B J"]:
    """The weight of each prompt in each of ``num_samples`` resamples of ``num_prompts`` prompts with replacement."""
    drawn_BJ = np.random.default_rng(seed).integers(num_prompts, size=(num_samples, num_prompts))
    weight_BJ = np.zeros((num_samples, num_prompts))
    np.add.at(weight_BJ, (np.arange(num_samples)[:, None], drawn_BJ), 1 / num_prompts)
    return weight_BJ


def resampled_interval(
    value_S: Float[np.ndarray, " S"],
    resampled_SB: Float[np.ndarray, "S B"],
    *,
    num_prompts: int,
    level: float = 0.95,
    bounds: tuple[float, float] | None = None,
    seed: int = SEED,
) -> Estimate:
    """The mean over S trainings, with its interval, of a quantity that is not a mean over prompts: :func:`mean_interval` for any statistic.

    ``resampled_SB`` is the quantity of each training under each resample of :func:`prompt_resamples`, the same resamples for all trainings.
    It is shifted so that its mean equals the value: a bias of resampling does not shift the interval.
    """
    num_trainings, num_samples = resampled_SB.shape
    low = high = np.nan
    if num_prompts >= MIN_PROMPTS:
        tail = (1 - level) / 2
        mean_B = resampled_SB.mean(0)
        explained = 0.0
        if num_trainings > 1:
            own_SB = resampled_SB - resampled_SB.mean(1, keepdims=True) - (mean_B - mean_B.mean())
            explained = float(own_SB.var(1).sum()) * num_prompts / (num_prompts - 1) / (num_trainings - 1) / num_trainings
        trainings = _training_deviation(np.random.default_rng(seed), value_S, explained, num_samples)
        prompts_B = _stretch(num_prompts, tail) * (mean_B - mean_B.mean())
        low, high = _interval(value_S.mean() + trainings + prompts_B, num_prompts, tail, bounds)
    return Estimate(value=float(value_S.mean()), low=low, high=high, num_trainings=num_trainings, num_prompts=num_prompts)


def _interval(mean_B: np.ndarray, num_prompts: int, tail: float, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """The percentiles of ``mean_B`` within ``bounds``; where they are one point, what so many equal prompts leave open."""
    low, high = (float(bound) for bound in np.quantile(mean_B, (tail, 1 - tail)))
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if low < high:
        return low, high
    if bounds is None or not np.isfinite(bounds).all():
        return np.nan, np.nan
    unseen = 1 - tail ** (1 / num_prompts)
    return low - unseen * (low - bounds[0]), high + unseen * (bounds[1] - high)


def _prompt_deviation(rng: np.random.Generator, prompt_mean_J: np.ndarray, num_samples: int) -> np.ndarray:
    num_prompts = len(prompt_mean_J)
    drawn_BJ = rng.integers(num_prompts, size=(num_samples, num_prompts))
    return prompt_mean_J[drawn_BJ].mean(1) - prompt_mean_J.mean()


def _training_deviation(rng: np.random.Generator, value_S: np.ndarray, explained: float, num_samples: int) -> np.ndarray | float:
    """A*, from the variance of the trainings' mean minus the part that the prompts explain."""
    num_trainings = len(value_S)
    if num_trainings == 1:
        return 0.0
    variance = value_S.var(ddof=1) / num_trainings - explained
    return np.sqrt(max(0.0, variance)) * rng.standard_t(num_trainings - 1, size=num_samples)


def _residual_variance(value_SJ: np.ndarray) -> float:
    """The residual of the cells after row and column effects, as a variance of the trainings' mean."""
    num_trainings, num_prompts = value_SJ.shape
    residual_SJ = value_SJ - value_SJ.mean(1, keepdims=True) - value_SJ.mean(0, keepdims=True) + value_SJ.mean()
    return float((residual_SJ**2).sum()) / ((num_trainings - 1) * (num_prompts - 1)) / value_SJ.size


def _stretch(num_prompts: int, tail: float) -> float:
    """The factor by which a bootstrap over this many prompts is too narrow."""
    ratio = special.stdtrit(num_prompts - 1, tail) / special.ndtri(tail)  # quantiles of Student's t and of the normal distribution
    return float(ratio * np.sqrt(num_prompts / (num_prompts - 1)))
