"""The part of the report on clips that work against the queries (:mod:`~motive_pipeline.curation.harmful`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motive_pipeline.curation.harmful import harmful_clips
from motive_pipeline.report.chosen import chosen_by_lead
from motive_pipeline.report.gallery import Card, Gallery
from motive_pipeline.report.tables import arm_name, format_number
from motive_pipeline.storage.workspace import Workspace

MAX_CARDS = 8


@dataclass(frozen=True, kw_only=True)
class HarmfulSection:
    """Sentences, and the worst clips as loops, the worst first."""

    sentences: Sequence[str]
    cards: Sequence[Card]


def load_harmful_section(ws: Workspace, gallery: Gallery) -> HarmfulSection:
    """The section of the variant whose ranking the report shows.

    Raises:
        NotPublished: there is no ranking yet.
        GateFailed: a clip to be shown can no longer be read.
    """
    ranking = ws.published(f"voted_ranking/{ws.config.lead_variant}").table("ranking")
    found = harmful_clips(ranking)
    worst = list(found.head(MAX_CARDS).itertuples(index=False, name=None))
    cards = [
        gallery.clip(clip_id, [f"mean {format_number(mean, 3, signed=True)}", gallery.standing(clip_id), *gallery.truth(clip_id)])
        for clip_id, mean, _ in worst
    ]
    num_looked_at = ranking["selected"].tolist().count(True)
    chosen = chosen_by_lead(ws, ws.config.lead_variant) & set(found["clip_id"])
    by = arm_name(ws.config.lead_arm) if ws.config.arm(ws.config.lead_arm).selection else "the vote"
    return HarmfulSection(sentences=_sentences(len(ranking), num_looked_at, len(found), len(chosen), by), cards=cards)


def _sentences(num_ranked: int, num_looked_at: int, num_harmful: int, num_chosen: int, by: str) -> list[str]:
    looked_at = f"Of the {num_looked_at} clips (of {num_ranked}) with the lowest influence, averaged over the queries,"
    if not num_harmful:
        return [f"{looked_at} none is below zero: no clip is listed as harmful."]
    how_many = "all are" if num_harmful == num_looked_at > 1 else f"{num_harmful} {'is' if num_harmful == 1 else 'are'}"
    first = (
        f"{looked_at} {how_many} below zero. By the gradients at the base model's weights, a training step on such a "
        "clip raises the queries' motion-weighted loss."
    )
    last = "motive export --harmful writes the whole list." if num_harmful > MAX_CARDS else ""
    both = (
        f"{num_chosen} of them {'is' if num_chosen == 1 else 'are'} chosen by {by} all the same: a few queries want what the others do not."
    )
    return [first, *([both] if num_chosen else []), *([last] if last else [])]
