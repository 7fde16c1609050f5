"""The rows of the table ``audit``: one for each figure, in one form for all checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from motive_pipeline.evaluation.audit.agreement import correlation
from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS, mean_interval

Z = 1.959964
"""Half the width of a 95 % interval in standard errors of the normal distribution."""


@dataclass(frozen=True, kw_only=True)
class AuditRow:
    """One figure of the audit.

    ``variant`` is what is audited, ``against`` what it is compared with, ``parameter`` what else identifies the figure (a width, a timestep).
    ``query_id`` is empty unless the figure is of one query. ``value`` is NaN where there is no number; then ``verdict`` says why. ``num_units``
    counts the ``unit`` (queries, clips, pairs, subsets) behind the value. The interval is one of 95 %.
    """

    check: str
    variant: str = ""
    against: str = ""
    parameter: str = ""
    query_id: str = ""
    value: float = math.nan
    std_error: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    num_units: int = 0
    unit: str = ""
    seconds: float = math.nan
    verdict: str = ""


def over_queries(row: AuditRow, value_Q: Float[np.ndarray, " Q"], *, bounds: tuple[float, float] | None = None) -> AuditRow:
    """``row`` with the mean over queries, with the interval of :func:`~motive_pipeline.evaluation.bootstrap.mean_interval` (none below three queries).

    A query without a value (NaN: a constant ranking) does not count.
    """
    known_Q = np.asarray(value_Q, np.float64)[~np.isnan(value_Q)]
    if not len(known_Q):
        return replace(row, unit="queries", verdict="no query has a value: all scores of a side are equal")
    found = mean_interval(known_Q[None], bounds=bounds)
    std_error = float(known_Q.std(ddof=1) / math.sqrt(len(known_Q))) if len(known_Q) >= MIN_PROMPTS else math.nan
    return replace(
        row, value=found.value, std_error=std_error, ci_low=found.low, ci_high=found.high, num_units=len(known_Q), unit="queries"
    )


def over_trainings_and_queries(row: AuditRow, value_SQ: Float[np.ndarray, "S Q"], *, num_samples: int = 2000) -> AuditRow:
    """``row`` with the mean over trainings and queries and its interval, which the luck of trainings is part of (none below three queries)."""
    found = mean_interval(value_SQ, num_samples=num_samples)
    return replace(row, value=found.value, ci_low=found.low, ci_high=found.high, num_units=found.num_prompts, unit="queries")


def correlation_row(row: AuditRow, first_N: Float[np.ndarray, " N"], second_N: Float[np.ndarray, " N"]) -> AuditRow:
    """``row`` with the rank correlation of two columns over independent units, with the interval of Fisher's z."""
    value, error = correlation(first_N, second_N)
    if math.isnan(value):
        return replace(row, num_units=len(first_N), verdict="all values of a side are equal, or there are fewer than four")
    if abs(value) > 1 - 1e-12:
        return replace(row, value=value, num_units=len(first_N))
    low, high = (math.tanh(math.atanh(value) + side * Z / math.sqrt(len(first_N) - 3)) for side in (-1, 1))
    return replace(row, value=value, std_error=error, ci_low=low, ci_high=high, num_units=len(first_N))


def audit_frame(rows: Sequence[AuditRow]) -> pd.DataFrame:
    """The rows as a table, in their order."""
    columns = list(AuditRow.__dataclass_fields__)
    return pd.DataFrame([vars(row) for row in rows], columns=columns).astype({"num_units": "int64"})
