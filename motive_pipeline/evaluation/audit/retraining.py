"""The trainings of the audit: the base model, trained on some of the clips, and what that does to the loss of each query.

Each training is a row of the store, committed when it ends, so that a killed run repeats one training, and one whose time is up goes on in the next
run. Checks that train on the same clips share their trainings. ``audit.budget_minutes`` count for all checks of a run together.

Axis suffixes: Q queries, B draws.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.config import Config, Finetune
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
from motive_pipeline.training.loop import finetune
from motive_pipeline.training.trainings import clips_by_shape

VERSION = 1
"""Raise it when the loss after a training changes."""


class BudgetSpent(Exception):
    """``audit.budget_minutes`` are over; what is committed counts."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query or held-out query whose loss is measured."""

    clip_id: str
    location: str
    is_held_out: bool


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training: its clips, ascending, and its number, which decides timesteps, noise and order. The base model has no clips: it is not trained."""

    clip_ids: tuple[str, ...]
    training: int


BASE_MODEL = Run(clip_ids=(), training=0)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What trainings did: the drop of each query's motion-weighted loss in % of the base model's, for the runs that are done.

    ``num_missing`` of ``num_planned`` runs are left to do. One that is neither left nor done has diverged.
    """

    drop_Q: Mapping[Run, Float[np.ndarray, " Q"]]
    num_planned: int
    num_missing: int
    seconds_a_training: float

    @property
    def unfinished(self) -> str:
        """What is left to train, in words; empty if nothing is."""
        return left_to_train(self.num_missing, self.num_planned)


def left_to_train(num_missing: int, num_planned: int) -> str:
    """``5 of 8 trainings are left; the next run goes on``, or nothing."""
    return f"{num_missing} of {num_planned} trainings are left; the next run goes on" if num_missing else ""


def training_settings(config: Config) -> Finetune:
    """The settings of a training: those of ``finetune``, with what ``audit`` sets."""
    audit = config.audit
    given = {"steps": audit.steps, "learning_rate": audit.learning_rate, "timesteps": audit.timesteps, "ema": audit.ema}
    return config.finetune.model_copy(update={name: value for name, value in given.items() if value is not None})


class Retraining:
    """The trainings of one run of the audit. Its time begins when it is made."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._latents = LatentSet(ws, "clip")
        self._loss = HeldOutLoss(ws)
        self._settings = training_settings(ws.config)
        self._store: RowStore = ws.store(STORE, DIMS)
        self._measured = [clip for clip in catalog_clips(ws, "query") if self._loss.can_measure(clip)]
        self.queries = [Query(clip_id=clip.clip_id, location=clip.location, is_held_out=clip.part == "held_out") for clip in self._measured]
        self._weights = model_hash(ws)
        self._model = functools.cache(self._load)
        budget = ws.config.audit.budget_minutes
        self._end = None if budget is None else time.monotonic() + 60 * budget
        self._num_missing = self._num_planned = 0

    @property
    def unfinished(self) -> str:
        """What all calls of :meth:`trained` together have left to train, in words."""
        return left_to_train(self._num_missing, self._num_planned)

    def trained(self, runs: Sequence[Run], *, what: str) -> Trained:
        """Train what is missing of ``runs``, in their order, as long as ``audit.budget_minutes`` last; returns what is there then.

        Raises:
            GateFailed: a clip has no latents, or the mask of a query is zero everywhere.
        """

        def row(run: Run) -> dict[str, np.ndarray]:
            if self._end is not None and time.monotonic() >= self._end:
                raise BudgetSpent
            return self._train(*self._model(), run)

        keys = {run: self._key(run) for run in (BASE_MODEL, *runs)}
        with contextlib.suppress(BudgetSpent):
            compute_rows(self._store, [Work(key=key, item=run) for run, key in keys.items()], row, what=f"audit, {what}", commit_rows=1)
        found = self._gathered(keys)
        self._num_missing += found.num_missing
        self._num_planned += found.num_planned
        return found

    def _gathered(self, keys: Mapping[Run, str]) -> Trained:
        found = {run: self._store.find(key) for run, key in keys.items()}
        base = found.pop(BASE_MODEL)
        done = {run: ref for run, ref in found.items() if isinstance(ref, RowRef)}
        names = [query.location for query in self.queries]
        drops = {}
        if isinstance(base, RowRef):
            base_QB = self._store.read(base, "loss")
            drops = {run: drop_percent(base_QB, self._store.read(ref, "loss"), names).mean(axis=1) for run, ref in done.items()}
        seconds = [float(self._store.read(ref, "seconds")) for ref in done.values()]
        return Trained(
            drop_Q=drops,
            num_planned=len(found),
            num_missing=sum(ref is None for ref in found.values()),
            seconds_a_training=float(np.median(seconds)) if seconds else float("nan"),
        )

    def _load(self) -> tuple[VideoModel, dict[str, torch.Tensor]]:
        """A model of our own, and a copy of its weights in main memory: each training starts from them."""
        model = load_model(self._ws.config.model, threads=self._ws.config.engine.threads, path=model_folder(self._ws.config.model))
        return model, {name: value.detach().cpu().clone() for name, value in model.transformer.state_dict().items()}

    def _train(self, model: VideoModel, weights: dict[str, torch.Tensor], run: Run) -> dict[str, np.ndarray]:
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
            raise RejectRow("diverged", f"a query's loss is not finite after training {run.training} on {len(run.clip_ids)} clips")
        return {"loss": loss_QB, "seconds": np.array(time.monotonic() - started)}

    def _key(self, run: Run) -> str:
        """Everything that the losses after a training depend on, by content."""
        clips = [[clip_id, self._latents.content(clip_id)] for clip_id in run.clip_ids]
        queries = [self._loss.content(query) for query in self._measured]
        settings = self._settings.model_dump(mode="json", exclude={"seeds", "checkpointing", "eval_every"}) if clips else {}
        return digest("lds", VERSION, self._weights, clips, run.training, settings, queries)
