"""The pictures of the report: for each query its best and worst clips with the mask laid over, and what every arm generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import zarr
from jaxtyping import Float

from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.evaluation.ground_truth import GroundTruth
from motive_pipeline.models.load import latent_grid
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.report.pictures import Animation, animation
from motive_pipeline.report.tables import arm_name, format_number
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

MAX_QUERIES = 6
CLIPS_A_SIDE = 4
MAX_PROMPTS = 6


@dataclass(frozen=True, kw_only=True)
class Card:
    """One looping picture: the animation, its caption (untrusted text), the lines below it, and whether the method chose it."""

    animation: Animation
    caption: str
    lines: Sequence[str]
    is_chosen: bool = False


@dataclass(frozen=True, kw_only=True)
class QueryCards:
    """A query with the clips that help it most and those that hurt it most."""

    query: Card
    best: Sequence[Card]
    worst: Sequence[Card]


@dataclass(frozen=True, kw_only=True)
class PromptCards:
    """One prompt, and what each arm made of it."""

    prompt: str
    videos: Sequence[tuple[str, Card]]


@dataclass(frozen=True, kw_only=True)
class InfluenceMatrix:
    """``influence_matrix/motive`` in memory."""

    query_ids: Sequence[str]
    clip_ids: Sequence[str]
    influence_QN: Float[np.ndarray, "Q N"]


def load_influence(ws: Workspace) -> InfluenceMatrix:
    """The published influence of every clip on every query.

    Raises:
        NotPublished: there is none yet.
    """
    group = zarr.open_group(ws.published("influence_matrix/motive").path, mode="r")
    ids = {name: [bytes(value).decode("ascii") for value in np.asarray(group[name][:]).tolist()] for name in ("query_id", "clip_id")}  # type: ignore[index]
    return InfluenceMatrix(query_ids=ids["query_id"], clip_ids=ids["clip_id"], influence_QN=np.asarray(group["influence"][:]))  # type: ignore[index]


class Gallery:
    """Makes the cards of one report, or of one page of `motive explain`."""

    def __init__(self, ws: Workspace, truth: GroundTruth | None) -> None:
        self._ws = ws
        self._rule = FrameRule.of(ws.config)
        self._read = ClipReader(self._rule, ws.config.engine)
        self._stride = latent_grid(ws).temporal_stride
        self._truth = truth
        self._clips = ws.published("clip_catalog").table("catalog").set_index("clip_id")
        self._queries = ws.published("query_catalog").table("queries").set_index("query_id")
        self._ranking = ws.published("voted_ranking/motive").table("ranking").set_index("clip_id")
        self._clip_masks, self._query_masks = MaskSet(ws, "clip"), MaskSet(ws, "query")
        self._animations: dict[str, Animation] = {}

    def queries(self, matrix: InfluenceMatrix) -> list[QueryCards]:
        """The first queries, each with its best and worst clips of the eligible pool."""
        in_pool = np.array([clip_id in self._ranking.index for clip_id in matrix.clip_ids])
        columns = np.flatnonzero(in_pool)
        cards = []
        for position, query_id in enumerate(matrix.query_ids[:MAX_QUERIES]):
            order = columns[np.argsort(-matrix.influence_QN[position, columns], kind="stable")]
            side = min(CLIPS_A_SIDE, len(order) // 2)
            ranked = list(
                enumerate((str(matrix.clip_ids[column]), float(matrix.influence_QN[position, column])) for column in order.tolist())
            )
            cards.append(
                QueryCards(
                    query=self._query(query_id),
                    best=[self._clip(clip_id, influence, place + 1) for place, (clip_id, influence) in ranked[:side]],
                    worst=[
                        self._clip(clip_id, influence, place + 1) for place, (clip_id, influence) in reversed(ranked[len(ranked) - side :])
                    ],
                )
            )
        return cards

    def prompts(self, arms: Sequence[str]) -> list[PromptCards]:
        """The first prompts, each with the first video of every arm's training 0."""
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
        """By prompt index: prompt, file, and the motion that flow reads in it (empty when it is not read)."""
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
        return Card(animation=self._animated(file, None), caption=prompt, lines=[f"reads as {label}"] if label else [])

    def _query(self, query_id: str) -> Card:
        row = self._queries.loc[query_id]
        mask_FHW = self._query_masks.get(query_id).numpy() if query_id in self._query_masks else None
        category = str(row["category"])
        return Card(
            animation=self._animated(Path(str(row["path"])), mask_FHW), caption=str(row["caption"]), lines=[category] if category else []
        )

    def _clip(self, clip_id: str, influence: float, place: int) -> Card:
        lines = [f"no. {place} · {format_number(influence, 3, signed=True)}", self.standing(clip_id)]
        if self._truth is not None and clip_id in self._truth.motion.index:
            lines.append(f"truth: {self._truth.motion.loc[clip_id]}")
        return self.clip(clip_id, lines)

    def clip(self, clip_id: str, lines: Sequence[str]) -> Card:
        """A clip of the pool with its mask, and ``lines`` below it."""
        row = self._clips.loc[clip_id]
        if clip_id not in self._animations:
            self._animations[clip_id] = self._animated(Path(str(row["path"])), self._clip_masks.get(clip_id).numpy())
        is_chosen = bool(self._ranking.at[clip_id, "selected"])
        return Card(animation=self._animations[clip_id], caption=str(row["caption"]), lines=lines, is_chosen=is_chosen)

    def standing(self, clip_id: str) -> str:
        """Votes and rank of a clip of the pool."""
        ranked = self._ranking.loc[clip_id]
        return f"{_votes(int(ranked['votes']))} · rank {int(ranked['rank'])}"

    def _animated(self, file: Path, mask_FHW: Float[np.ndarray, "F h w"] | None) -> Animation:
        try:
            frames_THWC = self._read(file).frames_THWC
        except RejectRow as rejection:
            raise GateFailed(
                f"{file} can no longer be read ({rejection.detail}). Run `motive run` to take in what has changed."
            ) from rejection
        return animation(frames_THWC, float(self._rule.fps), mask_FHW=mask_FHW, temporal_stride=self._stride)


def _votes(number: int) -> str:
    return "1 vote" if number == 1 else f"{number} votes"


def best_clips(ws: Workspace, count: int) -> list[Mapping[str, object]]:
    """The first clips of the ranking: rank, votes, mean influence, caption, file."""
    catalog = ws.published("clip_catalog").table("catalog").set_index("clip_id")
    ranking = ws.published("voted_ranking/motive").table("ranking").sort_values("rank").head(count)
    return [
        {
            "rank": int(row["rank"]),
            "votes": int(row["votes"]),
            "mean_influence": float(row["mean_influence"]),
            "caption": str(catalog.at[row["clip_id"], "caption"]),
            "file": str(catalog.at[row["clip_id"], "path"]),
        }
        for row in ranking.to_dict("records")
    ]
