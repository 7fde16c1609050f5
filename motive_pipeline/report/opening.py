"""The first screen of the report: what the base model, a control, the full pool and the lead arm generate, and one query with its best and worst clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from motive_pipeline.graph.arms import BASE
from motive_pipeline.report.gallery import Card, PromptCards, QueryCards
from motive_pipeline.report.tables import arm_name

MAX_PROMPTS = 3
CLIPS_PER_END = 3


@dataclass(frozen=True, kw_only=True)
class Opening:
    """``names`` head the columns of the strip; each of its rows has one video an arm for one prompt. ``query`` is the first query with its clips."""

    names: Sequence[str]
    strip: Sequence[PromptCards]
    query: QueryCards


def opening(prompts: Sequence[PromptCards], queries: Sequence[QueryCards], arms: Sequence[str], lead: str) -> Opening:
    """The first screen, from the cards of the sections below it. Nothing is picked by its looks: the prompts and the query are the first ones."""
    shown = [arm_name(arm) for arm in (BASE, "random", "full", lead) if arm in arms]
    first = next((cards for cards in queries if cards.query is not None), queries[0])
    return Opening(
        names=shown,
        strip=[PromptCards(prompt=each.prompt, videos=_in_order(each, shown)) for each in prompts[:MAX_PROMPTS]],
        query=replace(first, best=first.best[:CLIPS_PER_END], worst=first.worst[:CLIPS_PER_END]),
    )


def _in_order(prompt: PromptCards, names: Sequence[str]) -> list[tuple[str, Card]]:
    videos = dict(prompt.videos)
    return [(name, videos[name]) for name in names]
