"""The shape of a model, from its config files and the headers of its weights, or from a table for models that are not at hand.

No weights are read and nothing is downloaded. Importing this imports no torch.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from motive_pipeline import config
from motive_pipeline.bucket.address import address_of
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.models.bucket_folder import copied_model
from motive_pipeline.models.folder import TINY, model_family
from motive_pipeline.models.published_shapes import PUBLISHED
from motive_pipeline.models.shapes import DenoiserShape, ModelShape, VaeShape
from motive_pipeline.models.whole import Flaw, StoredTensor, read_json, stored_tensors

COMPARED = ("WanPipeline", "WanImageToVideoPipeline")
"""The families whose memory is predicted. Text-to-video was compared with measured peaks (``python -m benchmarks.memory``), image-to-video only in what a
block saves (``tests/models/test_memory.py``)."""


def model_shape(model: config.Model) -> ModelShape | None:
    """The shape of the configured model: from its files if they are on this machine, else from the published ones; None if neither is known, or if it is of a
    family whose memory is not predicted."""
    folder = local_folder(model)
    if folder is None:
        return PUBLISHED.get(model.path)
    try:
        return shape_of_folder(folder, model.expert) if model_family(folder, "model.path").pipeline in COMPARED else None
    except (
        MotiveError,
        Flaw,
        KeyError,
        OSError,
        TypeError,
        ValueError,
    ):  # not whole, or other keys: nothing is predicted, and loading it says why
        return None


def local_folder(model: config.Model) -> Path | None:
    """The model's folder, if it need not be downloaded."""
    from huggingface_hub import try_to_load_from_cache

    if model.path == "tiny":
        return TINY
    if (address := address_of(model.path)) is not None:
        return copied_model(address, model.cache)
    if Path(model.path).is_dir():
        return Path(model.path)
    if Path(model.path).is_absolute() or model.path.count("/") != 1:
        return None
    index = try_to_load_from_cache(model.path, "model_index.json", revision=model.revision)
    return Path(index).parent if isinstance(index, str) else None


def shape_of_folder(folder: Path, expert: str = "transformer") -> ModelShape:
    """The shape of the model at ``folder``.

    Raises:
        Flaw: a component is not whole.
        KeyError: a config has other keys than those that are known here.
    """
    family, index = model_family(folder, "model.path"), read_json(folder / "model_index.json")
    vae, denoiser = read_json(folder / "vae" / "config.json"), read_json(folder / expert / "config.json")
    tensors, grid = stored_tensors(folder / expert, "diffusers"), resolve_dotted(family.rules)(vae, denoiser).grid
    image_encoder = folder / "image_encoder"
    first = vae["base_dim"] if "base_dim" in vae else vae["block_out_channels"][0]
    return ModelShape(
        denoiser=_denoiser(denoiser, tensors, token_timesteps=bool(index.get("expand_timesteps", False))),
        vae=VaeShape(
            parameters=_count(stored_tensors(folder / "vae", "diffusers")),
            encoder_width=first,
            decoder_width=vae.get("decoder_base_dim") or first,
            patch=vae.get("patch_size") or 1,
            channels=grid.channels,
            temporal_stride=grid.temporal_stride,
            spatial_stride=grid.spatial_stride,
        ),
        text_parameters=_count(stored_tensors(folder / "text_encoder", "transformers")),
        image_parameters=_count(stored_tensors(image_encoder, "transformers")) if image_encoder.is_dir() else 0,
        starts_from_frame=denoiser.get("in_channels", grid.channels) != grid.channels,
        experts=1 + (index.get("transformer_2", [None])[0] is not None),
    )


def _denoiser(settings: dict[str, Any], tensors: dict[str, StoredTensor], *, token_timesteps: bool) -> DenoiserShape:
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    patch = settings["patch_size"]
    return DenoiserShape(
        num_layers=settings["num_layers"],
        width=width,
        ffn=settings.get("ffn_dim") or 4 * width,
        text_dim=settings.get("text_dim") or settings.get("caption_channels") or settings["text_embed_dim"],
        patch=tuple(patch) if isinstance(patch, list) else (settings.get("patch_size_t") or 1, patch, patch),
        parameters=_count(tensors),
        largest=max(math.prod(tensor.shape) for tensor in tensors.values()),
        token_timesteps=token_timesteps,
        takes_image=settings.get("image_dim") is not None,
        file_bytes=sum(file.stat().st_size for file in {tensor.file for tensor in tensors.values()}),
        linears=tuple(
            (name.removesuffix(".weight"), *tensor.shape)
            for name, tensor in tensors.items()
            if name.endswith(".weight") and len(tensor.shape) == 2
        ),
    )


def _count(tensors: dict[str, StoredTensor]) -> int:
    return sum(math.prod(tensor.shape) for tensor in tensors.values())
