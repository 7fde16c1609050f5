"""Trains on random subsets of the pool and measures each query's loss: the targets of the linear datamodeling score.

All queries and all variants share the subsets. Each training is a row of the store, committed when it ends, so that a killed run repeats one
training, and one whose time is up goes on in the next run. Subsets come one after the other, each with all its trainings.

Axis suffixes: T trainings of a subset, Q queries, S subsets, N clips of the pool, B draws.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.config import Config, Finetune
from motive_pipeline.curation.arms import random_choice
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.curation.vote import num_selected
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.evaluation.audit.passes import DIMS, STORE
from motive_pipeline.evaluation.causal import drop_percent
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import load_model, model_folder, model_hash
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.finetune import clips_by_shape
from motive_pipeline.training.loop import finetune

VERSION = 1
"""Raise it when the loss after a training changes."""

FIRST_SUBSET_SEED = 1_000_003
"""Distance of the subsets' seeds from that of the random arm."""

DRAWS_A_SUBSET = 10


class BudgetSpent(Exception):
    """``audit.budget_minutes`` are over; what is committed counts."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query or held-out query whose loss is measured."""

    clip_id: str
    location: str
    is_held_out: bool


@dataclass(frozen=True, kw_only=True)
class Effects:
    """What the trainings did: ``drop_TQS`` is the drop of each query's motion-weighted loss in % of the base model's, for the subsets that have all
    their trainings; ``member_SN`` are their clips among ``clip_id_N``. ``num_missing`` trainings of ``num_planned`` are left to do."""

    drop_TQS: Float[np.ndarray, "T Q S"]
    member_SN: Bool[np.ndarray, "S N"]
    queries: Sequence[Query]
    clip_id_N: Shaped[np.ndarray, " N"]
    num_planned: int
    num_missing: int
    seconds_a_training: float


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One training: the number of its subset, and of the training on it. ``clip_ids`` is empty for the base model, which is not trained."""

    subset: int
    training: int
    clip_ids: tuple[str, ...]


def training_settings(config: Config) -> Finetune:
    """The settings of a training: those of ``finetune``, with what ``audit`` sets."""
    audit = config.audit
    given = {"steps": audit.steps, "learning_rate": audit.learning_rate, "timesteps": audit.timesteps, "ema": audit.ema}
    return config.finetune.model_copy(update={name: value for name, value in given.items() if value is not None})


def random_subsets(clip_id_N: Shaped[np.ndarray, " N"], size: int, count: int, seed: int) -> list[tuple[str, ...]]:
    """``count`` different random subsets of ``size`` clips, each ascending; fewer if a small pool gives no more in :data:`DRAWS_A_SUBSET` draws for each."""
    found: dict[tuple[str, ...], None] = {}
    for number in range(DRAWS_A_SUBSET * count):
        if len(found) < count:
            subset = random_choice(clip_id_N, size, FIRST_SUBSET_SEED * (seed + 1) + number)
            found[tuple(sorted(subset.astype(str).tolist()))] = None
    return list(found)


def planned_subsets(ws: Workspace) -> list[tuple[str, ...]]:
    """The subsets of the settings."""
    pool, audit = load_pool(ws), ws.config.audit
    return random_subsets(pool, num_selected(len(pool), audit.subset_share), audit.subsets, audit.seed)


class Retraining:
    """The trainings of one audit: which there are, and what they need."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._latents = LatentSet(ws, "clip")
        self._loss = HeldOutLoss(ws)
        self._settings = training_settings(ws.config)
        self._store: RowStore = ws.store(STORE, DIMS)
        self._measured = [clip for clip in catalog_clips(ws, "query") if self._loss.can_measure(clip)]
        self.queries = [Query(clip_id=clip.clip_id, location=clip.location, is_held_out=clip.part == "held_out") for clip in self._measured]
        self._weights = model_hash(ws)

    def effects(self) -> Effects:
        """Train what is missing, as long as ``audit.budget_minutes`` last; returns what is there then.

        Raises:
            GateFailed: a clip has no latents, or the mask of a query is zero everywhere.
        """
        config, pool = self._ws.config, load_pool(self._ws)
        subsets = planned_subsets(self._ws)
        base = _Run(subset=-1, training=0, clip_ids=())
        runs = [
            _Run(subset=subset, training=number, clip_ids=ids)
            for subset, ids in enumerate(subsets)
            for number in range(config.audit.trainings)
        ]
        model = functools.cache(self._load)
        end = None if config.audit.budget_minutes is None else time.monotonic() + 60 * config.audit.budget_minutes

        def row(run: _Run) -> dict[str, np.ndarray]:
            if end is not None and time.monotonic() >= end:
                raise BudgetSpent
            return self._train(*model(), run)

        work = [Work(key=self._key(run), item=run) for run in (base, *runs)]
        with contextlib.suppress(BudgetSpent):
            compute_rows(self._store, work, row, what="audit, trainings on random subsets", commit_rows=1)
        return self._gathered(work, subsets, pool)

    def _gathered(self, work: Sequence[Work[_Run]], subsets: Sequence[tuple[str, ...]], pool: np.ndarray) -> Effects:
        found = {(piece.item.subset, piece.item.training): self._store.find(piece.key) for piece in work}
        base = found[-1, 0]
        numbers = range(self._ws.config.audit.trainings)
        whole = [subset for subset in range(len(subsets)) if all(isinstance(found[subset, number], RowRef) for number in numbers)]
        kept = whole if isinstance(base, RowRef) else []
        drop_TQS = np.zeros((len(numbers), len(self.queries), len(kept)))
        member_SN = np.array([np.isin(pool.astype(str), subsets[subset]) for subset in kept], bool).reshape(len(kept), len(pool))
        for place, subset in enumerate(kept):
            for number in numbers:
                loss_QB = self._losses(found[subset, number])
                drop_TQS[number, :, place] = drop_percent(self._losses(base), loss_QB, [query.location for query in self.queries]).mean(
                    axis=1
                )
        refs = [ref for (subset, _), ref in found.items() if subset >= 0 and isinstance(ref, RowRef)]
        return Effects(
            drop_TQS=drop_TQS,
            member_SN=member_SN,
            queries=self.queries,
            clip_id_N=pool,
            num_planned=len(work) - 1,
            num_missing=sum(ref is None for (subset, _), ref in found.items() if subset >= 0),
            seconds_a_training=float(np.median([float(self._store.read(ref, "seconds")) for ref in refs])) if refs else float("nan"),
        )

    def _losses(self, ref: object) -> Float[np.ndarray, "Q B"]:
        assert isinstance(ref, RowRef)
        return self._store.read(ref, "loss")

    def _load(self) -> tuple[VideoModel, dict[str, torch.Tensor]]:
        """A model of our own, and a copy of its weights in main memory: each training starts from them."""
        model = load_model(self._ws.config.model, threads=self._ws.config.engine.threads, path=model_folder(self._ws.config.model))
        return model, {name: value.detach().cpu().clone() for name, value in model.transformer.state_dict().items()}

    def _train(self, model: VideoModel, weights: dict[str, torch.Tensor], run: _Run) -> dict[str, np.ndarray]:
        """Train on the run's clips (the base model: on nothing); returns the loss of each query under each draw."""
        started = time.monotonic()
        latents = self._latents
        model.transformer.load_state_dict(weights)
        if run.clip_ids:
            clips = clips_by_shape(run.clip_ids, latents, asset="attribution_audit", chosen_by="the published latents")
            try:
                finetune(model, clips, latents.get, self._settings, training=run.training)
            except GateFailed as error:
                raise RejectRow("diverged", str(error)) from error
            model.transformer.zero_grad(set_to_none=True)
        loss_QB = np.stack([self._loss.losses(model, query) for query in self._measured])
        if not np.isfinite(loss_QB).all():
            raise RejectRow("diverged", f"a query's loss is not finite after training {run.training} on subset {run.subset}")
        return {"loss": loss_QB, "seconds": np.array(time.monotonic() - started)}

    def _key(self, run: _Run) -> str:
        """Everything that the losses after a training depend on, by content."""
        clips = [[clip_id, self._latents.content(clip_id)] for clip_id in run.clip_ids]
        queries = [self._loss.content(query) for query in self._measured]
        settings = self._settings.model_dump(mode="json", exclude={"seeds", "checkpointing", "eval_every"}) if clips else {}
        return digest("lds", VERSION, self._weights, clips, run.training, settings, queries)
