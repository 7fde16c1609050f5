"""The trainings of an arm: those that are there already, and the others, spread over ``engine.devices``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.config import ArmName
from motive_pipeline.devices.spread import answers, num_workers, on_devices
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.curve import HeldOutCurve
from motive_pipeline.training.events import write_missing_events
from motive_pipeline.training.loop import Shape
from motive_pipeline.training.one_training import STAGE, Training, TrainingPlan, finished_training, train, training_plan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """A training of an arm. ``is_ahead``: it belongs to another arm of the same run, whose turn is later, and a device would be idle without it."""

    arm: ArmName
    number: int
    is_ahead: bool = False


def arm_trainings(ws: Workspace, arm: ArmName) -> list[Training]:
    """The ``finetune.seeds`` trainings of ``arm``, in order: each as it was finished before, else made now.

    With several devices the missing ones are made side by side. Devices that are left over begin with the arms that this run comes to later, so that one
    training for each arm occupies all devices, too. Their assets find them finished.

    Raises:
        GateFailed: a training diverged, or a clip of the subset has no latents.
        MotiveError: see :func:`~.one_training.train`.
    """
    trainer = _Trainer(ws)
    own = [_Pair(arm=arm, number=number) for number in range(ws.config.finetune.seeds)]
    found = {pair: finished for pair in own if (finished := trainer.finished(pair)) is not None}
    missing = [pair for pair in own if pair not in found]
    by_command = ws.config.finetune.command is not None  # it decides itself which devices it uses
    if missing and not by_command:
        missing += _ahead(ws, trainer, missing)
    for folder in {trainer.plan(pair).folder.parent for pair in missing}:
        atomic.remove_leftovers(folder)
    with nullcontext(trainer) if by_command else on_devices(ws, _Trainer, here=trainer, at_once=1, leaves_files=True) as train_one:
        found |= {missing[position]: training for position, training in answers(train_one, missing)}
    return [found[pair] for pair in own]


def _ahead(ws: Workspace, trainer: _Trainer, own: Sequence[_Pair]) -> list[_Pair]:
    """Missing trainings of arms that this run comes to later, and whose subsets it does not change any more: one for each device that ``own`` leaves idle."""
    num_idle = -len(own) % num_workers(ws, leaves_files=True)
    pairs = [
        _Pair(arm=arm, number=number, is_ahead=True)
        for arm in ws.config.arms
        if f"{STAGE}/{arm}" in ws.to_come and f"curated_subset/{arm}" not in ws.to_come
        for number in range(ws.config.finetune.seeds)
    ]
    taken = {trainer.plan(pair).folder for pair in own}  # arms that chose the same clips share a training
    chosen: list[_Pair] = []
    for pair in pairs:
        if len(chosen) == num_idle:
            break
        try:
            plan = trainer.plan(pair)
        except MotiveError:  # its own asset will say so
            continue
        if plan.folder not in taken and finished_training(plan) is None:
            taken.add(plan.folder)
            chosen.append(pair)
    return chosen


class _Trainer:
    """Makes a training, in the process of a device or in the run's own."""

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._latents = LatentSet(ws, "clip")
        self._base_losses: list[float] = []
        self._plans: dict[_Pair, TrainingPlan] = {}

    def plan(self, pair: _Pair) -> TrainingPlan:
        """What the training depends on.

        Raises:
            GateFailed: a clip of the subset has no latents.
        """
        if pair not in self._plans:
            clip_ids = sorted(self._ws.published(f"curated_subset/{pair.arm}").table("subset")["clip_id"].astype(str))
            clips = clips_by_shape(clip_ids, self._latents, asset=f"{STAGE}/{pair.arm}", chosen_by=f"curated_subset/{pair.arm}")
            self._plans[pair] = training_plan(self._ws, pair.arm, pair.number, clips, self._latents)
        return self._plans[pair]

    def finished(self, pair: _Pair) -> Training | None:
        """The training, if it was made before."""
        plan = self.plan(pair)
        if (found := finished_training(plan)) is not None:
            log.info("finetune %s: training %d exists already", pair.arm, pair.number)
            write_missing_events(self._ws, pair.arm, pair.number, found.record)
        return found

    def __call__(self, pair: _Pair) -> Training | None:
        """The training, made now. None for one made ahead that failed: its own asset will fail, and say why."""
        try:
            return train(self._ws, self.plan(pair), self._latents, self._curve_of)
        except MotiveError as error:
            if not pair.is_ahead:
                raise
            log.warning("%s/%s: training %d, which was begun on an idle device, failed (%s)", STAGE, pair.arm, pair.number, error)
            return None

    @functools.cached_property
    def _curve_of(self) -> functools.partial[HeldOutCurve] | None:
        if self._ws.config.finetune.eval_every is None:
            return None
        return functools.partial(HeldOutCurve, held_out=HeldOutLoss(self._ws), base=self._base_losses)


def clips_by_shape(clip_ids: Sequence[str], latents: LatentSet, *, asset: str, chosen_by: str) -> dict[Shape, list[str]]:
    """The clips by the shape of their latents (frames, height, width). ``asset`` trains on them, ``chosen_by`` listed them.

    Raises:
        GateFailed: a clip has no latents.
    """
    index = latents.index.set_index("clip_id")[["frames", "height", "width"]]
    absent = [clip_id for clip_id in clip_ids if clip_id not in index.index]
    if absent:
        raise GateFailed(
            f"{asset}: {len(absent)} clips of its subset have no latents (the first: {absent[0]}). "
            f"Materialize eligible_pool and {chosen_by} again."
        )
    shapes = index.loc[list(clip_ids)].to_numpy().tolist()
    clips: dict[Shape, list[str]] = {}
    for clip_id, shape in zip(clip_ids, shapes, strict=True):
        clips.setdefault(tuple(int(size) for size in shape), []).append(clip_id)
    return clips
