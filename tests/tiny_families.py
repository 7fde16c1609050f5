"""Random LTX-Video and CogVideoX pipelines small enough for unit tests, in diffusers' own layout, each built in a few seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel

from motive_pipeline.models.cogvideox import CogVideoXModel
from motive_pipeline.models.ltx import LTXModel
from tests.tiny_wan import WORDS, build_tokenizer

COG_TOKENS = 12
SETTINGS: dict[str, Any] = {"device": torch.device("cpu"), "compute_dtype": torch.float32}


def build_ltx(*, timestep_conditioning: bool = False) -> LTXPipeline:
    """An LTXPipeline with random weights: 8x32x32 VAE with 4 channels, a transformer 24 wide, 16-wide text encoder."""
    vae = AutoencoderKLLTXVideo(
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1, 1, 1, 1, 1),
        decoder_layers_per_block=(1, 1, 1, 1, 1),
        timestep_conditioning=timestep_conditioning,
        decoder_inject_noise=(timestep_conditioning,) * 5,
    )
    vae.latents_mean.copy_(torch.linspace(-0.3, 0.3, 4))
    vae.latents_std.copy_(torch.linspace(0.8, 1.2, 4))
    transformer = LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=12,
        cross_attention_dim=24,
        caption_channels=16,
        num_layers=2,
    )
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, shift_terminal=0.1)
    return LTXPipeline(scheduler=scheduler, vae=vae.eval(), **_prompts(), transformer=transformer.eval())


def build_cogvideox(*, rotary: bool = True) -> CogVideoXPipeline:
    """A CogVideoXPipeline with random weights: 4x8x8 VAE with 16 channels, a transformer 32 wide, with rotary embeddings as 5B or without as 2B."""
    vae = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=2,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        max_text_seq_length=COG_TOKENS,
        use_rotary_positional_embeddings=rotary,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing", snr_shift_scale=1.0, clip_sample=False
    )
    return CogVideoXPipeline(scheduler=scheduler, vae=vae.eval(), **_prompts(), transformer=transformer.eval())


def ltx_model(*, frame_rate: float = 8.0, **pipeline: Any) -> LTXModel:
    """An :class:`LTXModel` in float32 on the CPU over :func:`build_ltx`."""
    return LTXModel(seeded(build_ltx, **pipeline), max_prompt_tokens=8, frame_rate=frame_rate, **SETTINGS)


def cogvideox_model(**pipeline: Any) -> CogVideoXModel:
    """A :class:`CogVideoXModel` in float32 on the CPU over :func:`build_cogvideox`."""
    return CogVideoXModel(seeded(build_cogvideox, **pipeline), max_prompt_tokens=COG_TOKENS, **SETTINGS)


def save_tiny(build: Callable[..., Any], folder: Path) -> Path:
    """The pipeline of ``build`` saved at ``folder``, as a user's own model would be."""
    seeded(build).save_pretrained(folder)
    return folder


def seeded(build: Callable[..., Any], **pipeline: Any) -> Any:
    """What ``build`` gives with the random weights of seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(**pipeline)


def _prompts() -> dict[str, Any]:
    """A T5 text encoder and its tokenizer."""
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=4 + len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )
    return {"tokenizer": build_tokenizer(), "text_encoder": text_encoder.eval()}
