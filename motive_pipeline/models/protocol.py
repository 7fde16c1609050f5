"""What the pipeline needs of a video model, independent of any library.

Axis suffixes in this package: N clips, Q queries, B batch, F latent frames, T decoded frames, H W (latent or pixel) height and width,
C channels, L prompt tokens, E embedding width, D gradient entries, P projected entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8

from motive_pipeline.config.timesteps import ALL_TIMESTEPS, TimestepRange
from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.grid import LatentGrid

Prediction = Literal["flow", "epsilon", "v"]
"""What the denoiser predicts; attribution/loss.py has the formulas."""


@runtime_checkable
class VideoModel(Protocol):
    """A text-to-video or image-to-video diffusion model: VAE, text encoder, denoiser ("transformer"), sampler."""

    grid: LatentGrid
    timestep_range: TimestepRange = ALL_TIMESTEPS
    """The timesteps that ``transformer`` is used at: all, or those of one of two experts. A subclass inherits that it is all."""
    starts_from_frame: bool = False
    """Whether it is told the first frame of a clip, and :meth:`generate` takes ``first_frames``. A subclass inherits that it is not."""
    predicts_first_frame: bool = True
    """False if the first latent frame is given without noise, so no loss is taken there."""
    prediction: Prediction
    alphas_cumprod: torch.Tensor | None
    """The noise schedule of a model with epsilon or v prediction, by timestep; None for flow."""
    transformer: torch.nn.Module
    """The trainable denoiser, in ``eval`` mode; :meth:`predict` brings it to ``device``. Fine-tuning changes it in place."""
    device: torch.device
    compute_dtype: torch.dtype

    def encode_video(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Float[torch.Tensor, "C F h w"]:
        """Normalised latents (the posterior's mean, no sampling) in float32 on the CPU."""
        ...

    def decode_latents(self, latents_CFHW: Float[torch.Tensor, "C F h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Decode normalised latents to frames."""
        ...

    def encode_prompt(self, prompt: str) -> Conditioning:
        """What the denoiser is told of ``prompt``, on the CPU, cleaned and padded just as the model's own sampler does it.

        It has at least ``prompt_embeds`` [L, E] in float32. Names and shapes are the same for every prompt.
        """
        ...

    def encode_first_frame(self, frame_HWC: UInt8[np.ndarray, "H W 3"], num_frames: int) -> Conditioning:
        """What the denoiser is told of the first frame of a clip of ``num_frames`` decoded frames, on the CPU; nothing for text-to-video.

        Its names differ from those of :meth:`encode_prompt`, and both together are a clip's conditioning.
        """
        return {}

    def release_encoders(self) -> None:
        """Move VAE and text encoder from ``device`` to main memory, so that their room is free; their next use brings them back."""
        ...

    def predict(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        conditioning: Conditioning,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """The denoiser's output for noisy latents, as :attr:`prediction` says; differentiable, float32 out.

        ``timestep_B`` is on diffusers' scale 0-1000. ``conditioning`` has the tensors of :meth:`encode_prompt` and :meth:`encode_first_frame` with
        a batch axis in front.
        """
        ...

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int], num_frames: int, height: int, width: int, num_steps: int, guidance: float
    ) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """One video for each (prompt, seed), in order. The noise of a video depends only on its own seed, not on its batch. A model that
        ``starts_from_frame`` also takes ``first_frames``, one of ``height`` x ``width`` pixels for each video.

        Raises:
            RejectRow: ``non_finite_video``, when any of the videos holds NaN or infinity.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the whole pipeline in its library's own layout; the call that loaded it can load it again."""
        ...
