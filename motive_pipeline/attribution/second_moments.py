"""``second_moments``: the second moments for ``influence.preconditioner: adam``, the same for clips and queries of all variants.

They come from an optimizer's saved state, or from a warm-up. The warm-up keeps the weights fixed at the checkpoint and averages the squared
gradient of the training loss (no mask) over ``influence.adam_clips`` clips, each with its own timestep and noise. That is Adam's second moment
after so many steps of one clip with learning rate zero. The clips, their timesteps and noises are functions of ``influence.adam_seed`` and the
clips' ids.

The moments belong to the checkpoint, not to the pool. Once they rest on as many clips as requested, adding or removing clips changes neither them
nor the gradients computed with them. They are kept below ``work/second_moments`` under a key of everything that determines them.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from motive_pipeline.attribution import noise
from motive_pipeline.attribution.adam_state import load_adam_state
from motive_pipeline.attribution.loss import Draw, mean_motion_weighted_loss
from motive_pipeline.attribution.streaming import (
    DeterministicPasses,
    reject_on_oom,
    selected_parameters,
    streamed_gradients,
)
from motive_pipeline.config.timesteps import TimestepRange
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.graph import STAGES
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.checkpointing import Checkpointing
from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.work_folders import keep_work, load_work, save_work
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace

log = logging.getLogger(__name__)

STAGE = ASSET = "second_moments"
GetLatents = Callable[[str], tuple[torch.Tensor, Conditioning]]
MOMENTS, RECORD = "second_moments.safetensors", "second_moments.json"


@dataclass(frozen=True, kw_only=True)
class SecondMoments:
    """Second moments on disk: a folder, a hash of the numbers, and the clips that they rest on (none for a saved state)."""

    folder: Path
    content: str
    clip_ids: list[str]


def publish_second_moments(ws: Workspace) -> Publication:
    """Publish ``second_moments``: ``second_moments.safetensors``, float32, one tensor for each parameter, and a record of where they come from.

    Raises:
        NotPublished: a warm-up is needed, and the latents are not published.
        GateFailed: no clip of the warm-up gave a gradient.
        MotiveError: ``influence.adam_state`` cannot be used, or the model cannot be loaded.
    """
    started = time.time()
    from_file = ws.config.influence.adam_state is not None
    frames = "" if from_file else ws.config.row_fingerprint("latents")
    base = ws.root / "work" / ASSET / digest(STAGES[STAGE].version, ws.config.stage_settings(STAGE), model_hash(ws), frames)
    moments, computed = _from_file(ws, base) if from_file else _from_warm_up(ws, base, LatentSet(ws, "clip"))
    return ws.publish(
        ASSET,
        content=moments.content,
        write=functools.partial(_write, moments),
        started=started,
        facts=_facts(moments),
        counts=RowCounts(computed=computed, reused=len(moments.clip_ids) - computed),
    )


def load_second_moments(ws: Workspace, device: torch.device) -> dict[str, torch.Tensor]:
    """The published second moments, by the parameter's name.

    Raises:
        NotPublished: there are none yet.
    """
    return load_file(ws.published(ASSET).path / MOMENTS, device=str(device))


def second_moments_content(ws: Workspace) -> str:
    """A hash of the published second moments.

    Raises:
        NotPublished: there are none yet.
    """
    return json.loads((ws.published(ASSET).path / RECORD).read_text(encoding="utf-8"))["content"]


def warm_up(
    model: VideoModel,
    latents: GetLatents,
    clip_ids: Sequence[str],
    *,
    parameters: str,
    seed: int,
    checkpointing: Checkpointing,
    deterministic: bool = True,
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The mean squared gradient of the training loss over ``clip_ids``, and the clips it rests on. Clips without a finite gradient, and clips
    that do not fit in memory, are left out. ``latents`` gives a clip's latents and prompt embedding.
    """
    chosen = selected_parameters(model.transformer, parameters)
    left = sorted(clip_ids)
    sums = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in chosen.items()}
    passes = DeterministicPasses(demanded=deterministic)
    while True:
        bad = passes(partial(_sum_squares, model, latents, left, chosen, sums, seed=seed, checkpointing=checkpointing))
        if bad is None:
            return {name: total.div_(max(1, len(left))) for name, total in sums.items()}, left
        left.remove(bad)  # the sums contain a part of its gradient: start again without it


def _sum_squares(
    model: VideoModel,
    latents: GetLatents,
    clip_ids: Sequence[str],
    chosen: dict[str, torch.nn.Parameter],
    sums: dict[str, torch.Tensor],
    *,
    seed: int,
    checkpointing: Checkpointing,
) -> str | None:
    """Set ``sums`` to the sums of all clips' squared gradients; returns the id of the first clip that cannot be used, or None."""
    for total in sums.values():
        total.zero_()
    lengths: list[torch.Tensor] = []

    def take(name: str, gradient: torch.Tensor) -> None:
        gradient = gradient.float()
        sums[name].addcmul_(gradient, gradient)
        lengths.append(torch.linalg.vector_norm(gradient))

    progress = Progress("second moments", len(clip_ids), unit="clips")
    for clip_id in clip_ids:
        latents_CFHW, conditioning = latents(clip_id)
        lengths.clear()
        try:
            with (
                reject_on_oom(latents_CFHW),
                streamed_gradients(model.transformer, chosen, take, checkpointing=checkpointing),
            ):
                draw = warm_up_draw(seed, clip_id, model.timestep_range)
                mean_motion_weighted_loss(model, latents_CFHW, conditioning, mask_FHW=None, draws=[draw]).backward()
            if not bool(torch.stack(lengths).isfinite().all()):
                raise RejectRow("non_finite_gradient", "its gradient is not finite")
        except RejectRow as rejection:
            log.warning("%s: clip %s is left out of the warm-up: %s", ASSET, clip_id, rejection.detail)
            return clip_id
        progress.step()
    return None


