"""How stable the choice is when queries are left out, and how far the categories of queries choose the same clips.

Axis suffixes: Q queries, N clips of the pool in order of clip id.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float, Int

from motive_pipeline.curation.vote import Votes, majority_vote, ranking_order, threshold
from motive_pipeline.evaluation.audit.agreement import set_overlap, top_overlap
from motive_pipeline.graph import Rule


def chosen(influence_QN: Float[np.ndarray, "Q N"], percentile: float, count: int, rule: Rule = "vote") -> Int[np.ndarray, " K"]:
    """The positions of the ``count`` clips that the method's own vote, or another ``rule``, puts first."""
    return ranking_order(majority_vote([np.asarray(influence_QN, np.float32)], percentile), rule)[:count]


def without_each_query(
    influence_QN: Float[np.ndarray, "Q N"], percentile: float, count: int, rule: Rule = "vote"
) -> Float[np.ndarray, " Q"]:
    """For each query: the share of the ``count`` chosen clips that are still chosen when this query does not vote. Needs two queries."""
    influence_QN = np.asarray(influence_QN, np.float32)
    num_queries = len(influence_QN)
    vote_QN = influence_QN > np.array([threshold(influence_N, percentile) for influence_N in influence_QN])[:, None]
    votes_N, total_N = vote_QN.sum(axis=0), influence_QN.sum(axis=0, dtype=np.float64)
    whole = ranking_order(_votes(votes_N, total_N, num_queries), rule)[:count]
    return np.array(
        [
            set_overlap(
                whole, ranking_order(_votes(votes_N - vote_QN[query], total_N - influence_QN[query], num_queries - 1), rule)[:count]
            )
            for query in range(num_queries)
        ]
    )


def between_halves(
    influence_QN: Float[np.ndarray, "Q N"], percentile: float, count: int, rule: Rule = "vote", *, num_splits: int = 20, seed: int = 0
) -> Float[np.ndarray, " H"]:
    """The overlap of what two halves of the queries choose, for ``num_splits`` random splits: how far other queries would have chosen other clips.

    It is that of half as many queries, so it understates the stability of the whole vote. Needs two queries.
    """
    rng = np.random.default_rng(seed)
    half = len(influence_QN) // 2
    found = []
    for _ in range(num_splits):
        order = rng.permutation(len(influence_QN))
        first, second = (chosen(influence_QN[np.sort(part)], percentile, count, rule) for part in (order[:half], order[half : 2 * half]))
        found.append(set_overlap(first, second))
    return np.array(found)


def category_overlaps(influence_QN: Float[np.ndarray, "Q N"], categories: Sequence[str], count: int) -> dict[tuple[str, str], float]:
    """For every two categories: the share of the ``count`` clips with the highest influence, averaged over a category's queries, that they have in
    common. By chance it is ``count`` / N."""
    names = sorted(set(categories))
    label_Q = np.array(categories)
    mean = {name: np.asarray(influence_QN, np.float64)[label_Q == name].mean(axis=0) for name in names}
    return {(first, second): top_overlap(mean[first], mean[second], count) for first, second in combinations(names, 2)}


def _votes(votes_N: np.ndarray, total_N: np.ndarray, num_queries: int) -> Votes:
    return Votes(votes_N=votes_N.astype(np.int64), mean_influence_N=total_N / num_queries, num_queries=num_queries)
