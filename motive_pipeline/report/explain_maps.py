"""The influence maps on the page of ``motive explain``: the published ones, and the missing ones computed now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.config import Variant
from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.clip_maps import ClipMap, MapSet, caveats, compute_clip_maps
from motive_pipeline.evaluation.map_rows import MEAN, STAGE, Pair
from motive_pipeline.models.load import latent_grid
from motive_pipeline.report.explain import QueryVote, Rejection, Standing
from motive_pipeline.report.gallery import Card, Gallery
from motive_pipeline.report.map_pictures import window_of
from motive_pipeline.report.tables import format_number
from motive_pipeline.storage.workspace import Workspace

QUERIES_PER_END = 2
"""Queries of the highest and of the lowest influence whose maps are shown, besides the mean of all."""


@dataclass(frozen=True, kw_only=True)
class TitledCard:
    """A map's card and what it is a map for."""

    title: str
    card: Card


@dataclass(frozen=True, kw_only=True)
class MapSection:
    """The maps of a clip. ``sentences`` are also for the terminal; they say why maps are missing."""

    cards: Sequence[TitledCard] = ()
    sentences: Sequence[str] = ()
    notes: Sequence[str] = ()


def map_section(ws: Workspace, gallery: Gallery, main: Standing, clip_id: str, *, compute: bool) -> MapSection:
    """The maps of a clip of the ranking for the mean of all queries, and for those with the highest and the lowest influence. Maps that are not published
    are computed, unless ``compute`` is false."""
    wanted = [Pair(query_id=query_id, clip_id=clip_id) for query_id in _query_ids(main.by_query)]
    found = _published(ws, main.variant, wanted)
    missing = [pair for pair in wanted if pair not in found]
    why = ""
    try:
        if missing and compute:
            found |= compute_clip_maps(ws, main.variant, missing)
        shown = [TitledCard(title=_title(ws, pair), card=_card(ws, gallery, main, pair, found[pair])) for pair in wanted if pair in found]
    except MotiveError as error:
        shown, why = [], f"No influence map: {error}"
    if not why and missing and not compute:
        why = f"{len(missing)} of {len(wanted)} influence maps are not computed yet, and --no-maps was given."
    window = (
        window_of(found[wanted[0]], temporal_stride=latent_grid(ws).temporal_stride, fps=ws.config.clips.fps)
        if shown and wanted[0] in found
        else None
    )
    return MapSection(
        cards=shown,
        sentences=[*([window.sentence()] if window is not None else []), *([why] if why else [])],
        notes=caveats(ws, main.variant) if shown else [],
    )


def rejected_section(rejected: Sequence[Rejection]) -> MapSection:
    """Why a rejected clip has no maps."""
    stages = ", ".join(dict.fromkeys(each.stage for each in rejected))
    return MapSection(sentences=[f"No influence map: {stages} rejected the clip, so there is no gradient to break down."])


def _query_ids(votes: Sequence[QueryVote]) -> list[str]:
    """The mean of all queries, if there are several, then those of the highest and the lowest influence."""
    ordered = [each.query_id for each in sorted(votes, key=lambda each: -each.influence)]
    ends = dict.fromkeys([*ordered[:QUERIES_PER_END], *ordered[::-1][:QUERIES_PER_END][::-1]])
    return [*([MEAN] if len(ordered) > 1 else []), *ends]


def _published(ws: Workspace, variant: Variant, wanted: Sequence[Pair]) -> dict[Pair, ClipMap]:
    if not ws.has_published(f"{STAGE}/{variant}"):
        return {}
    maps = MapSet(ws, variant)
    return {pair: clip_map for pair in wanted if (clip_map := maps.get(pair)) is not None}


def _title(ws: Workspace, pair: Pair) -> str:
    if pair.query_id == MEAN:
        return "mean of all queries"
    queries = ws.published("query_catalog").table("queries").set_index("query_id")
    return Path(str(queries.at[pair.query_id, "path"])).name


def _card(ws: Workspace, gallery: Gallery, main: Standing, pair: Pair, clip_map: ClipMap) -> Card:
    window = window_of(clip_map, temporal_stride=latent_grid(ws).temporal_stride, fps=ws.config.clips.fps)
    score = next((each.influence for each in main.by_query if each.query_id == pair.query_id), main.mean_influence)
    lines = [
        f"mean {format_number(clip_map.mean, 4, signed=True)} (projected {format_number(score, 4, signed=True)})",
        *([f"best half {window.start_s:.2f}–{window.end_s:.2f} s"] if window is not None else []),
    ]
    return gallery.clip(pair.clip_id, lines, clip_map)
