"""``influence_maps/<variant>``: where and when in a clip its influence arises, for the clips at both ends of each query's row.

Each map is computed through the model and, for comparison, through a network of the same architecture with random weights (map_rows.py). Stored
rows are not yet divided by the length of the clip's gradient, so they do not depend on the projection.

Axes: B a block of queries, N clips of the pool that have an influence, F latent frames, h w latent cells.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float64

from motive_pipeline.attribution.influence_set import both_ends, load_influence
from motive_pipeline.attribution.weight_direction import DoesNotFit
from motive_pipeline.config import Variant
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.evaluation.clip_maps import MapFactors, gradients_of
from motive_pipeline.evaluation.map_rows import DIMS, MEAN, NETWORKS, STAGE, MapInputs, MapRows, Network, Pair
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace

MAX_QUERIES = 6
"""Queries, in order of their ids, whose ends are mapped and shown."""

CLIPS_PER_END = 4


@dataclass(frozen=True, kw_only=True)
class End:
    """A clip at one end of a query's row: its influence, and its place among the clips of the pool."""

    clip_id: str
    influence: float
    place: int


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The clips with the highest influence on a query (or on the mean of all), the best first, and with the lowest, the worst first."""

    query_id: str
    best: Sequence[End]
    worst: Sequence[End]

    @property
    def pairs(self) -> list[Pair]:
        """Each of the clips with the query."""
        return [Pair(query_id=self.query_id, clip_id=end.clip_id) for end in (*self.best, *self.worst)]


def shown_ends(ws: Workspace, variant: Variant) -> list[Ends]:
    """The ends of the mean of all queries, if there are several, then those of the first queries. No clip stands at both ends of one row.

    Raises:
        NotPublished: the influence of the variant, or the pool.
    """
    matrix = load_influence(ws, variant)
    clip_id_N = np.intersect1d(load_pool(ws), matrix.clip_id_N)
    clip_ids, columns = clip_id_N.astype(str).tolist(), matrix.columns(clip_id_N)
    rows = [(query_id, matrix.query(query_id)[columns].astype(np.float64)) for query_id in matrix.query_ids[:MAX_QUERIES]]
    if len(matrix.query_ids) > 1:
        total_N = np.zeros(len(clip_ids))
        for block_BN in matrix.blocks(clip_id_N):
            total_N += block_BN.sum(axis=0, dtype=np.float64)
        rows.insert(0, (MEAN, total_N / len(matrix.query_ids)))
    return [_ends(query_id, clip_ids, influence_N) for query_id, influence_N in rows]


def _ends(query_id: str, clip_ids: Sequence[str], influence_N: Float64[np.ndarray, " N"]) -> Ends:
    best, worst = both_ends(influence_N, CLIPS_PER_END)
    high, low = (
        [End(clip_id=clip_ids[column], influence=float(influence_N[column]), place=place) for column, place in end]
        for end in (zip(best, range(1, len(best) + 1), strict=True), zip(worst, range(len(clip_ids), 0, -1), strict=False))
    )
    return Ends(query_id=query_id, best=high, worst=low)


def publish_influence_maps(ws: Workspace, *, variant: Variant) -> Publication:
    """Compute and publish the maps of :func:`shown_ends`. Where they do not fit into memory nothing is mapped, and the note says so.

    Raises:
        NotPublished: an input.
        MotiveError: the model cannot be loaded.
    """
    started = time.time()
    inputs = MapInputs(ws, variant)
    pairs = list(dict.fromkeys(pair for ends in shown_ends(ws, variant) for pair in ends.pairs))
    store = ws.store(STAGE, DIMS, variant)
    refs: dict[tuple[Network, Pair], RowRef] = {}
    counts, note = RowCounts(), ""
    try:
        for network in NETWORKS:
            work = [Work(key=inputs.key(pair, network), item=pair) for pair in pairs]
            rows = MapRows(inputs, network)
            outcome = compute_rows(
                store,
                work,
                rows,
                what=f"influence maps ({network})",
                prefetch=rows.expect,
                commit_rows=ws.config.engine.commit_rows,
                commit_s=ws.config.engine.commit_s,
            )
            refs |= {(network, piece.item): outcome.refs[piece.key] for piece in work if piece.key in outcome.refs}
            counts = _sum(counts, outcome.counts)
    except DoesNotFit as error:
        refs, note = {}, f"There are no influence maps: {error}"
    mapped = [pair for pair in pairs if all((network, pair) in refs for network in NETWORKS)]
    index = _index(ws, inputs, store, mapped, refs)
    return ws.publish(
        f"{STAGE}/{variant}",
        content=digest(digest_frame(index.drop(columns=["key", "store"])), note),
        write=lambda folder: write_parquet(index, folder / "index.parquet"),
        started=started,
        facts=_facts(index, note, num_lost=len(pairs) - len(mapped)),
        counts=counts,
    )


def _sum(first: RowCounts, second: RowCounts) -> RowCounts:
    return RowCounts(**{name: getattr(first, name) + getattr(second, name) for name in vars(first)})


def _index(
    ws: Workspace, inputs: MapInputs, store: RowStore, pairs: Sequence[Pair], refs: Mapping[tuple[Network, Pair], RowRef]
) -> pd.DataFrame:
    """One row for each map and network. ``factor`` is what a stored map is multiplied by; ``mean`` is the mean of the map after that."""
    factors = MapFactors(inputs, gradients_of(ws, inputs.variant))
    name = f"{STAGE}/{ws.config.row_fingerprint(STAGE, inputs.variant)}"
    rows = []
    for pair in pairs:
        for network in NETWORKS:
            ref = refs[network, pair]
            factor = factors.of(pair.clip_id) if network == "trained" else 1.0
            map_FHW = store.read(ref, "map")
            rows.append(
                {
                    "query_id": pair.query_id,
                    "clip_id": pair.clip_id,
                    "network": network,
                    "mean": factor * float(map_FHW.mean(dtype=np.float64)),
                    "factor": factor,
                    "step": float(store.read(ref, "step")),
                    "step_change": float(store.read(ref, "step_change")),
                    "content": ref.content,
                    "key": ref.key,
                    "store": name,
                }
            )
    columns = ["query_id", "clip_id", "network", "mean", "factor", "step", "step_change", "content", "key", "store"]
    return pd.DataFrame(rows, columns=columns)


def _facts(index: pd.DataFrame, note: str, *, num_lost: int) -> dict[str, Any]:
    if note:
        return {"maps": 0, "note": note}
    trained = (index["network"] == "trained").to_numpy(bool)
    steps, changes = (index[name].to_numpy(np.float64)[trained] for name in ("step", "step_change"))
    return {
        "maps": int(trained.sum()),
        "maps left out, because a file can no longer be used": num_lost,
        "step": ", ".join(f"{step:g}" for step in np.unique(steps).tolist()) + " of the weights' length",
        "largest change when the step is halved": float(changes.max(initial=0.0)),
        "note": "",
    }
