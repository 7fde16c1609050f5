"""Publishes the fine-tuned checkpoints of an arm. All arms start from the same weights and train for the same steps with the same noise."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from motive_pipeline.config import ArmName, Finetune
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.work_folders import link_tree
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace
from motive_pipeline.training.one_training import PIPELINE, RECORD
from motive_pipeline.training.optimizer import require_optimizer
from motive_pipeline.training.own_trainer import require_command
from motive_pipeline.training.trainings import arm_trainings

AVERAGED_LOSSES = 10
"""The published first and last loss of a training are means over this many steps."""


def publish_checkpoint(ws: Workspace, arm: ArmName) -> Publication:
    """Publish ``finetuned_checkpoint/<arm>``: the folder is the diffusers pipeline of training 0; ``seed-1``, ... hold the others.

    Each finished training is kept under a key of its inputs (clips by content, base model, settings, number). So arms that chose the same clips share their
    trainings, and the run after a killed one goes on with the unfinished training, from the last state that ``finetune.checkpoint_every`` saved.
    ``finetune.eval_every`` is no part of the key: a training that is there already is not repeated to be watched.

    Raises:
        MotiveError: ``finetune.optimizer`` or ``finetune.command`` cannot be used here, ``finetune.lora.targets`` matches no layer, or what the command left
            is no checkpoint of this model.
        GateFailed: a training diverged, the command failed, a clip of the subset has no latents, or ``finetune.eval_every`` is set and no query can be measured.
    """
    started = time.time()
    require_optimizer(ws.config.finetune)
    require_command(ws)
    trainings = arm_trainings(ws, arm)
    records = [training.record for training in trainings]
    losses = [record["losses"] for record in records]

    def write(folder: Path) -> None:
        for number, training in enumerate(trainings):
            link_tree(training.folder / PIPELINE, checkpoint_folder(folder, number))
        atomic.write_json(folder / RECORD, {"trainings": records})

    reused = sum(training.reused for training in trainings)
    return ws.publish(
        f"finetuned_checkpoint/{arm}",
        content=digest([record["content"] for record in records]),
        write=write,
        started=started,
        facts=_facts(records, ws.config.finetune),
        counts=RowCounts(computed=len(trainings) - reused, reused=reused),
        preview=functools.partial(draw_losses, losses) if all(losses) else None,
    )


def checkpoint_folder(published: Path, training: int) -> Path:
    """The pipeline of a training in the published folder."""
    return published if training == 0 else published / f"seed-{training}"


def load_records(published: Path) -> list[dict[str, Any]]:
    """The record of each training: number, content, losses, settings, seconds, and the held-out loss by step where the training was watched."""
    return json.loads((published / RECORD).read_text(encoding="utf-8"))["trainings"]


def _held_out_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The held-out loss at the start and at the end, averaged over the trainings; nothing unless all were watched on the same queries and draws."""
    curves = [record["held_out"] for record in records if "held_out" in record]
    if len(curves) < len(records) or len({curve["key"] for curve in curves}) > 1:
        return {}
    ends = [(curve["mean_weights_loss"] or curve["loss"])[-1] for curve in curves]
    return {"held_out_loss_of_base": curves[0]["loss"][0], "held_out_loss_at_end": float(np.mean(ends))}


def _facts(records: Sequence[Mapping[str, Any]], settings: Finetune) -> dict[str, Any]:
    num_clips = records[0]["clips"]
    unverified = settings.command is not None and any(record["steps"] is None for record in records)
    facts = {
        "clips": num_clips,
        "trainings": len(records),
        "steps": f"{settings.steps} (not verified: the trainer's checkpoint does not name them)" if unverified else settings.steps,
        "seconds": float(sum(record["seconds"] for record in records)),
    }
    if settings.command is not None:  # how many clips its steps take, and its losses, are not known
        return facts
    first, last = [
        np.mean([_mean_of_end(record["losses"], side) for record in records])
        for side in (slice(None, AVERAGED_LOSSES), slice(-AVERAGED_LOSSES, None))
    ]
    facts |= {
        "passes over the clips": round(settings.steps * settings.batch_size / num_clips, 1),
        "first_loss": float(first),
        "last_loss": float(last),
    }
    return facts | _held_out_facts(records)


def _mean_of_end(losses: Sequence[float], side: slice) -> float:
    """The mean loss over the first or the last steps."""
    return float(np.mean(losses[side]))


def draw_losses(losses: Sequence[Sequence[float]], file: Path) -> None:
    """The loss curve of each training, smoothed over a twentieth of the steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    for number, curve in enumerate(losses):
        smooth = _moving_mean(np.asarray(curve), max(1, len(curve) // 20))
        axes.plot(range(1, len(curve) + 1), smooth, label=f"training {number}")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


def _moving_mean(values: Float[np.ndarray, " S"], width: int) -> Float[np.ndarray, " S"]:
    """The mean of each value and the values before it, at most ``width`` of them."""
    sums = np.cumsum(values)
    before = np.concatenate([np.zeros(width), sums])[: len(values)]
    return (sums - before) / np.minimum(np.arange(1, len(values) + 1), width)
