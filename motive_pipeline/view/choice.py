"""What other settings would choose: the exact vote over the published influence, as ``curation/vote.py`` counts it.

Axes: Q queries, N ranked clips in order of clip id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float32, Int64, Shaped

from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.config import Variant
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import Votes, majority_vote, num_selected, ranking_order
from motive_pipeline.graph import Rule
from motive_pipeline.storage.workspace import Workspace

KEPT_VOTES = 64
"""Percentiles whose votes are kept in memory."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The clips that a share and a percentile choose, best first."""

    clip_id_K: Shaped[np.ndarray, " K"]
    last_votes: int


@dataclass(frozen=True, kw_only=True)
class Ballot:
    """The published influence of one variant on the clips that it ranks. ``num_pool`` clips are eligible, those without a gradient among them."""

    influence_QN: Float32[np.ndarray, "Q N"]
    query_ids: Sequence[str]
    clip_id_N: Shaped[np.ndarray, " N"]
    num_pool: int
    rule: Rule
    percentile: float
    """Of the published ranking."""
    _counted: dict[float, tuple[Votes, Int64[np.ndarray, " N"]]] = field(default_factory=dict, repr=False)

    def choice(self, *, share: float, percentile: float) -> Choice:
        """What the settings would choose: the same clips as ``voted_ranking`` would publish under them."""
        votes, order_N = self._count(percentile)
        chosen_K = order_N[: min(num_selected(self.num_pool, share), len(order_N))]
        return Choice(clip_id_K=self.clip_id_N[chosen_K], last_votes=int(votes.votes_N[chosen_K[-1]]))

    def _count(self, percentile: float) -> tuple[Votes, Int64[np.ndarray, " N"]]:
        if percentile not in self._counted:
            votes = majority_vote([self.influence_QN], percentile)
            while len(self._counted) >= KEPT_VOTES:
                self._counted.pop(next(iter(self._counted)), None)
            self._counted[percentile] = votes, ranking_order(votes, self.rule)
        return self._counted[percentile]

    def best_query_N(self) -> Int64[np.ndarray, " N"]:
        """For each clip the position of the query on which its influence is highest."""
        return np.argmax(self.influence_QN, axis=0)


def load_ballot(ws: Workspace, variant: Variant) -> Ballot:
    """The published influence of ``variant``.

    Raises:
        NotPublished: influence, pool or ranking are not published.
    """
    influence, pool = load_influence(ws, variant), load_pool(ws)
    ranked_N = np.intersect1d(pool, influence.clip_id_N)
    facts = ws.published(f"voted_ranking/{variant}").facts
    return Ballot(
        influence_QN=np.concatenate(list(influence.blocks(ranked_N))),
        query_ids=influence.query_ids,
        clip_id_N=ranked_N,
        num_pool=len(pool),
        rule=facts["rule"],
        percentile=float(facts["percentile"]),
    )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A choice beside one arm: the clips of both, those that only the choice has, and those that only the arm has."""

    arm: str
    num_clips: int
    both: int
    came_N: Bool[np.ndarray, " N"]
    went_N: Bool[np.ndarray, " N"]


def compared(chosen_N: Bool[np.ndarray, " N"], arms: dict[str, Bool[np.ndarray, " N"]]) -> list[Compared]:
    """The choice beside each arm; N are all clips of the catalog."""
    return [
        Compared(
            arm=arm, num_clips=int(own_N.sum()), both=int((chosen_N & own_N).sum()), came_N=chosen_N & ~own_N, went_N=own_N & ~chosen_N
        )
        for arm, own_N in arms.items()
    ]
