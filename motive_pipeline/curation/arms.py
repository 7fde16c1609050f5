"""The arms: ways to choose the clips to train on. Each draws from the same eligible pool, and all but ``full`` choose equally many."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64, Shaped

from motive_pipeline.config import Arm, Variant
from motive_pipeline.curation.embeddings import nearest_clips
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import num_selected
from motive_pipeline.errors import GateFailed
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.workspace import Publication, Workspace

SHOWN_CLIPS = 10
_VARIANTS: Mapping[Arm, Variant] = {"motive": "motive", "no_mask": "no_mask", "bottom": "motive"}
"""The gradients behind the ranking that an arm chooses from."""


def publish_subset(ws: Workspace, arm: Arm) -> Publication:
    """Publish ``curated_subset/<arm>``: clip_id and rank (1-based), best first (for ``bottom``: lowest mean influence first).

    The arm ``base`` trains on nothing and has no subset.

    Raises:
        GateFailed: the choice is not K = max(1, floor(share * N + 0.5)) different clips of the pool (for ``full``: all of it).
    """
    started = time.time()
    pool = load_pool(ws)
    num_clips = len(pool) if arm == "full" else num_selected(len(pool), ws.config.subset.share)
    chosen = _choice(ws, arm, pool, num_clips)
    require_subset(arm, chosen, pool, num_clips)
    subset = pd.DataFrame({"clip_id": chosen.astype(str), "rank": np.arange(1, len(chosen) + 1)})
    return ws.publish(
        f"curated_subset/{arm}",
        stage="curated_subset",
        content=digest_frame(subset),
        write=lambda folder: subset.to_parquet(folder / "subset.parquet", index=False),
        started=started,
        upstream=["eligible_pool", *_basis(arm)],
        facts=_facts(ws, subset, len(pool)),
        table_rows=len(subset),
        scores={("subsets", arm): pd.DataFrame({"arm": arm, "clip_id": subset["clip_id"], "rank": subset["rank"]})},
    )


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
    """The gate on a subset: ``num_clips`` different clips, all of the pool.

    Raises:
        GateFailed: otherwise, with what was found.
    """
    different = len(np.unique(chosen))
    outside = int((~np.isin(chosen, pool)).sum())
    if len(chosen) != num_clips or different != num_clips or outside:
        raise GateFailed(
            f"curated_subset/{arm}: {num_clips} different clips of eligible_pool expected, found {len(chosen)} clips, {different} different, "
            f"{outside} outside the pool. The ranking and the pool are not of the same state: materialize {' and '.join(_basis(arm)) or 'eligible_pool'} again."
        )


def _choice(ws: Workspace, arm: Arm, pool: Shaped[np.ndarray, " N"], num_clips: int) -> Shaped[np.ndarray, " K"]:
    if arm == "full":
        return pool
    if arm == "random":
        return random_choice(pool, num_clips, ws.config.subset.seed)
    if arm == "motion_magnitude":
        return highest(pool, _magnitude_px(ws, pool), num_clips)
    if arm == "embedding":
        return np.array(nearest_clips(ws, pool.astype(str).tolist()), dtype="S16")[:num_clips]
    ranking = ws.published(f"voted_ranking/{_VARIANTS[arm]}").table("ranking")
    ranking = ranking.sort_values(["mean_influence", "clip_id"] if arm == "bottom" else "rank")
    return ranking["clip_id"].to_numpy(dtype=object)[:num_clips].astype("S16")


def _basis(arm: Arm) -> list[str]:
    """What an arm chooses by, besides the pool."""
    if arm in _VARIANTS:
        return [f"voted_ranking/{_VARIANTS[arm]}"]
    return {"motion_magnitude": ["motion_masks"], "embedding": ["embeddings", "query_embeddings", "query_catalog"]}.get(arm, [])


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
