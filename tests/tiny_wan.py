"""A random WanPipeline small enough for unit tests, in diffusers' own layout, built in under a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from motive_pipeline.models.wan import WanModel

WORDS = ("a", "red", "blue", "circle", "square", "moves", "left", "right", "grows", "&")


def build_pipeline(
    *, seed: int = 0, num_layers: int = 2, heads: int = 2, head_dim: int = 12, ffn_dim: int = 48, latent_channels: int = 16, **pipeline: Any
) -> WanPipeline:
    """A WanPipeline with random weights: 8x8x4 VAE, a transformer ``heads * head_dim`` wide, 16-wide text encoder."""
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=latent_channels,
        dim_mult=[1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.1 * k for k in range(latent_channels)],
        latents_std=[1.0 + 0.05 * k for k in range(latent_channels)],
    )
    transformer = build_transformer(
        num_layers=num_layers, heads=heads, head_dim=head_dim, ffn_dim=ffn_dim, latent_channels=latent_channels, text_dim=16
    )
    text_encoder = UMT5EncoderModel(UMT5Config(vocab_size=4 + len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2))
    torch.random.set_rng_state(generator_state)
    components = {"scheduler": UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0), **pipeline}
    return WanPipeline(tokenizer=build_tokenizer(), text_encoder=text_encoder.eval(), vae=vae.eval(), transformer=transformer, **components)


def build_transformer(
    *,
    num_layers: int,
    heads: int,
    head_dim: int,
    ffn_dim: int,
    latent_channels: int = 16,
    text_dim: int = 16,
    in_channels: int | None = None,
    image_dim: int | None = None,
) -> WanTransformer3DModel:
    """A random denoiser with the default initialisation, in eval mode. Image-to-video models take more ``in_channels`` than they give."""
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=heads,
        attention_head_dim=head_dim,
        in_channels=in_channels or latent_channels,
        out_channels=latent_channels,
        text_dim=text_dim,
        freq_dim=32,
        ffn_dim=ffn_dim,
        num_layers=num_layers,
        rope_max_seq_len=64,
        image_dim=image_dim,
        added_kv_proj_dim=None if image_dim is None else heads * head_dim,
    ).eval()


def build_tokenizer() -> T5TokenizerFast:
    """A T5 tokenizer that knows ``WORDS``; any other word is unknown."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -9.0), *((f"▁{word}", -1.0) for word in WORDS)]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0)


def build_model(*, max_prompt_tokens: int = 8, **pipeline: Any) -> WanModel:
    """A :class:`WanModel` in float32 on the CPU over :func:`build_pipeline`."""
    return WanModel(
        build_pipeline(**pipeline), device=torch.device("cpu"), compute_dtype=torch.float32, max_prompt_tokens=max_prompt_tokens
    )


def save_tiny_wan(folder: Path, **pipeline: Any) -> Path:
    """:func:`build_pipeline` saved at ``folder``, as a user's own model would be."""
    build_pipeline(**pipeline).save_pretrained(folder)
    return folder
