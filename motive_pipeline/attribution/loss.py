"""The motion-weighted loss (docs/method.md; equations 15 and 16), and the noising that it shares with training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float

from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.models.protocol import VideoModel

FrameNorm = Literal["per_frame", "paper_literal"]


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One point at which the loss is evaluated: a timestep on the scale 0-1000, and the seed of the noise that all clips share."""

    timestep: float
    noise_seed: int


def noised(
    model: VideoModel,
    latents_BCFHW: Float[torch.Tensor, "B C F h w"],
    noise_BCFHW: Float[torch.Tensor, "B C F h w"],
    timestep_B: Float[torch.Tensor, " B"],
) -> tuple[Float[torch.Tensor, "B C F h w"], Float[torch.Tensor, "B C F h w"]]:
    """The noisy latents that the model sees at ``timestep_B``, and what it should predict from them.

    Flow: z_t = (1 - sigma) h + sigma eps with sigma = timestep / 1000 (no shift), target eps - h. Epsilon prediction:
    z_t = sqrt(a) h + sqrt(1 - a) eps with a the cumulative alpha of the model's schedule at the nearest timestep, target eps.
    """
    if model.prediction == "flow":
        sigma = (timestep_B / 1000.0).view(-1, 1, 1, 1, 1)
        return (1.0 - sigma) * latents_BCFHW + sigma * noise_BCFHW, noise_BCFHW - latents_BCFHW
    assert model.alphas_cumprod is not None, "a model with epsilon prediction has a schedule"
    step_B = timestep_B.round().long().clamp(0, len(model.alphas_cumprod) - 1).to(model.alphas_cumprod.device)
    alpha = model.alphas_cumprod[step_B].to(latents_BCFHW).view(-1, 1, 1, 1, 1)
    return alpha.sqrt() * latents_BCFHW + (1.0 - alpha).sqrt() * noise_BCFHW, noise_BCFHW


def location_error(
    model: VideoModel,
    latents_BCFHW: Float[torch.Tensor, "B C F h w"],
    prompt_BLE: Float[torch.Tensor, "B L E"],
    *,
    timestep_B: Float[torch.Tensor, " B"],
    noise_BCFHW: Float[torch.Tensor, "B C F h w"],
) -> Float[torch.Tensor, "B F h w"]:
    """Squared error of the model's prediction at each location, mean over channels (L~ of eq. 15). Its plain mean is the training loss."""
    noisy_BCFHW, target_BCFHW = noised(model, latents_BCFHW, noise_BCFHW, timestep_B)
    return (model.predict(noisy_BCFHW, timestep_B, prompt_BLE) - target_BCFHW).square().mean(dim=1)


def motion_weighted_loss(
    model: VideoModel,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    prompt_LE: Float[torch.Tensor, "L E"],
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
    error_FHW = location_error(
        model,
        latents_CFHW[None].to(device),
        prompt_LE[None].to(device),
        timestep_B=torch.tensor([timestep], dtype=torch.float32, device=device),
        noise_BCFHW=noise_CFHW[None].to(device),
    )[0]
    weighted_FHW = error_FHW if mask_FHW is None else mask_FHW.to(device) * error_FHW
    frame_means_F = weighted_FHW.mean(dim=(1, 2))
    num_frames = len(frame_means_F)
    loss = frame_means_F.sum() / num_frames
    return loss / num_frames if frame_norm == "paper_literal" else loss


def mean_motion_weighted_loss(
    model: VideoModel,
    latents_CFHW: Float[torch.Tensor, "C F h w"],
    prompt_LE: Float[torch.Tensor, "L E"],
    *,
    mask_FHW: Float[torch.Tensor, "F h w"] | None,
    draws: Sequence[Draw],
    frame_norm: FrameNorm = "per_frame",
) -> Float[torch.Tensor, ""]:
    """:func:`motion_weighted_loss` averaged over ``draws``. All clips share the noise of a draw."""
    channels, frames, height, width = latents_CFHW.shape
    losses = [
        motion_weighted_loss(
            model,
            latents_CFHW,
            prompt_LE,
            mask_FHW=mask_FHW,
            timestep=draw.timestep,
            noise_CFHW=latent_noise(draw.noise_seed, (channels, frames, height, width)),
            frame_norm=frame_norm,
        )
        for draw in draws
    ]
    return torch.stack(losses).mean()