def warm_up_draw(seed: int, clip_id: str, within: TimestepRange) -> Draw:
    """The timestep, uniform in the open interval ``within``, and the noise of a clip in the warm-up."""
    name = f"warm-up of {clip_id}"
    timestep = within.low + (within.high - within.low) * float(noise.uniforms(seed, name, 1))
    return Draw(timestep=timestep, noise_seed=int(noise.words(seed, f"noise in the {name}", 1)))


def warm_up_clips(clip_ids: Sequence[str], *, count: int, seed: int) -> list[str]:
    """``count`` of the clips, in order of their ids. The choice is a function of ``seed`` and the ids."""
    return sorted(sorted(clip_ids, key=lambda clip_id: digest(seed, clip_id))[:count])


def _from_warm_up(ws: Workspace, base: Path, latents: LatentSet) -> tuple[SecondMoments, int]:
    """The moments of a warm-up, stored or computed now, and how many clips were passed through the model for them."""
    settings = ws.config.influence
    if (kept := _kept(base / "whole")) is not None:
        return kept, 0
    clip_ids = warm_up_clips(latents.clip_ids, count=settings.adam_clips, seed=settings.adam_seed)
    folder = base / ("whole" if len(clip_ids) == settings.adam_clips else digest([[each, latents.content(each)] for each in clip_ids]))
    if (kept := _kept(folder)) is not None:
        return kept, 0
    model = load_model(ws.config.model, threads=ws.config.engine.threads, fresh_adapter=ws.config.fresh_adapter)
    sums, used = warm_up(
        model,
        latents.get,
        clip_ids,
        parameters=ws.config.gradient.parameters,
        seed=settings.adam_seed,
        checkpointing=ws.config.gradient.checkpointing,
        deterministic=ws.config.gradient.deterministic,
    )
    if not used:
        raise GateFailed(f"{ASSET}: none of the {len(clip_ids)} clips of the warm-up has a finite gradient; see the log")
    return _keep(folder, sums, source="warm-up", clip_ids=used, left_out=sorted(set(clip_ids) - set(used))), len(used)


def _from_file(ws: Workspace, base: Path) -> tuple[SecondMoments, int]:
    file = ws.config.influence.adam_state
    assert file is not None
    if (kept := _kept(base / "whole")) is not None:
        return kept, 0
    transformer = load_model(ws.config.model, threads=ws.config.engine.threads, fresh_adapter=ws.config.fresh_adapter).transformer
    chosen = selected_parameters(transformer, ws.config.gradient.parameters)
    return _keep(base / "whole", load_adam_state(file, dict(transformer.named_parameters()), chosen), source=str(file)), 0


def _keep(
    folder: Path, moments: dict[str, torch.Tensor], *, source: str, clip_ids: Sequence[str] = (), left_out: Sequence[str] = ()
) -> SecondMoments:
    atomic.remove_leftovers(folder.parent)
    with atomic.new_folder(folder) as temp:
        save_file({name: moment.cpu().contiguous() for name, moment in moments.items()}, temp / MOMENTS)
        record = {"content": digest_file(temp / MOMENTS), "source": source, "clip_ids": list(clip_ids), "left_out": list(left_out)}
        save_work(temp, RECORD, record | _spread(moments))
    keep_work(folder)
    return SecondMoments(folder=folder, content=record["content"], clip_ids=record["clip_ids"])


def _kept(folder: Path) -> SecondMoments | None:
    record = load_work(folder, RECORD)
    if record is None:
        return None
    return SecondMoments(folder=folder, content=record["content"], clip_ids=record["clip_ids"])


def _spread(moments: dict[str, torch.Tensor]) -> dict[str, Any]:
    """How unequal the moments are, tensor by tensor: the preconditioner evens this out."""
    roots = np.array([float(moment.double().mean().sqrt()) for moment in moments.values()])
    total = sum(moment.numel() for moment in moments.values())
    zero = sum(int((moment == 0).sum()) for moment in moments.values())
    return {
        "root mean square of a parameter": [float(roots.min()), float(np.median(roots)), float(roots.max())],
        "zero share": zero / total,
    }


def _write(moments: SecondMoments, folder: Path) -> None:
    for name in (MOMENTS, RECORD):
        atomic.link_or_copy(moments.folder / name, folder / name)


def _facts(moments: SecondMoments) -> dict[str, Any]:
    record = json.loads((moments.folder / RECORD).read_text(encoding="utf-8"))
    lowest, median, highest = record["root mean square of a parameter"]
    return {
        "source": record["source"],
        "clips": len(moments.clip_ids),
        "clips left out": len(record["left_out"]),
        "root mean square gradient of a parameter, smallest": lowest,
        "root mean square gradient of a parameter, median": median,
        "root mean square gradient of a parameter, largest": highest,
        "share of entries that are zero": record["zero share"],
    }
