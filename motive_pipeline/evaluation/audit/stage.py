"""Publishes ``attribution_audit``: the table ``audit``, and a verdict in words (docs/evaluation.md, "The audit")."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

import pandas as pd

from motive_pipeline.curation.pool import load_pool
from motive_pipeline.evaluation.audit.estimators import Scores, control_scores, variant_scores
from motive_pipeline.evaluation.audit.lds_check import LdsFindings, lds_findings
from motive_pipeline.evaluation.audit.leave_group_out import group_rows
from motive_pipeline.evaluation.audit.passes import pass_rows
from motive_pipeline.evaluation.audit.published_checks import (
    control_rows,
    leakage_rows,
    length_rows,
    motion_rows,
    projection_rows,
    query_rows,
)
from motive_pipeline.evaluation.audit.retraining import Retraining
from motive_pipeline.evaluation.audit.table import AuditRow, audit_frame
from motive_pipeline.evaluation.audit.verdict import MIN_RELIABILITY, verdict_rows
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.publication import UNFINISHED, WARNING
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, Workspace

RELIABILITY = "reliability of one training"
NOT_ASKED = LdsFindings(rows=[], reliability=math.nan, unfinished="")


def publish_audit(ws: Workspace) -> Publication:
    """Publish ``attribution_audit``: ``audit.parquet``, the rows of all checks without what they took, and the score table ``audit``.

    Raises:
        NotPublished: an input is missing.
    """
    started = time.time()
    variants = sorted(variant_scores(ws), key=lambda scores: scores.name != ws.config.lead_variant)  # the lead variant first
    controls = control_scores(ws, variants[0].query_ids)
    rows = _cheap_rows(ws, variants, controls)
    checks = ws.config.audit.checks
    retraining = Retraining(ws) if {"lds", "leave_group_out"} & set(checks) else None
    if retraining is not None and "leave_group_out" in checks:  # the smaller one first: where time is short, it is done
        rows += group_rows(ws, retraining)
    trained = lds_findings(ws, retraining, variants, controls) if retraining is not None and "lds" in checks else NOT_ASKED
    rows += trained.rows
    verdict = verdict_rows(
        rows,
        variants=[scores.name for scores in variants],
        proj_dim=ws.config.of_variant(ws.config.lead_variant).influence.proj_dim,
        reliability=trained.reliability,
        unfinished=trained.unfinished,
        asked_lds="lds" in checks,
    )
    table = audit_frame([*rows, *verdict])
    content = pd.DataFrame(table.drop(columns="seconds"))
    return ws.publish(
        "attribution_audit",
        content=digest_frame(content),
        write=lambda folder: write_parquet(content, folder / "audit.parquet"),
        started=started,
        facts={"verdict": verdict[0].verdict, "figures": len(rows)} | _facts(trained, "" if retraining is None else retraining.unfinished),
        table_rows=len(table),
        scores={("audit", "audit"): table},
    )


def _facts(trained: LdsFindings, unfinished: str) -> dict[str, float | str]:
    """What `motive export` and the next run ask: the reliability of the trainings, a warning if it is low, and whether trainings are left."""
    facts: dict[str, float | str] = {} if math.isnan(trained.reliability) else {RELIABILITY: trained.reliability}
    if trained.reliability < MIN_RELIABILITY:
        facts[WARNING] = (
            f"the audit found no ground to choose by influence: two trainings of the same random subsets agree by {trained.reliability:.2f} only. "
            "Compare with the arm flow_similarity, or with random"
        )
    return facts | ({UNFINISHED: unfinished} if unfinished else {})


def _cheap_rows(ws: Workspace, variants: list[Scores], controls: list[Scores]) -> list[AuditRow]:
    """The checks that are always on."""
    pool_ids = load_pool(ws).astype(str).tolist()
    rows: list[AuditRow] = []
    for scores in variants:
        others = [*(other for other in variants if other is not scores), *controls]
        for check in (
            lambda own=scores: projection_rows(ws, own.name),
            lambda own=scores: length_rows(ws, own.name, own),
            lambda own=scores: motion_rows(ws, own),
            lambda own=scores: query_rows(ws, own),
            lambda own=scores, rest=others: control_rows(own, rest),
            lambda own=scores: leakage_rows(ws, own.name, pool_ids),
        ):
            rows += timed(check)
    return [*rows, *timed(lambda: pass_rows(ws, ws.config.lead_variant))]


def timed(check: Callable[[], Iterable[AuditRow]]) -> list[AuditRow]:
    """The rows of a check, with the seconds that it took where they have none of their own."""
    started = time.monotonic()
    rows = list(check())
    taken = time.monotonic() - started
    return [row if row.seconds == row.seconds else replace(row, seconds=taken) for row in rows]
