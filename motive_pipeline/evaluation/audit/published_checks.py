"""The checks that published arrays are enough for: projection, length, motion, queries, controls, leakage. They run no model.

Axis suffixes: Q queries, N clips, P projected entries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from motive_pipeline.attribution.gradient_set import GradientSet
from motive_pipeline.attribution.stage import load_gradients
from motive_pipeline.catalog.duplicates import near_pairs
from motive_pipeline.curation.vote import num_selected
from motive_pipeline.evaluation.audit.agreement import (
    cosines,
    hashed_sample,
    predicted_cosine_error,
    prefix_widths,
    spearman,
    top_overlap,
)
from motive_pipeline.evaluation.audit.estimators import Scores, magnitude_px
from motive_pipeline.evaluation.audit.table import AuditRow, correlation_row, over_queries
from motive_pipeline.evaluation.audit.votes import between_halves, category_overlaps, without_each_query
from motive_pipeline.graph import Role
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.storage.workspace import Workspace

SAMPLE_CLIPS, SAMPLE_QUERIES = 256, 32
"""Most clips and queries whose stored gradients are compared at several widths."""

WHOLE = 2**30
"""More entries than any gradient has: all are read."""

TAIL = 0.1
"""The share of the ranking that counts as its top and its bottom."""


def projection_rows(ws: Workspace, variant: str) -> Iterator[AuditRow]:
    """How far the first 64, 128, ... entries of the stored gradients give the cosines of all of them, and what theory predicts."""
    queries, clips = load_gradients(ws, variant, "query", WHOLE), load_gradients(ws, variant, "clip", WHOLE)
    query_QP, clip_NP = _sampled(queries, SAMPLE_QUERIES), _sampled(clips, SAMPLE_CLIPS)
    row = AuditRow(check="projection", variant=variant)
    if clips.attributes["projection"] == "exact":
        yield replace(row, verdict="the stored gradients are exact; nothing is projected")
        return
    if clips.attributes.get("features_in_a_row", 1) > 1:
        yield replace(row, verdict="a row holds the feature of each draw (combine: mean_cosine), so its first entries are one draw's")
        return
    if clip_NP.shape[0] < 3:
        yield replace(row, num_units=len(clip_NP), unit="clips", verdict="fewer than three clips have a gradient")
        return
    width = clip_NP.shape[1]
    whole_QN = cosines(query_QP, clip_NP, width)
    against = f"{width} entries"
    for narrow in prefix_widths(width):
        narrow_QN = cosines(query_QP, clip_NP, narrow)
        error = float(np.sqrt(np.mean((narrow_QN - whole_QN) ** 2)))
        predicted = predicted_cosine_error(whole_QN, narrow, of=width)
        count = max(1, round(TAIL * whole_QN.shape[1]))
        same_Q = np.array([top_overlap(*pair, count) for pair in zip(narrow_QN, whole_QN, strict=True)])
        yield over_queries(
            replace(row, against=against, parameter=f"spearman at {narrow}"), spearman(narrow_QN, whole_QN), bounds=(-1.0, 1.0)
        )
        yield over_queries(replace(row, against=against, parameter=f"top 10 % overlap at {narrow}"), same_Q, bounds=(0.0, 1.0))
        pairs = replace(row, parameter=f"cosine error at {narrow}", num_units=whole_QN.size, unit="pairs")
        verdict = "as theory predicts" if error <= 1.5 * predicted else "larger than theory predicts"
        yield replace(pairs, against=against, value=error, verdict=verdict)
        yield replace(pairs, against="Johnson-Lindenstrauss", value=predicted)


def length_rows(ws: Workspace, variant: str, scores: Scores) -> Iterator[AuditRow]:
    """The rank correlation of gradient norm and of mean influence with the number of frames."""
    clips = load_gradients(ws, variant, "clip", 1)
    row = AuditRow(check="length", variant=variant, against="num_frames", unit="clips")
    if len(set(clips.num_frames_N.tolist())) < 2:
        yield replace(row, num_units=len(clips), verdict="all clips have one length")
        return
    place = np.searchsorted(clips.id_N, scores.clip_id_N)
    for parameter, value_N, frames_N in (
        ("gradient norm", clips.norms_N, clips.num_frames_N),
        ("mean influence", np.asarray(scores.score_QN, np.float64).mean(axis=0), clips.num_frames_N[place]),
    ):
        yield correlation_row(replace(row, parameter=parameter), value_N, frames_N.astype(np.float64))


def motion_rows(ws: Workspace, scores: Scores) -> Iterator[AuditRow]:
    """The mean motion magnitude of the 10 % with the highest and the lowest mean influence, their difference, and the rank correlation."""
    row = AuditRow(check="motion", variant=scores.name, unit="clips")
    px_N = magnitude_px(ws).reindex(scores.clip_id_N.astype(str)).to_numpy(np.float64)
    mean_N = np.asarray(scores.score_QN, np.float64).mean(axis=0)
    count = max(1, round(TAIL * len(px_N)))
    order = np.argsort(-mean_N, kind="stable")
    top, bottom = px_N[order[:count]], px_N[order[-count:]]
    for parameter, part in (("top 10 %, px", top), ("bottom 10 %, px", bottom)):
        yield replace(row, parameter=parameter, value=float(part.mean()), num_units=count)
    difference = replace(row, parameter="top minus bottom, px", value=float(top.mean() - bottom.mean()), num_units=2 * count)
    if count < 3:
        difference = replace(difference, verdict="too few clips for an interval")
    else:
        error = math.sqrt(top.var(ddof=1) / count + bottom.var(ddof=1) / count)
        reach = float(stats.t(count - 1).ppf(0.975)) * error
        difference = replace(difference, std_error=error, ci_low=difference.value - reach, ci_high=difference.value + reach)
    yield difference
    yield correlation_row(replace(row, parameter="correlation with magnitude", against="motion_magnitude"), mean_N, px_N)


def query_rows(ws: Workspace, scores: Scores) -> Iterator[AuditRow]:
    """What the categories choose in common, and how far the vote depends on single queries."""
    row = AuditRow(check="queries", variant=scores.name)
    if len(scores.query_ids) < 2:
        yield replace(row, num_units=len(scores.query_ids), unit="queries", verdict="one query: its vote cannot be compared with another's")
        return
    influence_QN = np.asarray(scores.score_QN, np.float32)
    count, section = num_selected(influence_QN.shape[1], ws.config.subset.share), ws.config.of_variant(scores.name).vote
    left_out_Q = without_each_query(influence_QN, section.percentile, count, section.rule)
    for query_id, value in zip(scores.query_ids, left_out_Q, strict=True):
        parameter = "chosen without this query"
        yield replace(row, parameter=parameter, query_id=query_id, value=float(value), num_units=count, unit="clips")
    yield over_queries(replace(row, parameter="chosen without one query"), left_out_Q, bounds=(0.0, 1.0))
    halves = between_halves(influence_QN, section.percentile, count, section.rule)
    yield replace(row, parameter="overlap between halves of the queries", value=float(halves.mean()), num_units=len(halves), unit="splits")
    catalog = ws.published("query_catalog").table("queries").set_index("query_id")["category"].fillna("")
    categories = catalog.reindex(list(scores.query_ids)).astype(str).tolist()
    for (first, second), value in category_overlaps(influence_QN, categories, count).items():
        sizes = sorted(categories.count(each) for each in (first, second))
        note = "a category has one query" if sizes[0] == 1 else ""
        yield AuditRow(
            check="query_overlap",
            variant=scores.name,
            parameter=first,
            against=second,
            value=value,
            num_units=count,
            unit="clips",
            verdict=note,
        )


def control_rows(scores: Scores, others: Sequence[Scores]) -> Iterator[AuditRow]:
    """How far a variant ranks the clips as a control (or another variant) does: mean rank correlation over the queries, and overlap of their best 10 %."""
    for other in others:
        row = AuditRow(check="controls", variant=scores.name, against=other.name)
        own_QN, other_QN = scores.common(other)
        num_clips = own_QN.shape[1]
        if num_clips < 3 or not len(own_QN):
            yield replace(row, num_units=num_clips, unit="clips", verdict="fewer than three clips in common")
            continue
        note = f" on {num_clips} clips" if num_clips < len(scores.clip_id_N) else ""
        yield over_queries(replace(row, parameter=f"spearman{note}"), spearman(own_QN, other_QN), bounds=(-1.0, 1.0))
        count = max(1, round(TAIL * num_clips))
        same_Q = np.array([top_overlap(*pair, count) for pair in zip(own_QN, other_QN, strict=True)])
        yield over_queries(replace(row, parameter=f"top 10 % overlap{note}"), same_Q, bounds=(0.0, 1.0))


def leakage_rows(ws: Workspace, variant: str, pool_ids: Sequence[str]) -> Iterator[AuditRow]:
    """Queries that are clips of the pool, and near-duplicates: of a query among the chosen clips, and within the chosen."""
    ranking = ws.published(f"voted_ranking/{variant}").table("ranking")
    chosen = sorted(ranking.loc[ranking["selected"], "clip_id"].astype(str))
    queries = sorted(ws.published("query_catalog").table("queries")["query_id"].astype(str))
    row = AuditRow(check="leakage", variant=variant)
    same = sorted(set(queries) & set(pool_ids))
    verdict = "a query is in the pool: its copy ranks first for itself, which proves nothing" if same else "none"
    yield replace(row, parameter="queries in the pool", value=float(len(same)), num_units=len(queries), unit="queries", verdict=verdict)
    hashes = _phashes(ws, chosen, queries)
    if hashes is None:
        yield replace(row, parameter="near-duplicates", verdict="the latents have no perceptual hashes")
        return
    keys = sorted(hashes)
    pairs = [(keys[first], keys[second]) for first, second, _ in near_pairs([hashes[key] for key in keys])]
    alike = {clip for pair in pairs for clip in pair if {side for side, _ in pair} == {"clip", "query"} and clip[0] == "clip"}
    within = {clip for pair in pairs for clip in pair if {side for side, _ in pair} == {"clip"}}
    for parameter, found in (("chosen clips that look like a query", alike), ("chosen clips that look like another", within)):
        yield replace(row, parameter=parameter, value=float(len(found)), num_units=len(chosen), unit="clips")


def _phashes(ws: Workspace, clips: Sequence[str], queries: Sequence[str]) -> dict[tuple[str, str], str] | None:
    found: dict[tuple[str, str], str] = {}
    sides: tuple[tuple[Role, Sequence[str]], ...] = (("clip", clips), ("query", queries))
    for role, wanted in sides:
        index = LatentSet(ws, role).index
        if "phash" not in index:
            return None
        known = dict(zip(index["clip_id"].astype(str), index["phash"].astype(str), strict=True))
        found |= {(role, each): known[each] for each in wanted if known.get(each)}
    return found


def _sampled(gradients: GradientSet, count: int) -> np.ndarray:
    """The stored rows of a sample of the clips with a gradient."""
    moving = np.flatnonzero(gradients.norms_N > 0)
    rows = np.sort(moving[hashed_sample(gradients.id_N[moving], count, "audit projection")])
    return np.asarray(gradients.gradient_NP.oindex[rows])
