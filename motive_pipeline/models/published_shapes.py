"""Shapes of released models by hub id, from their public config files, so that memory and time can be told before anything is downloaded."""

from __future__ import annotations

from motive_pipeline.models.shapes import DenoiserShape, ModelShape, VaeShape

UMT5_XXL_PARAMETERS = 5_680_910_336
"""The text encoder of Wan 2.1 and 2.2 (google/umt5-xxl, encoder alone)."""

VAE_2_1 = VaeShape(parameters=126_892_531, encoder_width=96, decoder_width=96, patch=1, channels=16, temporal_stride=4, spatial_stride=8)
VAE_2_2 = VaeShape(parameters=704_688_668, encoder_width=160, decoder_width=256, patch=2, channels=48, temporal_stride=4, spatial_stride=16)


def wan_denoiser(*, num_layers: int, heads: int, ffn: int, channels: int = 16, token_timesteps: bool = False) -> DenoiserShape:
    """A Wan transformer with heads of 128, text of 4096 and patches of 1 x 2 x 2, counted as diffusers builds it."""
    width, text_dim, frequencies, patch = 128 * heads, 4096, 256, (1, 2, 2)
    inner = [(f"attn{number}.{name}", width, width) for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    inner += [("ffn.net.0.proj", ffn, width), ("ffn.net.2", width, ffn)]
    outer = [
        ("condition_embedder.time_embedder.linear_1", width, frequencies),
        ("condition_embedder.time_embedder.linear_2", width, width),
        ("condition_embedder.time_proj", 6 * width, width),
        ("condition_embedder.text_embedder.linear_1", width, text_dim),
        ("condition_embedder.text_embedder.linear_2", width, width),
        ("proj_out", 4 * channels, width),
    ]
    linears = [(f"blocks.{layer}.{name}", rows, columns) for layer in range(num_layers) for name, rows, columns in inner] + outer
    norms_and_tables = num_layers * (4 + 2 + 6) * width + 2 * width
    patch_embedding = width * channels * 4 + width
    return DenoiserShape(
        num_layers=num_layers,
        width=width,
        ffn=ffn,
        text_dim=text_dim,
        patch=patch,
        parameters=sum(rows * columns + rows for _, rows, columns in linears) + norms_and_tables + patch_embedding,
        largest=width * max(ffn, 6 * width),
        token_timesteps=token_timesteps,
        linears=tuple(linears),
    )


def _wan(denoiser: DenoiserShape, vae: VaeShape = VAE_2_1, experts: int = 1) -> ModelShape:
    return ModelShape(denoiser=denoiser, vae=vae, text_parameters=UMT5_XXL_PARAMETERS, experts=experts)


WAN_1_3B = wan_denoiser(num_layers=30, heads=12, ffn=8960)
WAN_14B = wan_denoiser(num_layers=40, heads=40, ffn=13824)
WAN_5B = wan_denoiser(num_layers=30, heads=24, ffn=14336, channels=48, token_timesteps=True)

PUBLISHED: dict[str, ModelShape] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _wan(WAN_1_3B),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _wan(WAN_14B),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": _wan(WAN_5B, VAE_2_2),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": _wan(WAN_14B, experts=2),
}
"""By hub id."""
