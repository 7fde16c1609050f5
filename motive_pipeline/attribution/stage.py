"""``projected_gradients/<variant>`` and ``query_gradients/<variant>``: one projected gradient for each clip and each query.

A row's key covers everything the gradient depends on, by content: the clip, its caption, its latents, its mask, the model's weights, and Adam's
second moments. So a row is computed once for all runs, and a clip that is also a query is computed once for both assets.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.gradient_set import GradientSet, open_gradients, write_gradients
from motive_pipeline.attribution.loss import attribution_draws
from motive_pipeline.attribution.loss_masks import LossMasks
from motive_pipeline.attribution.preconditioner import adam_scales
from motive_pipeline.attribution.second_moments import load_second_moments, second_moments_content
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.catalog.clip_rows import RowRun
from motive_pipeline.config import Variant
from motive_pipeline.devices.spread import on_devices
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import GateFailed
from motive_pipeline.graph import Role
from motive_pipeline.keys import gradient_key
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.folder import timestep_range
from motive_pipeline.models.load import load_attributed_model, model_hash
from motive_pipeline.models.memory_limit import require_memory
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.facts import spread
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.workspace import Publication, Workspace

STAGE = "gradient"
DIMS = {"gradient": ("proj",)}


@dataclass(frozen=True, kw_only=True)
class _Inputs:
    """What the gradients of one variant and role are computed from.

    ``clips`` are those of ``num_wanted`` that have latents and, if needed, a mask. ``second_moments`` (their hash) is None without Adam's
    preconditioner.
    """

    clips: list[CatalogClip]
    num_wanted: int
    latents: LatentSet
    masks: LossMasks
    model_hash: str
    second_moments: str | None

    def key(self, clip: CatalogClip) -> str:
        """The row's key in the store."""
        return gradient_key(
            clip.clip_id,
            clip.caption,
            self.latents.content(clip.clip_id),
            self.masks.content(clip.clip_id),
            self.model_hash,
            self.second_moments,
        )


def gradients_asset(variant: Variant, role: Role) -> str:
    """The asset's name."""
    return f"{'projected_gradients' if role == 'clip' else 'query_gradients'}/{variant}"


def load_gradients(ws: Workspace, variant: Variant, role: Role, proj_dim: int) -> GradientSet:
    """The published gradients, with the first ``proj_dim`` entries of each to be read.

    Raises:
        NotPublished: there are none yet.
    """
    return open_gradients(ws.published(gradients_asset(variant, role)).path, proj_dim)


def publish_gradients(ws: Workspace, *, variant: Variant, role: Role) -> Publication:
    """Compute and publish the gradient of every clip (or query, without held-out ones) that has latents and, where its loss is weighted by
    motion, a mask.

    Raises:
        NotPublished: the catalog, the latents, the masks or the second moments are not published.
        GateFailed: more than ``gradient.max_reject_share`` of the clips were rejected, none is left, or the device is too small for a pass.
        MotiveError: the model cannot be loaded, or ``gradient.parameters`` selects nothing.
    """
    started = time.time()
    asset = gradients_asset(variant, role)
    inputs = _inputs(ws, variant, role)
    if not inputs.clips:
        needed = "latents and a mask" if inputs.masks.are_used else "latents"
        raise GateFailed(f"{asset}: none of {inputs.num_wanted} clips has {needed}. See `rejects` for the reasons.")
    store = ws.store(STAGE, DIMS, variant)
    run = _computed(ws, inputs, store, variant=variant, role=role)
    run.require_enough(ws)
    accepted = run.accepted()
    clip_ids, refs = [clip.clip_id for clip, _ in accepted], [ref for _, ref in accepted]
    norms_N = store.column(refs, "grad_norm")
    return ws.publish(
        asset,
        # influence.py reads the model's hash: gradients of different models are not compared
        content=digest(inputs.model_hash, [[clip_id, ref.content] for clip_id, ref in zip(clip_ids, refs, strict=True)]),
        write=lambda folder: _write(ws, folder, variant=variant, role=role, store=store, refs=refs, clip_ids=clip_ids, inputs=inputs),
        started=started,
        facts=_facts(norms_N, started, run.outcome.counts.computed),
        counts=run.outcome.counts,
        rejects=run.rejects(),
        preview=partial(_draw_norms, norms_N),
    )


def gradient_rows(ws: Workspace, *, variant: Variant, role: Role) -> RowRun:
    """Compute the same gradients, and publish nothing; none, if no clip has what is needed."""
    return _computed(ws, _inputs(ws, variant, role), ws.store(STAGE, DIMS, variant), variant=variant, role=role)


def _computed(ws: Workspace, inputs: _Inputs, store: RowStore, *, variant: Variant, role: Role) -> RowRun:
    started = time.time()
    asset = gradients_asset(variant, role)
    keys = [inputs.key(clip) for clip in inputs.clips]
    build = partial(gradient_row_function, variant=variant, role=role)
    with on_devices(ws, build, here=_RowFunction(ws, inputs, variant)) as row_function:
        outcome = compute_rows(
            store,
            [Work(key=key, item=clip) for key, clip in zip(keys, inputs.clips, strict=True)],
            row_function,
            what=asset,
            commit_rows=ws.config.engine.commit_rows,
            commit_s=ws.config.engine.commit_s,
        )
    return RowRun(asset=asset, role=role, clips=inputs.clips, keys=keys, outcome=outcome, started=started)


def gradient_row_function(ws: Workspace, *, variant: Variant, role: Role) -> _RowFunction:
    """What computes the gradient of a clip, in the process it is called in."""
    return _RowFunction(ws, _inputs(ws, variant, role), variant)


