"""Which training clips drive the motion in one video: the facts behind ``motive ask``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from motive_pipeline.attribution.asked_video import ReadVideo, VideoInfluence, comparable_gradients, influence_on_video, read_video
from motive_pipeline.attribution.influence_set import both_ends
from motive_pipeline.config import Variant
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.report.named_video import NamedVideo
from motive_pipeline.report.plumbing import plumbing_notes
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class ClipPlace:
    """One clip and its influence on the video. ``place`` counts from the highest influence, 1.

    ``percentile`` is the share of the config's queries, in percent, on which the clip has a lower influence; None without queries to compare with.
    """

    clip_id: str
    path: str
    caption: str
    influence: float
    place: int
    percentile: float | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The clips of highest influence on a video, the highest first, and those of lowest, the lowest first. ``notes`` are sentences for a person."""

    video: NamedVideo
    read: ReadVideo
    variant: Variant
    influence: VideoInfluence
    num_clips: int
    best: Sequence[ClipPlace]
    worst: Sequence[ClipPlace]
    notes: Sequence[str]

    @property
    def magnitude_px(self) -> float:
        """The mean motion magnitude of the video, in pixels."""
        return float(self.read.mask_row["motion_magnitude_px"])

    def as_json(self) -> dict[str, Any]:
        """The answer in plain JSON types."""
        return {
            "video": self.video.clip.location,
            "clip_id": self.video.clip.clip_id,
            "caption": self.video.caption,
            "caption_from": self.video.caption_from,
            "variant": self.variant,
            "frames": int(self.influence.row["num_frames"]),
            "motion_magnitude_px": self.magnitude_px,
            "gradient_norm": float(self.influence.row["grad_norm"]),
            "clips": self.num_clips,
            "queries": self.influence.num_queries,
            "best": [vars(each) for each in self.best],
            "worst": [vars(each) for each in self.worst],
            "notes": list(self.notes),
        }


def answer(ws: Workspace, video: NamedVideo, variant: Variant, *, top: int) -> Answer:
    """Compute the influence of every clip on ``video``; ``top`` clips stand at each end, fewer where one would stand at both.

    Raises:
        NotPublished: there are no gradients of the variant yet.
        GateFailed: the device is too small for the model.
        MotiveError: model or settings are not those of the published gradients, or the video would be rejected as a query.
    """
    clips = comparable_gradients(ws, variant)
    try:
        read = read_video(ws, video.clip)
        influence = influence_on_video(ws, variant, read, clips)
    except RejectRow as rejection:
        same = "" if rejection.transient else ". As a query it would be rejected, too"
        raise MotiveError(f"{video.clip.location}: {rejection}{same}") from rejection
    in_pool_M = np.flatnonzero(_is_in_pool(ws, influence))
    if not len(in_pool_M):
        raise MotiveError(f"no clip of the eligible pool has a gradient of the variant {variant}. Run `motive rank --variant {variant}`.")
    ends = both_ends(influence.influence_N[in_pool_M], top)
    shown = [[int(in_pool_M[place]) for place in end] for end in ends]
    known = _catalog(ws, [_id(influence, position) for end in shown for position in end])
    best, worst = (
        [
            _place(influence, position, number if is_best else len(in_pool_M) + 1 - number, known)
            for number, position in enumerate(end, start=1)
        ]
        for end, is_best in zip(shown, (True, False), strict=True)
    )
    return Answer(
        video=video,
        read=read,
        variant=variant,
        influence=influence,
        num_clips=len(in_pool_M),
        best=best,
        worst=worst,
        notes=_notes(ws, video, influence),
    )


def _is_in_pool(ws: Workspace, influence: VideoInfluence) -> np.ndarray:
    """Which clips with a gradient are in the published pool; all of them where none is published."""
    if not ws.has_published("eligible_pool"):
        return np.ones(len(influence.clip_id_N), dtype=bool)
    return np.isin(influence.clip_id_N, load_pool(ws))


def _id(influence: VideoInfluence, position: int) -> str:
    return bytes(influence.clip_id_N[position]).decode()


def _catalog(ws: Workspace, clip_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """(path, caption) of the clips, by id."""
    file = ws.published("clip_catalog").path / "catalog.parquet"
    table = pq.read_table(file, columns=["clip_id", "path", "caption"], filters=[("clip_id", "in", list(clip_ids) or [""])])
    return {clip_id: (path, caption) for clip_id, path, caption in zip(*(column.to_pylist() for column in table.columns), strict=True)}


def _place(influence: VideoInfluence, position: int, place: int, known: dict[str, tuple[str, str]]) -> ClipPlace:
    clip_id = _id(influence, position)
    path, caption = known.get(clip_id, ("", ""))
    lower, num_queries = int(influence.num_lower_N[position]), influence.num_queries
    return ClipPlace(
        clip_id=clip_id,
        path=path,
        caption=caption,
        influence=float(influence.influence_N[position]),
        place=place,
        percentile=100.0 * lower / num_queries if num_queries else None,
    )


def _notes(ws: Workspace, video: NamedVideo, influence: VideoInfluence) -> list[str]:
    found = plumbing_notes(ws.config)
    if not video.caption:
        found.append("The video has no caption, so the model was told nothing of it. Give what it shows: --caption TEXT")
    if float(influence.row["grad_norm"]) == 0:
        found.append("The gradient of the video is zero, so every influence is zero, and the order means nothing.")
    if not influence.num_queries:
        found.append(
            "No gradients of queries are published under the same settings, so there are no percentiles. `motive run` computes them."
        )
    if np.isin(np.bytes_(video.clip.clip_id), influence.clip_id_N):
        found.append("The video is itself one of the training clips.")
    return found
