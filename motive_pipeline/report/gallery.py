"""The pictures of the report: each query's best and worst clips with their masks, and the generated videos of every arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from markupsafe import Markup

from motive_pipeline.config import Variant
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.evaluation.clip_maps import ClipMap, MapSet
from motive_pipeline.evaluation.ground_truth import GroundTruth
from motive_pipeline.evaluation.influence_maps import End, shown_ends
from motive_pipeline.evaluation.map_rows import MEAN, Pair
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.models.load import latent_grid
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.report.chosen import chosen_by_lead
from motive_pipeline.report.map_pictures import curve_svg, map_lines, map_loop
from motive_pipeline.report.pictures import Animation, Film, film, looped, masked
from motive_pipeline.report.tables import arm_name, format_number
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

MAX_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class Card:
    """One looping picture with its caption and, for a clip, its file's name (both untrusted text), and the lines below it. ``is_chosen``: the method
    chose this clip. ``curve``: its influence over time, an SVG."""

    animation: Animation
    caption: str
    lines: Sequence[str]
    name: str = ""
    is_chosen: bool = False
    curve: Markup | str = ""


@dataclass(frozen=True, kw_only=True)
class QueryCards:
    """A query (None: the mean of all) with the clips of highest and of lowest influence on it."""

    query: Card | None
    best: Sequence[Card]
    worst: Sequence[Card]


@dataclass(frozen=True, kw_only=True)
class PromptCards:
    """One prompt, and the video that each arm generated for it."""

    prompt: str
    videos: Sequence[tuple[str, Card]]


class Gallery:
    """Builds the cards of one report, or of one page of `motive explain` or `motive ask`."""

    def __init__(self, ws: Workspace, truth: GroundTruth | None, variant: Variant | None = None) -> None:
        """``variant`` is the one whose ranking says which clips are chosen; one without a ranking yet has none chosen. By default it is the lead arm's, which
        must have one."""
        self._ws = ws
        self._rule = FrameRule.of(ws.config)
        self._read = ClipReader(self._rule, ws.config.engine)
        self._stride = latent_grid(ws).temporal_stride
        self._truth = truth
        self._clips = ws.published("clip_catalog").table("catalog").set_index("clip_id")
        self._queries = ws.published("query_catalog").table("queries").set_index("query_id")
        ranking = (
            ws.published(f"voted_ranking/{ws.config.lead_variant}") if variant is None else ws.published_or_none(f"voted_ranking/{variant}")
        )
        self._ranking = None if ranking is None else ranking.table("ranking").set_index("clip_id")
        self._chosen = chosen_by_lead(ws, variant or ws.config.lead_variant)
        self._clip_masks = MaskSet(ws, "clip")
        self._animations: dict[str, Animation] = {}
        self._films: dict[Path, Film] = {}

    @cached_property
    def _query_masks(self) -> MaskSet:
        return MaskSet(self._ws, "query")

    def queries(self) -> list[QueryCards]:
        """The mean of all queries, then the first queries, each with the best and worst clips of the eligible pool and their maps."""
        maps = MapSet(self._ws, self._ws.config.lead_variant)
        return [
            QueryCards(
                query=None if each.query_id == MEAN else self._query(each.query_id),
                best=[self._clip(end, maps.get(Pair(query_id=each.query_id, clip_id=end.clip_id))) for end in each.best],
                worst=[self._clip(end, maps.get(Pair(query_id=each.query_id, clip_id=end.clip_id))) for end in each.worst],
            )
            for each in shown_ends(self._ws, self._ws.config.lead_variant)
        ]

    def prompts(self, arms: Sequence[str]) -> list[PromptCards]:
        """The first prompts, each with the first video of training 0 of every arm."""
        made = {arm: self._first_videos(arm) for arm in arms}
        common = sorted(set.intersection(*(set(videos) for videos in made.values())))[:MAX_PROMPTS]
        return [
            PromptCards(
                prompt=made[arms[0]][index][0],
                videos=[(arm_name(arm), self._video(*made[arm][index])) for arm in arms],
            )
            for index in common
        ]

    def _first_videos(self, arm: str) -> dict[int, tuple[str, Path, str]]:
        """By prompt index: prompt, file, and the recognized motion (empty if no classifier applies)."""
        publication = self._ws.published(f"generated_videos/{arm}")
        videos = publication.table("videos")
        read = self._ws.published(f"eval_scores/{arm}").table("per_video").drop_duplicates(["training", "prompt_index", "n"])
        videos = videos.merge(pd.DataFrame(read[["training", "prompt_index", "n", "motion_label"]]), on=["training", "prompt_index", "n"])
        first = videos.query("training == 0").sort_values("n").drop_duplicates("prompt_index")
        return {
            int(row["prompt_index"]): (str(row["prompt"]), publication.path / str(row["file"]), str(row["motion_label"]))
            for row in first.to_dict("records")
        }

    def _video(self, prompt: str, file: Path, label: str) -> Card:
        return Card(animation=self._animated(file, None), caption=prompt, lines=[f"recognized: {label}"] if label else [])

    def _query(self, query_id: str) -> Card:
        row = self._queries.loc[query_id]
        mask_FHW = self._query_masks.get(query_id).numpy() if query_id in self._query_masks else None
        category = str(row["category"])
        return Card(
            animation=self._animated(Path(str(row["path"])), mask_FHW),
            caption=str(row["caption"]),
            lines=[category] if category else [],
            name=MediaFile.parse(str(row["path"])).name,
        )

    def _clip(self, end: End, clip_map: ClipMap | None) -> Card:
        lines = [f"no. {end.place} · {format_number(end.influence, 3, signed=True)}", self.standing(end.clip_id), *self.truth(end.clip_id)]
        return self.clip(end.clip_id, lines, clip_map)

    def truth(self, clip_id: str) -> list[str]:
        """The true motion of a clip as a line, where it is known."""
        if self._truth is None or clip_id not in self._truth.motion.index:
            return []
        return [f"truth: {self._truth.motion.loc[clip_id]}"]

    def clip(self, clip_id: str, lines: Sequence[str], clip_map: ClipMap | None = None) -> Card:
        """A card of a clip of the pool with its mask, its influence map if one is given, and ``lines`` below it."""
        row = self._clips.loc[clip_id]
        mask_FHW = self._clip_masks.get(clip_id).numpy()
        card = Card(
            animation=self._loop(clip_id, Path(str(row["path"])), mask_FHW, clip_map),
            caption=str(row["caption"]),
            lines=lines,
            name=MediaFile.parse(str(row["path"])).name,
            is_chosen=clip_id in self._chosen,
        )
        if clip_map is None:
            return card
        return replace(card, lines=[*lines, *map_lines(clip_map)], curve=curve_svg(clip_map.map_FHW))

    def _loop(self, clip_id: str, path: Path, mask_FHW: Float[np.ndarray, "F h w"], clip_map: ClipMap | None) -> Animation:
        if clip_map is not None:
            return map_loop(self._film(path), mask_FHW, clip_map, self._stride)
        if clip_id not in self._animations:
            self._animations[clip_id] = self._animated(path, mask_FHW)
        return self._animations[clip_id]

    def standing(self, clip_id: str) -> str:
        """Votes and rank of a clip of the pool, as text; empty without a ranking that has it."""
        if self._ranking is None or clip_id not in self._ranking.index:
            return ""
        ranked = self._ranking.loc[clip_id]
        return f"{_votes(int(ranked['votes']))} · rank {int(ranked['rank'])}"

    def _animated(self, file: Path, mask_FHW: Float[np.ndarray, "F h w"] | None) -> Animation:
        shown = self._film(file)
        return looped(masked(shown, mask_FHW, self._stride), shown.duration_ms)

    def _film(self, file: Path) -> Film:
        """The small frames of a file, read once."""
        if file not in self._films:
            try:
                frames_THWC = self._read(file).frames_THWC
            except RejectRow as rejection:
                raise GateFailed(
                    f"{file} can no longer be read ({rejection.detail}). Run `motive run` to read the changed files."
                ) from rejection
            self._films[file] = film(frames_THWC, float(self._rule.fps))
        return self._films[file]


def _votes(number: int) -> str:
    return "1 vote" if number == 1 else f"{number} votes"