class _RowFunction:
    """``clip -> arrays``. It loads the model with the first missing row, so a run without work loads none."""

    def __init__(self, ws: Workspace, inputs: _Inputs, variant: Variant) -> None:
        self._ws = ws
        self._variant: Variant = variant
        self._inputs = inputs
        self._gradient: ClipGradient | None = None

    def __call__(self, clip: CatalogClip) -> dict[str, np.ndarray]:
        if self._gradient is None:
            self._gradient = load_gradient_pass(self._ws, self._variant)
        latents = self._inputs.latents
        num_frames = int(latents.read(clip.clip_id, "num_frames"))
        return gradient_row(self._gradient, *latents.get(clip.clip_id), self._inputs.masks.get(clip.clip_id), num_frames=num_frames)


def gradient_row(
    gradient: ClipGradient,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    conditioning: Conditioning,
    mask_FHW: Float[torch.Tensor, "F h w"] | None,
    *,
    num_frames: int,
) -> dict[str, np.ndarray]:
    """One row: ``gradient`` (P), ``grad_norm``, and ``num_frames``, the decoded frames. Raises as :class:`ClipGradient`."""
    feature = gradient(latents_CFHW, conditioning, mask_FHW)
    return {
        "gradient": feature.gradient_P,
        "grad_norm": np.array(feature.norm, np.float64),
        "num_frames": np.array(num_frames, np.int64),
    }


def load_gradient_pass(ws: Workspace, variant: Variant) -> ClipGradient:
    """Load the model and build the gradient pass of ``variant``.

    Raises:
        GateFailed: the device is too small for a pass.
        MotiveError: the model cannot be loaded, or ``gradient.parameters`` selects nothing.
    """
    config = ws.config.of_variant(variant)
    require_memory(config, "gradients")
    model = load_attributed_model(config)
    if not config.influence.uses_adam:
        return build_clip_gradient(model, config.gradient)
    scales = adam_scales(load_second_moments(ws, model.device), eps=config.influence.adam_eps)
    return build_clip_gradient(model, config.gradient, scales=scales)


def are_present(ws: Workspace, variant: Variant, clip_ids: Collection[str]) -> bool:
    """Whether the published gradients of the clips ``clip_ids`` are those that the present model, latents, masks and settings give, as far as the
    catalog still has the clips."""
    inputs, store = _inputs(ws, variant, "clip"), ws.store(STAGE, DIMS, variant)
    wanted = frozenset(clip_ids)
    return all(isinstance(store.find(inputs.key(clip)), RowRef) for clip in inputs.clips if clip.clip_id in wanted)


def _inputs(ws: Workspace, variant: Variant, role: Role) -> _Inputs:
    latents = LatentSet(ws, role)
    config = ws.config.of_variant(variant)
    masks = LossMasks(ws, role, config.gradient)
    wanted = [clip for clip in catalog_clips(ws, role) if clip.part != "held_out"]
    clips = [clip for clip in wanted if clip.clip_id in latents and clip.clip_id in masks]
    moments = second_moments_content(ws) if config.influence.uses_adam else None
    return _Inputs(clips=clips, num_wanted=len(wanted), latents=latents, masks=masks, model_hash=model_hash(ws), second_moments=moments)


def _write(
    ws: Workspace, folder: Path, *, variant: Variant, role: Role, store: RowStore, refs: list[RowRef], clip_ids: list[str], inputs: _Inputs
) -> None:
    """Write the Zarr group. Its attributes hold everything that the gradients depend on."""
    config = ws.config.of_variant(variant)
    section, draws = config.gradient, attribution_draws(config.gradient, timestep_range(config.attributed_model))
    attributes = {
        "variant": variant,
        "role": role,
        "model_path": ws.config.model.path,
        "model_hash": inputs.model_hash,
        "expert": config.attributed_model.expert,
        "timestep": section.timestep,
        "noise_seed": section.noise_seed,
        "num_noises": section.num_noises,
        "draws": [[draw.timestep, draw.noise_seed] for draw in draws],
        "features_in_a_row": section.draws if section.combine == "mean_cosine" else 1,
        "mask": section.mask,
        "second_moments": inputs.second_moments,
        "projection": section.projection,
        "proj_seed": section.proj_seed,
        "store_dim": section.store_dim,
        "frame_norm": section.frame_norm,
        "parameters": section.parameters,
        "provenance": ws.provenance(gradients_asset(variant, role)),
    }
    num_entries = store.shape(refs[0], "gradient")[0]
    write_gradients(folder, store=store, refs=refs, clip_ids=clip_ids, num_entries=num_entries, attributes=attributes)


def _facts(norms_N: np.ndarray, started: float, num_computed: int) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "rows": len(norms_N),
        "zero gradients": int((norms_N == 0).sum()),
        **spread("gradient norm", norms_N),
    }
    if num_computed:
        facts["seconds a clip"] = round((time.time() - started) / num_computed, 4)
    return facts


def _draw_norms(norms_N: np.ndarray, path: Path) -> None:
    """Draw a histogram of the gradients' lengths, without zero gradients."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3))
    axes = figure.subplots(gridspec_kw={"left": 0.15, "right": 0.97, "bottom": 0.16, "top": 0.97})
    axes.hist(np.log10(norms_N[norms_N > 0]), bins=30)
    axes.set_xlabel("log10 of the gradient's length")
    axes.set_ylabel("clips")
    figure.savefig(path, dpi=100)
