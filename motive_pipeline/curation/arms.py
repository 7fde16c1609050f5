"""The subset of each arm: which clips it trains on. Every arm draws from the same eligible pool.

``graph/arms.py`` lists the arms; each names one of the choosing functions below.
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Shaped

from motive_pipeline.curation.chosen import Chosen, left_out_table
from motive_pipeline.curation.edits import in_words, load_edits
from motive_pipeline.curation.embeddings import nearest_clips
from motive_pipeline.curation.harmful import worst_first
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.selection import selected_clips
from motive_pipeline.curation.vote import num_selected, order_by
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.graph import Arm, resolve_dotted
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, Workspace

log = logging.getLogger(__name__)

SHOWN_CLIPS = 10


def publish_subset(ws: Workspace, arm: str) -> Publication:
    """Publish ``curated_subset/<arm>``: clip_id and rank (1-based), best first.

    It holds K = max(1, floor(share * N + 0.5)) of the N clips of the pool, or all that the arm's function gives if the arm takes all. An arm that chooses from a
    ranking has fewer if the ranking has fewer: a clip without a gradient cannot be ranked. The score table ``left_out`` has the clips that something other than their rank
    kept out; trainings do not depend on it.

    Raises:
        MotiveError: the arm is the base model, which trains on nothing.
        GateFailed: the choice does not have that many different clips of the pool.
    """
    started = time.time()
    declared = ws.config.arm(arm)
    if declared.choose is None:
        raise MotiveError(f"the arm {arm} trains on nothing, so it has no subset")
    pool = load_pool(ws)
    made = resolve_dotted(declared.choose)(ws, declared, pool)
    made = made if isinstance(made, Chosen) else Chosen(clip_ids=made)
    preferred = made.clip_ids
    num_clips = len(preferred) if declared.takes_all else num_selected(len(pool), ws.config.subset.share)
    num_clips = num_clips if declared.variant is None else min(num_clips, len(preferred))
    chosen = preferred[:num_clips]
    require_subset(declared, chosen, pool, num_clips)
    subset = pd.DataFrame({"clip_id": chosen.astype(str), "rank": np.arange(1, len(chosen) + 1)})
    return ws.publish(
        f"curated_subset/{arm}",
        content=digest_frame(subset),
        write=lambda folder: write_parquet(subset, folder / "subset.parquet"),
        started=started,
        facts=_facts(ws, subset, len(pool)) | dict(made.facts),
        table_rows=len(subset),
        scores={("subsets", arm): subset.assign(arm=arm), ("left_out", arm): made.left_out.assign(arm=arm)},
    )


def whole_pool(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " N"]:
    """Every clip, in the order of clip id."""
    return pool


def random_order(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " N"]:
    """The pool in the order of :func:`random_choice`, seeded by ``subset.seed``."""
    return random_choice(pool, len(pool), ws.config.subset.seed)


def most_motion(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " N"]:
    """The clips by mean motion magnitude, highest first."""
    return highest(pool, _magnitude_px(ws, pool), len(pool))


def nearest_embeddings(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " M"]:
    """The clips by the queries' votes over the similarity of embeddings, best first."""
    return np.array(nearest_clips(ws, pool.astype(str).tolist()), dtype="S16")


def first_ranked(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " M"]:
    """The clips of the variant's ranking, best first: by the arm's rule, if it has one of its own."""
    ranking = ws.published(f"voted_ranking/{arm.variant}").table("ranking")
    if arm.rule is None:
        return _ids(ranking.sort_values("rank"))
    by_id = ranking.sort_values("clip_id")
    return _ids(by_id.iloc[order_by(arm.rule, by_id["votes"].to_numpy(np.int64), by_id["mean_influence"].to_numpy(np.float64))])


def lowest_influence(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " M"]:
    """The clips of the variant's ranking, lowest mean influence first."""
    return _ids(worst_first(ws.published(f"voted_ranking/{arm.variant}").table("ranking")))


