"""Influence maps: where and when in a clip its influence on a query arises (docs/method.md).

The loss of a clip is a mean over latent frames and places, L = mean of L~(f, y, x), so its derivative along a direction d of the weights is one, too:

    M(f, y, x) = |d| [L~(theta + e |theta| u) - L~(theta - e |theta| u)] / (2 e |theta|),      u = d / |d|

With d the direction that a query asks for (weight_direction.py), the mean of M is g(v) . d up to O(e^2). Divided by the length of the clip's gradient
it is the score of the clip for the query, before any projection. Two forward passes without a graph for each draw.

Axes: C channels, F latent frames, h w latent cells, L prompt tokens, B draws in one batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64

from motive_pipeline.attribution.loss import Draw, FrameNorm, errors_of_draws
from motive_pipeline.attribution.streaming import selected_parameters
from motive_pipeline.attribution.weight_direction import (
    Direction,
    LossInputs,
    MovableWeights,
    Similarity,
    Weights,
    WholeGradient,
    copies_gb,
    direction_of,
    norm,
    refuse_on_oom,
    require_memory,
)
from motive_pipeline.models.checkpointing import Checkpointing
from motive_pipeline.models.protocol import VideoModel

STEPS = (1e-5, 3e-6, 3e-5, 1e-6, 1e-4)
"""Steps e, relative to the length of the weights, in the order in which they are tried."""

TOLERANCE = 1e-3
"""The first step is taken whose map changes by at most this, relative, when the step is halved."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step e, relative to the length of the weights, and by how much halving it changes the map that it was chosen on (the length of the
    difference over all cells, relative to that of the map)."""

    size: float
    change: float

    @property
    def is_exact(self) -> bool:
        """Whether halving the step changes next to nothing."""
        return self.change <= TOLERANCE


class InfluenceMaps:
    """Computes influence maps with one model, whose chosen weights must be float32. Afterwards they are what they were, to the bit.

    ``draws``, ``parameters``, ``frame_norm``, ``scales`` and ``similarity`` are those of the score that the maps break down.

    Raises:
        MotiveError: ``parameters`` selects nothing.
        DoesNotFit: two float32 copies of the chosen weights do not fit into the free memory.
    """

    def __init__(
        self,
        model: VideoModel,
        *,
        draws: Sequence[Draw],
        parameters: str = "all",
        frame_norm: FrameNorm = "per_frame",
        scales: Weights | None = None,
        similarity: Similarity = "cosine",
        checkpointing: Checkpointing = False,
        deterministic: bool = True,
        draws_at_once: int = 1,
    ) -> None:
        self._model = model
        self._chosen = selected_parameters(model.transformer, parameters)
        require_memory(self._chosen, model.device)
        self._what = (
            f"an influence map ({copies_gb(self._chosen):.3g} GB in float32 beside the model's weights, and a pass on {model.device})"
        )
        self._draws, self._at_once = draws, draws_at_once
        self._frame_norm: FrameNorm = frame_norm
        self._scales = scales
        self._similarity: Similarity = similarity
        self._gradient = WholeGradient(
            model, self._chosen, draws=draws, frame_norm=frame_norm, checkpointing=checkpointing, deterministic=deterministic
        )
        self._length = norm({name: parameter.detach() for name, parameter in self._chosen.items()})

    def direction(self, queries: Iterable[LossInputs]) -> Direction:
        """The direction that the queries ask for together: the mean of theirs. One forward and backward pass for each query and draw.

        Raises:
            DoesNotFit: memory ran out.
        """
        with refuse_on_oom(self._what):
            return direction_of(map(self._gradient, queries), scales=self._scales, similarity=self._similarity)

    def step(self, direction: Direction, query: LossInputs) -> Step:
        """The step for maps along ``direction``: the first of :data:`STEPS` that is exact on the query's own loss, else the one that changes least.

        Four forward passes for each draw, more where the first step will not do.

        Raises:
            DoesNotFit: memory ran out.
        """
        best = Step(size=STEPS[0], change=np.inf)
        for size in STEPS:
            whole, half = (self._raw(direction, [query], each)[0] for each in (size, size / 2))
            largest = np.linalg.norm(half)
            step = Step(size=size, change=float(np.linalg.norm(whole - half) / largest) if largest > 0 else 0.0)
            best = min(best, step, key=lambda each: each.change)
            if best.is_exact:
                break
        return best

    def maps(self, direction: Direction, clips: Sequence[LossInputs], step: Step) -> list[Float32[np.ndarray, "F h w"]]:
        """The map M of every clip along ``direction``. Its mean is the inner product of the clip's gradient with the direction, times its length.

        Raises:
            DoesNotFit: memory ran out.
        """
        return [map_FHW.astype(np.float32) for map_FHW in self._raw(direction, clips, step.size)]

    def _raw(self, direction: Direction, clips: Sequence[LossInputs], step: float) -> list[Float64[np.ndarray, "F h w"]]:
        """The maps in float64. The weights move once for all clips and back at the end."""
        distance = step * self._length
        if direction.length == 0 or distance == 0:
            return [np.zeros(clip.latents_CFHW.shape[1:]) for clip in clips]
        with refuse_on_oom(self._what), MovableWeights(self._chosen) as weights, torch.no_grad():
            weights.move(direction, distance)
            above = [self._error(clip) for clip in clips]
            weights.move(direction, -distance)
            return [direction.length * (plus_FHW - self._error(clip)) / (2 * distance) for clip, plus_FHW in zip(clips, above, strict=True)]

    def _error(self, clip: LossInputs) -> Float64[np.ndarray, "F h w"]:
        """W~ L~ of a clip, the mean over the draws: its mean over frames and places is the loss of the gradient pass."""
        total_FHW = torch.zeros(clip.latents_CFHW.shape[1:], dtype=torch.float64, device=self._model.device)
        for start in range(0, len(self._draws), self._at_once):
            draws = self._draws[start : start + self._at_once]
            total_FHW += errors_of_draws(self._model, clip.latents_CFHW, clip.conditioning, draws).double().sum(dim=0)
        error_FHW = total_FHW / len(self._draws)
        if clip.mask_FHW is not None:
            error_FHW = error_FHW * clip.mask_FHW.to(error_FHW)
        if self._frame_norm == "paper_literal":
            error_FHW = error_FHW / len(error_FHW)
        return error_FHW.cpu().numpy()


def over_time(map_FHW: Float[np.ndarray, "F h w"]) -> Float64[np.ndarray, " F"]:
    """The mean of each latent frame; their mean is that of the map."""
    return map_FHW.mean(axis=(1, 2), dtype=np.float64)


def best_window(curve_F: Float[np.ndarray, " F"], num_frames: int) -> tuple[int, int]:
    """The window of ``num_frames`` latent frames in a row with the highest mean influence, as (first, behind the last); the earliest if several are.

    Raises:
        ValueError: there are not so many frames.
    """
    if not 1 <= num_frames <= len(curve_F):
        raise ValueError(f"a window of {num_frames} latent frames in a clip of {len(curve_F)}")
    sums = np.convolve(curve_F, np.ones(num_frames), mode="valid")
    first = int(np.argmax(sums))
    return first, first + num_frames
