"""LTX-Video through diffusers' LTXPipeline: packed tokens, a mask over prompt tokens, and the clip's frame rate in the rotary embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import LTXPipeline  # pyright: ignore[reportPrivateImportUsage]
from jaxtyping import Float

from motive_pipeline.internals.diffusers import ltx_denormalised, ltx_normalised, ltx_packed, ltx_unpacked
from motive_pipeline.models.conditioning import PROMPT, Conditioning
from motive_pipeline.models.diffusers_model import DiffusersModel, load_pipeline, require_one_expert
from motive_pipeline.models.input_rules import ltx_rules

MASK, FRAME_RATE = "prompt_attention_mask", "frame_rate"


def load_ltx(
    folder: Path,
    *,
    expert: str,
    device: torch.device,
    compute_dtype: torch.dtype,
    max_prompt_tokens: int,
    frame_rate: float,
    shared: Mapping[str, Any] | None = None,
) -> LTXModel:
    """The pipeline at ``folder``, for clips of ``frame_rate`` frames per second."""
    require_one_expert(folder, expert)
    pipeline = load_pipeline(LTXPipeline, folder, compute_dtype=compute_dtype, shared=shared)
    return LTXModel(
        pipeline,
        device=device,
        compute_dtype=compute_dtype,
        max_prompt_tokens=max_prompt_tokens,
        frame_rate=frame_rate,
        source=folder,
    )


class LTXModel(DiffusersModel):
    """An ``LTXPipeline`` behind the protocol. It is told that clips have ``frame_rate`` frames per second."""

    rules = staticmethod(ltx_rules)

    def __init__(self, pipeline: LTXPipeline, *, frame_rate: float, **settings: Any) -> None:
        super().__init__(pipeline, **settings)
        self.frame_rate = frame_rate

    def normalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The VAE's latents as the transformer sees them: (latents - mean) * scaling_factor / deviation."""
        return ltx_normalised(self.pipeline.vae, latents_BCFHW)

    def denormalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The inverse of :meth:`normalised`."""
        return ltx_denormalised(self.pipeline.vae, latents_BCFHW)

    def vae_arguments(self) -> dict[str, Any]:
        """A VAE that is told a timestep (0.9.1 and later) decodes at timestep 0, the pipeline's default."""
        if not self.pipeline.vae.config.timestep_conditioning:
            return {}
        return {"temb": torch.zeros(1, device=self.device, dtype=self.pipeline.vae.dtype)}

    def encode_prompt(self, prompt: str) -> Conditioning:
        """LTXPipeline's own embedding of ``prompt`` [L, E] and the mask of its tokens [L]; the clip's frame rate, a number."""
        self._on_device("text_encoder")
        with torch.no_grad():
            embeds_BLE, mask_BL, *_ = self.pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, max_sequence_length=self.max_prompt_tokens, device=self.device
            )
        return {PROMPT: embeds_BLE[0].float().cpu(), MASK: mask_BL[0].cpu(), FRAME_RATE: torch.tensor(self.frame_rate)}

    def denoised(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        conditioning: Conditioning,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """The velocity in float32, differentiable; ``timestep_B`` is on the scale 0-1000."""
        frames, height, width = latents_BCFHW.shape[2:]
        seconds_per_latent_B = self.grid.temporal_stride / conditioning[FRAME_RATE].to(self.device)
        tokens_BSD = self.transformer(
            hidden_states=ltx_packed(self.pipeline, latents_BCFHW.to(self.device, self.compute_dtype)),
            encoder_hidden_states=conditioning[PROMPT].to(self.device, self.compute_dtype),
            timestep=timestep_B.to(self.device),
            encoder_attention_mask=conditioning[MASK].to(self.device),
            num_frames=frames,
            height=height,
            width=width,
            rope_interpolation_scale=(
                seconds_per_latent_B.view(-1, 1, 1, 1, 1),
                self.grid.spatial_stride,
                self.grid.spatial_stride,
            ),
            return_dict=False,
        )[0]
        return ltx_unpacked(self.pipeline, tokens_BSD.float(), (frames, height, width))

    def sampled_latents(self, prompts: list[str], shape_CFHW: tuple[int, int, int, int], **call: Any) -> Float[torch.Tensor, "B C F h w"]:
        """Normalised latents that LTXPipeline draws for ``prompts``."""
        tokens_BSD = self.pipeline(prompt=prompts, frame_rate=self.frame_rate, **call).frames
        return ltx_unpacked(self.pipeline, tokens_BSD, shape_CFHW[1:])
