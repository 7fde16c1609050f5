"""The vote with queries that count differently, by their category.

Axis suffixes: G ways to count, Q queries, N clips in order of clip id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.config.selection import require_categories
from motive_pipeline.curation.vote import threshold
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import Arm
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class WeightedVotes:
    """For each way to count and each clip: the weights of the queries that voted for it, added up, and the weighted mean of its influence."""

    votes_GN: Float64[np.ndarray, "G N"]
    mean_influence_GN: Float64[np.ndarray, "G N"]


def weighted_vote(
    influence_blocks: Iterable[Float32[np.ndarray, "B N"]], percentile: float, weight_GQ: Float64[np.ndarray, "G Q"]
) -> WeightedVotes:
    """Eq. 18 with a weight for each query: the sum over q of w_q 1[I(n, q) > tau_q]. Sums run over the queries in order, so with weights of 1 they are those of
    ``majority_vote``. Each row of ``weight_GQ`` has a weight above 0."""
    votes_GN, total_GN = None, None
    query = 0
    for block_BN in influence_blocks:
        if votes_GN is None or total_GN is None:
            votes_GN, total_GN = np.zeros((2, len(weight_GQ), block_BN.shape[1]))
        for influence_N in block_BN:
            is_vote_N = influence_N > threshold(influence_N, percentile)
            for way in np.flatnonzero(weight_GQ[:, query]):
                weight = weight_GQ[way, query]
                votes_GN[way] += weight * is_vote_N
                total_GN[way] += weight * influence_N.astype(np.float64)
            query += 1
    if votes_GN is None or total_GN is None:
        raise ValueError("a vote needs at least one query")
    return WeightedVotes(votes_GN=votes_GN, mean_influence_GN=total_GN / weight_GQ.sum(axis=1, keepdims=True))


def category_votes(ws: Workspace, arm: Arm, clip_id_N: Shaped[np.ndarray, " N"]) -> WeightedVotes:
    """The votes of all queries by the arm's ``weights``, then those of each category of its ``quotas`` alone, in their order.

    Raises:
        ConfigError: the arm names a category that no voting query has.
        GateFailed: a ranked clip has no influence, so ranking and influence are out of step.
    """
    assert arm.variant is not None
    influence = load_influence(ws, arm.variant)
    if len(missing := np.setdiff1d(clip_id_N, influence.clip_id_N)):
        raise GateFailed(
            f"curated_subset/{arm.name}: {len(missing)} clips of voted_ranking/{arm.variant} have no influence in influence_matrix/{arm.variant} (the first: "
            f"{missing[0].decode()}). The two are out of step: materialize voted_ranking/{arm.variant} again."
        )
    queries = ws.published("query_catalog").table("queries")
    category = dict(zip(queries["query_id"], queries["category"], strict=True))
    category_Q = [str(category[query_id]) for query_id in influence.query_ids]
    require_categories([arm], set(category_Q), "the queries that vote")
    weight_GQ = query_weights(category_Q, arm.selection.weights, list(arm.selection.quotas))
    return weighted_vote(influence.blocks(clip_id_N), ws.config.of_variant(arm.variant).vote.percentile, weight_GQ)


def query_weights(category_Q: Sequence[str], weights: Mapping[str, float], alone: Sequence[str]) -> Float64[np.ndarray, "G Q"]:
    """One row by ``weights`` (1 for a category that they do not name), then a row for each category of ``alone``, in which only its queries count."""
    rows = [
        [weights.get(category, 1.0) for category in category_Q],
        *([float(category == own) for category in category_Q] for own in alone),
    ]
    return np.array(rows, dtype=np.float64)
