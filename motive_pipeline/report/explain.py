"""Why a clip was or was not chosen, and which clips a query votes for: the facts behind the page of ``motive explain``.

Axes: Q queries, N clips of the pool in order of clip id, T decoded frames, F latent frames, H W pixels, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from motive_pipeline.attribution.gradient_set import open_gradients
from motive_pipeline.attribution.influence_set import both_ends, load_influence
from motive_pipeline.config import Variant
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import threshold
from motive_pipeline.report.lookup import KnownClip
from motive_pipeline.report.tables import format_number
from motive_pipeline.storage.workspace import Workspace

NEAREST = 6


@dataclass(frozen=True, kw_only=True)
class QueryVote:
    """One clip for one query: influence, the threshold above which the query votes for it, and its place among the pool's clips."""

    query_id: str
    influence: float
    threshold: float
    place: int

    @property
    def votes(self) -> bool:
        """Whether the query votes for the clip (eq. 18)."""
        return self.influence > self.threshold


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A clip's place in the ranking of one variant, and that of the last chosen clip."""

    variant: Variant
    rank: int
    votes: int
    mean_influence: float
    is_chosen: bool
    num_clips: int
    num_chosen: int
    last_votes: int
    last_mean_influence: float
    by_query: Sequence[QueryVote]

    def sentence(self, *, decides: bool = True) -> str:
        """The place in the ranking as a sentence. Unless it ``decides``, an arm's wishes choose from the ranking."""
        votes = f"{self.votes} of {len(self.by_query)} queries vote for it"
        mean = format_number(self.mean_influence, 4, signed=True)
        if not decides:
            return f"In the ranking that the arm chooses from: rank {self.rank} of {self.num_clips}; {votes}, mean influence {mean}."
        place = f"rank {self.rank} of {self.num_clips}, of which the first {self.num_chosen} are chosen"
        if self.is_chosen:
            return f"Chosen: {place}; {votes}, mean influence {mean}."
        last = f"the last chosen clip has {self.last_votes} ({format_number(self.last_mean_influence, 4, signed=True)})"
        return f"Not chosen: {place}; {votes}, mean influence {mean}; {last}."


@dataclass(frozen=True, kw_only=True)
class QuerySummary:
    """A query's part in the vote: its threshold, how many clips of the pool and of the chosen ones it votes for, and both ends of the pool by
    influence."""

    threshold: float
    num_clips: int
    num_votes: int
    num_chosen_votes: int
    num_chosen: int
    best: Sequence[tuple[str, float]]
    worst: Sequence[tuple[str, float]]

    def sentence(self) -> str:
        """The query's votes as a sentence."""
        return (
            f"It votes for {self.num_votes} of {self.num_clips} clips, those with an influence above "
            f"{format_number(self.threshold, 4, signed=True)}; of the {self.num_chosen} chosen clips it votes for {self.num_chosen_votes}."
        )


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """A stage that could not use the clip, and why."""

    stage: str
    reason: str
    detail: str


def rejections(ws: Workspace, known: KnownClip) -> list[Rejection]:
    """Every rejection of the clip, in the order of the graph."""
    found = []
    for asset in ws.graph.rejecting:
        if publication := ws.published_or_none(asset):
            frame = publication.rejects()
            own = (frame["clip_id"] == known.clip_id) & (known.clip_id != "") | frame["path"].isin(list(known.paths))
            rows = zip(*(frame.loc[own, name].astype(str) for name in ("stage", "reason", "detail")), strict=True)
            found += [Rejection(stage=stage, reason=reason, detail=detail) for stage, reason, detail in rows]
    return list(dict.fromkeys(found))


