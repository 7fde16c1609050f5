"""Computes the rows of ``influence_maps``: the map of one clip for one query (or for the mean of all), through one network.

Axes: C channels, F latent frames, h w latent cells, L prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from motive_pipeline.attribution.influence_map import InfluenceMaps
from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.attribution.loss import attribution_draws
from motive_pipeline.attribution.loss_masks import LossMasks
from motive_pipeline.attribution.preconditioner import adam_scales
from motive_pipeline.attribution.second_moments import load_second_moments, second_moments_content
from motive_pipeline.attribution.weight_direction import LossInputs, refuse_on_oom
from motive_pipeline.config import Config, Variant
from motive_pipeline.curation.controls import UNTRAINED_SEED, reset_weights
from motive_pipeline.errors import RejectRow
from motive_pipeline.graph import Role
from motive_pipeline.keys import influence_map_key
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import load_attributed_model, model_folder, model_hash
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.storage.workspace import Workspace

STAGE = "influence_maps"
Network = Literal["trained", "untrained"]
NETWORKS: tuple[Network, ...] = ("trained", "untrained")
"""The model, and a network of its architecture with random weights."""

MEAN = "mean"
"""In the place of a query's id: the mean of all queries."""

DIMS = {"map": ("frame", "height", "width")}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One clip and one query, or :data:`MEAN`."""

    query_id: str
    clip_id: str


class MapInputs:
    """What the maps of one variant are computed from.

    Raises:
        NotPublished: latents, masks, second moments or the influence of the variant.
    """

    def __init__(self, ws: Workspace, variant: Variant) -> None:
        self.ws = ws
        self.variant: Variant = variant
        config = ws.config.of_variant(variant)
        self.config, self.gradient, self.influence = config, config.gradient, config.influence
        self.query_ids = load_influence(ws, variant).query_ids
        self._latents: dict[Role, LatentSet] = {"clip": LatentSet(ws, "clip"), "query": LatentSet(ws, "query")}
        self._masks: dict[Role, LossMasks] = {role: LossMasks(ws, role, self.gradient) for role in self._latents}
        self._moments = second_moments_content(ws) if self.influence.uses_adam else None

    @cached_property
    def model_hash(self) -> str:
        """The hash of the base model as it is now."""
        return model_hash(self.ws)

    def queries_of(self, query_id: str) -> list[str]:
        """The queries whose direction it is: one, or all."""
        return self.query_ids if query_id == MEAN else [query_id]

    def get(self, role: Role, clip_id: str) -> LossInputs:
        """What the variant's loss of a clip, or of a query, is computed from."""
        latents_CFHW, conditioning = self._latents[role].get(clip_id)
        return LossInputs(latents_CFHW=latents_CFHW, conditioning=conditioning, mask_FHW=self._masks[role].get(clip_id))

    def key(self, pair: Pair, network: Network) -> str:
        """The row's key in the store."""
        queries = [self._content("query", query_id) for query_id in self.queries_of(pair.query_id)]
        moments = self._moments if network == "trained" else None
        return influence_map_key(network, self.model_hash, moments, queries, self._content("clip", pair.clip_id))

    def _content(self, role: Role, clip_id: str) -> list[str]:
        return [self._latents[role].content(clip_id), self._masks[role].content(clip_id)]


class MapRows:
    """``pair -> arrays`` through one network. The model is loaded with the first row, and the weights move once for all clips of a query that are expected."""

    def __init__(self, inputs: MapInputs, network: Network) -> None:
        self._inputs = inputs
        self._network: Network = network
        self._missing: list[Pair] = []
        self._ready: dict[Pair, dict[str, np.ndarray] | RejectRow] = {}

    def expect(self, pairs: Sequence[Pair]) -> None:
        """Say which rows will be asked for."""
        self._missing = list(pairs)

    def __call__(self, pair: Pair) -> dict[str, np.ndarray]:
        """The row: ``map`` [frame, height, width], not divided by the length of the clip's gradient; ``step`` and ``step_change`` (:class:`Step`).

        Raises:
            RejectRow: latents are not kept, and a file can no longer be used.
            DoesNotFit: the maps need more memory than there is.
        """
        if pair not in self._ready:
            self._compute(pair.query_id)
        row = self._ready.pop(pair)
        if isinstance(row, RejectRow):
            raise row
        return row

    def _compute(self, query_id: str) -> None:
        """Compute the expected maps of one query, or of the mean of all."""
        clips: dict[Pair, LossInputs] = {}
        for pair in [pair for pair in self._missing if pair.query_id == query_id]:
            try:
                clips[pair] = self._inputs.get("clip", pair.clip_id)
            except RejectRow as rejection:
                self._ready[pair] = rejection
        queries = self._inputs.queries_of(query_id)
        direction = self._maps.direction(self._inputs.get("query", each) for each in queries)
        step = self._maps.step(direction, self._inputs.get("query", queries[0]))
        for pair, map_FHW in zip(clips, self._maps.maps(direction, list(clips.values()), step), strict=True):
            self._ready[pair] = {"map": map_FHW, "step": np.array(step.size), "step_change": np.array(step.change)}

    @cached_property
    def _maps(self) -> InfluenceMaps:
        ws, gradient, influence = self._inputs.ws, self._inputs.gradient, self._inputs.influence
        model = _network(self._inputs.config, self._network)
        scales = None
        if self._network == "trained" and influence.uses_adam:
            scales = adam_scales(load_second_moments(ws, model.device), eps=influence.adam_eps)
        return InfluenceMaps(
            model,
            draws=attribution_draws(gradient, model.timestep_range),
            parameters=gradient.parameters,
            frame_norm=gradient.frame_norm,
            scales=scales,
            similarity=influence.similarity,
            checkpointing=gradient.checkpointing,
            deterministic=gradient.deterministic,
            draws_at_once=gradient.draws_at_once,
        )


def _network(config: Config, network: Network) -> VideoModel:
    """The base model in float32, whatever ``model.dtype`` is; or the same architecture with random weights."""
    with refuse_on_oom(f"loading {config.model.path} in float32 for influence maps"):
        if network == "trained":
            return load_attributed_model(config, dtype="float32")
        model = load_attributed_model(config, dtype="float32", path=model_folder(config.model))
        reset_weights(model, UNTRAINED_SEED)
        return model
