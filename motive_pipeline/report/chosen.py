"""The clips that pages count as chosen, and why an arm left a clip out."""

from __future__ import annotations

from collections.abc import Sequence

from motive_pipeline.config import Variant
from motive_pipeline.report.tables import arm_name
from motive_pipeline.storage.workspace import Workspace


def chosen_by_lead(ws: Workspace, variant: Variant) -> frozenset[str]:
    """The clips that a variant's ranking selects. Where the lead arm chooses from it by wishes of its own, the clips of the lead arm. None without what is asked for."""
    lead = ws.config.arm(ws.config.lead_arm)
    if lead.selection and lead.variant == variant:
        subset = ws.published_or_none(f"curated_subset/{lead.name}")
        return frozenset() if subset is None else frozenset(subset.table("subset")["clip_id"])
    if (ranking := ws.published_or_none(f"voted_ranking/{variant}")) is None:
        return frozenset()
    table = ranking.table("ranking")
    return frozenset(table.loc[table["selected"], "clip_id"])


def left_out_sentences(ws: Workspace, clip_id: str) -> list[str]:
    """One sentence for each arm that left the clip out for another reason than its rank."""
    return [sentence for arm in ws.config.arms for sentence in _of_arm(ws, arm, clip_id)]


def _of_arm(ws: Workspace, arm: str, clip_id: str) -> Sequence[str]:
    table = ws.scores.piece("left_out", arm)
    if table is None:
        return []
    rows = table.loc[table["clip_id"] == clip_id, ["reason", "other_id", "detail"]].fillna("").itertuples(index=False, name=None)
    return [_sentence(arm, *row) for row in rows]


def _sentence(arm: str, reason: str, other: str, detail: str) -> str:
    way = f". It gave way to {other}" if other else ""
    return f"Left out by {arm_name(arm)} ({reason}){f': {detail}' if detail else ''}{way}."
