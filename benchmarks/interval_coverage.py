"""How often the report's 95 % interval covers the truth, simulated: ``python -m benchmarks.interval_coverage``.

Two kinds of values. *Scores*: prompts differ (sd 1), trainings a little (sd 0.2), single values a little (sd 0.2); the true mean is 0. *Shares*: each prompt
succeeds with a probability, in all trainings alike, so that all values often agree. A claim is an interval that excludes the truth.
"""

from __future__ import annotations

import argparse

import numpy as np

from motive_pipeline.evaluation.bootstrap import Estimate, mean_interval

NUM_PROMPTS = (1, 2, 3, 5, 8, 14)
SHARES = (0.05, 0.2, 0.5)


def scores(rng: np.random.Generator, num_prompts: int, num_trainings: int = 3) -> Estimate:
    """The interval of one simulated evaluation whose true mean is 0."""
    value_SJ = (
        rng.normal(0.0, 1.0, (1, num_prompts))
        + rng.normal(0.0, 0.2, (num_trainings, 1))
        + rng.normal(0.0, 0.2, (num_trainings, num_prompts))
    )
    return mean_interval(value_SJ, num_samples=500, seed=int(rng.integers(2**31)))


def shares(rng: np.random.Generator, num_prompts: int, share: float, num_trainings: int = 3) -> Estimate:
    """The interval of one simulated evaluation in which each prompt succeeds with the probability ``share``."""
    success_J = (rng.random(num_prompts) < share).astype(np.float64)
    return mean_interval(np.tile(success_J, (num_trainings, 1)), num_samples=500, bounds=(0.0, 1.0), seed=int(rng.integers(2**31)))


def coverage(estimates: list[Estimate], truth: float) -> float:
    """The share of the intervals that contain ``truth``; NaN where there are none."""
    return float(np.mean([found.low <= truth <= found.high for found in estimates])) if not np.isnan(estimates[0].low) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=4000)
    runs = parser.parse_args().runs
    print("| prompts or queries | scores | " + " | ".join(f"share {share:.0%}" for share in SHARES) + " |")
    print("| ---: |" + " ---: |" * (1 + len(SHARES)))
    for num in NUM_PROMPTS:
        rng = np.random.default_rng(num)
        found = [coverage([scores(rng, num) for _ in range(runs)], 0.0)]
        found += [coverage([shares(rng, num, share) for _ in range(runs)], share) for share in SHARES]
        print(f"| {num} | " + " | ".join("no interval" if np.isnan(each) else f"{each:.1%}" for each in found) + " |")


if __name__ == "__main__":
    main()