def standing(ws: Workspace, variant: Variant, clip_id: str) -> Standing | None:
    """The clip's place in ``voted_ranking/<variant>``, or None if it is not in the pool.

    Raises:
        NotPublished: there is no ranking yet.
    """
    ranking = ws.published(f"voted_ranking/{variant}").table("ranking").set_index("clip_id")
    if clip_id not in ranking.index:
        return None
    own, chosen = ranking.loc[clip_id], pd.DataFrame(ranking[ranking["selected"]])
    last = chosen.sort_values("rank").iloc[-1]
    return Standing(
        variant=variant,
        rank=int(own["rank"]),
        votes=int(own["votes"]),
        mean_influence=float(own["mean_influence"]),
        is_chosen=bool(own["selected"]),
        num_clips=len(ranking),
        num_chosen=len(chosen),
        last_votes=int(last["votes"]),
        last_mean_influence=float(last["mean_influence"]),
        by_query=_query_votes(ws, variant, clip_id),
    )


def _query_votes(ws: Workspace, variant: Variant, clip_id: str) -> list[QueryVote]:
    influence = load_influence(ws, variant)
    query_ids = influence.query_ids
    pool_N = load_pool(ws)
    column = int(np.searchsorted(pool_N, np.bytes_(clip_id)))
    found = []
    for block_BN in influence.blocks(pool_N):
        for influence_N in block_BN:
            own = float(influence_N[column])
            found.append(
                QueryVote(
                    query_id=query_ids[len(found)],
                    influence=own,
                    threshold=float(threshold(influence_N, ws.config.of_variant(variant).vote.percentile)),
                    place=1 + int((influence_N > own).sum()),
                )
            )
    return found


def query_summary(ws: Workspace, query_id: str, *, count: int) -> QuerySummary | None:
    """The query's part in the vote, with ``count`` clips at each end; None for a query that does not vote (held out, or rejected).

    Raises:
        NotPublished: there is no ranking yet.
    """
    variant = ws.config.lead_variant
    influence = load_influence(ws, variant)
    percentile = ws.config.of_variant(variant).vote.percentile
    if query_id not in influence.query_ids:
        return None
    pool_N = load_pool(ws)
    influence_N = influence.query(query_id)[influence.columns(pool_N)]
    is_voted_N = influence_N > threshold(influence_N, percentile)
    ranking = ws.published(f"voted_ranking/{variant}").table("ranking")
    chosen = ranking.loc[ranking["selected"], "clip_id"]
    best, worst = ([(bytes(pool_N[place]).decode(), float(influence_N[place])) for place in end] for end in both_ends(influence_N, count))
    return QuerySummary(
        threshold=float(threshold(influence_N, percentile)),
        num_clips=len(pool_N),
        num_votes=int(is_voted_N.sum()),
        num_chosen_votes=int(chosen.isin(pool_N[is_voted_N].astype(str)).sum()),
        num_chosen=len(chosen),
        best=best,
        worst=worst,
    )


def nearest_by_gradient(ws: Workspace, clip_id: str) -> list[tuple[str, float]]:
    """The other clips of the pool whose gradients are most similar to this one's: ids and cosines, the nearest first."""
    gradients = open_gradients(
        ws.published(f"projected_gradients/{ws.config.lead_variant}").path, ws.config.of_variant(ws.config.lead_variant).influence.proj_dim
    )
    if clip_id not in gradients.clip_ids:
        return []
    row = gradients.clip_ids.index(clip_id)
    own_P = next(tile[row - start] for start, tile in gradients.tiles() if start <= row < start + len(tile))
    cosine_N = np.concatenate([tile @ own_P for _, tile in gradients.tiles()])
    in_pool = set(load_pool(ws).astype(str).tolist())
    order = [int(place) for place in np.argsort(-cosine_N, kind="stable") if gradients.clip_ids[place] in in_pool and place != row]
    return [(gradients.clip_ids[place], float(cosine_N[place])) for place in order[:NEAREST]]


def arms_containing(ws: Workspace, clip_id: str) -> list[str]:
    """The arms whose published subset contains the clip."""
    subsets = {arm: f"curated_subset/{arm}" for arm in ws.config.arms if arm != "base"}
    published = {arm: ws.published_or_none(asset) for arm, asset in subsets.items()}
    return [arm for arm, subset in published.items() if subset and clip_id in set(subset.table("subset")["clip_id"])]
