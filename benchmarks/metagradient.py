"""Metagradients: how a loss after a short fine-tune depends on the weight of each clip in it, exactly and for all clips at once.

Each step minimises (1 / B) * sum over its B clips of w_n l_n, with l_n the training loss of clip n and w_n = 1 for every clip. The metagradient of a target
loss J is dJ / dw_n, by reverse-mode differentiation through every step of the fine-tune (MAGIC: Ilyas and Engstrom, 2025, arXiv 2504.16430).
Minus the metagradient is the clip's influence on this fine-tune: how much J falls for each unit of weight that the clip gains.

The states before all steps are stored, and the steps are differentiated one by one from the last to the first. So the graph of one step exists at a time.
A second derivative of the attention is needed: diffusers' own processor (``benchmarks.common.use_diffusers_attention``) and ``SDPBackend.MATH`` have one, the
fused kernels do not.

The optimizer is AdamW, made smooth: epsilon is inside the root, and the second moment starts from an estimate at the base weights, not from zero.

Axis suffixes: N clips, Q targets, B batch, D weights, L E prompt, C F H W latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from motive_pipeline.attribution.loss import location_error
from motive_pipeline.config import Finetune
from motive_pipeline.models.conditioning import Conditioning, stacked
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.training.loop import Batches, ReadClip, Shape, learning_rate, step_draw

RELATIVE_EPS = 1e-3
"""Adam's epsilon, as a share of the root mean square of the second moments that the fine-tune starts from."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step trains on: clips, and the timestep and noise of each."""

    clip_ids: Sequence[str]
    latents_BCFHW: Float[torch.Tensor, "B C F H W"]
    conditioning: Conditioning
    timestep_B: Float[torch.Tensor, " B"]
    noise_BCFHW: Float[torch.Tensor, "B C F H W"]


@dataclass(frozen=True, kw_only=True)
class State:
    """The weights and Adam's two moments before a step, each as one vector in the order of the model's parameters."""

    weights_D: Float[torch.Tensor, " D"]
    first_D: Float[torch.Tensor, " D"]
    second_D: Float[torch.Tensor, " D"]


def training_batches(
    model: VideoModel, clips: Mapping[Shape, Sequence[str]], read_clip: ReadClip, settings: Finetune, *, order: int
) -> list[Batch]:
    """The batches of ``finetune`` (training/loop.py) with ``training=order``: the same clips, timesteps, noises and dropped captions."""
    stream, no_caption = Batches(clips, order), model.encode_prompt("")
    found = []
    for step in range(settings.steps):
        draw = step_draw(order, step, settings)
        clip_ids = stream.take(draw.group, settings.batch_size)
        latents, prompts = zip(*(read_clip(clip_id) for clip_id in clip_ids), strict=True)
        latents_BCFHW = torch.stack(latents)
        conditioning = stacked([no_caption if drop else own for own, drop in zip(prompts, draw.drop_caption_B, strict=True)])
        found.append(
            Batch(
                clip_ids=clip_ids,
                latents_BCFHW=latents_BCFHW,
                conditioning=conditioning,
                timestep_B=draw.timestep_B,
                noise_BCFHW=torch.randn(latents_BCFHW.shape, generator=draw.noise),
            )
        )
    return found


def batch_losses(model: VideoModel, batch: Batch) -> Float[torch.Tensor, " B"]:
    """The training loss of each clip of the batch."""
    error_BFHW = location_error(model, batch.latents_BCFHW, batch.conditioning, timestep_B=batch.timestep_B, noise_BCFHW=batch.noise_BCFHW)
    return error_BFHW.mean(dim=(1, 2, 3))


def clipped(gradient_D: Float[torch.Tensor, " D"], clip_norm: float) -> Float[torch.Tensor, " D"]:
    """The gradient, scaled down to length ``clip_norm`` where it is longer, as ``torch.nn.utils.clip_grad_norm_`` does."""
    return gradient_D * (clip_norm / (torch.linalg.vector_norm(gradient_D) + 1e-6)).clamp(max=1.0)


def mean_square_gradient(model: VideoModel, batches: Sequence[Batch], settings: Finetune) -> Float[torch.Tensor, " D"]:
    """The mean over ``batches`` of the squared gradient at the model's weights: what Adam's second moment would be after many steps of length zero."""
    parameters = list(model.transformer.parameters())
    total_D = torch.zeros(sum(parameter.numel() for parameter in parameters), dtype=parameters[0].dtype)
    for batch in batches:
        gradient = torch.autograd.grad(batch_losses(model, batch).mean(), parameters, materialize_grads=True)
        total_D += clipped(parameters_to_vector(gradient), settings.clip_norm).square()
    return total_D / len(batches)


