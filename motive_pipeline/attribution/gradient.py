"""Computes the gradient of one clip and projects it while backward runs (docs/method.md; equations 7 to 11 and 17).

As soon as backward has finished the gradient of a parameter, a hook projects and frees it. So the full gradient never exists, and a pass
costs about as much as a plain forward and backward. The draws (timestep, noise) go through the model in batches; the projections are averaged.
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
from motive_pipeline.attribution.loss import Draw, FrameNorm, attribution_draws, mean_motion_weighted_loss
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
from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.protocol import VideoModel


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A clip's projected gradient in float32, and the gradient's own length. The projection has unit length; a zero gradient stays zero.

    ``norm`` is exact for one pass. For the mean of several passes it is the length of the projection, an estimate whose square is unbiased. With
    factored Linears it is that of the sketches, likewise unbiased.

    With ``combine: mean_cosine`` the feature is the unit features of the draws one after the other, each divided by the root of their number, so
    that it has unit length, too; ``norm`` is the mean of theirs.
    """

    gradient_P: Float[np.ndarray, " P"]
    norm: float


class ClipGradient:
    """Computes the projected gradient of the motion-weighted loss, clip by clip.

    The gradients of several ``draws`` are averaged before normalization, as in D-TRAK (Zheng et al., 2024). A projection is linear, so the mean
    of the projections is the projection of the mean, with the memory of one pass. ``draws_at_once`` of them go through the model as one batch:
    one forward and backward pass of their mean loss, with the activations of all. ``keeps_draws`` keeps the feature of each draw instead of
    their mean (``combine: mean_cosine``). ``factored`` sketches its Linears' weight gradients instead of
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
        draws_at_once: int = 1,
        keeps_draws: bool = False,
    ) -> None:
        self.model = model
        self.projector = projector
        self.batches = [draws[start : start + draws_at_once] for start in range(0, len(draws), draws_at_once)]
        self.keeps_draws = keeps_draws
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
        conditioning: Conditioning,
        mask_FHW: Float[torch.Tensor, "F h w"] | None,
    ) -> Feature:
        """Run one forward and one backward pass for each batch of draws.

        Raises:
            RejectRow: ``non_finite_gradient``, or ``out_of_memory`` (tried again in the next run).
        """
        with reject_on_oom(latents_CFHW):
            projected = [self._deterministic(partial(self._project, latents_CFHW, conditioning, mask_FHW, batch)) for batch in self.batches]
        norms = [each.norm for each in projected]
        if self.keeps_draws:
            unit_BP = np.stack([_unit_length(each.entries_P) for each in projected])
            return Feature(gradient_P=(unit_BP / math.sqrt(len(unit_BP))).reshape(-1), norm=_finite(float(np.mean(norms))))
        mean = _mean(projected, [len(batch) for batch in self.batches])
        return Feature(gradient_P=_unit_length(mean.entries_P), norm=_finite(mean.norm))

    def _project(
        self, latents_CFHW: torch.Tensor, conditioning: Conditioning, mask_FHW: torch.Tensor | None, draws: Sequence[Draw]
    ) -> Projected:
        self.projector.start(self._sizes)
        streamed = streamed_gradients(self.model.transformer, self._chosen, self._take, checkpointing=self.checkpointing)
        with streamed, self._factored.sketching():
            loss = mean_motion_weighted_loss(
                self.model, latents_CFHW, conditioning, mask_FHW=mask_FHW, draws=draws, frame_norm=self.frame_norm
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
    keeps_draws = gradient.combine == "mean_cosine"
    return ClipGradient(
        model,
        projector=projector if scales is None else Preconditioned(projector, scales),
        draws=attribution_draws(gradient, model.timestep_range),
        parameters=gradient.parameters,
        frame_norm=gradient.frame_norm,
        checkpointing=gradient.checkpointing,
        factored=gradient.projection == "factored",
        proj_seed=gradient.proj_seed,
        deterministic=gradient.deterministic,
        draws_at_once=1 if keeps_draws else gradient.draws_at_once,
        keeps_draws=keeps_draws,
    )


def _finite(norm: float) -> float:
    if not math.isfinite(norm):
        raise RejectRow("non_finite_gradient", f"the gradient's length is {norm}; latents, mask or model hold too large a number")
    return norm


def _mean(projected: Sequence[Projected], num_draws: Sequence[int]) -> Projected:
    """The mean of the projections over draws. For several, ``norm`` is the length of that mean: the single norms do not determine the mean
    gradient's."""
    if len(projected) == 1:
        return projected[0]
    weighted_BP = torch.stack([each.entries_P.double() * count for each, count in zip(projected, num_draws, strict=True)])
    mean_P = weighted_BP.sum(dim=0) / sum(num_draws)
    return Projected(entries_P=mean_P.float(), norm=float(torch.linalg.vector_norm(mean_P)))


def _unit_length(entries_P: Float[torch.Tensor, " P"]) -> Float[np.ndarray, " P"]:
    length = torch.linalg.vector_norm(entries_P.double())
    unit = entries_P.double() / length if length > 0 else torch.zeros_like(entries_P)
    return unit.float().numpy()
