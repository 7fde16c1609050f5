"""Random image-to-video models of Wan in the layout of the released ones, small enough for unit tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import WanImageToVideoPipeline, WanPipeline  # pyright: ignore[reportPrivateImportUsage]
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel

from motive_pipeline.models.wan_image import WanImageModel
from tests.tiny_wan import build_pipeline, build_transformer

Kind = Literal["wan2.1", "a14b", "ti2v"]
KINDS: tuple[Kind, ...] = ("wan2.1", "a14b", "ti2v")
TOKENS = 512
"""The prompt tokens of all: Wan 2.1 takes no other number."""
SIZE = {"num_layers": 2, "heads": 2, "head_dim": 12, "ffn_dim": 48}


def build_image_pipeline(kind: Kind) -> WanImageToVideoPipeline:
    """``wan2.1`` has an image encoder, ``a14b`` two experts, ``ti2v`` a timestep for each token."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        base = build_pipeline(**SIZE)
        parts: dict[str, Any] = {name: getattr(base, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
        if kind == "ti2v":
            return WanImageToVideoPipeline(**parts, transformer=base.transformer, expand_timesteps=True)
        if kind == "a14b":
            experts = [build_transformer(**SIZE, in_channels=36) for _ in range(2)]
            return WanImageToVideoPipeline(**parts, transformer=experts[0], transformer_2=experts[1], boundary_ratio=0.9)
        return WanImageToVideoPipeline(**parts, **_image_encoder(), transformer=build_transformer(**SIZE, in_channels=36, image_dim=16))


def image_model(kind: Kind, expert: Literal["transformer", "transformer_2"] = "transformer") -> WanImageModel:
    """A :class:`WanImageModel` in float32 on the CPU over :func:`build_image_pipeline`."""
    return WanImageModel(
        build_image_pipeline(kind), expert=expert, device=torch.device("cpu"), compute_dtype=torch.float32, max_prompt_tokens=TOKENS
    )


def save_image_model(kind: Kind, folder: Path) -> Path:
    """:func:`build_image_pipeline` saved at ``folder``. As released, TI2V's folder names the text-to-video pipeline."""
    pipeline = build_image_pipeline(kind)
    if kind == "ti2v":
        parts = {name: getattr(pipeline, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler", "transformer")}
        WanPipeline(**parts, expand_timesteps=True).save_pretrained(folder)
    else:
        pipeline.save_pretrained(folder)
    return folder


def _image_encoder() -> dict[str, Any]:
    """A CLIP vision model 16 wide that reads squares of 28 pixels."""
    settings = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14, projection_dim=16
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return {"image_encoder": CLIPVisionModel(settings).eval(), "image_processor": processor}
