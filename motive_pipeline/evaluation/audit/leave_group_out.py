"""Leave-group-out: does training without the clips that influence ranks first, or last, do to the held-out queries what the ranking says?

The base model is trained on the whole pool; on the pool without the K clips that a variant's vote puts first (the top group); without the K of lowest
mean influence (the bottom group); and without K random ones, others in each training. All trainings with one number share noise and timesteps, so
they are compared in pairs. The effect of a group on a query is how far the motion-weighted loss is higher without it than on the whole pool, in % of
the base model's. Expected: above the random group's for the top group, below zero for the bottom group.

Axis suffixes: T trainings, Q queries, N clips of the pool.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from motive_pipeline.curation.arms import random_choice
from motive_pipeline.curation.harmful import worst_first
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import num_selected
from motive_pipeline.evaluation.audit.estimators import RANDOM
from motive_pipeline.evaluation.audit.random_subsets import FIRST_SUBSET_SEED
from motive_pipeline.evaluation.audit.retraining import Query, Retraining, Run
from motive_pipeline.evaluation.audit.table import AuditRow, over_trainings_and_queries
from motive_pipeline.evaluation.bootstrap import MIN_PROMPTS, mean_interval
from motive_pipeline.storage.workspace import Workspace

CHECK = "leave_group_out"
FULL = "full pool"
FIRST_GROUP_SEED = 500_009
"""Distance of the random groups' seeds from those of the random subsets."""

LEVEL = 0.05
"""The share of families of comparisons of which any may be called clear by chance."""

MIN_SAMPLES, SAMPLES_IN_TAIL = 2000, 200
"""Bootstrap resamples of a comparison: at least so many, and so many beyond each end of its interval, which the number of comparisons widens."""

IN_SAMPLE = "in-sample"
AS_EXPECTED, UNCLEAR, OPPOSITE = "as expected", "not clearly different", "the opposite of what is expected"

End = Literal["top", "bottom"]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """The groups of one project: ``size`` clips each. ``end`` has the top and bottom of each variant, ``unranked`` says why a variant has none."""

    size: int
    end: Mapping[tuple[str, End], frozenset[str]]
    random: Sequence[frozenset[str]]
    """One for each training."""
    unranked: Mapping[str, str] = field(default_factory=dict)


