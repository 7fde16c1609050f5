"""The clips of an arm with wishes (``graph/selection.py``): conditions, weights and quotas by category, limits on what is alike, a budget. docs/selection.md is for users.

The wishes apply in this order: ``where``; the order of the clips (``weights``, ``quotas``); the limits, clip by clip, best first; share or budget.

Axis suffixes: N clips of the ranking in order of clip id, n those that meet the condition, P entries of a gradient.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import repeat
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float32, Int64, Shaped

from motive_pipeline.attribution.gradient_set import open_gradients, write_unit_rows
from motive_pipeline.catalog.duplicates import near_pairs
from motive_pipeline.config import Config
from motive_pipeline.curation.category_votes import WeightedVotes, category_votes
from motive_pipeline.curation.chosen import Chosen, left_out_table
from motive_pipeline.curation.conditions import Outcome, clips_of_ranking, evaluate
from motive_pipeline.curation.picking import Limit, Picked, fair_turns, pick
from motive_pipeline.curation.redundancy import GroupLimit, SimilarityLimit, groups_of_names, groups_of_pairs
from motive_pipeline.curation.vote import num_selected, order_by
from motive_pipeline.errors import GateFailed
from motive_pipeline.files.window import split_location
from motive_pipeline.graph import Arm
from motive_pipeline.storage.work_folders import scratch_folder
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The ranked clips of an arm. ``orders`` are the order of each category with a quota, and that of all queries last; ``votes`` are counted by category, where a
    wish asks for it."""

    ranking: pd.DataFrame
    clip_id_N: Shaped[np.ndarray, " N"]
    orders: Sequence[Int64[np.ndarray, " N"]]
    votes: WeightedVotes | None

    @property
    def rank_N(self) -> Int64[np.ndarray, " N"]:
        """The place of each clip, 1 for the best, by all queries."""
        rank_N = np.empty(len(self.clip_id_N), dtype=np.int64)
        rank_N[self.orders[-1]] = np.arange(1, len(rank_N) + 1)
        return rank_N


def selected_clips(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " M"]) -> Chosen:
    """The clips that the arm's wishes select from its variant's ranking, in the order in which they were picked.

    Fewer than the share of the pool, where no more are left; the log says so.

    Raises:
        ConfigError: a wish names a category that no voting query has.
        GateFailed: no clip meets the condition, or what the wishes need is out of step with the ranking.
    """
    wishes = arm.selection
    candidates = _candidates(ws, arm)
    condition = _condition(ws, arm, candidates)
    passes_N = np.ones(len(candidates.clip_id_N), dtype=bool) if condition is None else condition.passes_N
    orders = [order_N[passes_N[order_N]] for order_N in candidates.orders]
    length_N, most = _amount(ws, arm, candidates.clip_id_N, len(pool))
    with scratch_folder(ws, f"curated_subset/{arm.name}") as scratch:
        picked = pick(orders, _turns(arm), list(_limits(ws, arm, candidates, passes_N, scratch)), length_N=length_N, most=most)
    facts = {
        "selection": "; ".join(wishes.in_words()),
        **_amount_facts(ws.config, arm, picked, most),
        **({} if condition is None else {"clips that meet the condition": int(passes_N.sum()), "conditions": condition.counts()}),
        **_quota_facts(arm, candidates, picked),
        **{f"left out: {reason}": count for reason, count in _counts(picked).items()},
    }
    _log(arm, picked, most, condition)
    return Chosen(
        clip_ids=candidates.clip_id_N[np.array(picked.positions, dtype=np.int64)],
        left_out=_left_out(candidates, condition, picked),
        facts=facts,
    )


