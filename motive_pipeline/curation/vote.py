"""Majority vote over the queries (eq. 18, after ICONS) and the ranking of the pool that follows from it.

Axis suffixes: Q queries, B a block of queries, N clips of the eligible pool in order of clip id.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Float64, Int64, Shaped

from motive_pipeline import config
from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.attribution.influence_table import id_strings
from motive_pipeline.config import Variant
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import Rule
from motive_pipeline.storage.digest import digest_arrays
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.work_folders import scratch_folder
from motive_pipeline.storage.workspace import Publication, Workspace

SHOWN_CLIPS = 10
SPAN = 2**16
"""Clips whose votes are counted at a time: few enough to stay in the processor's cache from query to query."""


@dataclass(frozen=True, kw_only=True)
class Votes:
    """For each clip: how many queries chose it, and its influence averaged over the queries in their order."""

    votes_N: Int64[np.ndarray, " N"]
    mean_influence_N: Float64[np.ndarray, " N"]
    num_queries: int
    threshold_Q: Float32[np.ndarray, " Q"] | None = None
    """tau_q of each query, in their order, where :func:`majority_vote` has counted."""


def num_selected(num_clips: int, share: float) -> int:
    """How many clips a subset holds: K = max(1, floor(share * N + 0.5))."""
    return max(1, math.floor(share * num_clips + 0.5))


def threshold(influence_N: Float32[np.ndarray, " N"], percentile: float) -> np.float32:
    """tau_q: the score at position floor(percentile / 100 * (N - 1)) of the query's own scores in ascending order.

    That is numpy's ``method="lower"``. No clip lies between it and the linearly interpolated percentile, so both give the same votes; this
    one is itself a score and needs no rounding.
    """
    position = math.floor(Fraction(str(percentile)) / 100 * (len(influence_N) - 1))
    return np.partition(influence_N, position)[position]


class VoteCount:
    """Sums of votes and influence, accumulated query by query."""

    def __init__(self, num_clips: int) -> None:
        self.votes_N = np.zeros(num_clips, dtype=np.int64)
        self.total_N = np.zeros(num_clips)
        self.num_queries = 0
        self.threshold_Q: list[np.float32] = []

    def add(self, block_BN: Float32[np.ndarray, "B N"], threshold_B: Iterable[np.float32]) -> None:
        """Add the next queries."""
        tau_B = list(threshold_B)
        self.threshold_Q += tau_B
        for start in range(0, len(self.votes_N), SPAN):
            span = slice(start, start + SPAN)
            for influence_n, tau in zip(block_BN[:, span], tau_B, strict=True):
                self.votes_N[span] += influence_n > tau
                self.total_N[span] += influence_n
        self.num_queries += len(tau_B)


def majority_vote(influence_blocks: Iterable[Float32[np.ndarray, "B N"]], percentile: float) -> Votes:
    """MajVote_n = sum over q of 1[I(n, q) > tau_q] (eq. 18), from blocks of queries; sums run over the queries in order.

    Raises:
        ValueError: there is no query.
    """
    counted: VoteCount | None = None
    with ThreadPoolExecutor(1) as finder:
        waiting: tuple[np.ndarray, Iterator[np.float32]] | None = None
        for block_BN in influence_blocks:
            counted = counted or VoteCount(block_BN.shape[1])
            found = block_BN, finder.map(partial(threshold, percentile=percentile), block_BN)  # runs while the previous block is counted
            if waiting:
                counted.add(*waiting)
            waiting = found
        if counted is None or waiting is None:
            raise ValueError("a vote needs at least one query")
        counted.add(*waiting)
    return Votes(
        votes_N=counted.votes_N,
        mean_influence_N=counted.total_N / counted.num_queries,
        num_queries=counted.num_queries,
        threshold_Q=np.array(counted.threshold_Q, dtype=np.float32),
    )


def ranking_order(votes: Votes, rule: Rule = "vote") -> Int64[np.ndarray, " N"]:
    """Positions of the clips from the best to the last; see :func:`order_by`."""
    return order_by(rule, votes.votes_N, votes.mean_influence_N)


