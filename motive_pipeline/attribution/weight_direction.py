"""The direction in weight space that a query asks for, and weights that are moved along it and put back.

With the scales s of a preconditioner (1 without one) a score is the inner product of s g(v) and s g(q), so the direction of a query is

    d(q) = s^2 g(q) / |s g(q)|      (similarity: cosine; for dot without the division)

and g(v) . d(q) = the score times |s g(v)|. No gradient is projected. Axes: see loss.py.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float

from motive_pipeline.attribution.loss import Draw, FrameNorm, mean_motion_weighted_loss
from motive_pipeline.attribution.streaming import DeterministicPasses, is_out_of_memory, streamed_gradients
from motive_pipeline.errors import MotiveError
from motive_pipeline.internals.torch import add_each, copy_each
from motive_pipeline.models.checkpointing import Checkpointing
from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.protocol import VideoModel

Similarity = Literal["cosine", "dot"]
Weights = Mapping[str, torch.Tensor]

GB = 1e9
_ADVICE = "Use a device with more memory, or attribute fewer weights (gradient.parameters)."
COPIES = 2
"""Float32 copies of the chosen weights that a map needs beside the weights: the direction, and what the weights were."""


class DoesNotFit(MotiveError):
    """The copies of the weights that a map needs are larger than the free memory."""


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What the loss of one clip or query is computed from. ``mask_FHW`` is None for the plain loss."""

    latents_CFHW: Float[torch.Tensor, "C F h w"]
    conditioning: Conditioning
    mask_FHW: Float[torch.Tensor, "F h w"] | None


@dataclass(frozen=True, kw_only=True)
class Direction:
    """A direction over the chosen weights: ``unit`` has length 1 (0 if no query has a gradient), ``length`` is that of d above."""

    unit: Weights
    length: float


class WholeGradient:
    """The gradient of the loss over all ``chosen`` weights at once, in float32, unprojected: the mean over ``draws``, as the features' (gradient.py).

    Each draw is one backward pass; the mean takes one float32 copy of the weights.
    """

    def __init__(
        self,
        model: VideoModel,
        chosen: Mapping[str, torch.nn.Parameter],
        *,
        draws: Sequence[Draw],
        frame_norm: FrameNorm = "per_frame",
        checkpointing: Checkpointing = False,
        deterministic: bool = True,
    ) -> None:
        self._model, self._chosen, self._draws = model, chosen, draws
        self._frame_norm: FrameNorm = frame_norm
        self._checkpointing: Checkpointing = checkpointing
        self._passes = DeterministicPasses(demanded=deterministic)

    def __call__(self, inputs: LossInputs) -> dict[str, torch.Tensor]:
        return self._passes(partial(self._mean, inputs))

    def _mean(self, inputs: LossInputs) -> dict[str, torch.Tensor]:
        total = {name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in self._chosen.items()}

        def take(name: str, gradient: torch.Tensor) -> None:
            total[name].add_(gradient, alpha=1 / len(self._draws))

        with streamed_gradients(self._model.transformer, self._chosen, take, checkpointing=self._checkpointing):
            for draw in self._draws:
                loss = mean_motion_weighted_loss(
                    self._model,
                    inputs.latents_CFHW,
                    inputs.conditioning,
                    mask_FHW=inputs.mask_FHW,
                    draws=[draw],
                    frame_norm=self._frame_norm,
                )
                loss.backward()
        return total


def direction_of(gradients: Iterable[dict[str, torch.Tensor]], *, scales: Weights | None, similarity: Similarity) -> Direction:
    """The mean of the directions d of some queries, by their gradients, which are used up. A zero gradient counts as a zero direction."""
    total: dict[str, torch.Tensor] = {}
    count = 0
    for gradient in gradients:
        count += 1
        if scales is not None:
            for name, entries in gradient.items():
                entries.mul_(scales[name])
        length = norm(gradient) if similarity == "cosine" else 1.0
        for name, entries in gradient.items():
            if scales is not None:
                entries.mul_(scales[name])
            entries.mul_(1 / length if length > 0 else 0.0)
            total[name] = total[name].add_(entries) if name in total else entries
    length = norm(total)
    for entries in total.values():
        entries.mul_(1 / length if length > 0 else 0.0)
    return Direction(unit=total, length=length / count)


def norm(weights: Weights) -> float:
    """The length of all tensors together, summed in float64."""
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in weights.values()))


class MovableWeights:
    """Weights of a model that are put back, to the bit, when the block ends, also by an exception. Use it with ``with``."""

    def __init__(self, chosen: Mapping[str, torch.nn.Parameter]) -> None:
        if wrong := [name for name, parameter in chosen.items() if parameter.dtype != torch.float32]:
            raise ValueError(f"only float32 weights can be moved by steps as small as these; {wrong[0]} is {chosen[wrong[0]].dtype}")
        self._weights = {name: parameter.detach() for name, parameter in chosen.items()}
        self._before: dict[str, torch.Tensor] = {}

    def __enter__(self) -> MovableWeights:
        self._before = {name: weight.clone() for name, weight in self._weights.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()
        self._before = {}

    def move(self, direction: Direction, distance: float) -> None:
        """Move the weights from where they were at first by ``distance`` along the direction."""
        self._put_back()
        with torch.no_grad():
            add_each(list(self._weights.values()), [direction.unit[name] for name in self._weights], distance)

    def _put_back(self) -> None:
        with torch.no_grad():
            copy_each(list(self._weights.values()), [self._before[name] for name in self._weights])


def require_memory(chosen: Mapping[str, torch.nn.Parameter], device: torch.device) -> None:
    """Check that the copies of the chosen weights fit beside them.

    Raises:
        DoesNotFit: they do not; the message has both figures.
    """
    needed_gb, free_gb = copies_gb(chosen), free_memory_gb(device)
    if needed_gb > free_gb:
        raise DoesNotFit(
            f"influence maps need {needed_gb:.3g} GB in float32 beside the model's weights (a direction, and a copy to put the weights back), and "
            f"{free_gb:.3g} GB are free on {device}. {_ADVICE}"
        )


@contextmanager
def refuse_on_oom(what: str) -> Iterator[None]:
    """Turn an out-of-memory error into :class:`DoesNotFit`. ``what`` says what ran out of memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DoesNotFit(f"{what} ran out of memory. {_ADVICE}") from error


def copies_gb(chosen: Mapping[str, torch.nn.Parameter]) -> float:
    """The size of the float32 copies of the chosen weights that a map needs."""
    return COPIES * 4 * sum(parameter.numel() for parameter in chosen.values()) / GB


def free_memory_gb(device: torch.device) -> float:
    """Memory that can still be taken on ``device``; infinite where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) / GB
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists() or os.name != "posix":
        return math.inf
    found = re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text())
    return int(found[1]) * 1024 / GB if found else math.inf