def _candidates(ws: Workspace, arm: Arm) -> Candidates:
    ranking = ws.published(f"voted_ranking/{arm.variant}").table("ranking").sort_values("clip_id", ignore_index=True)
    clip_id_N = ranking["clip_id"].to_numpy(dtype=object).astype("S16")
    if not arm.selection.by_category:
        votes_N, mean_N = (ranking[name].to_numpy() for name in ("votes", "mean_influence"))
        order_N = np.argsort(ranking["rank"].to_numpy()) if arm.rule is None else order_by(arm.rule, votes_N, mean_N)
        return Candidates(ranking=ranking, clip_id_N=clip_id_N, orders=[order_N], votes=None)
    assert arm.variant is not None
    rule = arm.rule or ws.config.of_variant(arm.variant).vote.rule
    votes = category_votes(ws, arm, clip_id_N)
    overall, *own = (order_by(rule, votes_N, mean_N) for votes_N, mean_N in zip(votes.votes_GN, votes.mean_influence_GN, strict=True))
    return Candidates(ranking=ranking, clip_id_N=clip_id_N, orders=[*own, overall], votes=votes)


def _condition(ws: Workspace, arm: Arm, candidates: Candidates) -> Outcome | None:
    if arm.selection.where is None:
        return None
    ranking = pa.Table.from_pandas(candidates.ranking[["clip_id", "votes", "mean_influence"]], preserve_index=False)
    outcome = evaluate(arm.selection.where, clips_of_ranking(ws, ranking))
    if not outcome.passes_N.any():
        raise GateFailed(
            f"curated_subset/{arm.name}: none of the {len(candidates.clip_id_N)} ranked clips meets `where: {arm.selection.where}` ({_in_words(outcome)}). "
            "Change the condition in arms, or look at the values in the view `clips` (`motive sql`)."
        )
    return outcome


def _in_words(outcome: Outcome) -> str:
    return "; ".join(f"{each['condition']}: false for {each['false']}, no value for {each['no value']}" for each in outcome.counts())


def _turns(arm: Arm) -> Iterator[int]:
    """The order that each pick is made from: by the quotas, and what they leave for all queries."""
    shares = [Fraction(str(share)) for share in arm.selection.quotas.values()]
    return fair_turns([*shares, 1 - sum(shares, Fraction(0))]) if shares else repeat(0)


def _amount(ws: Workspace, arm: Arm, clip_id_N: Shaped[np.ndarray, " N"], num_pool: int) -> tuple[Int64[np.ndarray, " N"], int]:
    """The length of each clip and the largest sum: 1 and K clips, or decoded frames and the budget in frames."""
    wishes = arm.selection
    if not wishes.has_budget:
        return np.ones(len(clip_id_N), dtype=np.int64), num_selected(num_pool, ws.config.subset.share)
    frames_N = _of_latents(ws, arm, clip_id_N, "num_frames").to_numpy(dtype=np.int64)
    if wishes.budget_frames is not None:
        return frames_N, wishes.budget_frames
    return frames_N, floor(Fraction(str(wishes.budget_seconds)) * Fraction(str(ws.config.clips.fps)))


def _limits(ws: Workspace, arm: Arm, candidates: Candidates, passes_N: np.ndarray, scratch: Path) -> Iterator[Limit]:
    """The limits that the arm wishes, the cheapest first."""
    wishes, clip_id_N = arm.selection, candidates.clip_id_N
    if wishes.max_near_duplicates is not None:
        phash_N = _of_latents(ws, arm, clip_id_N, "phash").to_numpy(dtype=object)
        hashed = np.flatnonzero(passes_N & (phash_N != ""))
        pairs = ((int(hashed[left]), int(hashed[right])) for left, right, _ in near_pairs(phash_N[hashed].tolist()))
        group_N = groups_of_pairs(len(clip_id_N), pairs)
        yield GroupLimit(group_N, wishes.max_near_duplicates, reason="near_duplicate", what="it looks like other clips")
    if wishes.max_per_video is not None:
        paths = ws.published("clip_catalog").table("catalog").set_index("clip_id")["path"].loc[clip_id_N.astype(str)]
        group_N = groups_of_names([split_location(path)[0] for path in paths])
        yield GroupLimit(group_N, wishes.max_per_video, reason="same_video", what="its file has other clips")
    if wishes.max_similarity is not None:
        yield SimilarityLimit(_gradients(ws, arm, clip_id_N, scratch), wishes.max_similarity)


