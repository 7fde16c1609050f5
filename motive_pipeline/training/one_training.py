"""One training of an arm: an earlier one of the same inputs, or one that is made now, from the base model or from where it was stopped.

Finished trainings and the states of unfinished ones lie below ``work/finetune/<base model>/``, under a key of all inputs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from motive_pipeline.config import ArmName, Config
from motive_pipeline.graph import STAGES, resolve_dotted
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.adapter import adapter_parameters, adapter_weights, load_adapter, write_adapter
from motive_pipeline.models.adapter_file import COMFYUI_FILE, LORA_FILE
from motive_pipeline.models.folder import components, link_model, model_family, require_pipeline
from motive_pipeline.models.load import load_model, model_folder, model_hash
from motive_pipeline.models.memory_limit import require_memory
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.models.sound import require_finite_weights, require_fits
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.work_folders import keep_work, link_tree, load_work, save_work
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.curve import HeldOutCurve
from motive_pipeline.training.events import training_events
from motive_pipeline.training.loop import Shape, finetune
from motive_pipeline.training.own_checkpoint import OwnCheckpoint
from motive_pipeline.training.own_trainer import train_by_command
from motive_pipeline.training.saved_state import SavedStates, State

log = logging.getLogger(__name__)

STAGE = "finetuned_checkpoint"
PIPELINE, RECORD = "pipeline", "training.json"


@dataclass(frozen=True, kw_only=True)
class Training:
    """A finished training: its folder, its record, and whether it existed already."""

    folder: Path
    record: dict[str, Any]
    reused: bool


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """A model whose training has just ended. ``seconds`` counts those before a stop, too."""

    model: VideoModel
    losses: list[float]
    curve: HeldOutCurve | None
    seconds: float

    def record(self) -> dict[str, Any]:
        """What the record of the training says of its course."""
        held_out = {} if self.curve is None else {"held_out": self.curve.record()}
        return {"losses": self.losses, "steps": len(self.losses), **held_out, "seconds": round(self.seconds, 1)}


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A training before it is made: its arm and number, its clips by the shape of their latents, the folder it is finished in, and what its record says of its
    inputs."""

    arm: ArmName
    number: int
    clips: Mapping[Shape, Sequence[str]]
    folder: Path
    inputs: dict[str, Any]


def training_plan(ws: Workspace, arm: ArmName, number: int, clips: Mapping[Shape, Sequence[str]], latents: LatentSet) -> TrainingPlan:
    """Training ``number`` on ``clips``. Its folder's name is a hash of all that it depends on, so arms that chose the same clips share it."""
    base, settings = model_hash(ws), _settings(ws)
    content = sorted([clip_id, latents.content(clip_id)] for clip_ids in clips.values() for clip_id in clip_ids)
    key = digest(STAGE, STAGES[STAGE].version, base, settings, content, number)
    folder = ws.root / "work" / "finetune" / base[:16] / key
    inputs = {"training": number, "base": base, "settings": settings, "clips": len(content)}
    return TrainingPlan(arm=arm, number=number, clips=clips, folder=folder, inputs=inputs)


def finished_training(plan: TrainingPlan) -> Training | None:
    """The training, if it was made before."""
    kept = load_work(plan.folder, RECORD)
    return None if kept is None else Training(folder=plan.folder, record=kept, reused=True)


def train(ws: Workspace, plan: TrainingPlan, latents: LatentSet, curve_of: Callable[..., HeldOutCurve] | None) -> Training:
    """Make the training, or go on with one that was stopped. It is watched by ``curve_of(model=...)`` if that is given.

    Raises:
        GateFailed: it diverged, or ``finetune.command`` failed.
        MotiveError: what the command left is no checkpoint of this model, or the device is too small.
    """
    folder = plan.folder
    states, scratch = SavedStates(folder), folder.with_name(f"{folder.name}-command")
    if ws.config.finetune.command is None:
        trained = _train(ws, plan, latents, curve_of, states)
        save, own = partial(save_checkpoint, trained.model, model_folder(ws.config.model)), trained.record()
    else:
        done = train_by_command(ws, plan.arm, plan.number, scratch)
        save, own = partial(save_own_checkpoint, done.checkpoint, ws.config), done.record()
    with atomic.new_folder(folder) as temp:
        save(temp / PIPELINE)
        record = {**plan.inputs, "content": _weights_digest(temp / PIPELINE, ws.config.model.expert), **own}
        save_work(temp, RECORD, record)
    keep_work(folder)
    states.remove()
    atomic.remove(scratch)
    return Training(folder=folder, record=record, reused=False)


