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
from jaxtyping import Float32, Float64

from motive_pipeline.attribution.gradient_set import GradientSet
from motive_pipeline.attribution.influence_map import Step
from motive_pipeline.attribution.influence_set import both_ends, load_influence
from motive_pipeline.attribution.stage import load_gradients
from motive_pipeline.attribution.weight_direction import DoesNotFit
from motive_pipeline.config import Variant
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.evaluation.map_rows import DIMS, MEAN, NETWORKS, MapInputs, MapRows, Network, Pair
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace

STAGE = "influence_maps"
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


@dataclass(frozen=True, kw_only=True)
class ClipMap:
    """The influence map of one clip for one query. The mean of ``map_FHW`` is the clip's score before projection.

    ``untrained_FHW`` is the map through the network with random weights, on a scale of its own.
    """

    map_FHW: Float32[np.ndarray, "F h w"]
    untrained_FHW: Float32[np.ndarray, "F h w"]
    step: Step

    @property
    def mean(self) -> float:
        """The clip's influence: a cosine, with ``influence.similarity: cosine``."""
        return float(self.map_FHW.mean(dtype=np.float64))

    @property
    def agreement(self) -> float:
        """Correlation of the map with that of the untrained network, over cells; NaN if one of them is constant."""
        both = np.stack([self.map_FHW.ravel(), self.untrained_FHW.ravel()]).astype(np.float64)
        return float(np.asarray(np.corrcoef(both))[0, 1]) if (both.std(axis=1) > 0).all() else float("nan")


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
    store = ws.store(STAGE, DIMS)
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
    factors = _Factors(inputs, _gradients(ws, inputs.variant))
    name = f"{STAGE}/{ws.config.row_fingerprint(STAGE)}"
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


def _gradients(ws: Workspace, variant: Variant) -> GradientSet:
    """The published gradients of the clips, for their lengths and what they were made with: no entry of a row is read."""
    return load_gradients(ws, variant, "clip", proj_dim=1)


class _Factors:
    """What a stored map of each clip is multiplied by: 1 / the length of its gradient for ``similarity: cosine`` (0 for a zero gradient), else 1."""

    def __init__(self, inputs: MapInputs, gradients: GradientSet) -> None:
        self._is_cosine = inputs.influence.similarity == "cosine"
        self._norms = dict(zip(gradients.clip_ids, gradients.norms_N.tolist(), strict=True))

    def of(self, clip_id: str) -> float:
        """The factor of one clip."""
        if not self._is_cosine:
            return 1.0
        return 1.0 / self._norms[clip_id] if self._norms[clip_id] > 0 else 0.0


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


class MapSet:
    """The published maps of one variant. ``note`` says why there are none."""

    def __init__(self, ws: Workspace, variant: Variant) -> None:
        """Raises NotPublished if nothing is published yet."""
        publication = ws.published(f"{STAGE}/{variant}")
        self.note = str(publication.facts["note"])
        index = publication.table("index")
        self._rows = {
            (str(row["network"]), Pair(query_id=str(row["query_id"]), clip_id=str(row["clip_id"]))): row for row in index.to_dict("records")
        }
        self._stores = {name: ws.store_at(name) for name in sorted(set(index["store"].astype(str)))}

    def get(self, pair: Pair) -> ClipMap | None:
        """The map of the pair, if it was mapped.

        Raises:
            MotiveError: its row is no longer on disk.
        """
        if ("trained", pair) not in self._rows:
            return None
        row = self._rows["trained", pair]
        return ClipMap(
            map_FHW=self._read("trained", pair),
            untrained_FHW=self._read("untrained", pair),
            step=Step(size=float(row["step"]), change=float(row["step_change"])),
        )

    def _read(self, network: Network, pair: Pair) -> Float32[np.ndarray, "F h w"]:
        row = self._rows[network, pair]
        ref = self._stores[row["store"]].find(row["key"])
        if not isinstance(ref, RowRef):
            raise MotiveError(f"{STAGE}: a map of clip {pair.clip_id} is missing from {row['store']}. Run `motive run` to make it again.")
        return self._stores[row["store"]].read(ref, "map") * np.float32(row["factor"])


def compute_clip_maps(ws: Workspace, variant: Variant, pairs: Sequence[Pair]) -> dict[Pair, ClipMap]:
    """Compute the maps of ``pairs`` now, through both networks. Nothing is stored. The clips need a published gradient.

    Raises:
        NotPublished: an input.
        DoesNotFit: they do not fit into memory.
        MotiveError: model or settings are not those of the published gradients, or a file of latents that are not kept can no longer be used.
    """
    inputs = MapInputs(ws, variant)
    gradients = _gradients(ws, variant)
    _require_same(ws, gradients, inputs)
    factors = _Factors(inputs, gradients)
    found: dict[Network, dict[Pair, dict[str, np.ndarray]]] = {}
    for network in NETWORKS:
        rows = MapRows(inputs, network)
        rows.expect(pairs)
        try:
            found[network] = {pair: rows(pair) for pair in pairs}
        except RejectRow as rejection:
            raise MotiveError(f"the clip can no longer be mapped: {rejection.detail}") from rejection
    return {
        pair: ClipMap(
            map_FHW=found["trained"][pair]["map"] * np.float32(factors.of(pair.clip_id)),
            untrained_FHW=found["untrained"][pair]["map"],
            step=Step(size=float(found["trained"][pair]["step"]), change=float(found["trained"][pair]["step_change"])),
        )
        for pair in pairs
    }


def caveats(ws: Workspace) -> list[str]:
    """In which ways, under these settings, the mean of a map is not quite the clip's published influence before projection."""
    gradient, influence = ws.config.gradient, ws.config.influence
    found = []
    if influence.preconditioner == "trak":
        found.append("The maps leave out TRAK's kernel: they break down the plain inner product of the gradients.")
    if influence.similarity == "cosine" and (gradient.projection == "factored" or len(gradient.timesteps) * gradient.num_noises > 1):
        found.append(
            "Each map is divided by the published length of the clip's gradient, here an estimate from its projection; this moves all cells alike."
        )
    if ws.config.model.dtype != "float32":
        found.append(f"The maps are computed in float32, the published gradients in {ws.config.model.dtype}.")
    return found


def _require_same(ws: Workspace, gradients: GradientSet, inputs: MapInputs) -> None:
    """Check that model and settings are those that the published gradients were made with: otherwise a map would not add up to the score."""
    made_by = gradients.attributes
    again = "Run `motive run` to compute the gradients again"
    if made_by["model_hash"] != inputs.model_hash:
        raise MotiveError(
            f"the model {ws.config.model.path} is not the one that the published gradients were made with (hash {inputs.model_hash[:12]} instead of "
            f"{made_by['model_hash'][:12]}), so a map would not add up to the score. {again}, or set model.path to the model of before."
        )
    if made_by["provenance"]["row_fingerprint"] != ws.config.row_fingerprint("gradient"):
        raise MotiveError(
            "the settings of the gradient are not those that the published gradients were made with, so a map would not add up to the "
            f"score. {again}, or set them back."
        )
