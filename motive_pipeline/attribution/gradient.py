"""Computes the gradient of one clip and projects it while backward runs (docs/method.md; equations 7 to 11 and 17).

As soon as backward has finished the gradient of a parameter, a hook projects and frees it. So the full gradient never exists, and a pass
costs about as much as a plain forward and backward. Each draw (timestep, noise) takes one pass; the projections are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution.factored import FactoredLinears
from motive_pipeline.attribution.loss import Draw, FrameNorm, mean_motion_weighted_loss
from motive_pipeline.attribution.preconditioner import Preconditioned
from motive_pipeline.attribution.projection import Projected, Projector, build_projector
from motive_pipeline.attribution.streaming import (
    DeterministicPasses,
    reject_on_oom,
    selected_parameters,
    streamed_gradients,
)
from motive_pipeline.errors import RejectRow
from motive_pipeline.models.checkpointing import Checkpointing
from motive_pipeline.models.protocol import VideoModel


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A clip's projected gradient in float32, and the gradient's own length. The projection has unit length; a zero gradient stays zero.

    ``norm`` is exact for one draw. For the mean of several draws it is the length of the projection, an estimate whose square is unbiased. With
    factored Linears it is that of the sketches, likewise unbiased.
    """

    gradient_P: Float[np.ndarray, " P"]
    norm: float


class ClipGradient:
    """Computes the projected gradient of the motion-weighted loss, clip by clip.

    The gradients of several ``draws`` are averaged before normalization, as in D-TRAK (Zheng et al., 2024). A projection is linear, so the mean
    of the projections is the projection of the mean, with the memory of one pass. ``factored`` sketches its Linears' weight gradients instead of
    forming them. ``checkpointing`` recomputes activations in backward instead of keeping them. ``deterministic`` uses kernels that give the same
    bits each time, where there are any. The model computes in its own dtype; sums over the gradient are in float32.

    Raises:
        MotiveError: ``parameters`` selects nothing.
    """

    def __init__(
        self,
        model: VideoModel,
        *,
        projector: Projector,
        draws: Sequence[Draw],
        parameters: str = "all",
        frame_norm: FrameNorm = "per_frame",
        checkpointing: Checkpointing = False,
        factored: bool = False,
        proj_seed: int = 0,
        deterministic: bool = True,
    ) -> None:
        self.model = model
        self.projector = projector
        self.draws = draws
        self.frame_norm: FrameNorm = frame_norm
        self.checkpointing: Checkpointing = checkpointing
        self._deterministic = DeterministicPasses(demanded=deterministic)
        self._chosen = selected_parameters(model.transformer, parameters)
        self._factored = FactoredLinears(model.transformer, self._chosen if factored else {}, seed=proj_seed, device=model.device)
        self._sizes = {name: parameter.numel() for name, parameter in self._chosen.items()}
        self._sizes |= {name: weight.size for name, weight in self._factored.weights.items()}

    def __call__(
        self,
        latents_CFHW: Float[torch.Tensor, "C F h w"],
        prompt_LE: Float[torch.Tensor, "L E"],
        mask_FHW: Float[torch.Tensor, "F h w"] | None,
    ) -> Feature:
        """Run one forward and one backward pass for each draw.

        Raises:
            RejectRow: ``non_finite_gradient``, or ``out_of_memory`` (tried again in the next run).
        """
        with reject_on_oom(latents_CFHW):
            projected = _mean([self._deterministic(partial(self._project, latents_CFHW, prompt_LE, mask_FHW, draw)) for draw in self.draws])
        if not math.isfinite(projected.norm):
            raise RejectRow(
                "non_finite_gradient", f"the gradient's length is {projected.norm}; latents, mask or model hold too large a number"
            )
        return Feature(gradient_P=_unit_length(projected.entries_P), norm=projected.norm)

    def _project(self, latents_CFHW: torch.Tensor, prompt_LE: torch.Tensor, mask_FHW: torch.Tensor | None, draw: Draw) -> Projected:
        self.projector.start(self._sizes)
        streamed = streamed_gradients(self.model.transformer, self._chosen, self._take, checkpointing=self.checkpointing)
        with streamed, self._factored.sketching():
            loss = mean_motion_weighted_loss(
                self.model, latents_CFHW, prompt_LE, mask_FHW=mask_FHW, draws=[draw], frame_norm=self.frame_norm
            )
            loss.backward()
        self._factored.give_to(self.projector.add)
        return self.projector.finish()

    def _take(self, name: str, gradient: torch.Tensor) -> None:
        """Add a gradient that autograd has formed to its layer's sketch, or to the projection."""
        if name in self._factored.weights:
            self._factored.weights[name].add_formed(gradient)
        else:
            self.projector.add(name, gradient)


def build_clip_gradient(model: VideoModel, gradient: config.Gradient, *, scales: Mapping[str, torch.Tensor] | None = None) -> ClipGradient:
    """Build the gradient pass of the ``gradient`` section. ``scales`` are those of a preconditioner (preconditioner.py)."""
    projector = build_projector(gradient, model.device)
    seeds = range(gradient.noise_seed, gradient.noise_seed + gradient.num_noises)
    return ClipGradient(
        model,
        projector=projector if scales is None else Preconditioned(projector, scales),
        draws=[Draw(timestep=timestep, noise_seed=seed) for timestep in gradient.timesteps for seed in seeds],
        parameters=gradient.parameters,
        frame_norm=gradient.frame_norm,
        checkpointing=gradient.checkpointing,
        factored=gradient.projection == "factored",
        proj_seed=gradient.proj_seed,
        deterministic=gradient.deterministic,
    )


def _mean(projected: Sequence[Projected]) -> Projected:
    """The mean of the projections. For several, ``norm`` is the length of that mean: the single norms do not determine the mean gradient's."""
    if len(projected) == 1:
        return projected[0]
    mean_P = torch.stack([each.entries_P for each in projected]).double().mean(dim=0)
    return Projected(entries_P=mean_P.float(), norm=float(torch.linalg.vector_norm(mean_P)))


def _unit_length(entries_P: Float[torch.Tensor, " P"]) -> Float[np.ndarray, " P"]:
    length = torch.linalg.vector_norm(entries_P.double())
    unit = entries_P.double() / length if length > 0 else torch.zeros_like(entries_P)
    return unit.float().numpy()
