"""Influence maps to look at: the published ones, and those of any other clip of the pool, computed on demand.

Axes: F latent frames, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from motive_pipeline.attribution.gradient_set import GradientSet
from motive_pipeline.attribution.influence_map import Step
from motive_pipeline.attribution.stage import load_gradients
from motive_pipeline.config import Variant
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.evaluation.map_rows import NETWORKS, STAGE, MapInputs, MapRows, Network, Pair
from motive_pipeline.storage.rows import RowRef
from motive_pipeline.storage.workspace import Workspace


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


def gradients_of(ws: Workspace, variant: Variant) -> GradientSet:
    """The published gradients of the clips, for their lengths and what they were made with: no entry of a row is read."""
    return load_gradients(ws, variant, "clip", proj_dim=1)


class MapFactors:
    """What a stored map of each clip is multiplied by: 1 / the length of its gradient for ``similarity: cosine`` (0 for a zero gradient), else 1."""

    def __init__(self, inputs: MapInputs, gradients: GradientSet) -> None:
        self._is_cosine = inputs.influence.similarity == "cosine"
        self._norms = dict(zip(gradients.clip_ids, gradients.norms_N.tolist(), strict=True))

    def of(self, clip_id: str) -> float:
        """The factor of one clip."""
        if not self._is_cosine:
            return 1.0
        return 1.0 / self._norms[clip_id] if self._norms[clip_id] > 0 else 0.0


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
    gradients = gradients_of(ws, variant)
    _require_same(ws, gradients, inputs)
    factors = MapFactors(inputs, gradients)
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


def caveats(ws: Workspace, variant: Variant) -> list[str]:
    """In which ways, under the variant's settings, the mean of a map is not quite the clip's published influence before projection."""
    config = ws.config.of_variant(variant)
    gradient, influence = config.gradient, config.influence
    found = []
    if influence.uses_trak:
        found.append("The maps leave out TRAK's kernel: they break down the plain inner product of the gradients.")
    if influence.similarity == "cosine" and (gradient.projection == "factored" or gradient.num_draws > gradient.draws_at_once):
        found.append(
            "Each map is divided by the published length of the clip's gradient, here an estimate from its projection; this moves all cells alike."
        )
    if gradient.combine == "mean_cosine":
        found.append("The maps break down the influence of the mean gradient, where the published one is the mean of the draws' cosines.")
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
    if made_by["provenance"]["row_fingerprint"] != ws.config.row_fingerprint("gradient", inputs.variant):
        raise MotiveError(
            "the settings of the gradient are not those that the published gradients were made with, so a map would not add up to the "
            f"score. {again}, or set them back."
        )
