"""The report's section on the audit: its verdict in sentences, and a table for each check. It reads the table ``audit`` and computes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from motive_pipeline.report.tables import Number, Table, arm_name, format_number, with_origin
from motive_pipeline.storage.workspace import Workspace

SOURCE = "attribution_audit"

_LABELS = {
    "flow_similarity": "flow similarity",
    "untrained": "untrained network",
    "motion_magnitude": "motion magnitude",
    "random": "random",
}

CHECKS: Mapping[str, tuple[str, str]] = {
    "reliability": (
        "How reliable the trainings are",
        "Rank correlation over random subsets between two trainings of the same subset, and what follows for their mean. No score can pass the ceiling.",
    ),
    "lds": (
        "Does influence predict what training does (LDS)?",
        "Rank correlation over random subsets between the summed influence of their clips and the drop of the queries' loss after training on them. "
        "Controls stand below the variants.",
    ),
    "lds_difference": (
        "The scores compared in pairs",
        "On the same subsets and queries. Holm's p-value controls for all comparisons of the table together.",
    ),
    "leave_group_out": (
        "What does training do without the best or the worst clips?",
        "How much higher the motion-weighted loss of the held-out queries is, in % of the base model's, when a group of clips is left out of the pool: against training "
        "on the full pool, and against leaving out as many random clips. Expected: more than random without the top, below zero without the bottom. The words "
        "rest on an interval that holds for all comparisons of the table together (Bonferroni).",
    ),
    "controls": (
        "Do controls rank the clips alike?",
        "Mean over the queries of the rank correlation with a control (or another variant), and the overlap of the best 10 %. A control that ranks alike "
        "would have chosen alike.",
    ),
    "projection": (
        "What the projection costs",
        "The first entries of the stored gradients against all of them, on a sample; cosine errors beside those that theory predicts.",
    ),
    "timestep": (
        "Single timesteps",
        "Rank agreement of the influence by one timestep with that of the mean gradient over several, on a small sample.",
    ),
    "noise": ("Another noise", "Rank agreement of the influence by two noises at one timestep, on a small sample."),
    "draws": ("More draws", "Rank agreement of the mean of so many draws with the mean of as many others, on a small sample."),
    "precision": ("bfloat16 against float32", "Gradients of the same draw in both precisions, on a small sample."),
    "length": ("Length", "Rank correlation with the number of frames."),
    "motion": (
        "Motion",
        "Motion magnitude of the clips with the highest and the lowest mean influence. Influence should be no filter for motion.",
    ),
    "queries": ("How far single queries decide the choice", "Share of the chosen clips that stay when queries are left out."),
    "query_overlap": ("Do categories choose the same clips?", "Overlap of the best clips of two categories of queries."),
    "leakage": ("Leakage", "Queries in the pool, and near-duplicates by perceptual hashes."),
}
"""Title and caption of each check, in the order of the page."""

KINDS = {"supported": "What the evidence supports", "not supported": "What it does not support", "to change": "What to change"}


@dataclass(frozen=True, kw_only=True)
class AuditSection:
    """The headline, the sentences by kind (:data:`KINDS`), and the tables with their numbers."""

    headline: str
    sentences: Mapping[str, Sequence[str]]
    tables: Sequence[Table]
    numbers: Sequence[Number]
    rows: pd.DataFrame
    """The rows of the table ``audit``, for the plots."""


def load_audit_section(ws: Workspace) -> AuditSection:
    """The section for the published audit.

    Raises:
        NotPublished: there is none yet.
    """
    audit = ws.published(SOURCE).table("audit")
    verdict = audit[audit["check"] == "verdict"]
    said = {KINDS[kind]: verdict.loc[verdict["parameter"] == kind, "verdict"].tolist() for kind in KINDS}
    found = [_table(check, pd.DataFrame(audit[(audit["check"] == check) & (audit["query_id"] == "")])) for check in CHECKS]
    return AuditSection(
        headline=verdict.loc[verdict["parameter"] == "headline", "verdict"].iloc[0],
        sentences={title: sentences for title, sentences in said.items() if sentences},
        tables=[with_origin(table, numbers) for table, numbers in found if table.rows],
        numbers=[number for _, numbers in found for number in numbers],
        rows=audit,
    )


def _table(check: str, found: pd.DataFrame) -> tuple[Table, list[Number]]:
    """The rows of a check that are not of a single query."""
    title, caption = CHECKS[check]
    rows, numbers = [], []
    for row in found.to_dict("records"):
        shown = _shown(row)
        names = [estimator_label(str(row["variant"])), estimator_label(str(row["against"])), str(row["parameter"])]
        units = f"{row['num_units']} {row['unit']}" if row["num_units"] else ""
        rows.append([*names, shown, units, str(row["verdict"])])
        if shown != "–":
            numbers.append(_number(row, " / ".join(name for name in names if name), shown))
    table = Table(
        key=f"audit_{check}",
        title=title,
        columns=["of", "against", "figure", "value", "from", "says"],
        rows=rows,
        caption=caption,
        words=frozenset({1, 2, 4, 5}),
    )
    return table, numbers


def _shown(row: Mapping) -> str:
    """``0.72 [0.60, 0.86]``, ``0.85 ± 0.24``, or ``–`` where there is no number."""
    if math.isnan(row["value"]):
        return "–"
    if row["check"] == "leakage":
        return format_number(row["value"], 0)
    value = format_number(row["value"], 2)
    if not math.isnan(row["ci_low"]):
        return f"{value} [{format_number(row['ci_low'], 2)}, {format_number(row['ci_high'], 2)}]"
    return value if math.isnan(row["std_error"]) else f"{value} ± {format_number(row['std_error'], 2)}"


def _number(row: Mapping, name: str, shown: str) -> Number:
    return Number(
        table=f"audit_{row['check']}",
        row=name,
        column="value",
        value=row["value"],
        ci_low=row["ci_low"],
        ci_high=row["ci_high"],
        num=int(row["num_units"]),
        unit=str(row["unit"]),
        shown=shown,
        source=SOURCE,
    )


def estimator_label(name: str) -> str:
    """What people call a variant or a control."""
    return _LABELS.get(name) or arm_name(name)