class WeightedTraining:
    """A fine-tune over fixed batches in which every clip has a weight. It starts from the model's weights and ``second_D`` (Adam's first moment: zero).

    Learning rate, schedule, betas, weight decay, clipping and running mean are those of ``settings``. The first moment is corrected for its start at
    zero; the second needs no correction. ``clip_ids`` is the order of the clips in weights and metagradients; each clip of a batch must be among them.
    """

    def __init__(
        self,
        model: VideoModel,
        batches: Sequence[Batch],
        settings: Finetune,
        *,
        clip_ids: Sequence[str],
        second_D: Float[torch.Tensor, " D"],
    ) -> None:
        self._model, self._batches, self._settings = model, batches, settings
        self._parameters = [parameter.requires_grad_(True) for parameter in model.transformer.parameters()]
        place = {clip_id: number for number, clip_id in enumerate(clip_ids)}
        self._num_clips = len(clip_ids)
        self._places: list[Int[torch.Tensor, " B"]] = [torch.tensor([place[each] for each in batch.clip_ids]) for batch in batches]
        weights_D = parameters_to_vector(self._parameters).detach().clone()
        self._start = State(weights_D=weights_D, first_D=torch.zeros_like(weights_D), second_D=second_D)
        self._eps_square = RELATIVE_EPS**2 * float(second_D.mean())

    def states(self, weight_N: Float[torch.Tensor, " N"] | None = None) -> list[State]:
        """Train with these weights of the clips (default: 1); returns the state before each step, and the last one."""
        weight_N = torch.ones(self._num_clips) if weight_N is None else weight_N
        found = [self._start]
        with sdpa_kernel(SDPBackend.MATH):
            for step, place_B in enumerate(self._places):
                gradient_D = self._gradient(found[-1], step, weight_N[place_B], create_graph=False)
                weights_D, first_D, second_D = self._update(step, found[-1].weights_D, found[-1].first_D, found[-1].second_D, gradient_D)
                found.append(State(weights_D=weights_D, first_D=first_D, second_D=second_D))
        return found

    def load_result(self, states: Sequence[State]) -> None:
        """Give the model the weights that the training ends with: the last ones, or with ``ema`` their running mean."""
        result_D = sum(share * state.weights_D for share, state in zip(self._shares(), states[1:], strict=True))
        vector_to_parameters(result_D, self._parameters)

    def metagradients(self, states: Sequence[State], gradient_QD: Float[torch.Tensor, "Q D"]) -> Float[torch.Tensor, "Q N"]:
        """dJ_q / dw_n at w = 1 for every target q and clip n. ``gradient_QD`` are the gradients of the targets at the weights of :meth:`load_result`."""
        found_QN = torch.zeros(len(gradient_QD), self._num_clips, dtype=gradient_QD.dtype)
        # the derivatives of each target by the state after the step that comes next
        weights_QD, first_QD, second_QD = (torch.zeros_like(gradient_QD) for _ in range(3))
        with sdpa_kernel(SDPBackend.MATH):
            for step, (share, place_B) in reversed(list(enumerate(zip(self._shares(), self._places, strict=True)))):
                weights_QD += share * gradient_QD
                state, weight_B = states[step], torch.ones(len(place_B), dtype=gradient_QD.dtype, requires_grad=True)
                gradient_D = self._gradient(state, step, weight_B, create_graph=True)
                _, pull_back = torch.func.vjp(
                    partial(self._update, step), state.weights_D, state.first_D, state.second_D, gradient_D.detach()
                )
                for target in range(len(gradient_QD)):
                    *by_state, by_gradient_D = pull_back((weights_QD[target], first_QD[target], second_QD[target]))
                    *by_weights, by_weight_B = torch.autograd.grad(
                        gradient_D, [*self._parameters, weight_B], by_gradient_D, retain_graph=True, materialize_grads=True
                    )
                    weights_QD[target] = by_state[0] + parameters_to_vector(by_weights)
                    first_QD[target], second_QD[target] = by_state[1:]
                    found_QN[target].index_add_(0, place_B, by_weight_B)
        return found_QN

    def _gradient(self, state: State, step: int, weight_B: Float[torch.Tensor, " B"], *, create_graph: bool) -> Float[torch.Tensor, " D"]:
        """The gradient of a step's weighted loss at ``state``."""
        vector_to_parameters(state.weights_D, self._parameters)
        loss = (weight_B * batch_losses(self._model, self._batches[step])).mean()
        return parameters_to_vector(torch.autograd.grad(loss, self._parameters, create_graph=create_graph, materialize_grads=True))

    def _update(
        self, step: int, weights_D: torch.Tensor, first_D: torch.Tensor, second_D: torch.Tensor, gradient_D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """AdamW (Loshchilov and Hutter, 2019): weights and moments after a step with this gradient."""
        settings, (beta1, beta2), rate = self._settings, self._settings.betas, learning_rate(step, self._settings)
        gradient_D = clipped(gradient_D, settings.clip_norm)
        first_D = beta1 * first_D + (1 - beta1) * gradient_D
        second_D = beta2 * second_D + (1 - beta2) * gradient_D.square()
        move_D = first_D / (1 - beta1 ** (step + 1)) / (second_D + self._eps_square).sqrt()
        return (1 - rate * settings.weight_decay) * weights_D - rate * move_D, first_D, second_D

    def _shares(self) -> list[float]:
        """The share of the weights after each step in those that the training ends with (``RunningMean`` in training/weights.py)."""
        decay, count = self._settings.ema or 0.0, len(self._batches)
        raw = [decay ** (count - 1 - step) for step in range(count)]
        return [each / sum(raw) for each in raw]
