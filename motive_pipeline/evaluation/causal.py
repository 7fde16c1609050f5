"""The causal check: how far does training on an arm's clips lower the motion-weighted loss on held-out queries?

For each held-out query and each of a few (timestep, noise) draws, the loss of the trained model is compared with that of the base model on
the same clip, mask and noise. Attribution used neither these queries nor these draws, so a drop is independent evidence. Without held-out
queries the queries themselves are used, and every number is marked "in-sample".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution.loss import Draw, FrameNorm, motion_weighted_loss
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph.metrics import HELD_OUT_DROP, IN_SAMPLE_DROP
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.workspace import RowCounts, Workspace
from motive_pipeline.training.finetune import checkpoint_folder, load_records

FIRST_NOISE_SEED = 1_000_003
"""Distance of the check's noise seeds from attribution's first one; ``gradient.num_noises`` allows far fewer, so the two never share a seed."""

DIMS = {"loss": ("draw",), "flow_histogram": ("bin",), "flow_features": ("pair", "feature")}


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one training or of the base model: their hash, and a function that loads the model."""

    training: int
    content: str
    load: Callable[[], VideoModel]


def held_out_draws(gradient: config.Gradient, count: int) -> list[Draw]:
    """``count`` draws at evenly spaced timesteps 1000 (i + 1/2) / count, each with its own noise.

    A timestep that attribution uses is moved up by a quarter of a step, or to the next free place below that.
    """
    step = 1000.0 / count
    timesteps = [_free_timestep(step * (index + 0.5), gradient.timesteps, step) for index in range(count)]
    first = FIRST_NOISE_SEED + gradient.noise_seed
    return [Draw(timestep=timestep, noise_seed=first + index) for index, timestep in enumerate(timesteps)]


def _free_timestep(timestep: float, used: Sequence[float], step: float) -> float:
    """``timestep``, moved by 1/4, -1/8, 1/16, ... of a step until it is none of ``used``; it stays nearer to its own place than to the next."""
    shift = step / 4
    while any(abs(timestep - own) < 1e-6 for own in used):
        timestep += shift
        shift /= -2
    return timestep


def causal_check(ws: Workspace, arm: str) -> tuple[pd.DataFrame, RowCounts]:
    """The losses of each training of ``arm`` and of the base model, and the number of computed rows.

    Columns: training, query_id, draw, timestep, noise_seed, base_loss, loss, drop_percent (100 (base - loss) / the query's mean base loss,
    so that its mean over draws is the drop of the averaged loss), metric (``held_out_loss_drop`` or ``in_sample_loss_drop``).

    Raises:
        GateFailed: a loss is not finite, or the motion mask of a query is zero everywhere.
    """
    check = _CausalCheck(ws)
    base = check.losses(base_weights(ws))
    trainings = [base_weights(ws)] if arm == "base" else trained_weights(ws, arm)
    frames = [_loss_table(check, weights.training, base, check.losses(weights)) for weights in trainings]
    return pd.concat(frames, ignore_index=True), check.counts


def base_weights(ws: Workspace) -> Weights:
    """The base model, as training 0 of the arm without training."""
    return Weights(training=0, content=model_hash(ws), load=_loader(ws, None))


def trained_weights(ws: Workspace, arm: str) -> list[Weights]:
    """The trainings of an arm, in order."""
    published = ws.published(f"finetuned_checkpoint/{arm}").path
    return [
        Weights(
            training=record["training"],
            content=digest(record["base"], record["content"]),
            load=_loader(ws, checkpoint_folder(published, record["training"])),
        )
        for record in load_records(published)
    ]


def _loader(ws: Workspace, folder: Path | None) -> Callable[[], VideoModel]:
    return functools.partial(load_model, ws.config.model, threads=ws.config.engine.threads, path=folder)


