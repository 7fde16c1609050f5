"""A LoRA of Wan under the names of the original code, which ComfyUI reads and musubi-tuner's converter takes as its format `other`.

diffusers renamed the layers of the original code; ``diffusers.loaders.lora_conversion_utils`` has the way back, which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from motive_pipeline.errors import MotiveError

_IN_BLOCK = {
    "attn1.to_q": "self_attn.q",
    "attn1.to_k": "self_attn.k",
    "attn1.to_v": "self_attn.v",
    "attn1.to_out.0": "self_attn.o",
    "attn2.to_q": "cross_attn.q",
    "attn2.to_k": "cross_attn.k",
    "attn2.to_v": "cross_attn.v",
    "attn2.to_out.0": "cross_attn.o",
    "attn2.add_k_proj": "cross_attn.k_img",
    "attn2.add_v_proj": "cross_attn.v_img",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
}
_OUTSIDE = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.image_embedder.ff.net.0.proj": "img_emb.proj.1",
    "condition_embedder.image_embedder.ff.net.2": "img_emb.proj.3",
    "proj_out": "head.head",
}


def original_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``weights`` of a LoRA in diffusers' format, ``transformer.<layer>.lora_A.weight``, as ``diffusion_model.<layer>.lora_A.weight``.

    Raises:
        MotiveError: a layer has no name in the original code.
    """
    return {_original_name(name): tensor for name, tensor in weights.items()}


def _original_name(name: str) -> str:
    layer, factor = name.removeprefix("transformer.").split(".lora_")
    parts = layer.split(".", 2)
    if parts[0] == "blocks" and (original := _IN_BLOCK.get(parts[2])):
        return f"diffusion_model.blocks.{parts[1]}.{original}.lora_{factor}"
    if layer in _OUTSIDE:
        return f"diffusion_model.{_OUTSIDE[layer]}.lora_{factor}"
    raise MotiveError(f"the layer {layer} of a Wan transformer has no name in the original code")
