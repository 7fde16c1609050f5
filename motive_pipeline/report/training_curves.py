"""The loss on held-out queries in the course of the trainings, where ``finetune.eval_every`` had them watched.

Axis suffixes: S trainings, P points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.graph import BASE
from motive_pipeline.report.tables import Number, Table, arm_name, format_number, joined
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.finetune import load_records

KEY = "training_curve"


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """The curves of all arms over the same queries, draws and steps; the first point is the base model.

    ``loss`` is that of the weights that the checkpoint would hold after so many steps, ``last_weights`` with ``finetune.ema`` that of the weights without
    their running mean (empty without it). ``notes`` say which arms have no curve. Without any curve ``steps`` is empty.
    """

    steps: Sequence[int] = ()
    loss: Mapping[str, Float64[np.ndarray, "S P"]] = field(default_factory=dict)
    last_weights: Mapping[str, Float64[np.ndarray, "S P"]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def load_curves(ws: Workspace) -> TrainingCurves:
    """The curves in the records of the published trainings.

    Raises:
        NotPublished: an arm has no checkpoint.
    """
    records = {arm: load_records(ws.published(f"finetuned_checkpoint/{arm}").path) for arm in ws.config.arms if arm != BASE}
    watched = {
        arm: curves
        for arm, found in records.items()
        if len(curves := [each["held_out"] for each in found if "held_out" in each]) == len(found)
    }
    if not watched and ws.config.finetune.eval_every is None:
        return TrainingCurves()
    key = HeldOutLoss(ws).key
    current = {arm: curves for arm, curves in watched.items() if {curve["key"] for curve in curves} == {key}}
    steps: list[int] = max((curves[0]["steps"] for curves in current.values()), key=len, default=[])
    alike = {arm: curves for arm, curves in current.items() if all(curve["steps"] == steps for curve in curves)}
    return TrainingCurves(
        steps=steps,
        loss={arm: _values(curves, "mean_weights_loss") for arm, curves in alike.items()},
        last_weights={arm: _values(curves, "loss") for arm, curves in alike.items() if curves[0]["mean_weights_loss"]},
        notes=_notes(list(records), watched, current, alike),
    )


def _values(curves: Sequence[Mapping[str, Any]], name: str) -> Float64[np.ndarray, "S P"]:
    """The series ``name`` of each training, or ``loss`` where it has none."""
    return np.array([curve[name] or curve["loss"] for curve in curves], dtype=np.float64)


def _notes(arms: Sequence[str], watched: Mapping[str, Any], current: Mapping[str, Any], alike: Mapping[str, Any]) -> list[str]:
    without = {
        "trained before finetune.eval_every was set, and not trained again for it": [arm for arm in arms if arm not in watched],
        "watched on other queries or draws than those of now": [arm for arm in watched if arm not in current],
        "watched at other steps": [arm for arm in current if arm not in alike],
    }
    return [f"No curve of {joined([arm_name(arm) for arm in left])}: {why}." for why, left in without.items() if left]


def curve_table(curves: TrainingCurves) -> tuple[Table, list[Number]]:
    """The table of the mean loss of each arm after so many steps, and its numbers."""
    numbers = {
        (step, arm): Number(
            table=KEY, row=str(step), column=arm, value=value, ci_low=math.nan, ci_high=math.nan, num=len(loss_SP), unit="loss",
            shown=format_number(value, 4), source=f"finetuned_checkpoint/{arm}",
        )
        for arm, loss_SP in curves.loss.items()
        for step, value in zip(curves.steps, loss_SP.mean(axis=0).tolist(), strict=True)
    }  # fmt: skip
    table = Table(
        key=KEY,
        title="The loss while training",
        columns=["steps", *(arm_name(arm) for arm in curves.loss)],
        rows=[[str(step), *(numbers[step, arm].shown for arm in curves.loss)] for step in curves.steps],
        caption="Motion-weighted loss, averaged over queries, draws and trainings"
        + (", of the running mean of the weights, which the checkpoint holds." if curves.last_weights else ".")
        + " After 0 steps it is the base model's.",
    )
    return table, list(numbers.values())
