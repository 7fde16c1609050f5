"""The motion-weighted loss (docs/method.md; equations 15 and 16), and the noising that it shares with training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float

from motive_pipeline import config
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.config.timesteps import TimestepRange
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.conditioning import Conditioning, on_device, repeated
from motive_pipeline.models.protocol import VideoModel

FrameNorm = Literal["per_frame", "paper_literal"]


FIRST_HELD_OUT_SEED = 2**40
"""The noise seeds from here on are the held-out loss's; ``gradient.noise_seed`` stays far below, so attribution never shares one."""


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One point at which the loss is evaluated: a timestep on the scale 0-1000, and the seed of the noise that all clips share."""

    timestep: float
    noise_seed: int


def attribution_draws(gradient: config.Gradient, within: TimestepRange) -> list[Draw]:
    """The draws of the ``gradient`` section for a denoiser that is used at the timesteps ``within``, the same for all clips and queries: ``draws`` of them,
    each with a noise of its own, or each of the timesteps with each of ``num_noises`` noises.
    """
    first = gradient.noise_seed
    if gradient.draws is not None:
        return [Draw(timestep=timestep, noise_seed=first + index) for index, timestep in enumerate(gradient.spread_timesteps(within))]
    seeds = range(first, first + gradient.num_noises)
    return [Draw(timestep=timestep, noise_seed=seed) for timestep in gradient.timesteps(within) for seed in seeds]


def held_out_draws(count: int, within: TimestepRange) -> list[Draw]:
    """``count`` draws at evenly spaced timesteps, the middles of equal parts of ``within``, with noises that attribution never uses, whatever its settings."""
    width = within.high - within.low
    return [Draw(timestep=within.low + width * (index + 0.5) / count, noise_seed=FIRST_HELD_OUT_SEED + index) for index in range(count)]


def noised(
    model: VideoModel,
    latents_BCFHW: Float[torch.Tensor, "B C F h w"],
    noise_BCFHW: Float[torch.Tensor, "B C F h w"],
    timestep_B: Float[torch.Tensor, " B"],
) -> tuple[Float[torch.Tensor, "B C F h w"], Float[torch.Tensor, "B C F h w"]]:
    """The noisy latents that the model sees at ``timestep_B``, and what it should predict from them.

    Flow: z_t = (1 - sigma) h + sigma eps with sigma = timestep / 1000 (no shift), target eps - h. Epsilon prediction:
    z_t = sqrt(a) h + sqrt(1 - a) eps with a the cumulative alpha of the model's schedule at the nearest timestep, target eps. v-prediction
    (Salimans and Ho 2022, arXiv 2202.00512): the same z_t, target v = sqrt(a) eps - sqrt(1 - a) h.
    """
    if model.prediction == "flow":
        sigma = (timestep_B / 1000.0).view(-1, 1, 1, 1, 1)
        return (1.0 - sigma) * latents_BCFHW + sigma * noise_BCFHW, noise_BCFHW - latents_BCFHW
    assert model.alphas_cumprod is not None
    step_B = on_schedule(model, timestep_B).long().to(model.alphas_cumprod.device)
    alpha = model.alphas_cumprod[step_B].to(latents_BCFHW).view(-1, 1, 1, 1, 1)
    noisy_BCFHW = alpha.sqrt() * latents_BCFHW + (1.0 - alpha).sqrt() * noise_BCFHW
    if model.prediction == "epsilon":
        return noisy_BCFHW, noise_BCFHW
    return noisy_BCFHW, alpha.sqrt() * noise_BCFHW - (1.0 - alpha).sqrt() * latents_BCFHW


def on_schedule(model: VideoModel, timestep_B: Float[torch.Tensor, " B"]) -> Float[torch.Tensor, " B"]:
    """The timesteps that the model is told: as they are for flow, else the nearest of its noise schedule."""
    if model.prediction == "flow":
        return timestep_B
    assert model.alphas_cumprod is not None, "a model with epsilon or v prediction has a schedule"
    return timestep_B.round().clamp(0, len(model.alphas_cumprod) - 1)


def location_error(
    model: VideoModel,
    latents_BCFHW: Float[torch.Tensor, "B C F h w"],
    conditioning: Conditioning,
    *,
    timestep_B: Float[torch.Tensor, " B"],
    noise_BCFHW: Float[torch.Tensor, "B C F h w"],
) -> Float[torch.Tensor, "B F h w"]:
    """Squared error of the model's prediction at each location, mean over channels (L~ of eq. 15). Its plain mean is the training loss.

    Where the model is given the first latent frame, nothing is predicted there: the error is 0, and that of the other F - 1 frames is multiplied by
    F / (F - 1), so the plain mean is the mean over what is predicted.

    Raises:
        MotiveError: there is no other frame.
    """
    noisy_BCFHW, target_BCFHW = noised(model, latents_BCFHW, noise_BCFHW, timestep_B)
    predicted_BCFHW = model.predict(noisy_BCFHW, on_schedule(model, timestep_B), conditioning)
    error_BFHW = (predicted_BCFHW - target_BCFHW).square().mean(dim=1)
    # a model of one's own need not have this member (docs/api.md)
    return error_BFHW if getattr(model, "predicts_first_frame", True) else _of_predicted_frames(error_BFHW)


def _of_predicted_frames(error_BFHW: Float[torch.Tensor, "B F h w"]) -> Float[torch.Tensor, "B F h w"]:
    num_frames = error_BFHW.shape[1]
    if num_frames < 2:
        raise MotiveError(
            "a clip has one latent frame, which the model is given, so nothing is left to predict. Raise clips.min_frames or clips.num_frames."
        )
    later_BFHW = error_BFHW[:, 1:] * (num_frames / (num_frames - 1))
    return torch.cat([torch.zeros_like(error_BFHW[:, :1]), later_BFHW], dim=1)


def motion_weighted_loss(
    model: VideoModel,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    conditioning: Conditioning,
    *,
    mask_FHW: Float[torch.Tensor, "F h w"] | None,
    timestep: float,
    noise_CFHW: Float[torch.Tensor, "C F h w"],
    frame_norm: FrameNorm = "per_frame",
) -> Float[torch.Tensor, ""]:
    """L_mot of one clip, equation 16: (1/F) sum over latent frames of mean over locations of W~ L~; without a mask W~ = 1.

    The mask weighs the error, never the input or the noise. ``paper_literal`` divides by F once more, as printed in the paper.
    """
    device = model.device
    error_1FHW = location_error(
        model,
        latents_CFHW[None].to(device),
        on_device(repeated(conditioning, 1), device),
        timestep_B=torch.tensor([timestep], dtype=torch.float32, device=device),
        noise_BCFHW=noise_CFHW[None].to(device),
    )
    return _weighted(error_1FHW, mask_FHW, frame_norm)[0]


def mean_motion_weighted_loss(
    model: VideoModel,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    conditioning: Conditioning,
    *,
    mask_FHW: Float[torch.Tensor, "F h w"] | None,
    draws: Sequence[Draw],
    frame_norm: FrameNorm = "per_frame",
) -> Float[torch.Tensor, ""]:
    """:func:`motion_weighted_loss` averaged over ``draws``, which go through the model as one batch."""
    return _weighted(errors_of_draws(model, latents_CFHW, conditioning, draws), mask_FHW, frame_norm).mean()


def masked_and_plain_loss(
    model: VideoModel,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    conditioning: Conditioning,
    *,
    mask_FHW: Float[torch.Tensor, "F h w"],
    draw: Draw,
    frame_norm: FrameNorm = "per_frame",
) -> tuple[Float[torch.Tensor, ""], Float[torch.Tensor, ""]]:
    """The motion-weighted loss at one draw, and the plain loss that training minimises, from one forward pass."""
    error_1FHW = errors_of_draws(model, latents_CFHW, conditioning, [draw])
    return _weighted(error_1FHW, mask_FHW, frame_norm).mean(), _weighted(error_1FHW, None, "per_frame").mean()


def errors_of_draws(
    model: VideoModel, latents_CFHW: Float[torch.Tensor, "C F h w"], conditioning: Conditioning, draws: Sequence[Draw]
) -> Float[torch.Tensor, "B F h w"]:
    """:func:`location_error` of one clip at each of ``draws``, which go through the model as one batch. All clips share the noise of a draw."""
    device, num_draws = model.device, len(draws)
    channels, frames, height, width = latents_CFHW.shape
    return location_error(
        model,
        latents_CFHW.to(device).expand(num_draws, -1, -1, -1, -1),
        repeated(on_device(conditioning, device), num_draws),
        timestep_B=torch.tensor([draw.timestep for draw in draws], dtype=torch.float32, device=device),
        noise_BCFHW=torch.stack([latent_noise(draw.noise_seed, (channels, frames, height, width)) for draw in draws]).to(device),
    )


def _weighted(
    error_BFHW: Float[torch.Tensor, "B F h w"], mask_FHW: Float[torch.Tensor, "F h w"] | None, frame_norm: FrameNorm
) -> Float[torch.Tensor, " B"]:
    """The losses whose errors these are (equation 16)."""
    weighted_BFHW = error_BFHW if mask_FHW is None else mask_FHW.to(error_BFHW.device) * error_BFHW
    frame_means_BF = weighted_BFHW.mean(dim=(2, 3))
    num_frames = frame_means_BF.shape[1]
    loss_B = frame_means_BF.sum(dim=1) / num_frames
    return loss_B / num_frames if frame_norm == "paper_literal" else loss_B
