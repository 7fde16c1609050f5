"""CogVideoX (2B and 5B) through diffusers' CogVideoXPipeline: v-prediction, latents in the order [B, F, C, H, W]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXPipeline  # pyright: ignore[reportPrivateImportUsage]
from jaxtyping import Float

from motive_pipeline.internals.diffusers import cogvideox_rotary
from motive_pipeline.models.conditioning import PROMPT, Conditioning
from motive_pipeline.models.diffusers_model import DiffusersModel, load_pipeline, require_one_expert
from motive_pipeline.models.input_rules import cogvideox_rules


def load_cogvideox(
    folder: Path,
    *,
    expert: str,
    device: torch.device,
    compute_dtype: torch.dtype,
    max_prompt_tokens: int,
    shared: Mapping[str, Any] | None = None,
) -> CogVideoXModel:
    """The pipeline at ``folder``."""
    require_one_expert(folder, expert)
    pipeline = load_pipeline(CogVideoXPipeline, folder, compute_dtype=compute_dtype, shared=shared)
    return CogVideoXModel(pipeline, device=device, compute_dtype=compute_dtype, max_prompt_tokens=max_prompt_tokens, source=folder)


class CogVideoXModel(DiffusersModel):
    """A ``CogVideoXPipeline`` behind the protocol."""

    rules = staticmethod(cogvideox_rules)

    def normalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The VAE's latents as the transformer sees them: times ``scaling_factor``."""
        return latents_BCFHW * self.pipeline.vae.config.scaling_factor

    def denormalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The inverse of :meth:`normalised`."""
        return latents_BCFHW / self.pipeline.vae.config.scaling_factor

    def encode_prompt(self, prompt: str) -> Conditioning:
        """CogVideoXPipeline's own embedding of ``prompt``, padded to ``max_prompt_tokens`` [L, E]."""
        self._on_device("text_encoder")
        with torch.no_grad():
            embeds_BLE, _ = self.pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, max_sequence_length=self.max_prompt_tokens, device=self.device
            )
        return {PROMPT: embeds_BLE[0].float().cpu()}

    def denoised(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        conditioning: Conditioning,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """v in float32, differentiable; ``timestep_B`` is on the scale 0-1000."""
        output_BFCHW = self.transformer(
            hidden_states=latents_BCFHW.to(self.device, self.compute_dtype).transpose(1, 2),
            encoder_hidden_states=conditioning[PROMPT].to(self.device, self.compute_dtype),
            timestep=timestep_B.to(self.device),
            image_rotary_emb=cogvideox_rotary(self.pipeline, latents_BCFHW.shape[2:], self.grid.spatial_stride, self.device),
            return_dict=False,
        )[0]
        return output_BFCHW.float().transpose(1, 2)

    def sampled_latents(self, prompts: list[str], shape_CFHW: tuple[int, int, int, int], **call: Any) -> Float[torch.Tensor, "B C F h w"]:
        """Normalised latents that CogVideoXPipeline draws for ``prompts``."""
        return self.pipeline(prompt=prompts, **call).frames.transpose(1, 2)