class _CausalCheck:
    """The queries, masks and draws of the check. Counts the losses that it computes and reuses."""

    def __init__(self, ws: Workspace) -> None:
        self._latents: LatentSet = LatentSet(ws, "query")
        self._masks: MaskSet = MaskSet(ws, "query")
        usable = [clip for clip in catalog_clips(ws, "query") if clip.clip_id in self._latents and clip.clip_id in self._masks]
        held_out = [clip for clip in usable if clip.part == "held_out"]
        self.metric = HELD_OUT_DROP if held_out else IN_SAMPLE_DROP
        self.queries: Sequence[CatalogClip] = held_out or usable
        self.draws = held_out_draws(ws.config.gradient, ws.config.evaluate.held_out_draws)
        self._frame_norm: FrameNorm = ws.config.gradient.frame_norm
        self._commit_rows, self._commit_s = ws.config.engine.commit_rows, ws.config.engine.commit_s
        self._store: RowStore = ws.store("eval_scores", DIMS)
        self.counts = RowCounts()

    def losses(self, weights: Weights) -> Float[np.ndarray, "Q B"]:
        """The motion-weighted loss [query, draw] under these weights."""
        model = functools.cache(weights.load)
        keys = [self._key(weights, query) for query in self.queries]
        outcome = compute_rows(
            self._store,
            [Work(key=key, item=query) for key, query in zip(keys, self.queries, strict=True)],
            lambda query: {
                "loss": draw_losses(
                    model(), *self._latents.get(query.clip_id), self._masks.get(query.clip_id), self.draws, self._frame_norm
                )
            },
            what="losses of the causal check",
            commit_rows=self._commit_rows,
            commit_s=self._commit_s,
        )
        counts = outcome.counts
        self.counts = RowCounts(computed=self.counts.computed + counts.computed, reused=self.counts.reused + counts.reused)
        found = [self._store.find(key) for key in keys]
        loss_QB = np.stack([self._store.read(ref, "loss") for ref in found if isinstance(ref, RowRef)])
        if not np.isfinite(loss_QB).all():
            raise GateFailed(f"the causal check of training {weights.training} gave a loss that is not finite: the training has diverged")
        return loss_QB

    def _key(self, weights: Weights, query: CatalogClip) -> str:
        draws = [[draw.timestep, draw.noise_seed] for draw in self.draws]
        content = [self._latents.content(query.clip_id), self._masks.content(query.clip_id)]
        return digest("loss", weights.content, query.clip_id, content, draws, self._frame_norm)


def draw_losses(
    model: VideoModel,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    prompt_LE: Float[torch.Tensor, "L E"],
    mask_FHW: Float[torch.Tensor, "F h w"],
    draws: Sequence[Draw],
    frame_norm: FrameNorm,
) -> Float[np.ndarray, " B"]:
    """The motion-weighted loss of one query under each draw."""
    channels, frames, height, width = latents_CFHW.shape
    with torch.no_grad():
        losses = [
            motion_weighted_loss(
                model,
                latents_CFHW,
                prompt_LE,
                mask_FHW=mask_FHW,
                timestep=draw.timestep,
                noise_CFHW=latent_noise(draw.noise_seed, (channels, frames, height, width)),
                frame_norm=frame_norm,
            )
            for draw in draws
        ]
    return torch.stack(losses).double().cpu().numpy()


def _loss_table(check: _CausalCheck, training: int, base_QB: Float[np.ndarray, "Q B"], loss_QB: Float[np.ndarray, "Q B"]) -> pd.DataFrame:
    drop_QB = drop_percent(base_QB, loss_QB, [query.location for query in check.queries])
    rows = [
        {
            "training": training,
            "query_id": query.clip_id,
            "draw": number,
            "timestep": draw.timestep,
            "noise_seed": draw.noise_seed,
            "base_loss": float(base_QB[position, number]),
            "loss": float(loss_QB[position, number]),
            "drop_percent": float(drop_QB[position, number]),
            "metric": check.metric.name,
        }
        for position, query in enumerate(check.queries)
        for number, draw in enumerate(check.draws)
    ]
    return pd.DataFrame(rows)


def drop_percent(base_QB: Float[np.ndarray, "Q B"], loss_QB: Float[np.ndarray, "Q B"], names: Sequence[str]) -> Float[np.ndarray, "Q B"]:
    """The drop of the loss in % of each query's mean base loss: 100 (base - loss) / mean of base over draws.

    Raises:
        GateFailed: the base loss of a query is zero; ``names`` are the names of the queries.
    """
    mean_Q1 = base_QB.mean(axis=1, keepdims=True)
    if not (mean_Q1 > 0).all():
        silent = names[int(np.argmin(mean_Q1[:, 0]))]
        raise GateFailed(
            f"the motion mask of {silent} is zero everywhere: nothing moves in this query, so it cannot distinguish arms. Remove it."
        )
    return 100.0 * (base_QB - loss_QB) / mean_Q1
