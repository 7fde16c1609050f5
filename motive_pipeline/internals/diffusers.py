"""Undocumented parts of diffusers: the Wan transformer's attention processor, pieces of the Wan VAE, steps of the pipelines, and private attributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import LTXPipeline  # pyright: ignore[reportPrivateImportUsage]
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

TESTED = ">=0.42,<0.43"

__all__ = [
    "TESTED",
    "WanAttention",
    "WanAttnProcessor",
    "WanResample",
    "attention_backend",
    "cogvideox_rotary",
    "compute_on",
    "dispatch_attention_fn",
    "float32_modules",
    "is_plain_attention",
    "ltx_denormalised",
    "ltx_normalised",
    "ltx_packed",
    "ltx_unpacked",
    "patchify",
    "prompt_clean",
    "t5_embedding",
    "unpatchify",
]


def attention_backend(processor: WanAttnProcessor) -> Any:
    """The attention kernel that was chosen for this processor (``set_attention_backend``), None for diffusers' default."""
    return processor._attention_backend


def is_plain_attention(attention: WanAttention, processor: WanAttnProcessor) -> bool:
    """Whether the module is a text-to-video model's on one device: no keys of an image, no fused projections, no context parallelism."""
    return attention.add_k_proj is None and not attention.fused_projections and processor._parallel_config is None


def float32_modules(transformer: torch.nn.Module) -> list[str]:
    """Parts of the names of those parameters that diffusers keeps in float32, whatever the model's dtype is."""
    return list(transformer._keep_in_fp32_modules or ())  # type: ignore[arg-type]


def compute_on(pipeline: Any, device: torch.device) -> None:
    """Have ``pipeline`` sample on ``device``, wherever its components are at the moment; diffusers takes the device of the first one."""
    kind = type(pipeline)
    members = {"_execution_device": property(lambda _: device), "__module__": kind.__module__, "__doc__": kind.__doc__}
    pipeline.__class__ = type(kind.__name__, (kind,), members)


def t5_embedding(pipeline: Any, prompt: str, *, max_tokens: int) -> torch.Tensor:
    """``WanPipeline``'s own embedding of one prompt, [tokens, width], before any of our code."""
    return pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=max_tokens)[0]


def ltx_normalised(vae: Any, latents_BCFHW: torch.Tensor) -> torch.Tensor:
    """Latents of LTX-Video's VAE as its transformer sees them."""
    return LTXPipeline._normalize_latents(latents_BCFHW, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


def ltx_denormalised(vae: Any, latents_BCFHW: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`ltx_normalised`."""
    return LTXPipeline._denormalize_latents(latents_BCFHW, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


def ltx_packed(pipeline: Any, latents_BCFHW: torch.Tensor) -> torch.Tensor:
    """Latents as LTX-Video's transformer takes them: [B, tokens, channels of a patch]."""
    patch, frame_patch = pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size
    return LTXPipeline._pack_latents(latents_BCFHW, patch, frame_patch)


def ltx_unpacked(pipeline: Any, tokens_BSD: torch.Tensor, shape_FHW: Sequence[int]) -> torch.Tensor:
    """The inverse of :func:`ltx_packed`; ``shape_FHW`` is that of the latents."""
    patch, frame_patch = pipeline.transformer_spatial_patch_size, pipeline.transformer_temporal_patch_size
    frames, height, width = shape_FHW
    return LTXPipeline._unpack_latents(tokens_BSD, frames // frame_patch, height // patch, width // patch, patch, frame_patch)


def cogvideox_rotary(pipeline: Any, shape_FHW: Sequence[int], spatial_stride: int, device: torch.device) -> Any:
    """CogVideoXPipeline's rotary embeddings (cos, sin) for latents of this shape; None for a model without them (2B)."""
    if not pipeline.transformer.config.use_rotary_positional_embeddings:
        return None
    frames, height, width = shape_FHW
    return pipeline._prepare_rotary_positional_embeddings(height * spatial_stride, width * spatial_stride, frames, device)
