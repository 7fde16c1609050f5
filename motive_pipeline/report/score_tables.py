"""The report's tables of scores: the arms, their differences from the lead arm, and single trainings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS, Estimate
from motive_pipeline.evaluation.values import (
    value_matrix,
)
from motive_pipeline.evaluation.vbench.dimensions import BACKEND as VBENCH
from motive_pipeline.graph.metrics import Metric
from motive_pipeline.report.tables import (
    Number,
    Table,
    arm_name,
    column_heading,
    estimate_number,
)


def by_backend(
    key: str, metrics: Sequence[Metric], table: Callable[[Sequence[Metric]], tuple[Table, list[Number]]]
) -> Iterator[tuple[Table, list[Number]]]:
    """The table of our own metrics as ``key`` and that of VBench's, if any, as ``<key>_vbench``. One table of both would not fit on paper."""
    yield table([metric for metric in metrics if metric.backend != VBENCH])
    theirs = [metric for metric in metrics if metric.backend == VBENCH]
    if theirs:
        found, numbers = table(theirs)
        yield replace(found, key=f"{key}_vbench", title=f"{found.title}: VBench"), numbers


def arms_table(
    arms: Sequence[str], metrics: Sequence[Metric], estimates: dict[tuple[Metric, str], Estimate], *, lead: str
) -> tuple[Table, list[Number]]:
    """The table of every arm's estimates, and its numbers."""
    numbers = {
        (arm, metric): estimate_number("arms", arm, metric, estimates[metric, arm], source=f"eval_scores/{arm}")
        for arm in arms
        for metric in metrics
    }
    table = Table(
        key="arms",
        title="The arms side by side",
        columns=["arm", *(column_heading(metric) for metric in metrics)],
        rows=[[arm_name(arm), *(numbers[arm, metric].shown for metric in metrics)] for arm in arms],
        caption="Means with 95 % intervals, by bootstrap over prompts (over queries for the loss) and, where there are several, over trainings. "
        f"There is no interval below {MIN_PROMPTS} prompts (queries): they do not show how much prompts differ.",
        strong_rows=frozenset(position for position, arm in enumerate(arms) if arm == lead),
    )
    return table, list(numbers.values())


def differences_table(
    others: Sequence[str],
    metrics: Sequence[Metric],
    differences: dict[tuple[Metric, str], Estimate],
    *,
    arm: str,
    key: str = "differences",
) -> tuple[Table, list[Number]]:
    """The table of the paired differences ``arm`` - other arm, and its numbers."""
    name = arm_name(arm)
    numbers = {
        (other, metric): estimate_number(
            key, other, metric, differences[metric, other], source=f"eval_scores/{arm}, eval_scores/{other}", signed=True
        )
        for other in others
        for metric in metrics
    }
    table = Table(
        key=key,
        title=f"{name} minus each other arm" if len(others) != 1 else f"{name[0].upper()}{name[1:]}, minus {arm_name(others[0])}",
        columns=[f"{name} minus …", *(column_heading(metric) for metric in metrics)],
        rows=[[arm_name(other), *(numbers[other, metric].shown for metric in metrics)] for other in others],
        caption="Paired differences with 95 % intervals: same prompt, same sampling seed, same training number. An interval that contains 0 "
        "does not show which arm is better.",
    )
    return table, list(numbers.values())


def trainings_table(arms: Sequence[str], metrics: Sequence[Metric], units: pd.DataFrame) -> tuple[Table, list[Number]]:
    """The table of the means of each training, and its numbers."""
    rows, numbers = [], []
    for arm in arms:
        matrices = {metric: value_matrix(units, arm, metric) for metric in metrics}
        for training in matrices[metrics[0]].index:
            name = f"{arm_name(arm)}, training {training}" if arm != "base" else arm_name(arm)
            means = {metric: _mean_only(matrices[metric].loc[training].to_numpy(np.float64)) for metric in metrics}
            cells = [
                estimate_number("trainings", f"{arm}/{training}", metric, means[metric], source=f"eval_scores/{arm}") for metric in metrics
            ]
            numbers += cells
            rows.append([name, *(cell.shown for cell in cells)])
    table = Table(
        key="trainings",
        title="Each training by itself",
        columns=["arm and training", *(column_heading(metric) for metric in metrics)],
        rows=rows,
        caption="Means of single trainings. The spread within an arm shows how much trainings vary by chance.",
    )
    return table, numbers


def _mean_only(values_J: np.ndarray) -> Estimate:
    return Estimate(value=float(values_J.mean()), low=math.nan, high=math.nan, num_trainings=1, num_prompts=len(values_J))
