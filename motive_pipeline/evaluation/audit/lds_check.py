"""The rows of the linear datamodeling score: reliability of the targets, the score of every variant and control, and their differences.

Axis suffixes: V estimators, T trainings, Q queries, S subsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from motive_pipeline.evaluation.audit.estimators import Scores
from motive_pipeline.evaluation.audit.lds import (
    MIN_SUBSETS,
    Resampled,
    Scored,
    ceiling,
    holm,
    lds,
    predicted_effects,
    reliability,
    resampled_scores,
    spearman_brown,
)
from motive_pipeline.evaluation.audit.random_subsets import Effects, planned_subsets, subset_effects
from motive_pipeline.evaluation.audit.retraining import Retraining
from motive_pipeline.evaluation.audit.table import AuditRow, correlation_row, over_queries
from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS
from motive_pipeline.storage.workspace import Workspace

LEVEL = 0.05
"""Differences are called so if Holm's p-value is at most this."""


@dataclass(frozen=True, kw_only=True)
class LdsFindings:
    """The rows, and what other parts of the pipeline ask: the reliability of one training (NaN: not measured), and what is left to train ('': nothing)."""

    rows: Sequence[AuditRow]
    reliability: float
    unfinished: str


def lds_findings(ws: Workspace, retraining: Retraining, variants: Sequence[Scores], controls: Sequence[Scores]) -> LdsFindings:
    """Train on random subsets as far as the settings allow, and score every variant and control against what the trainings did.

    With too few subsets for any conclusion it trains nothing and gives no number.
    """
    planned = len(planned_subsets(ws))
    if planned < MIN_SUBSETS:
        said = f"{planned} different subsets are planned; below {MIN_SUBSETS} no score means anything. Raise audit.subsets, or use a larger pool"
        return LdsFindings(rows=[_no_score(planned, said)], reliability=math.nan, unfinished="")
    effects = subset_effects(ws, retraining)
    return findings_of(effects, variants, controls, num_samples=ws.config.evaluate.bootstrap_samples)


def findings_of(effects: Effects, variants: Sequence[Scores], controls: Sequence[Scores], *, num_samples: int = 1000) -> LdsFindings:
    """The rows for what the trainings did."""
    unfinished = effects.unfinished
    num_subsets = effects.drop_TQS.shape[2]
    if num_subsets < MIN_SUBSETS:
        said = f"{num_subsets} subsets have all their trainings; {MIN_SUBSETS} are needed for a score. {unfinished}".strip()
        return LdsFindings(rows=[_no_score(num_subsets, said)], reliability=math.nan, unfinished=unfinished)
    asked = [place for place, query in enumerate(effects.queries) if not query.is_held_out]
    asked = [place for place in asked if all(effects.queries[place].clip_id in each.query_ids for each in (*variants, *controls))]
    query_ids = [effects.queries[place].clip_id for place in asked]
    drop_TQS = effects.drop_TQS[:, asked]
    single = float(np.nanmean(reliability(drop_TQS)))
    scored = [*variants, *controls]
    predicted_VQS = np.stack([predicted_effects(each.over(query_ids, effects.clip_id_N), effects.member_SN) for each in scored])
    resampled = resampled_scores(predicted_VQS, drop_TQS.mean(axis=0), num_samples=num_samples)
    rows = [
        *_reliability_rows(effects, drop_TQS, single, unfinished),
        *_score_rows(effects, scored, query_ids, predicted_VQS, drop_TQS, single, resampled),
        *_difference_rows(variants, controls, resampled),
    ]
    return LdsFindings(rows=rows, reliability=single, unfinished=unfinished)


def _no_score(num_subsets: int, said: str) -> AuditRow:
    return AuditRow(check="lds", num_units=num_subsets, unit="subsets", verdict=f"no score: {said}")


def _reliability_rows(effects: Effects, drop_TQS: Float[np.ndarray, "T Q S"], single: float, unfinished: str) -> Iterator[AuditRow]:
    count, num_subsets = len(drop_TQS), drop_TQS.shape[2]
    row = AuditRow(check="reliability")
    by_query = over_queries(replace(row, parameter="one training, a query"), reliability(drop_TQS), bounds=(-1.0, 1.0))
    yield replace(by_query, seconds=effects.seconds_a_training, verdict=unfinished)
    row = replace(row, num_units=num_subsets, unit="subsets")
    yield replace(row, parameter=f"mean of {count} trainings, a query", value=spearman_brown(single, count))
    yield replace(row, parameter=f"ceiling of a score, mean of {count} trainings", value=ceiling(single, count))
    mean_loss = float(reliability(drop_TQS.mean(axis=1, keepdims=True))[0])
    yield replace(row, parameter="one training, mean of the queries", value=mean_loss)


def _score_rows(
    effects: Effects,
    scored: Sequence[Scores],
    query_ids: Sequence[str],
    predicted_VQS: Float[np.ndarray, "V Q S"],
    drop_TQS: Float[np.ndarray, "T Q S"],
    single: float,
    resampled: Resampled,
) -> Iterator[AuditRow]:
    drop_QS = drop_TQS.mean(axis=0)
    held_out = [place for place, query in enumerate(effects.queries) if query.is_held_out]
    most = ceiling(single, len(drop_TQS))
    for number, estimator in enumerate(scored):
        row = AuditRow(check="lds", variant=estimator.name, num_units=drop_QS.shape[1], unit="subsets")
        yield _scored_row(replace(row, parameter="mean over queries"), resampled.score(number))
        share = resampled.mean_V[number] / most
        yield replace(row, against="ceiling", parameter="share of the ceiling", value=float(share))
        mean_S = predicted_VQS[number].mean(axis=0)
        yield correlation_row(replace(row, parameter="mean of the queries' loss"), mean_S, drop_QS.mean(axis=0))
        if held_out:
            target_S = effects.drop_TQS[:, held_out].mean(axis=(0, 1))
            yield correlation_row(replace(row, parameter="mean of the held-out queries' loss"), mean_S, target_S)
        for query_id, value in zip(query_ids, lds(predicted_VQS[number], drop_QS), strict=True):
            yield replace(row, parameter="a query", query_id=query_id, value=float(value))


def _difference_rows(variants: Sequence[Scores], controls: Sequence[Scores], resampled: Resampled) -> Iterator[AuditRow]:
    """Each variant minus each control and each variant before it, in pairs. Holm's method controls for all of them together."""
    names = [each.name for each in (*variants, *controls)]
    pairs = [(first, second) for first in range(len(variants)) for second in (*range(first), *range(len(variants), len(names)))]
    found = [resampled.difference(first, second) for first, second in pairs]
    adjusted = holm([each.p_value for each in found])
    for (first, second), difference, p_value in zip(pairs, found, adjusted, strict=True):
        row = AuditRow(check="lds_difference", variant=names[first], against=names[second], parameter="mean over queries")
        row = replace(
            row, num_units=resampled.num_subsets, unit="subsets", verdict=_outcome(difference.value, p_value, resampled.num_queries)
        )
        yield _scored_row(row, difference)


def _outcome(difference: float, p_value: float, num_queries: int) -> str:
    if math.isnan(p_value):
        return "no conclusion: fewer than three queries" if num_queries < MIN_PROMPTS else "no conclusion: all resamples agree"
    word = "not clearly different" if p_value > LEVEL else "better" if difference > 0 else "worse"
    return f"{word} (Holm p = {p_value:.3f})"


def _scored_row(row: AuditRow, scored: Scored) -> AuditRow:
    return replace(row, value=scored.value, std_error=scored.std_error, ci_low=scored.low, ci_high=scored.high)
