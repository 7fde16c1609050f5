"""The fine-tuning loop: AdamW on the loss whose gradients attribution uses, without a mask. It uses no workspace.

Axis suffixes: B batch, F latent frames, H W latent height and width, C channels, L prompt tokens, E embedding width.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, count
from statistics import NormalDist

import torch
from jaxtyping import Bool, Float

from motive_pipeline.attribution.loss import location_error
from motive_pipeline.config import Finetune
from motive_pipeline.config.timesteps import ALL_TIMESTEPS, TimestepRange
from motive_pipeline.errors import GateFailed
from motive_pipeline.models.adapter import active_dropout, adapter_parameters, add_adapter, fresh_adapter_seed
from motive_pipeline.models.conditioning import Conditioning, on_device, part_of, stacked
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.seeds import seed_from
from motive_pipeline.training.optimizer import Optimization
from motive_pipeline.training.saved_state import State

CACHE_BYTES = 2**31

Shape = tuple[int, ...]
Watch = Callable[[int, bool], None]
"""(steps done, whether the model has the running mean of its weights now) -> None"""

Clip = tuple[torch.Tensor, Conditioning]
"""(latents_CFHW, what the model is told of its caption)"""

ReadClip = Callable[[str], Clip]


@dataclass(frozen=True, kw_only=True)
class StepDraw:
    """The random choices of one step."""

    group: float
    """Uniform in [0, 1); selects the latent shape of the step."""
    timestep_B: Float[torch.Tensor, " B"]
    drop_caption_B: Bool[torch.Tensor, " B"]
    noise: torch.Generator


def step_draw(training: int, step: int, settings: Finetune, within: TimestepRange = ALL_TIMESTEPS) -> StepDraw:
    """The draw of a step. It depends only on (training, step) and the settings, so it is the same in every arm.

    A uniform number u in each place of the batch (with ``stratified`` one in each of B equal parts, in random order) becomes sigma = u, or for
    ``logit_normal`` sigma = sigmoid(z) with z standard normal (Esser et al. 2024, arXiv 2403.03206, their m = 0, s = 1). Then sigma is shifted,
    sigma' = shift sigma / (1 + (shift - 1) sigma). For an expert, u is uniform over the values that lead to its timesteps ``within``.
    """
    generator = torch.Generator().manual_seed(seed_from("draw", training, step))
    group = float(torch.rand((), generator=generator))
    uniform_B = torch.rand(settings.batch_size, generator=generator)
    drop_caption_B = torch.rand(settings.batch_size, generator=generator) < settings.caption_dropout
    if settings.timesteps == "stratified":
        uniform_B = (torch.randperm(settings.batch_size, generator=generator) + uniform_B) / settings.batch_size
    first, last = (_uniform_of(end / 1000.0, settings) for end in (within.low, within.high))
    uniform_B = first + (last - first) * uniform_B
    sigma_B = uniform_B if settings.sampling == "uniform" else torch.sigmoid(torch.special.ndtri(uniform_B))
    shifted_B = settings.shift * sigma_B / (1.0 + (settings.shift - 1.0) * sigma_B)
    return StepDraw(group=group, timestep_B=1000.0 * shifted_B, drop_caption_B=drop_caption_B, noise=generator)


def _uniform_of(shifted: float, settings: Finetune) -> float:
    """The u that becomes the shifted sigma ``shifted``: how likely training draws one below it."""
    sigma = shifted / (settings.shift - (settings.shift - 1.0) * shifted)
    if settings.sampling == "uniform" or sigma in (0.0, 1.0):
        return sigma
    return NormalDist().cdf(math.log(sigma / (1.0 - sigma)))


def shuffled_forever(clip_ids: Sequence[str], training: int) -> Iterator[str]:
    """An endless sequence of passes over the clips, each in a new random order: that of a hash of (training, pass, clip id)."""
    for number in count():
        yield from sorted(clip_ids, key=lambda clip_id: hashlib.sha256(f"order {training} {number} {clip_id}".encode()).digest())


def learning_rate(step: int, settings: Finetune) -> float:
    """The learning rate of ``step`` (from 0): linear warm-up over ``warmup_steps`` steps, else the first ``warmup_share`` of them; then constant or half a
    cosine to zero."""
    warmup_steps = math.floor(settings.warmup_share * settings.steps) if settings.warmup_steps is None else settings.warmup_steps
    if step < warmup_steps or settings.schedule == "constant":
        return settings.learning_rate * min(1.0, (step + 1) / (warmup_steps + 1))
    return settings.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - warmup_steps) / (settings.steps - warmup_steps)))


class Batches:
    """The clips of each step: all of one latent shape, and each shape as often as its share of the clips."""

    def __init__(self, clips: Mapping[Shape, Sequence[str]], training: int) -> None:
        self._shapes = sorted(shape for shape, clip_ids in clips.items() if clip_ids)
        self._sizes = [len(clips[shape]) for shape in self._shapes]
        self._streams = [shuffled_forever(clips[shape], training) for shape in self._shapes]

    def take(self, group: float, batch_size: int) -> list[str]:
        """The next ``batch_size`` clips of the shape that ``group`` in [0, 1) selects."""
        upper_bounds = list(accumulate(self._sizes))
        stream = self._streams[bisect_right(upper_bounds, group * upper_bounds[-1])]
        return [next(stream) for _ in range(batch_size)]


def finetune(
    model: VideoModel,
    clips: Mapping[Shape, Sequence[str]],
    read_clip: ReadClip,
    settings: Finetune,
    *,
    training: int,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    watch: Watch | None = None,
    start: State | None = None,
    save: Callable[[State], None] | None = None,
) -> list[float]:
    """Train ``model.transformer`` in place for ``settings.steps`` steps; returns the loss of each step. With ``settings.ema`` it ends with the running
    mean of its weights. With ``settings.lora`` only an adapter is trained: that which the transformer has, else a fresh one.

    ``clips`` lists the clip ids by latent shape; ``training`` is the number of the training within the arm. The same arguments give the same
    bits. Another ``micro_batch_size`` gives the same numbers up to rounding.

    ``watch`` is called before the first step, after every ``eval_every`` steps and after the last one, with the model as it is then; with ``ema`` once more
    with the mean of its weights. It may use the model, and changes no bit of the training as long as it draws no random numbers from torch.

    ``save`` is called after every ``checkpoint_every`` steps but the last. A training that starts from such a state (``start``), with all other
    arguments equal, ends with the same bits on a CPU as one that was never stopped.

    Raises:
        GateFailed: a loss or a gradient is not finite; the message names the step, counted from 1.
        MotiveError: ``lora.targets`` matches no layer, or ``optimizer`` cannot be used here.
    """
    weights = Optimization(trained_parameters(model.transformer, settings, training), settings)
    if settings.checkpointing:
        model.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    batches, read, no_caption = Batches(clips, training), _CachedReader(read_clip), model.encode_prompt("")
    model.release_encoders()
    losses: list[float] = []
    if start is not None:
        weights.restore(start.tensors)
        losses += start.losses
    elif watch is not None:
        watch(0, False)
    for step in range(settings.steps):
        draw = step_draw(training, step, settings, model.timestep_range)
        clip_ids = batches.take(draw.group, settings.batch_size)
        if start is not None and step < start.step:
            continue
        batch = [read(clip_id) for clip_id in clip_ids]
        loss = 0.0
        with active_dropout(model.transformer, seed_from("dropout", training, step)):
            for share, mean in _losses(model, batch, draw, no_caption, settings.micro_batch_size or settings.batch_size):
                (share * mean).backward()
                weights.take_gradients()
                loss += share * mean.item()
        losses.append(loss)
        _require_finite(step, loss, weights.clip_gradients())
        weights.step(learning_rate(step, settings))
        if watch is not None and is_watched(step + 1, settings):
            watch(step + 1, False)
            if weights.has_mean:
                with weights.mean_in_place():
                    watch(step + 1, True)
        if save is not None and is_saved(step + 1, settings):
            save(State(step=step + 1, losses=list(losses), tensors=weights.tensors()))
        on_step(step, loss)
    weights.finish()
    return losses


def trained_parameters(transformer: torch.nn.Module, settings: Finetune, training: int) -> list[torch.nn.Parameter]:
    """The parameters to train: all, or with ``lora`` those of the transformer's adapter, which it is given here if it has none. The others need no
    gradient from now on.

    Raises:
        MotiveError: ``lora.targets`` matches no layer.
    """
    if settings.lora is None:
        return list(transformer.parameters())
    transformer.requires_grad_(False)
    if not adapter_parameters(transformer):
        add_adapter(transformer, settings.lora, fresh_adapter_seed(training))
    return list(adapter_parameters(transformer).values())


def is_saved(num_steps: int, settings: Finetune) -> bool:
    """Whether ``save`` is called after ``num_steps`` steps."""
    return settings.checkpoint_every is not None and num_steps % settings.checkpoint_every == 0 and num_steps < settings.steps


def is_watched(num_steps: int, settings: Finetune) -> bool:
    """Whether ``watch`` is called after ``num_steps`` steps."""
    return num_steps == settings.steps or (settings.eval_every is not None and num_steps % settings.eval_every == 0)


def _losses(
    model: VideoModel,
    batch: Sequence[Clip],
    draw: StepDraw,
    no_caption: Conditioning,
    micro_batch_size: int,
) -> Iterator[tuple[float, Float[torch.Tensor, ""]]]:
    """For each micro-batch of at most ``micro_batch_size`` clips: its share of the batch, and its mean loss.

    All micro-batches share one draw, so the losses weighted by their shares add up to the mean loss of the batch, up to rounding.
    """
    latents_BCFHW = torch.stack([latents for latents, _ in batch])
    conditioning = stacked([{**own, **no_caption} if drop else own for (_, own), drop in zip(batch, draw.drop_caption_B, strict=True)])
    noise_BCFHW = torch.randn(latents_BCFHW.shape, generator=draw.noise)
    device = model.device
    for start in range(0, len(batch), micro_batch_size):
        part = slice(start, start + micro_batch_size)
        error = location_error(
            model,
            latents_BCFHW[part].to(device),
            on_device(part_of(conditioning, part), device),
            timestep_B=draw.timestep_B[part].to(device),
            noise_BCFHW=noise_BCFHW[part].to(device),
        )
        yield len(error) / len(batch), error.mean()


def _require_finite(step: int, loss: float, gradient_norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
        raise GateFailed(
            f"step {step + 1}: the loss is {loss} and the gradient's norm {gradient_norm}, so training has diverged. "
            "Lower finetune.learning_rate, or use model.dtype: float32."
        )


class _CachedReader:
    """Reads clips and caches as many as fit into :data:`CACHE_BYTES`."""

    def __init__(self, read: ReadClip) -> None:
        self._read = read
        self._kept: dict[str, Clip] = {}
        self._left = CACHE_BYTES

    def __call__(self, clip_id: str) -> Clip:
        if clip_id in self._kept:
            return self._kept[clip_id]
        clip = self._read(clip_id)
        latents_CFHW, conditioning = clip
        size = latents_CFHW.nbytes + sum(tensor.nbytes for tensor in conditioning.values())
        if size <= self._left:
            self._kept[clip_id] = clip
            self._left -= size
        return clip
