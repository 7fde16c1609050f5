"""The drop of the held-out loss by timestep: where on the way from noise to video training helped, in moving places (masked) and everywhere (plain)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from motive_pipeline.evaluation.audit.table import AuditRow, over_trainings_and_queries
from motive_pipeline.graph import BASE
from motive_pipeline.graph.metrics import IN_SAMPLE_DROP

CHECK = "loss_drop"
LOSSES = {"masked": "drop_percent", "plain": "plain_drop_percent"}
"""The two losses, and their columns in ``causal.parquet``."""


def loss_drop_rows(arm: str, causal: pd.DataFrame, *, num_samples: int) -> Iterator[AuditRow]:
    """The rows of the table ``audit`` for one arm: the drop of each loss below the base model's at each timestep, and over all of them.

    ``causal`` is the table of :func:`~.causal.causal_check`. The drop is in % of a query's base loss averaged over the timesteps, so the mean of the
    rows of single timesteps is the row of all. Intervals are over trainings and queries. The base model has no rows: its drop is 0 by definition.
    """
    if arm == BASE:
        return
    note = "in-sample: measured on the queries that the clips were chosen by" if IN_SAMPLE_DROP.name in set(causal["metric"]) else ""
    for loss, column in LOSSES.items():
        row = AuditRow(check=CHECK, variant=arm, against=BASE, verdict=note)
        yield over_trainings_and_queries(replace(row, parameter=loss), _by_training(causal, column), num_samples=num_samples)
        for _, at_draw in causal.groupby("draw", sort=True):
            parameter = f"{loss} at {at_draw['timestep'].iloc[0]:g}"
            yield over_trainings_and_queries(replace(row, parameter=parameter), _by_training(at_draw, column), num_samples=num_samples)


def _by_training(causal: pd.DataFrame, column: str) -> Float[np.ndarray, "S Q"]:
    return causal.pivot_table(index="training", columns="query_id", values=column).to_numpy(np.float64)
