"""The loss on held-out queries, on draws that attribution never uses: for the causal check, and for watching a training.

Both read it here, so that a training's last point and the causal check of its checkpoint are the same number. Without held-out queries the queries
themselves are used.

Axis suffixes: B draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from motive_pipeline.attribution.loss import FrameNorm, held_out_draws, masked_and_plain_loss
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.folder import timestep_range
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class QueryLosses:
    """The losses of one query at each draw: weighted by its motion mask, and plain as training minimises it."""

    masked_B: Float[np.ndarray, " B"]
    plain_B: Float[np.ndarray, " B"]


class HeldOutLoss:
    """The motion-weighted loss of each held-out query at each of ``evaluate.held_out_draws`` draws.

    A query takes part if it has latents and a mask: one that a stage rejected is in no number.
    """

    def __init__(self, ws: Workspace) -> None:
        """
        Raises:
            NotPublished: queries, latents or masks are not published yet.
            GateFailed: no query takes part. Held-out queries that were all rejected are never replaced by the queries.
        """
        self._latents: LatentSet = LatentSet(ws, "query")
        self._masks: MaskSet = MaskSet(ws, "query")
        queries = catalog_clips(ws, "query")
        held_out = [clip for clip in queries if clip.part == "held_out"]
        self.is_held_out = bool(held_out)
        """False where there are no held-out queries, and the queries themselves are used."""
        self.queries: Sequence[CatalogClip] = [clip for clip in (held_out or queries) if self.can_measure(clip)]
        if not self.queries:
            raise GateFailed(
                f"none of {len(held_out or queries)} {'held-out ' if held_out else ''}queries has both latents and a motion mask, so there is nothing to "
                "measure the loss on. The table `rejects` has the reasons."
            )
        self.draws = held_out_draws(ws.config.evaluate.held_out_draws, timestep_range(ws.config.model))
        self._frame_norm: FrameNorm = ws.config.gradient.frame_norm

    def can_measure(self, query: CatalogClip) -> bool:
        """Whether the query has latents and a mask."""
        return query.clip_id in self._latents and query.clip_id in self._masks

    def content(self, query: CatalogClip) -> tuple[Any, ...]:
        """Everything that the losses of a query depend on, besides the weights."""
        draws = [[draw.timestep, draw.noise_seed] for draw in self.draws]
        return query.clip_id, [self._latents.content(query.clip_id), self._masks.content(query.clip_id)], draws, self._frame_norm

    @property
    def key(self) -> str:
        """Two means with the same key are over the same queries, masks and draws, and can be compared."""
        return digest([self.content(query) for query in self.queries])

    def losses(self, model: VideoModel, query: CatalogClip) -> Float[np.ndarray, " B"]:
        """The motion-weighted loss of the query at each draw.

        Raises:
            RejectRow: the query can no longer be read (only with ``engine.keep_latents: false``).
        """
        return self.masked_and_plain(model, query).masked_B

    def masked_and_plain(self, model: VideoModel, query: CatalogClip) -> QueryLosses:
        """The motion-weighted and the plain loss of the query at each draw.

        Raises:
            RejectRow: as in :meth:`losses`.
        """
        latents_CFHW, conditioning = self._latents.get(query.clip_id)
        mask_FHW = self._masks.get(query.clip_id)
        with torch.no_grad():  # one draw at a time: the memory of one pass
            pairs = [
                masked_and_plain_loss(model, latents_CFHW, conditioning, mask_FHW=mask_FHW, draw=draw, frame_norm=self._frame_norm)
                for draw in self.draws
            ]
        masked_B, plain_B = (torch.stack(side).double().cpu().numpy() for side in zip(*pairs, strict=True))
        return QueryLosses(masked_B=masked_B, plain_B=plain_B)

    def mean(self, model: VideoModel) -> float:
        """The loss averaged over the draws of every query, and then over the queries.

        Raises:
            GateFailed: a loss is not finite, or a query can no longer be read; the message names the query.
        """
        means = []
        for query in self.queries:
            try:
                means.append(float(self.losses(model, query).mean()))
            except RejectRow as rejection:
                raise GateFailed(
                    f"the query {query.location} can no longer be read ({rejection.detail}). Run `motive run` again."
                ) from rejection
            if not np.isfinite(means[-1]):
                raise GateFailed(
                    f"the loss of the query {query.location} is {means[-1]}, so training has diverged. Lower finetune.learning_rate."
                )
        return float(np.mean(means))
