"""Shapes of released models by hub id, from their public config files, so that memory and time can be told before anything is downloaded."""

from __future__ import annotations

from motive_pipeline.models.shapes import DenoiserShape, ModelShape, VaeShape

UMT5_XXL_PARAMETERS = 5_680_910_336
"""The text encoder of Wan 2.1 and 2.2 (google/umt5-xxl, encoder alone)."""

CLIP_VIT_H_PARAMETERS = 630_766_080
"""The image encoder of Wan 2.1 I2V (CLIP ViT-H/14, the vision model)."""

VAE_2_1 = VaeShape(parameters=126_892_531, encoder_width=96, decoder_width=96, patch=1, channels=16, temporal_stride=4, spatial_stride=8)
VAE_2_2 = VaeShape(parameters=704_688_668, encoder_width=160, decoder_width=256, patch=2, channels=48, temporal_stride=4, spatial_stride=16)


def wan_denoiser(
    *,
    num_layers: int,
    heads: int,
    ffn: int,
    channels: int = 16,
    in_channels: int | None = None,
    image_dim: int | None = None,
    token_timesteps: bool = False,
) -> DenoiserShape:
    """A Wan transformer with heads of 128, text of 4096 and patches of 1 x 2 x 2, counted as diffusers builds it. Image-to-video ones have more
    ``in_channels`` than they give, and may take image embeddings ``image_dim`` wide."""
    width, text_dim, frequencies, patch = 128 * heads, 4096, 256, (1, 2, 2)
    inner = [(f"attn{number}.{name}", width, width) for number in (1, 2) for name in ("to_q", "to_k", "to_v", "to_out.0")]
    inner += [("ffn.net.0.proj", ffn, width), ("ffn.net.2", width, ffn)]
    embedder: list[tuple[str, int, int]] = []
    image_norms = 0
    if image_dim is not None:
        inner += [("attn2.add_k_proj", width, width), ("attn2.add_v_proj", width, width)]
        name = "condition_embedder.image_embedder.ff.net"
        embedder = [(f"{name}.0.proj", image_dim, image_dim), (f"{name}.2", width, image_dim)]
        image_norms = num_layers * width + 2 * image_dim + 2 * width
    outer = [
        *embedder,
        ("condition_embedder.time_embedder.linear_1", width, frequencies),
        ("condition_embedder.time_embedder.linear_2", width, width),
        ("condition_embedder.time_proj", 6 * width, width),
        ("condition_embedder.text_embedder.linear_1", width, text_dim),
        ("condition_embedder.text_embedder.linear_2", width, width),
        ("proj_out", 4 * channels, width),
    ]
    linears = [(f"blocks.{layer}.{name}", rows, columns) for layer in range(num_layers) for name, rows, columns in inner] + outer
    norms_and_tables = num_layers * (4 + 2 + 6) * width + 2 * width + image_norms
    patch_embedding = width * (in_channels or channels) * 4 + width
    return DenoiserShape(
        num_layers=num_layers,
        width=width,
        ffn=ffn,
        text_dim=text_dim,
        patch=patch,
        parameters=sum(rows * columns + rows for _, rows, columns in linears) + norms_and_tables + patch_embedding,
        largest=width * max(ffn, 6 * width),
        token_timesteps=token_timesteps,
        takes_image=image_dim is not None,
        linears=tuple(linears),
    )


def _wan(denoiser: DenoiserShape, vae: VaeShape = VAE_2_1, experts: int = 1, *, from_frame: bool = False) -> ModelShape:
    image_parameters = CLIP_VIT_H_PARAMETERS if denoiser.takes_image else 0
    return ModelShape(
        denoiser=denoiser,
        vae=vae,
        text_parameters=UMT5_XXL_PARAMETERS,
        image_parameters=image_parameters,
        experts=experts,
        starts_from_frame=from_frame,
    )


WAN_1_3B = wan_denoiser(num_layers=30, heads=12, ffn=8960)
WAN_14B = wan_denoiser(num_layers=40, heads=40, ffn=13824)
WAN_14B_I2V = wan_denoiser(num_layers=40, heads=40, ffn=13824, in_channels=36)
WAN_14B_I2V_2_1 = wan_denoiser(num_layers=40, heads=40, ffn=13824, in_channels=36, image_dim=1280)
WAN_5B = wan_denoiser(num_layers=30, heads=24, ffn=14336, channels=48, token_timesteps=True)

PUBLISHED: dict[str, ModelShape] = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": _wan(WAN_1_3B),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": _wan(WAN_14B),
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": _wan(WAN_5B, VAE_2_2),
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": _wan(WAN_14B, experts=2),
    "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers": _wan(WAN_14B_I2V_2_1, from_frame=True),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": _wan(WAN_14B_I2V_2_1, from_frame=True),
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": _wan(WAN_14B_I2V, experts=2, from_frame=True),
}
"""By hub id."""
