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
    """A text-to-video diffusion model: VAE, text encoder, denoiser ("transformer"), sampler."""

    grid: LatentGrid
    timestep_range: TimestepRange = ALL_TIMESTEPS
    """The timesteps that ``transformer`` is used at: all, or those of one of two experts. A subclass inherits that it is all."""
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

        ``timestep_B`` is on diffusers' scale 0-1000. ``conditioning`` has the tensors of :meth:`encode_prompt` with a batch axis in front.
        """
        ...

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int], num_frames: int, height: int, width: int, num_steps: int, guidance: float
    ) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """One video for each (prompt, seed), in order. The noise of a video depends only on its own seed, not on its batch.

        Raises:
            RejectRow: ``non_finite_video``, when any of the videos holds NaN or infinity.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write the whole pipeline in its library's own layout; the call that loaded it can load it again."""
        ...