def groups_of(
    clip_id_N: Shaped[np.ndarray, " N"], rankings: Mapping[str, pd.DataFrame], size: int, *, num_trainings: int, seed: int
) -> Groups:
    """The groups of the published ``rankings``, by variant. They have at most half of the shortest ranking; the top is by rank, the
    bottom by mean influence, so that a clip may be in both."""
    unranked = {variant: said for variant, ranking in rankings.items() if (said := _without_ends(ranking))}
    ranked = {variant: ranking for variant, ranking in rankings.items() if variant not in unranked}
    size = min([size, *(len(ranking) // 2 for ranking in ranked.values())])
    end: dict[tuple[str, End], frozenset[str]] = {}
    for variant, ranking in ranked.items():
        end[variant, "top"] = _ids(ranking.sort_values("rank").head(size))
        end[variant, "bottom"] = _ids(worst_first(ranking).head(size))
    first = FIRST_SUBSET_SEED * (seed + 1) + FIRST_GROUP_SEED
    random = [frozenset(random_choice(clip_id_N, size, first + number).astype(str).tolist()) for number in range(num_trainings)]
    return Groups(size=size, end=end, random=random, unranked=unranked)


def _without_ends(ranking: pd.DataFrame) -> str:
    """Why a ranking has no top and no bottom; nothing if it has."""
    if len(ranking) < 2:
        return f"{len(ranking)} clips are ranked; a top and a bottom need two"
    return "all clips have the same influence: none is at the top or at the bottom" if len(set(ranking["mean_influence"])) == 1 else ""


def _ids(ranking: pd.DataFrame) -> frozenset[str]:
    return frozenset(ranking["clip_id"].astype(str))


def group_rows(ws: Workspace, retraining: Retraining) -> list[AuditRow]:
    """Train without each group, as far as the time allows; returns the rows of the check.

    Raises:
        NotPublished: a ranking is missing.
        GateFailed: see :meth:`Retraining.trained`.
    """
    pool, audit = load_pool(ws), ws.config.audit
    rankings = {variant: ws.published(f"voted_ranking/{variant}").table("ranking") for variant in ws.config.variants}
    size = num_selected(len(pool), ws.config.subset.share)
    groups = groups_of(pool, rankings, size, num_trainings=audit.trainings, seed=audit.seed)
    rows = [AuditRow(check=CHECK, variant=variant, verdict=f"no number: {said}") for variant, said in groups.unranked.items()]
    if not groups.end:
        return rows
    runs = planned_runs(pool.astype(str).tolist(), groups)
    trained = retraining.trained([run for each in runs.values() for run in each], what="trainings without a group")
    done = {
        name: np.array([trained.drop_Q[run] for run in each]) for name, each in runs.items() if all(run in trained.drop_Q for run in each)
    }
    found = effect_rows(done, groups, retraining.queries, why_not=trained.unfinished or "a training diverged")
    return [*rows, *(replace(row, seconds=trained.seconds_a_training) for row in found)]


def planned_runs(pool: Sequence[str], groups: Groups) -> dict[tuple[str, str], list[Run]]:
    """The trainings of the check by (variant, end); those on the whole pool and without a random group are ``(FULL, "")`` and ``(RANDOM, "")``."""
    left_out: dict[tuple[str, str], Sequence[frozenset[str]]] = {
        (FULL, ""): [frozenset()] * len(groups.random),
        (RANDOM, ""): groups.random,
    }
    left_out |= {name: [group] * len(groups.random) for name, group in groups.end.items()}
    return {
        name: [
            Run(clip_ids=tuple(sorted(clip_id for clip_id in pool if clip_id not in group)), training=number)
            for number, group in enumerate(each)
        ]
        for name, each in left_out.items()
    }


def effect_rows(
    drop_TQ: Mapping[tuple[str, str], Float[np.ndarray, "T Q"]], groups: Groups, queries: Sequence[Query], *, why_not: str
) -> Iterator[AuditRow]:
    """The rows for what the trainings did; ``drop_TQ`` has those that are done, by the names of :func:`planned_runs`.

    Held-out queries count, or the queries themselves where there are none. A comparison is called clear if its interval excludes zero at the level that
    holds for all comparisons together (Bonferroni).
    """
    place_q = [place for place, query in enumerate(queries) if query.is_held_out] or list(range(len(queries)))
    asked = [queries[place] for place in place_q]
    full, random = (drop_TQ.get((name, "")) for name in (FULL, RANDOM))
    row = AuditRow(check=CHECK, variant=RANDOM, against=FULL, parameter=f"without {groups.size} at random")
    if full is None or random is None:
        yield replace(row, verdict=f"no number: {why_not}")
    else:
        in_sample = "" if asked[0].is_held_out else f"{IN_SAMPLE}: there are no held-out queries"
        yield replace(over_trainings_and_queries(row, (full - random)[:, place_q]), verdict=in_sample)
    level = 1 - LEVEL / len(groups.end)
    for variant, end in groups.end:
        row = AuditRow(check=CHECK, variant=variant, against=FULL, parameter=f"without the {end} {groups.size}")
        without = drop_TQ.get((variant, end))
        if full is None or random is None or without is None:
            yield replace(row, verdict=f"no number: {why_not}")
            continue
        rise_TQ, more_TQ = (full - without)[:, place_q], (random - without)[:, place_q]
        judged_TQ, sign = (more_TQ, 1) if end == "top" else (rise_TQ, -1)
        outcome = _outcome(judged_TQ, sign, level)
        yield replace(over_trainings_and_queries(row, rise_TQ), verdict="" if end == "top" else outcome)
        yield replace(over_trainings_and_queries(replace(row, against=RANDOM), more_TQ), verdict=outcome if end == "top" else "")
        for query, value in zip(asked, rise_TQ.mean(axis=0), strict=True):
            yield replace(row, query_id=query.clip_id, value=float(value), num_units=len(rise_TQ), unit="trainings")


def _outcome(effect_TQ: Float[np.ndarray, "T Q"], sign: int, level: float) -> str:
    """Whether the effect has the expected sign."""
    num_samples = max(MIN_SAMPLES, math.ceil(2 * SAMPLES_IN_TAIL / (1 - level)))
    found = mean_interval(effect_TQ, level=level, num_samples=num_samples)
    if math.isnan(found.low):
        return "no conclusion: " + ("fewer than three queries" if found.num_prompts < MIN_PROMPTS else "all values are equal")
    if not found.excludes_zero:
        return UNCLEAR
    return AS_EXPECTED if sign * found.value > 0 else OPPOSITE
