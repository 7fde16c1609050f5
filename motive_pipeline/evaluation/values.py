"""Values of the arms by training and unit, estimates with intervals, and paired differences.

The unit is what the bootstrap resamples: a prompt for metrics of videos, a query for the motion-weighted loss. All arms share their units, so
two arms are compared unit by unit, and training k of one arm with training k of the other.

Axes: S trainings, J units.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float

from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.bootstrap import Estimate, mean_interval
from motive_pipeline.evaluation.flow_distance import FlowDistances
from motive_pipeline.evaluation.vbench.dimensions import VBENCH_METRICS
from motive_pipeline.graph.metrics import FRECHET, HELD_OUT_DROP, IN_SAMPLE_DROP, METRICS, Metric

ALL_TRAININGS = -1
"""``seed`` of the row of ``eval_scores`` that covers all trainings of an arm."""

UNIT_COLUMNS = ("arm", "training", "unit", "metric", "backend", "value", "num")


def unit_values(arm: str, per_video: pd.DataFrame, causal: pd.DataFrame) -> pd.DataFrame:
    """One row for each training, unit and metric: the mean over the unit's videos (or draws), and their number.

    ``per_video`` holds training, prompt_index, metric, backend, value; ``causal`` holds training, query_id, metric, drop_percent.
    """
    videos = per_video.assign(unit=per_video["prompt_index"].map(lambda index: f"prompt {index:05d}"))
    losses = causal.assign(unit=causal["query_id"], value=causal["drop_percent"], backend="exact")
    columns = ["training", "unit", "metric", "backend", "value"]
    both = pd.concat([videos[columns], losses[columns]], ignore_index=True).astype({"training": int})
    grouped = both.groupby(["training", "unit", "metric", "backend"], sort=True)["value"]
    table = grouped.agg(value="mean", num="size").reset_index()
    # A loss has one value for each query, averaged over draws, so it counts once.
    table.loc[table["metric"].isin([HELD_OUT_DROP.name, IN_SAMPLE_DROP.name]), "num"] = 1
    table.insert(0, "arm", arm)
    return pd.DataFrame(table[list(UNIT_COLUMNS)])


def metrics_of(units: pd.DataFrame) -> list[Metric]:
    """The metrics in a table of unit values, in the order of the report."""
    present = set(zip(units["metric"], units["backend"], strict=True))
    return [metric for metric in (*METRICS.values(), *VBENCH_METRICS) if (metric.name, metric.backend) in present]


def value_matrix(units: pd.DataFrame, arm: str, metric: Metric) -> pd.DataFrame:
    """Values [training, unit] of one arm, for the units that every training has.

    Raises:
        GateFailed: no unit has a value in every training.
    """
    chosen = units[(units["arm"] == arm) & (units["metric"] == metric.name) & (units["backend"] == metric.backend)]
    table = chosen.pivot(index="training", columns="unit", values="value").dropna(axis="columns").sort_index().sort_index(axis="columns")
    if table.empty:
        raise GateFailed(
            f"eval_scores/{arm}: no prompt or query has a value of {metric.label} in every training. Materialize generated_videos/{arm} again."
        )
    return table


def estimate(units: pd.DataFrame, arm: str, metric: Metric, *, num_samples: int, training: int = ALL_TRAININGS) -> Estimate:
    """The arm's mean with its interval, over all trainings or for one training."""
    table = value_matrix(units, arm, metric)
    values_SJ = table.to_numpy(np.float64) if training == ALL_TRAININGS else table.loc[[training]].to_numpy(np.float64)
    return mean_interval(values_SJ, num_samples=num_samples, bounds=metric.bounds)


def difference(units: pd.DataFrame, metric: Metric, arm: str, other: str, *, num_samples: int) -> Estimate:
    """The paired difference ``arm`` - ``other`` with its interval, over their common units.

    An arm without training (``base``) is compared with each training of the other arm.

    Raises:
        GateFailed: the arms have no unit in common, or different numbers of trainings.
    """
    bounds = None if metric.bounds is None else (metric.bounds[0] - metric.bounds[1], metric.bounds[1] - metric.bounds[0])
    return mean_interval(difference_matrix(units, metric, arm, other).to_numpy(np.float64), num_samples=num_samples, bounds=bounds)


def difference_matrix(units: pd.DataFrame, metric: Metric, arm: str, other: str) -> pd.DataFrame:
    """The differences ``arm`` - ``other`` [training, unit] behind :func:`difference`.

    Raises:
        GateFailed: as in :func:`difference`.
    """
    first, second = value_matrix(units, arm, metric), value_matrix(units, other, metric)
    common = first.columns.intersection(second.columns)
    if not len(common) or (len(first) != len(second) and 1 not in (len(first), len(second))):
        raise GateFailed(
            f"eval_scores: {arm} and {other} cannot be compared by {metric.label}: {len(common)} common prompts or queries, "
            f"{len(first)} against {len(second)} trainings. One of the two is out of date: materialize both again."
        )
    values_SJ: Float[np.ndarray, "S J"] = first[common].to_numpy(np.float64) - second[common].to_numpy(np.float64)
    return pd.DataFrame(values_SJ, columns=common)


def score_rows(units: pd.DataFrame, arm: str, *, num_samples: int, distances: FlowDistances | None = None) -> pd.DataFrame:
    """The arm's rows of the table ``eval_scores``: for each metric one row over all trainings (``seed`` -1) and one for each training.

    ``distances`` are the arm's flow distances, if they are known.
    """
    if distances is not None:
        units = pd.concat([units, distances.units(arm)], ignore_index=True)
    rows = []
    for metric in metrics_of(units):
        for training in (ALL_TRAININGS, *value_matrix(units, arm, metric).index):
            if distances is not None and metric == FRECHET:
                found = distances.estimate(arm, training=None if training == ALL_TRAININGS else training)
            else:
                found = estimate(units, arm, metric, num_samples=num_samples, training=training)
            rows.append(
                {
                    "arm": arm,
                    "seed": training,
                    "metric": metric.name,
                    "backend": metric.backend,
                    "value": found.value,
                    "ci_low": found.low,
                    "ci_high": found.high,
                    "num_videos": _num(units, arm, metric, training),
                }
            )
    return pd.DataFrame(rows)


def _num(units: pd.DataFrame, arm: str, metric: Metric, training: int) -> int:
    is_counted = (units["arm"] == arm) & (units["metric"] == metric.name) & (units["backend"] == metric.backend)
    if training != ALL_TRAININGS:
        is_counted &= units["training"] == training
    return sum(units.loc[is_counted, "num"].tolist())


def num_trainings(units: pd.DataFrame, arms: Iterable[str]) -> int:
    """The smallest number of trainings among the arms that train; 0 if no arm trains."""
    trained = [arm for arm in arms if arm != "base"]
    return min((len(set(units.loc[units["arm"] == arm, "training"])) for arm in trained), default=0)