def order_by(
    rule: Rule, votes_N: Int64[np.ndarray, " N"] | Float64[np.ndarray, " N"], mean_influence_N: Float64[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Positions of the clips, which come in the order of clip id, from the best to the last; ties by clip id. NaN counts as the lowest mean. Votes may be weighted.

    ``vote``: by votes, ties by mean influence. ``mean_influence``: by that alone.
    """
    if rule == "mean_influence":
        return np.argsort(-mean_influence_N, kind="stable")
    return np.lexsort((-mean_influence_N, -votes_N))  # the last key decides first; the sort is stable


def publish_ranking(ws: Workspace, variant: Variant) -> Publication:
    """Publish ``voted_ranking/<variant>``: the ranked clips in order, the first K of them marked as selected.

    It ranks the clips of the eligible pool whose gradient the variant accepted. K is computed from the whole pool, so that all arms choose the
    same number.

    Raises:
        GateFailed: a clip of the pool has no influence although its gradient was not rejected, so one of the two assets is out of date; or
            no clip is left to rank.
    """
    started = time.time()
    section = ws.config.of_variant(variant).vote
    eligible_N = load_pool(ws)
    influence = load_influence(ws, variant)
    pool_N = _ranked_clips(ws, variant, eligible_N, influence.clip_id_N)
    votes = majority_vote(influence.blocks(pool_N), section.percentile)
    order_N = ranking_order(votes, section.rule)
    num_chosen = min(num_selected(len(eligible_N), ws.config.subset.share), len(pool_N))
    columns = _columns(pool_N, votes, order_N, num_chosen)
    thresholds = pd.DataFrame(
        {"query_id": influence.query_ids, "threshold": np.array(votes.threshold_Q, dtype=np.float64), "variant": variant}
    )
    with scratch_folder(ws, f"voted_ranking/{variant}") as scratch:
        _write_score_piece(scratch / "ranking.parquet", variant, columns)
        return ws.publish(
            f"voted_ranking/{variant}",
            content=digest_arrays(columns),
            write=lambda folder: pq.write_table(_table(columns), folder / "ranking.parquet"),
            started=started,
            facts=_facts(section, columns, votes, num_chosen) | {"eligible clips without a gradient": len(eligible_N) - len(pool_N)},
            table_rows=len(pool_N),
            scores={
                ("ranking", variant): scratch / "ranking.parquet",
                ("thresholds", variant): thresholds,
            },
        )


def _ranked_clips(
    ws: Workspace, variant: Variant, eligible: Shaped[np.ndarray, " M"], with_influence: Shaped[np.ndarray, " _"]
) -> Shaped[np.ndarray, " N"]:
    """The eligible clips that have influence, ascending.

    Raises:
        GateFailed: see :func:`publish_ranking`.
    """
    without = np.setdiff1d(eligible, with_influence)
    if len(without):
        gradients = f"projected_gradients/{variant}"
        rejected = ws.published(gradients).rejects()["clip_id"].to_numpy(dtype=object).astype("S16")
        unexplained = np.setdiff1d(without, rejected)
        if len(unexplained):
            raise GateFailed(
                f"{len(unexplained)} clips of eligible_pool have no influence in influence_matrix/{variant} (the first: "
                f"{unexplained[0].decode()}), and {gradients} did not reject them. One of the assets is out of date: materialize "
                "influence_matrix and eligible_pool again."
            )
        if len(without) == len(eligible):
            raise GateFailed(f"voted_ranking/{variant}: {gradients} rejected every clip of eligible_pool. The table `rejects` says why.")
    return np.setdiff1d(eligible, without)


def _columns(pool_N: Shaped[np.ndarray, " N"], votes: Votes, order_N: Int64[np.ndarray, " N"], num_chosen: int) -> dict[str, np.ndarray]:
    """The ranking, best clip first."""
    rank_N = np.arange(1, len(pool_N) + 1, dtype=np.int64)
    return {
        "clip_id": pool_N[order_N],
        "votes": votes.votes_N[order_N],
        "mean_influence": votes.mean_influence_N[order_N],
        "rank": rank_N,
        "selected": rank_N <= num_chosen,
    }


def _table(columns: dict[str, np.ndarray]) -> pa.Table:
    return pa.table({name: id_strings(values) if name == "clip_id" else pa.array(values) for name, values in columns.items()})


def _write_score_piece(file: Path, variant: Variant, columns: dict[str, np.ndarray]) -> None:
    table = _table(columns)
    table = table.add_column(0, "variant", pa.repeat(pa.scalar(variant), len(table)))
    pq.write_table(table.cast(TABLES["ranking"]), file)


def _facts(section: config.Vote, columns: dict[str, np.ndarray], votes: Votes, num_chosen: int) -> dict[str, Any]:
    best = [
        {"rank": int(rank), "clip_id": clip_id.decode(), "votes": int(count), "mean_influence": float(mean)}
        for clip_id, count, mean, rank in zip(
            *(columns[name][:SHOWN_CLIPS] for name in ("clip_id", "votes", "mean_influence", "rank")), strict=True
        )
    ]
    return {
        "clips": len(columns["rank"]),
        "queries": votes.num_queries,
        "selected": num_chosen,
        "percentile": section.percentile,
        "rule": section.rule,
        "most_votes": int(columns["votes"][0]),
        "votes_of_last_selected": int(columns["votes"][num_chosen - 1]),
        "clips_without_vote": int((votes.votes_N == 0).sum()),
        "best_clips": best,
    }
