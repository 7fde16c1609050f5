"""Publishes the fine-tuned checkpoints of an arm. All arms start from the same weights and train for the same steps with the same noise."""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from motive_pipeline.attribution.held_out import HeldOutLoss
from motive_pipeline.config import ArmName
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import STAGES
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.load import load_model, model_folder, model_hash
from motive_pipeline.models.memory_limit import require_memory
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.work_folders import link_tree, load_work, save_work
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace
from motive_pipeline.training.curve import HeldOutCurve
from motive_pipeline.training.loop import Shape, finetune

log = logging.getLogger(__name__)

STAGE = "finetuned_checkpoint"
PIPELINE, RECORD = "pipeline", "training.json"
AVERAGED_LOSSES = 10
"""The published first and last loss of a training are means over this many steps."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A finished training: its folder, its record, and whether it existed already."""

    folder: Path
    record: dict[str, Any]
    reused: bool


def publish_checkpoint(ws: Workspace, arm: ArmName) -> Publication:
    """Publish ``finetuned_checkpoint/<arm>``: the folder is the diffusers pipeline of training 0; ``seed-1``, ... hold the others.

    Each finished training is kept below ``work/finetune`` under a key of its inputs (clips by content, base model, settings, number). So a
    killed run repeats only the unfinished training, and arms that chose the same clips share their trainings. ``finetune.eval_every`` is no part of the key: a
    training that is there already is not repeated to be watched.

    Raises:
        GateFailed: a training diverged, a clip of the subset has no latents, or ``finetune.eval_every`` is set and no query can be measured.
    """
    started = time.time()
    clip_ids = sorted(ws.published(f"curated_subset/{arm}").table("subset")["clip_id"].astype(str))
    latents = LatentSet(ws, "clip")
    clips = clips_by_shape(clip_ids, latents, asset=f"finetuned_checkpoint/{arm}", chosen_by=f"curated_subset/{arm}")
    curve_of = None if ws.config.finetune.eval_every is None else functools.partial(HeldOutCurve, held_out=HeldOutLoss(ws), base=[])
    trainings = [_train_or_reuse(ws, arm, clips, latents, number, curve_of) for number in range(ws.config.finetune.seeds)]
    records = [training.record for training in trainings]

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
        facts=_facts(records, len(clip_ids), ws.config.finetune.batch_size),
        counts=RowCounts(computed=len(trainings) - reused, reused=reused),
        preview=functools.partial(draw_losses, [record["losses"] for record in records]),
    )


def checkpoint_folder(published: Path, training: int) -> Path:
    """The pipeline of a training in the published folder."""
    return published if training == 0 else published / f"seed-{training}"


def load_records(published: Path) -> list[dict[str, Any]]:
    """The record of each training: number, content, losses, settings, seconds, and the held-out loss by step where the training was watched."""
    return json.loads((published / RECORD).read_text(encoding="utf-8"))["trainings"]


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


def _train_or_reuse(
    ws: Workspace,
    arm: ArmName,
    clips: Mapping[Shape, Sequence[str]],
    latents: LatentSet,
    number: int,
    curve_of: Callable[..., HeldOutCurve] | None,
) -> Training:
    """Training ``number`` of the arm: a finished one if there is one, else trained now, and watched by ``curve_of(model=...)`` if that is given."""
    base = model_hash(ws)
    content = sorted([clip_id, latents.content(clip_id)] for clip_ids in clips.values() for clip_id in clip_ids)
    settings = _settings(ws)
    key = digest(STAGE, STAGES[STAGE].version, base, settings, content, number)
    folder = ws.root / "work" / "finetune" / base[:16] / key
    if (kept := load_work(folder, RECORD)) is not None:
        log.info("finetune %s: training %d exists already", arm, number)
        return Training(folder=folder, record=kept, reused=True)
    atomic.remove_leftovers(folder.parent)
    started = time.time()
    require_memory(ws.config, "finetune")
    # The loaded base model is shared and training changes weights in place, so load its folder again.
    model = load_model(ws.config.model, threads=ws.config.engine.threads, path=model_folder(ws.config.model))
    progress = Progress(f"finetune {arm}, training {number}", ws.config.finetune.steps, unit="steps")

    curve = None if curve_of is None else curve_of(model=model)

    def on_step(_step: int, loss: float) -> None:
        progress.step(note=f"loss {loss:.4f}" + ("" if curve is None else f", {curve.note}"))

    losses = finetune(
        model, clips, latents.get, ws.config.finetune, training=number, on_step=on_step, watch=None if curve is None else curve.watch
    )
    with atomic.new_folder(folder) as temp:
        model.save(temp / PIPELINE)
        record = {
            "training": number,
            "content": _weights_digest(temp / PIPELINE / ws.config.model.expert),
            "base": base,
            "settings": settings,
            "clips": len(content),
            "losses": losses,
            **({} if curve is None else {"held_out": curve.record()}),
            "seconds": round(time.time() - started, 1),
        }
        save_work(temp, RECORD, record)
    return Training(folder=folder, record=record, reused=False)


def _settings(ws: Workspace) -> dict[str, Any]:
    """The settings that determine one training; the number of trainings does not."""
    return {name: value for name, value in _flat(ws.config.stage_settings(STAGE)).items() if name != "finetune.seeds"}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted key, with sections split into their keys."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _weights_digest(folder: Path) -> str:
    """A hash over the bytes of the trained component's weights."""
    return digest([[file.name, digest_file(file)] for file in sorted(folder.glob("*.safetensors"))])


def _held_out_facts(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The held-out loss at the start and at the end, averaged over the trainings; nothing unless all were watched on the same queries and draws."""
    curves = [record["held_out"] for record in records if "held_out" in record]
    if len(curves) < len(records) or len({curve["key"] for curve in curves}) > 1:
        return {}
    ends = [(curve["mean_weights_loss"] or curve["loss"])[-1] for curve in curves]
    return {"held_out_loss_of_base": curves[0]["loss"][0], "held_out_loss_at_end": float(np.mean(ends))}


def _facts(records: Sequence[Mapping[str, Any]], num_clips: int, batch_size: int) -> dict[str, Any]:
    first, last = [
        np.mean([_mean_of_end(record["losses"], side) for record in records])
        for side in (slice(None, AVERAGED_LOSSES), slice(-AVERAGED_LOSSES, None))
    ]
    return {
        "clips": num_clips,
        "trainings": len(records),
        "steps": len(records[0]["losses"]),
        "passes over the clips": round(len(records[0]["losses"]) * batch_size / num_clips, 1),
        "first_loss": float(first),
        "last_loss": float(last),
        "seconds": float(sum(record["seconds"] for record in records)),
    } | _held_out_facts(records)


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
