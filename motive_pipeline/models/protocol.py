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

from motive_pipeline.models.grid import LatentGrid


@runtime_checkable
class VideoModel(Protocol):
    """A text-to-video diffusion model: VAE, text encoder, denoiser ("transformer"), sampler."""

    grid: LatentGrid
    prediction: Literal["flow", "epsilon"]
    alphas_cumprod: torch.Tensor | None
    """The noise schedule of a model with epsilon prediction, by timestep; None for flow."""
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

    def encode_prompt(self, prompt: str) -> Float[torch.Tensor, "L E"]:
        """Prompt embedding in float32 on the CPU, cleaned and padded just as the model's own sampler does it."""
        ...

    def release_encoders(self) -> None:
        """Move VAE and text encoder from ``device`` to main memory, so that their room is free; their next use brings them back."""
        ...

    def predict(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        prompt_BLE: Float[torch.Tensor, "B L E"],
    ) -> Float[torch.Tensor, "B C F h w"]:
        """The denoiser's output (velocity for ``flow``, noise for ``epsilon``) for noisy latents; differentiable, float32 out.

        ``timestep_B`` is on diffusers' scale 0-1000.
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
