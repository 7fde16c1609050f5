"""The published sizes of LTX-Video and CogVideoX on the meta device: parameters, tokens and shapes, without memory for weights."""

import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    LTXPipeline,
    LTXVideoTransformer3DModel,
)

from motive_pipeline.models.cogvideox import CogVideoXModel
from motive_pipeline.models.ltx import LTXModel
from tests.tiny_families import build_cogvideox, build_ltx

META = torch.device("meta")
SETTINGS = {"device": META, "compute_dtype": torch.bfloat16}

COGVIDEOX_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
"""transformer/config.json of CogVideoX-5b where it differs from diffusers' defaults, which are those of CogVideoX-2b."""


def ltx_2b() -> LTXModel:
    """LTX-Video 2B: diffusers' defaults."""
    tiny = build_ltx()
    with META:
        parts = {"vae": AutoencoderKLLTXVideo(), "transformer": LTXVideoTransformer3DModel().to(torch.bfloat16)}
    pipeline = LTXPipeline(scheduler=tiny.scheduler, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer, **parts)
    return LTXModel(pipeline, max_prompt_tokens=128, frame_rate=25.0, **SETTINGS)


def cogvideox(**transformer) -> CogVideoXModel:
    tiny = build_cogvideox()
    with META:
        parts = {"vae": AutoencoderKLCogVideoX(), "transformer": CogVideoXTransformer3DModel(**transformer).to(torch.bfloat16)}
    pipeline = CogVideoXPipeline(scheduler=tiny.scheduler, text_encoder=tiny.text_encoder, tokenizer=tiny.tokenizer, **parts)
    return CogVideoXModel(pipeline, max_prompt_tokens=226, **SETTINGS)


@pytest.mark.parametrize(
    ("build", "clip", "latents", "num_tokens", "num_parameters"),
    [
        pytest.param(ltx_2b, (161, 512, 704), (128, 21, 16, 22), 21 * 16 * 22, 1_923_385_472, id="LTX-Video 2B"),
        pytest.param(cogvideox, (49, 480, 720), (16, 13, 60, 90), 13 * 30 * 45, 1_693_783_872, id="CogVideoX 2B"),
        pytest.param(lambda: cogvideox(**COGVIDEOX_5B), (49, 480, 720), (16, 13, 60, 90), 13 * 30 * 45, 5_570_283_072, id="CogVideoX 5B"),
    ],
)
def test_the_published_sizes_take_the_same_path(build, clip, latents, num_tokens, num_parameters):
    model = build()
    assert sum(parameter.numel() for parameter in model.transformer.parameters()) == num_parameters
    assert model.grid.shape(*clip) == latents
    frames, height, width = clip
    encoded = model.pipeline.vae.encoder(torch.empty(1, 3, min(frames, 9), height, width, device=META))
    encoded = encoded[0] if isinstance(encoded, tuple) else encoded
    assert encoded.shape[3:] == latents[2:]
    seen: list[tuple[int, ...]] = []
    block = model.transformer.transformer_blocks[0]
    block.register_forward_pre_hook(lambda _, __, given: seen.append(given["hidden_states"].shape), with_kwargs=True)
    told = {
        "prompt_embeds": torch.empty(1, model.max_prompt_tokens, 4096, device=META),
        "prompt_attention_mask": torch.empty(1, model.max_prompt_tokens, dtype=torch.bool, device=META),
        "frame_rate": torch.empty(1, device=META),
    }
    with torch.no_grad():
        output = model.predict(torch.empty(1, *latents, device=META), torch.empty(1, device=META), told)
    assert output.shape == (1, *latents)
    assert seen[0][1] == num_tokens
