"""The gradient of one clip, projected while backward runs (METHOD, section 3; equations 7 to 11 and 17).

One clip is one pass. As soon as backward has finished the gradient of a parameter, a hook projects it and frees it, so the full gradient
never exists, and the pass is about as cheap as a bare forward and backward.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution.loss import Draw, FrameNorm, mean_motion_weighted_loss
from motive_pipeline.attribution.projection import Projector, build_projector
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.models.protocol import VideoModel

_CPU_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory")
"""What torch's CPU allocator says; it has no exception class of its own."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """A clip's projected gradient in float32: of unit length, or all zero for a zero gradient; and the gradient's own length."""

    gradient_P: Float[np.ndarray, " P"]
    norm: float


class ClipGradient:
    """Gives the projected gradient of the motion-weighted loss, clip by clip.

    Several ``draws`` are averaged in one graph: exact, at the memory of as many forward passes. ``checkpointing`` trades a second forward
    pass for activations that are not kept. The model computes in its own dtype; sums over the gradient are in float32.

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
        checkpointing: bool = False,
    ) -> None:
        self.model = model
        self.projector = projector
        self.draws = draws
        self.frame_norm: FrameNorm = frame_norm
        self.checkpointing = checkpointing
        self._chosen = selected_parameters(model.transformer, parameters)
        self._others = [parameter for name, parameter in model.transformer.named_parameters() if name not in self._chosen]
        self._sizes = {name: parameter.numel() for name, parameter in self._chosen.items()}

    def __call__(
        self,
        latents_CFHW: Float[torch.Tensor, "C F h w"],
        prompt_LE: Float[torch.Tensor, "L E"],
        mask_FHW: Float[torch.Tensor, "F h w"] | None,
    ) -> Feature:
        """One forward and one backward pass.

        Raises:
            RejectRow: ``non_finite_gradient``, or ``out_of_memory`` (which is tried again another time).
        """
        self.projector.start(self._sizes)
        try:
            with self._prepared(), torch.enable_grad():
                loss = mean_motion_weighted_loss(
                    self.model, latents_CFHW, prompt_LE, mask_FHW=mask_FHW, draws=self.draws, frame_norm=self.frame_norm
                )
                loss.backward()
            projected = self.projector.finish()
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _out_of_memory(latents_CFHW) from error
        except RuntimeError as error:
            if any(text in str(error) for text in _CPU_OUT_OF_MEMORY):
                raise _out_of_memory(latents_CFHW) from error
            raise
        if not math.isfinite(projected.norm):
            raise RejectRow("non_finite_gradient", f"the gradient's length is {projected.norm} (the loss is {float(loss.detach()):g})")
        return Feature(gradient_P=_unit_length(projected.entries_P), norm=projected.norm)

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """While this lasts only the chosen parameters have gradients, and these are streamed; afterwards the model is as before."""
        with (
            _requires_grad(self._chosen.values(), True),
            _requires_grad(self._others, False),
            _checkpointing(self.model.transformer, self.checkpointing),
            _streamed_into(self.projector, self._chosen),
        ):
            yield


def build_clip_gradient(model: VideoModel, gradient: config.Gradient) -> ClipGradient:
    """The gradient pass that the ``gradient`` section describes."""
    return ClipGradient(
        model,
        projector=build_projector(gradient, model.device),
        draws=[Draw(timestep=gradient.timestep, noise_seed=gradient.noise_seed)],
        parameters=gradient.parameters,
        frame_norm=gradient.frame_norm,
        checkpointing=gradient.checkpointing,
    )


def selected_parameters(module: torch.nn.Module, pattern: str) -> dict[str, torch.nn.Parameter]:
    """The parameters whose names ``pattern`` (a regular expression, or ``all``) matches anywhere.

    Raises:
        MotiveError: the pattern is no regular expression, or matches no name.
    """
    named = dict(module.named_parameters())
    if pattern == "all":
        return named
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise MotiveError(f"gradient.parameters = {pattern!r} is no regular expression: {error}.") from error
    chosen = {name: parameter for name, parameter in named.items() if expression.search(name)}
    if not chosen:
        examples = ", ".join(list(named)[:: max(1, len(named) // 8)][:8])
        raise MotiveError(f"gradient.parameters = {pattern!r} matches none of the model's {len(named)} parameters, such as {examples}.")
    return chosen


@contextmanager
def _requires_grad(parameters: Iterable[torch.nn.Parameter], required: bool) -> Iterator[None]:
    changed = [parameter for parameter in parameters if parameter.requires_grad != required]
    try:
        for parameter in changed:
            parameter.requires_grad_(required)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not required)


@contextmanager
def _checkpointing(module: torch.nn.Module, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    module.enable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        module.disable_gradient_checkpointing()  # type: ignore[operator]


@contextmanager
def _streamed_into(projector: Projector, chosen: dict[str, torch.nn.Parameter]) -> Iterator[None]:
    """While this lasts, every gradient that backward finishes goes to ``projector`` and is freed."""

    def take(name: str, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        projector.add(name, parameter.grad)
        parameter.grad = None

    for parameter in chosen.values():
        parameter.grad = None
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda tensor, name=name: take(name, tensor)) for name, parameter in chosen.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in chosen.values():
            parameter.grad = None


def _unit_length(entries_P: Float[torch.Tensor, " P"]) -> Float[np.ndarray, " P"]:
    length = torch.linalg.vector_norm(entries_P.double())
    unit = entries_P.double() / length if length > 0 else torch.zeros_like(entries_P)
    return unit.float().numpy()


def _out_of_memory(latents_CFHW: torch.Tensor) -> RejectRow:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    shape = " x ".join(str(size) for size in latents_CFHW.shape)
    detail = f"the gradient of latents {shape} does not fit in memory; gradient.checkpointing: true needs less"
    return RejectRow("out_of_memory", detail, transient=True)
