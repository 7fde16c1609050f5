"""Loads a Wan model for its task: :class:`~motive_pipeline.models.wan.WanModel`, or :class:`~motive_pipeline.models.wan_image.WanImageModel`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline  # pyright: ignore[reportPrivateImportUsage]

from motive_pipeline.models.diffusers_model import load_pipeline
from motive_pipeline.models.tasks import Task
from motive_pipeline.models.wan import Expert, WanModel


def load_wan(
    folder: Path,
    *,
    expert: Expert,
    device: torch.device,
    compute_dtype: torch.dtype,
    max_prompt_tokens: int,
    shared: Mapping[str, Any] | None = None,
    task: Task = "text_to_video",
) -> WanModel:
    """The pipeline at ``folder`` for ``task``; its VAE and image encoder always compute in float32, as diffusers advises for Wan. ``shared`` components
    are not loaded."""
    is_image = task == "image_to_video"
    pipeline_class, kind = WanPipeline, WanModel
    if is_image:  # diffusers' class imports a CLIP processor, which tells everybody without torchvision so
        from diffusers import WanImageToVideoPipeline  # pyright: ignore[reportPrivateImportUsage]

        from motive_pipeline.models.wan_image import WanImageModel

        pipeline_class, kind = WanImageToVideoPipeline, WanImageModel
    pipeline = load_pipeline(pipeline_class, folder, compute_dtype=compute_dtype, shared=shared)
    return kind(pipeline, expert=expert, device=device, compute_dtype=compute_dtype, max_prompt_tokens=max_prompt_tokens, source=folder)
