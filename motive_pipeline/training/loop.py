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

import torch
from jaxtyping import Bool, Float

from motive_pipeline.attribution.loss import location_error
from motive_pipeline.config import Finetune
from motive_pipeline.errors import GateFailed
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.training.weights import MasterWeights, RunningMean

CACHE_BYTES = 2**31

Shape = tuple[int, ...]
Watch = Callable[[int, bool], None]
"""(steps done, whether the model has the running mean of its weights now) -> None"""

ReadClip = Callable[[str], tuple[torch.Tensor, torch.Tensor]]
"""clip id -> (latents_CFHW, prompt_LE)"""


@dataclass(frozen=True, kw_only=True)
class StepDraw:
    """The random choices of one step."""

    group: float
    """Uniform in [0, 1); selects the latent shape of the step."""
    timestep_B: Float[torch.Tensor, " B"]
    drop_caption_B: Bool[torch.Tensor, " B"]
    noise: torch.Generator


def step_draw(training: int, step: int, settings: Finetune) -> StepDraw:
    """The draw of a step. It depends only on (training, step) and the settings, so it is the same in every arm.

    A uniform number u in each place of the batch (with ``stratified`` one in each of B equal parts, in random order) becomes sigma = u, or for
    ``logit_normal`` sigma = sigmoid(z) with z standard normal (Esser et al. 2024, arXiv 2403.03206, their m = 0, s = 1). Then sigma is shifted,
    sigma' = shift sigma / (1 + (shift - 1) sigma).
    """
    generator = torch.Generator().manual_seed(_seed_from("draw", training, step))
    group = float(torch.rand((), generator=generator))
    uniform_B = torch.rand(settings.batch_size, generator=generator)
    drop_caption_B = torch.rand(settings.batch_size, generator=generator) < settings.caption_dropout
    if settings.timesteps == "stratified":
        uniform_B = (torch.randperm(settings.batch_size, generator=generator) + uniform_B) / settings.batch_size
    sigma_B = uniform_B if settings.sampling == "uniform" else torch.sigmoid(torch.special.ndtri(uniform_B))
    shifted_B = settings.shift * sigma_B / (1.0 + (settings.shift - 1.0) * sigma_B)
    return StepDraw(group=group, timestep_B=1000.0 * shifted_B, drop_caption_B=drop_caption_B, noise=generator)


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
) -> list[float]:
    """Train ``model.transformer`` in place for ``settings.steps`` steps; returns the loss of each step. With ``settings.ema`` it ends with the running
    mean of its weights.

    ``clips`` lists the clip ids by latent shape; ``training`` is the number of the training within the arm. The same arguments give the same
    bits. Another ``micro_batch_size`` gives the same numbers up to rounding.

    ``watch`` is called before the first step, after every ``eval_every`` steps and after the last one, with the model as it is then; with ``ema`` once more
    with the mean of its weights. It may use the model, and changes no bit of the training as long as it draws no random numbers from torch.

    Raises:
        GateFailed: a loss or a gradient is not finite; the message names the step, counted from 1.
    """
    weights = MasterWeights(model.transformer)
    optimizer = torch.optim.AdamW(
        weights.masters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
    )
    average = None if settings.ema is None else RunningMean(weights.masters, settings.ema)
    if settings.checkpointing:
        model.transformer.enable_gradient_checkpointing()  # type: ignore[operator]
    batches, read, no_caption_LE = Batches(clips, training), _CachedReader(read_clip), model.encode_prompt("")
    model.release_encoders()
    losses: list[float] = []
    if watch is not None:
        watch(0, False)
    for step in range(settings.steps):
        draw = step_draw(training, step, settings)
        batch = [read(clip_id) for clip_id in batches.take(draw.group, settings.batch_size)]
        loss = 0.0
        for share, mean in _losses(model, batch, draw, no_caption_LE, settings.micro_batch_size or settings.batch_size):
            (share * mean).backward()
            weights.take_gradients()
            loss += share * mean.item()
        losses.append(loss)
        norm = torch.nn.utils.clip_grad_norm_(weights.masters, settings.clip_norm)
        _require_finite(step, losses[-1], norm.item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        weights.write_back()
        if average is not None:
            average.add()
        if watch is not None and is_watched(step + 1, settings):
            watch(step + 1, False)
            if average is not None:
                with average.in_place(weights):
                    watch(step + 1, True)
        on_step(step, losses[-1])
    if average is not None:
        average.write_back()
        weights.write_back()
    return losses


def is_watched(num_steps: int, settings: Finetune) -> bool:
    """Whether ``watch`` is called after ``num_steps`` steps."""
    return num_steps == settings.steps or (settings.eval_every is not None and num_steps % settings.eval_every == 0)


def _losses(
    model: VideoModel,
    batch: Sequence[tuple[torch.Tensor, torch.Tensor]],
    draw: StepDraw,
    no_caption_LE: Float[torch.Tensor, "L E"],
    micro_batch_size: int,
) -> Iterator[tuple[float, Float[torch.Tensor, ""]]]:
    """For each micro-batch of at most ``micro_batch_size`` clips: its share of the batch, and its mean loss.

    All micro-batches share one draw, so the losses weighted by their shares add up to the mean loss of the batch, up to rounding.
    """
    latents_BCFHW = torch.stack([latents for latents, _ in batch])
    prompt_BLE = torch.stack([no_caption_LE if drop else prompt for (_, prompt), drop in zip(batch, draw.drop_caption_B, strict=True)])
    noise_BCFHW = torch.randn(latents_BCFHW.shape, generator=draw.noise)
    device = model.device
    for start in range(0, len(batch), micro_batch_size):
        part = slice(start, start + micro_batch_size)
        error = location_error(
            model,
            latents_BCFHW[part].to(device),
            prompt_BLE[part].to(device),
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
        self._kept: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._left = CACHE_BYTES

    def __call__(self, clip_id: str) -> tuple[torch.Tensor, torch.Tensor]:
        if clip_id in self._kept:
            return self._kept[clip_id]
        clip = self._read(clip_id)
        size = sum(part.nbytes for part in clip)
        if size <= self._left:
            self._kept[clip_id] = clip
            self._left -= size
        return clip


def _seed_from(*parts: object) -> int:
    """A seed: 63 bits of a hash of ``parts``."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