def all_but_the_worst(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Shaped[np.ndarray, " M"]:
    """The pool without the K clips of lowest mean influence, best first; at least one clip is left.

    A clip without a gradient has no influence, so nothing speaks against it: it stays, behind the ranked ones.
    """
    ranked = _ids(worst_first(ws.published(f"voted_ranking/{arm.variant}").table("ranking")))
    num_left_out = min(num_selected(len(pool), ws.config.subset.share), len(pool) - 1)
    return np.concatenate([ranked[num_left_out:][::-1], np.setdiff1d(pool, ranked)])


def edited_choice(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"]) -> Chosen:
    """The clips of the lead arm that the edits file does not drop, then those of the pool that it keeps besides, both in the order of the ranking.

    A clip that is kept need not be ranked: without a gradient it comes last.

    Raises:
        MotiveError: the edits file cannot be used.
        GateFailed: every clip is dropped.
    """
    edits = load_edits(ws.config.edits_file)
    ranked = first_ranked(ws, arm, pool)
    in_order = np.concatenate([ranked, np.setdiff1d(pool, ranked)])
    selected = (
        selected_clips(ws, arm, pool) if arm.selection else Chosen(clip_ids=ranked[: num_selected(len(pool), ws.config.subset.share)])
    )
    of_lead = selected.clip_ids
    keep, drop = (np.array(edits.having(tick), dtype="S16") for tick in ("keep", "drop"))
    chosen = np.concatenate([of_lead[~np.isin(of_lead, drop)], in_order[np.isin(in_order, keep) & ~np.isin(in_order, of_lead)]])
    if not len(chosen):
        raise GateFailed(
            f"curated_subset/{arm.name}: {edits.file} (subset.edits) drops all {len(of_lead)} clips and keeps none. Keep one at least."
        )
    if unknown := edits.unknown(bytes(each).decode() for each in pool):
        log.warning("curated_subset/%s: %s names %d clips that are not in the eligible pool: %s", arm.name, edits.file, len(unknown), in_words(unknown))  # fmt: skip
    if edits.problems:
        log.warning("curated_subset/%s: %s has rows that mean nothing here: %s", arm.name, edits.file, in_words(edits.problems))
    rank = {clip_id: place for place, clip_id in enumerate(ranked.astype(str).tolist(), start=1)}
    dropped = of_lead[np.isin(of_lead, drop)].astype(str).tolist()
    by_hand = left_out_table([(clip_id, rank[clip_id], "dropped_by_hand", None, edits.note(clip_id)) for clip_id in dropped])
    before = selected.left_out.loc[~selected.left_out["clip_id"].isin(chosen.astype(str).tolist())]
    return Chosen(clip_ids=chosen, left_out=pd.concat([pd.DataFrame(before), by_hand], ignore_index=True), facts=selected.facts)


def _ids(ranking: pd.DataFrame) -> Shaped[np.ndarray, " M"]:
    return ranking["clip_id"].to_numpy(dtype=object).astype("S16")


def random_choice(pool: Shaped[np.ndarray, " N"], num_clips: int, seed: int) -> Shaped[np.ndarray, " K"]:
    """The ``num_clips`` clips of the pool with the smallest hash of (seed, clip id).

    Every subset of that size is equally likely over the seeds, and a clip that joins the pool displaces at most one other.
    """
    keyed = sorted((hashlib.sha256(b"random arm %d " % seed + clip_id).digest(), clip_id) for clip_id in pool.tolist())
    return np.array([clip_id for _, clip_id in keyed[:num_clips]], dtype=pool.dtype)


def highest(pool: Shaped[np.ndarray, " N"], score_N: Float64[np.ndarray, " N"], num_clips: int) -> Shaped[np.ndarray, " K"]:
    """The ``num_clips`` clips with the highest score, ties by clip id; ``pool`` is ascending."""
    return pool[np.argsort(-score_N, kind="stable")[:num_clips]]


def require_subset(arm: Arm, chosen: Shaped[np.ndarray, " K"], pool: Shaped[np.ndarray, " N"], num_clips: int) -> None:
    """The gate on a subset: ``num_clips`` different clips, all from the pool.

    Raises:
        GateFailed: otherwise; the message says what was found.
    """
    different = len(np.unique(chosen))
    outside = int((~np.isin(chosen, pool)).sum())
    if len(chosen) != num_clips or different != num_clips or outside:
        raise GateFailed(
            f"curated_subset/{arm.name}: {num_clips} different clips of eligible_pool expected, found {len(chosen)} clips, {different} different, "
            f"{outside} outside the pool. The ranking and the pool are out of step: materialize {' and '.join(arm.chooses_by) or 'eligible_pool'} again."
        )


def _magnitude_px(ws: Workspace, clip_ids: Shaped[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
    """Motion magnitude of each clip in pixels; every clip of the pool has one."""
    index = ws.published("motion_masks").table("index").set_index("clip_id")["motion_magnitude_px"]
    return index.loc[clip_ids.astype(str)].to_numpy(dtype=np.float64)


def _facts(ws: Workspace, subset: pd.DataFrame, pool_size: int) -> dict[str, Any]:
    """Size, mean motion, and the first clips with their captions."""
    magnitude_px = _magnitude_px(ws, subset["clip_id"].to_numpy(dtype=object).astype("S16"))
    catalog = ws.published("clip_catalog").table("catalog").set_index("clip_id")
    first = [
        {"rank": int(rank), "clip_id": clip_id, "caption": catalog.at[clip_id, "caption"], "path": str(catalog.at[clip_id, "path"]), "motion_magnitude_px": float(px)}
        for clip_id, rank, px in zip(subset["clip_id"][:SHOWN_CLIPS], subset["rank"], magnitude_px, strict=False)
    ]  # fmt: skip
    return {
        "clips": len(subset),
        "share_of_pool": len(subset) / pool_size,
        "mean_motion_magnitude_px": float(magnitude_px.mean()),
        "first_clips": first,
    }