def _train(
    ws: Workspace, plan: TrainingPlan, latents: LatentSet, curve_of: Callable[..., HeldOutCurve] | None, states: SavedStates
) -> _Trained:
    """Train from the base model, or go on from the newest of ``states``."""
    arm, number = plan.arm, plan.number
    settings, started = ws.config.finetune, time.time()
    require_memory(ws.config, "finetune")
    start = states.newest()
    before = 0.0 if start is None else start.notes["seconds"]
    # The loaded base model is shared and training changes weights in place, so load its folder again.
    model = load_model(ws.config.model, threads=ws.config.engine.threads, path=model_folder(ws.config.model))
    curve = None if curve_of is None else curve_of(model=model)
    progress = Progress(f"finetune {arm}, training {number}", settings.steps, unit="steps")
    with training_events(ws, arm, number) as events:
        if start is not None:
            log.info("finetune %s: training %d goes on after step %d of %d", arm, number, start.step, settings.steps)
            progress.reused = start.step
            events.add_steps(start.losses)
            if curve is not None:
                curve.go_on(start.notes["held_out"])

        def on_step(step: int, loss: float) -> None:
            events.add_steps([loss], first=step)
            if curve is not None:
                events.add_held_out(curve.steps, curve.loss, curve.mean_weights_loss)
            progress.step(note=f"loss {loss:.4f}" + ("" if curve is None else f", {curve.note}"))

        def save(state: State) -> None:
            notes = {"seconds": before + time.time() - started, "held_out": None if curve is None else curve.record()}
            states.save(replace(state, notes=notes))

        watch = None if curve is None else curve.watch
        losses = finetune(model, plan.clips, latents.get, settings, training=number, on_step=on_step, watch=watch, start=start, save=save)
    return _Trained(model=model, losses=losses, curve=curve, seconds=before + time.time() - started)


def save_checkpoint(model: VideoModel, base: Path, folder: Path) -> None:
    """Write the trained model to ``folder`` in diffusers' layout: the base model's components with the trained transformer.

    If an adapter was trained: all components of the base model, linked, and the adapter beside them, for families that have one also under the names of
    the original code.
    """
    if not adapter_parameters(model.transformer):
        model.save(folder)
        return
    link_model(base, folder)
    weights = adapter_weights(model.transformer)
    write_adapter(weights, folder / LORA_FILE)
    if (original := model_family(base, "model.path").original_lora) is not None:
        write_adapter(resolve_dotted(original)(weights), folder / COMFYUI_FILE)


def save_own_checkpoint(checkpoint: OwnCheckpoint, settings: Config, folder: Path) -> None:
    """Lay out what another trainer left as :func:`save_checkpoint` does, once it is known to be of this model.

    Raises:
        MotiveError: it is the LoRA or the transformer of another model, it is not whole, or it holds NaN or infinity.
    """
    base, what = model_folder(settings.model), "finetune.command's checkpoint"
    if checkpoint.is_adapter:
        without = settings.model.model_copy(update={"adapter": None})
        model = load_model(without, threads=settings.engine.threads, path=base)
        load_adapter(model.transformer, checkpoint.path, pipeline=model_family(base, what).pipeline, what=what)
        save_checkpoint(model, base, folder)
        return
    expert = settings.model.expert
    link_model(base, folder, without=expert)
    link_tree(checkpoint.path, folder / expert)
    require_pipeline(folder, what)
    parts = [part for part in components(folder, what) if part.folder.name == expert]
    require_fits(parts, what)
    require_finite_weights(parts, what)


def _settings(ws: Workspace) -> dict[str, Any]:
    """The settings that determine one training; the number of trainings does not."""
    return {name: value for name, value in _flat(ws.config.stage_settings(STAGE)).items() if name != "finetune.seeds"}


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings by dotted key, with sections split into their keys."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _weights_digest(pipeline: Path, expert: str) -> str:
    """A hash over the bytes of what was trained: the adapter, else the transformer."""
    adapter = pipeline / LORA_FILE
    if adapter.exists():
        return digest([[expert, LORA_FILE, digest_file(adapter)]])
    folder = pipeline / expert
    return digest([[file.name, digest_file(file)] for file in sorted(folder.glob("*.safetensors"))])
