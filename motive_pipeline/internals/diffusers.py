"""Undocumented parts of diffusers: the Wan transformer's attention processor, pieces of the Wan VAE, and private attributes."""

from __future__ import annotations

from typing import Any

import torch
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
    "dispatch_attention_fn",
    "float32_modules",
    "is_plain_attention",
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


def t5_embedding(pipeline: Any, prompt: str, *, max_tokens: int) -> torch.Tensor:
    """``WanPipeline``'s own embedding of one prompt, [tokens, width], before any of our code."""
    return pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=max_tokens)[0]
