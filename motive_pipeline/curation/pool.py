"""The eligible pool: the clips that every stage before attribution accepted. All arms draw from it, so no arm gains from another's rejects.

Gradients do not screen: a clip whose gradient one variant rejected is missing from that variant's ranking, but stays in the pool.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Shaped

from motive_pipeline.errors import GateFailed
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, Workspace


def publish_eligible_pool(ws: Workspace) -> Publication:
    """Publish ``eligible_pool``: the clips that have a row in every screening asset of the graph, in the order of clip id.

    Raises:
        GateFailed: no clip passed every stage.
    """
    started = time.time()
    accepted = {asset: _clip_ids(ws, asset) for asset in ws.graph.screening}
    pool = intersection(accepted.values())
    if not len(pool):
        counts = ", ".join(f"{asset}: {len(ids)}" for asset, ids in accepted.items())
        raise GateFailed(f"no clip was accepted by every stage ({counts}). The table `rejects` says why clips were left out.")
    table = pd.DataFrame({"clip_id": pool.astype(str)})
    return ws.publish(
        "eligible_pool",
        content=digest_frame(table),
        write=lambda folder: write_parquet(table, folder / "pool.parquet"),
        started=started,
        facts={"clips": len(pool)} | {f"accepted by {asset}": len(ids) for asset, ids in accepted.items()},
        table_rows=len(pool),
    )


def intersection(id_sets: Iterable[Shaped[np.ndarray, " _"]]) -> Shaped[np.ndarray, " N"]:
    """The ids that occur in every one of the arrays, ascending."""
    first, *others = id_sets
    common = np.unique(first)
    for ids in others:
        common = np.intersect1d(common, ids)
    return common


def load_pool(ws: Workspace) -> Shaped[np.ndarray, " N"]:
    """The clip ids of the published pool, ascending, as fixed-length bytes."""
    return np.asarray(ws.published("eligible_pool").table("pool")["clip_id"].to_numpy(dtype=object), dtype="S16")


def _clip_ids(ws: Workspace, asset: str) -> Shaped[np.ndarray, " N"]:
    return np.asarray(ws.published(asset).table("index")["clip_id"].to_numpy(dtype=object), dtype="S16")
