"""What the audit compares: the influence of each variant, and controls that score the same clips for the same queries.

Axis suffixes: Q queries, N clips. ``[query, clip]`` everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped, UInt64

from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.curation.controls import Features, flow_similarity_features, untrained_features
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.evaluation.audit.agreement import cosines, hashed_sample
from motive_pipeline.evaluation.ground_truth import has_truth
from motive_pipeline.storage.workspace import Workspace

FLOW, UNTRAINED, MAGNITUDE, RANDOM = "flow_similarity", "untrained", "motion_magnitude", "random"
CONTROLS = (FLOW, UNTRAINED, MAGNITUDE, RANDOM)
"""The controls, by the names of their arms."""

MAX_COMPARED = 20_000
"""Most clips over which two estimators are compared."""

FLOW_SAMPLE = 32
"""Clips whose flow is compared where no arm, report or check needs that of the whole pool."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The score of clips for queries by one estimator. Ids are sorted; a clip without a score (its gradient was rejected) is not listed."""

    name: str
    score_QN: Float[np.ndarray, "Q N"]
    query_ids: Sequence[str]
    clip_id_N: Shaped[np.ndarray, " N"]

    def common(self, other: Scores) -> tuple[np.ndarray, np.ndarray]:
        """The scores of both over the queries and clips that both have (of very many clips a sample), each [query, clip]."""
        queries = [query_id for query_id in self.query_ids if query_id in set(other.query_ids)]
        clips = np.intersect1d(self.clip_id_N, other.clip_id_N)
        if len(clips) > MAX_COMPARED:
            clips = np.sort(clips[hashed_sample(clips, MAX_COMPARED, "audit agreement")])
        return self.over(queries, clips), other.over(queries, clips)

    def over(self, query_ids: Sequence[str], clip_id_N: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "q n"]:
        """The scores of these queries and clips; NaN for a clip without one."""
        rows = [list(self.query_ids).index(query_id) for query_id in query_ids]
        place_n = np.minimum(np.searchsorted(self.clip_id_N, clip_id_N), max(0, len(self.clip_id_N) - 1))
        found_qn = np.asarray(self.score_QN[rows], np.float64)[:, place_n]
        found_qn[:, self.clip_id_N[place_n] != clip_id_N] = np.nan
        return found_qn


def variant_scores(ws: Workspace) -> list[Scores]:
    """The published influence of each variant on the clips of the eligible pool."""
    pool = load_pool(ws)
    found = []
    for variant in ws.config.variants:
        influence = load_influence(ws, variant)
        kept = np.intersect1d(pool, influence.clip_id_N)
        score_QN = np.concatenate(list(influence.blocks(kept)))
        found.append(Scores(name=variant, score_QN=score_QN, query_ids=influence.query_ids, clip_id_N=kept))
    return found


def control_scores(ws: Workspace, query_ids: Sequence[str]) -> list[Scores]:
    """The controls of this project. Flow similarity is that of a sample of clips, and the untrained network is missing, unless an arm, a check of the
    audit or the report's precision needs the whole pool's."""
    pool = load_pool(ws)
    is_known, checks = has_truth(ws), ws.config.audit.checks
    whole_flow = is_known or "flow_similarity" in ws.config.arms or "lds" in checks
    whole_untrained = is_known or "untrained" in ws.config.arms or not {"lds", "untrained"}.isdisjoint(checks)
    some = None if whole_flow else set(pool[hashed_sample(pool, FLOW_SAMPLE, "audit flow")].astype(str).tolist())
    found = [_by_features(FLOW, query_ids, pool, flow_similarity_features(ws, "query"), flow_similarity_features(ws, "clip", of=some))]
    if whole_untrained:
        found.append(_by_features(UNTRAINED, query_ids, pool, untrained_features(ws, "query"), untrained_features(ws, "clip")))
    return [*found, _by_magnitude(ws, query_ids, pool), _by_chance(query_ids, pool)]


def _by_features(name: str, query_ids: Sequence[str], pool: np.ndarray, queries: Features, clips: Features) -> Scores:
    asking = [query_id for query_id in query_ids if query_id in queries]
    kept = [clip_id for clip_id in pool.astype(str).tolist() if clip_id in clips]
    score_QN = np.zeros((len(asking), len(kept)))
    if asking and kept:
        rows = [np.stack([side[each] for each in ids]) for side, ids in ((queries, asking), (clips, kept))]
        score_QN = cosines(rows[0], rows[1], rows[0].shape[1])
    return Scores(name=name, score_QN=score_QN, query_ids=asking, clip_id_N=np.array(kept, "S16"))


def _by_magnitude(ws: Workspace, query_ids: Sequence[str], pool: np.ndarray) -> Scores:
    score_N = magnitude_px(ws).reindex(pool.astype(str)).to_numpy(np.float64)
    return Scores(name=MAGNITUDE, score_QN=np.broadcast_to(score_N, (len(query_ids), len(pool))), query_ids=query_ids, clip_id_N=pool)


def magnitude_px(ws: Workspace):
    """The mean motion magnitude of each clip, in pixels, by clip id."""
    index = ws.published("motion_masks").table("index")
    return index.set_index(index["clip_id"].astype(str))["motion_magnitude_px"]


def _by_chance(query_ids: Sequence[str], pool: np.ndarray) -> Scores:
    """A score in [0, 1) from a hash of query and clip."""
    clip_N = np.array([int(clip_id, 16) for clip_id in pool.tolist()], np.uint64)
    rows = [_mixed(clip_N ^ np.uint64(int.from_bytes(hashlib.sha256(f"chance {each}".encode()).digest()[:8], "big"))) for each in query_ids]
    return Scores(name=RANDOM, score_QN=np.array(rows).reshape(len(query_ids), len(pool)), query_ids=query_ids, clip_id_N=pool)


def _mixed(number_N: UInt64[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The finalizer of splitmix64 (Steele et al. 2014), as a fraction of 2^64."""
    mixed_N = (number_N ^ (number_N >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed_N = (mixed_N ^ (mixed_N >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (mixed_N ^ (mixed_N >> np.uint64(31))) / 2.0**64


def by_name(scores: Sequence[Scores]) -> Mapping[str, Scores]:
    """The scores by the name of their estimator."""
    return {each.name: each for each in scores}
