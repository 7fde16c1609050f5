"""The causal check: how far does training on an arm's clips lower the motion-weighted loss on held-out queries?

For each held-out query and each of a few (timestep, noise) draws, the loss of the trained model is compared with that of the base model on
the same clip, mask and noise. Attribution used neither these queries nor these draws, so a drop is independent evidence. Without held-out
queries the queries themselves are used, and every number is marked "in-sample".

The plain loss, which training minimises, is recorded beside the motion-weighted one: a drop of the one without the other says whether training changed
the motion or the picture.

Axis suffixes: Q queries, B draws.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.catalog.catalog_clips import CatalogClip
from motive_pipeline.devices.spread import on_devices
from motive_pipeline.engine import Outcome, Work, compute_rows
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph.metrics import CAUSAL_VERSION, HELD_OUT_DROP, IN_SAMPLE_DROP
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.models.memory_limit import require_memory
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.workspace import RowCounts, Workspace
from motive_pipeline.training.finetune import checkpoint_folder, load_records

DIMS = {"loss": ("draw",), "plain_loss": ("draw",), "flow_histogram": ("bin",), "flow_features": ("pair", "feature")}


@dataclass(frozen=True, kw_only=True)
class CheckedLosses:
    """The motion-weighted and the plain loss of each query at each draw."""

    masked_QB: Float[np.ndarray, "Q B"]
    plain_QB: Float[np.ndarray, "Q B"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """The weights of one training or of the base model: their hash, and the folder of the checkpoint (None for the base model)."""

    training: int
    content: str
    folder: Path | None

    def load(self, ws: Workspace) -> VideoModel:
        """The model with these weights."""
        require_memory(ws.config, "scores")
        return load_model(ws.config.model, threads=ws.config.engine.threads, path=self.folder)


def causal_check(ws: Workspace, arm: str) -> tuple[pd.DataFrame, RowCounts]:
    """The losses of each training of ``arm`` and of the base model, and the number of computed rows.

    Columns: training, query_id, draw, timestep, noise_seed, base_loss, loss, drop_percent (100 (base - loss) / the query's mean base loss,
    so that its mean over draws is the drop of the averaged loss), metric (``held_out_loss_drop`` or ``in_sample_loss_drop``), and the same of the plain
    loss: plain_base_loss, plain_loss, plain_drop_percent.

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
    return Weights(training=0, content=model_hash(ws), folder=None)


def trained_weights(ws: Workspace, arm: str) -> list[Weights]:
    """The trainings of an arm, in order."""
    published = ws.published(f"finetuned_checkpoint/{arm}").path
    return [
        Weights(
            training=record["training"],
            content=digest(record["base"], record["content"]),
            folder=checkpoint_folder(published, record["training"]),
        )
        for record in load_records(published)
    ]


class _CausalCheck:
    """The losses of the check, row by row. Counts those that it computes and reuses."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._held_out = HeldOutLoss(ws)
        self.metric = HELD_OUT_DROP if self._held_out.is_held_out else IN_SAMPLE_DROP
        self.queries, self.draws = self._held_out.queries, self._held_out.draws
        self._commit_rows, self._commit_s = ws.config.engine.commit_rows, ws.config.engine.commit_s
        self._store: RowStore = ws.store("eval_scores", DIMS)
        self.counts = RowCounts()

    def losses(self, weights: Weights) -> CheckedLosses:
        """The losses under these weights.

        Raises:
            GateFailed: a query has no loss, or one that is not finite.
        """
        keys = [digest("loss", CAUSAL_VERSION, weights.content, *self._held_out.content(query)) for query in self.queries]
        with on_devices(self._ws, functools.partial(_LossRows, weights=weights), here=_LossRows(self._ws, weights, self._held_out)) as rows:
            outcome = compute_rows(
                self._store,
                [Work(key=key, item=query) for key, query in zip(keys, self.queries, strict=True)],
                rows,
                what="losses of the causal check",
                commit_rows=self._commit_rows,
                commit_s=self._commit_s,
            )
        counts = outcome.counts
        self.counts = RowCounts(computed=self.counts.computed + counts.computed, reused=self.counts.reused + counts.reused)
        _require_every_query(self.queries, keys, outcome)
        masked_QB, plain_QB = (np.stack([self._store.read(outcome.refs[key], name) for key in keys]) for name in ("loss", "plain_loss"))
        if not (np.isfinite(masked_QB).all() and np.isfinite(plain_QB).all()):
            raise GateFailed(f"the causal check of training {weights.training} gave a loss that is not finite: the training has diverged")
        return CheckedLosses(masked_QB=masked_QB, plain_QB=plain_QB)


class _LossRows:
    """``query -> arrays``: its losses under some weights. It loads the model with the first missing row."""

    def __init__(self, ws: Workspace, weights: Weights, held_out: HeldOutLoss | None = None) -> None:
        self._held_out = held_out or HeldOutLoss(ws)
        self._model = functools.cache(functools.partial(weights.load, ws))

    def __call__(self, query: CatalogClip) -> dict[str, np.ndarray]:
        found = self._held_out.masked_and_plain(self._model(), query)
        return {"loss": found.masked_B, "plain_loss": found.plain_B}


def _require_every_query(queries: Sequence[CatalogClip], keys: Sequence[str], outcome: Outcome) -> None:
    """All arms are compared on the same queries: one that can no longer be measured stops the check, and is not left out in silence."""
    lost = [f"{query.location} ({outcome.rejects[key].detail})" for query, key in zip(queries, keys, strict=True) if key in outcome.rejects]
    if lost:
        raise GateFailed(
            f"the causal check cannot measure {len(lost)} of {len(queries)} queries: {'; '.join(lost[:5])}. Run `motive run` to read the queries again."
        )


def _loss_table(check: _CausalCheck, training: int, base: CheckedLosses, found: CheckedLosses) -> pd.DataFrame:
    names = [query.location for query in check.queries]
    drop_QB = drop_percent(base.masked_QB, found.masked_QB, names)
    plain_QB = drop_percent(base.plain_QB, found.plain_QB, names)
    rows = [
        {
            "training": training,
            "query_id": query.clip_id,
            "draw": number,
            "timestep": draw.timestep,
            "noise_seed": draw.noise_seed,
            "base_loss": float(base.masked_QB[position, number]),
            "loss": float(found.masked_QB[position, number]),
            "drop_percent": float(drop_QB[position, number]),
            "plain_base_loss": float(base.plain_QB[position, number]),
            "plain_loss": float(found.plain_QB[position, number]),
            "plain_drop_percent": float(plain_QB[position, number]),
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
