"""The curves of trainings as TensorBoard events below ``<root>/tensorboard/<arm>/training-<n>``, written while they run.

``tensorboard --logdir <root>/tensorboard`` shows all arms side by side. The files are a view: the record of a training holds the same numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from motive_pipeline.config import ArmName, Finetune
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.loop import learning_rate

LOSS, LEARNING_RATE, HELD_OUT, HELD_OUT_MEAN = "loss", "learning_rate", "held_out_loss", "held_out_loss/mean_weights"


class TrainingEvents:
    """Writes the curves of one training. Steps are counted from 1: a point at step n is the training after n steps."""

    def __init__(self, writer: SummaryWriter, settings: Finetune) -> None:
        self._writer = writer
        self._settings = settings
        self._num_points: dict[str, int] = {}

    def add_steps(self, losses: list[float], *, first: int = 0) -> None:
        """Add the loss and the learning rate of the steps ``first``, ``first`` + 1, ... (from 0)."""
        for step, loss in enumerate(losses, start=first):
            self._writer.add_scalar(LOSS, loss, step + 1)
            self._writer.add_scalar(LEARNING_RATE, learning_rate(step, self._settings), step + 1)

    def add_held_out(self, steps: list[int], loss: list[float], mean_weights_loss: list[float]) -> None:
        """Add the points of a held-out curve that were not added yet. ``mean_weights_loss`` has none for the first of ``steps``."""
        for name, at, values in ((HELD_OUT, steps, loss), (HELD_OUT_MEAN, steps[1:], mean_weights_loss)):
            for step, value in list(zip(at, values, strict=False))[self._num_points.get(name, 0) :]:
                self._writer.add_scalar(name, value, step)
            self._num_points[name] = len(values)


def events_folder(ws: Workspace, arm: ArmName, number: int) -> Path:
    """Where the events of a training lie."""
    return ws.root / "tensorboard" / arm / f"training-{number}"


@contextmanager
def training_events(ws: Workspace, arm: ArmName, number: int) -> Iterator[TrainingEvents]:
    """Write the curves of a training of ``arm`` anew; those of an earlier one are removed."""
    folder = events_folder(ws, arm, number)
    atomic.remove(folder)
    with SummaryWriter(str(folder), flush_secs=10) as writer:
        yield TrainingEvents(writer, ws.config.finetune)


def write_missing_events(ws: Workspace, arm: ArmName, number: int, record: Mapping[str, Any]) -> None:
    """Write the curves of a finished training from its record, unless they are there."""
    if events_folder(ws, arm, number).exists():
        return
    with training_events(ws, arm, number) as events:
        events.add_steps(record["losses"])
        if (curve := record.get("held_out")) is not None:
            events.add_held_out(curve["steps"], curve["loss"], (curve["mean_weights_loss"] or [])[1:])