def _of_latents(ws: Workspace, arm: Arm, clip_id_N: Shaped[np.ndarray, " N"], column: str) -> pd.Series:
    """A column of the clips' latents."""
    index = ws.published("latents").table("index").set_index("clip_id")
    ids = clip_id_N.astype(str)
    if len(missing := set(ids) - set(index.index)):
        raise GateFailed(
            f"curated_subset/{arm.name}: {len(missing)} ranked clips have no latents. Materialize eligible_pool and the ranking again."
        )
    return index[column].loc[ids]


def _gradients(ws: Workspace, arm: Arm, clip_id_N: Shaped[np.ndarray, " N"], scratch: Path) -> Float32[np.ndarray, "N P"]:
    """The projected gradients that influence compares, at unit length, in a file that is mapped into memory: it may be larger."""
    assert arm.variant is not None
    name = f"projected_gradients/{arm.variant}"
    gradients = open_gradients(ws.published(name).path, ws.config.of_variant(arm.variant).influence.proj_dim)
    if len(missing := np.setdiff1d(clip_id_N, gradients.id_N)):
        raise GateFailed(
            f"curated_subset/{arm.name}: {len(missing)} ranked clips have no gradient in {name} (the first: {missing[0].decode()}). The two are out of step: "
            f"materialize voted_ranking/{arm.variant} again."
        )
    return write_unit_rows(gradients, np.searchsorted(gradients.id_N, clip_id_N), scratch / "gradients.npy")


def _left_out(candidates: Candidates, condition: Outcome | None, picked: Picked) -> pd.DataFrame:
    """Every clip that a wish refused, in order of rank."""
    ids, rank_N = candidates.clip_id_N.astype(str).tolist(), candidates.rank_N.tolist()
    failing = [] if condition is None else np.flatnonzero(~condition.passes_N).tolist()
    rows = [(ids[place], rank_N[place], "where", None, condition.why_not(place) if condition else "") for place in failing]
    rows += [(ids[place], rank_N[place], each.reason, ids[each.other], each.detail) for place, each in picked.refused]
    return left_out_table(sorted(rows, key=lambda row: row[1]))


def _counts(picked: Picked) -> dict[str, int]:
    reasons = [refusal.reason for _, refusal in picked.refused]
    return {reason: reasons.count(reason) for reason in sorted(set(reasons))}


def _amount_facts(config: Config, arm: Arm, picked: Picked, most: int) -> dict[str, Any]:
    if not arm.selection.has_budget:
        return {"wanted clips": most}
    fps = float(config.clips.fps)
    return {"budget_frames": most, "used_frames": picked.amount, "used_seconds": picked.amount / fps}


def _quota_facts(arm: Arm, candidates: Candidates, picked: Picked) -> dict[str, Any]:
    """What each category got, and how many of its clips have none of its votes."""
    if not arm.selection.quotas or candidates.votes is None:
        return {}
    rows = []
    for place, (category, share) in enumerate(arm.selection.quotas.items()):
        own = [position for position, turn in zip(picked.positions, picked.orders, strict=True) if turn == place]
        without = int((candidates.votes.votes_GN[place + 1][own] == 0).sum())
        rows.append({"category": category, "share": share, "clips": len(own), "clips without a vote of it": without})
    return {"quotas": rows}


def _log(arm: Arm, picked: Picked, most: int, condition: Outcome | None) -> None:
    name = f"curated_subset/{arm.name}"
    if condition is not None:
        log.info("%s: %d clips meet `where`; %s", name, int(condition.passes_N.sum()), _in_words(condition))
    if picked.refused:
        log.info("%s: %s", name, ", ".join(f"{count} clips gave way ({reason})" for reason, count in _counts(picked).items()))
    if not arm.selection.has_budget and len(picked.positions) < most:
        log.warning(
            "%s: only %d of %d clips: no more are left that its wishes allow. The view `left_out` says why.",
            name,
            len(picked.positions),
            most,
        )
