"""LoRA adapters: the formula, what a fresh one is, files that other programs read and write, and adapters that do not belong."""

import json
import re
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from motive_pipeline.config import Lora
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.adapter import (
    active_dropout,
    adapter_layers,
    adapter_parameters,
    adapter_weights,
    add_adapter,
    load_adapter,
    write_adapter,
)
from motive_pipeline.models.adapter_file import LORA_FILE, adapter_file
from motive_pipeline.models.wan_lora import original_names
from tests.tiny_wan import build_model, build_pipeline

LORA = Lora(rank=3, alpha=6)


def predict(model, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    latents, prompt = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 8, 16, generator=generator)
    with torch.no_grad():
        return model.predict(latents, torch.tensor([500.0]), {"prompt_embeds": prompt})


def with_adapter(lora: Lora = LORA, *, seed: int = 0, trained: bool = True):
    """A tiny model with an adapter; ``trained``: whose B is no longer zero."""
    model = build_model()
    add_adapter(model.transformer, lora, seed)
    if trained:
        generator = torch.Generator().manual_seed(7)
        for name, parameter in adapter_parameters(model.transformer).items():
            if ".lora_B." in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model


def test_a_fresh_adapter_changes_no_bit_and_has_a_gradient_in_b_alone() -> None:
    model = with_adapter(trained=False)
    assert torch.equal(predict(model), predict(build_model()))
    generator = torch.Generator().manual_seed(0)
    latents, prompt = torch.randn(1, 16, 2, 4, 4, generator=generator), torch.randn(1, 8, 16, generator=generator)
    model.predict(latents, torch.tensor([500.0]), {"prompt_embeds": prompt}).square().sum().backward()
    lengths = {
        name: float(parameter.grad.norm())
        for name, parameter in adapter_parameters(model.transformer).items()
        if parameter.grad is not None
    }
    assert {value for name, value in lengths.items() if ".lora_A." in name} == {0.0}
    assert min(value for name, value in lengths.items() if ".lora_B." in name) > 0


def test_the_default_targets_are_attention_and_feed_forward_of_every_block() -> None:
    layers = adapter_layers(with_adapter().transformer)
    per_block = {f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.0")} | {"ffn.net.0.proj", "ffn.net.2"}
    assert layers.keys() == {f"blocks.{block}.{name}" for block in (0, 1) for name in per_block}


def test_a_layer_adds_scaled_b_a_x() -> None:
    plain, model = build_model(), with_adapter()
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(1))
    layer, base = adapter_layers(model.transformer)["blocks.1.attn1.to_q"], plain.transformer.blocks[1].attn1.to_q
    down, up = (dict(model.transformer.named_parameters())[f"blocks.1.attn1.to_q.lora_{factor}.default.weight"] for factor in "AB")
    torch.testing.assert_close(layer(x), base(x) + 2.0 * x @ down.T @ up.T)


def test_the_same_seed_gives_the_same_adapter_and_leaves_torchs_random_numbers_alone() -> None:
    transformer = build_model().transformer
    before = torch.random.get_rng_state()
    add_adapter(transformer, LORA, 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = adapter_weights(transformer)
    torch.manual_seed(99)
    again, other = (adapter_weights(with_adapter(seed=seed, trained=False).transformer) for seed in (1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["transformer.blocks.0.attn1.to_q.lora_A.weight"], other["transformer.blocks.0.attn1.to_q.lora_A.weight"])


def test_factors_are_float32_in_a_bfloat16_model() -> None:
    model = build_model()
    model.transformer.bfloat16()
    add_adapter(model.transformer, LORA, 0)
    assert {parameter.dtype for parameter in adapter_parameters(model.transformer).values()} == {torch.float32}


def test_dropout_is_active_only_where_asked_and_depends_on_the_seed_alone() -> None:
    model = with_adapter(Lora(rank=3, dropout=0.5))
    calm = predict(model)
    assert torch.equal(predict(model), calm)
    dropped = []
    for seed in (1, 1, 2):
        torch.rand(seed)
        with active_dropout(model.transformer, seed):
            dropped.append(predict(model))
    assert torch.equal(dropped[0], dropped[1])
    assert not torch.equal(dropped[0], dropped[2])
    assert not torch.equal(dropped[0], calm)
    assert torch.equal(predict(model), calm)


def test_diffusers_loads_what_is_written(tmp_path: Path) -> None:
    model = with_adapter()
    write_adapter(adapter_weights(model.transformer), tmp_path / LORA_FILE)
    pipeline = build_pipeline()
    pipeline.load_lora_weights(tmp_path)
    loaded = build_model()
    load_adapter(loaded.transformer, tmp_path / LORA_FILE, pipeline="WanPipeline", what="model.adapter")
    by_diffusers = build_model()
    by_diffusers.transformer = pipeline.transformer
    torch.testing.assert_close(predict(loaded), predict(by_diffusers))
    torch.testing.assert_close(predict(loaded), predict(model))
    assert not torch.allclose(predict(loaded), predict(build_model()))


def test_what_diffusers_writes_is_loaded_with_its_alpha(tmp_path: Path) -> None:
    model = with_adapter()  # alpha is twice the rank
    model.transformer.save_lora_adapter(tmp_path)
    saved = load_file(tmp_path / LORA_FILE)
    with safe_open(tmp_path / LORA_FILE, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    WanPipeline.save_lora_weights(tmp_path / "pipeline", transformer_lora_layers=saved, transformer_lora_adapter_metadata=settings)
    loaded = build_model()
    load_adapter(loaded.transformer, tmp_path / "pipeline" / LORA_FILE, pipeline="WanPipeline", what="model.adapter")
    assert torch.equal(predict(loaded), predict(model))


def test_names_of_the_original_code_are_those_that_diffusers_reads_back(tmp_path: Path) -> None:
    weights = adapter_weights(with_adapter().transformer)
    original = original_names(weights)
    assert "diffusion_model.blocks.0.self_attn.q.lora_A.weight" in original
    back = _convert_non_diffusers_wan_lora_to_diffusers(dict(original))
    assert back.keys() == weights.keys()
    assert all(torch.equal(back[name], weights[name]) for name in weights)
    write_adapter(original, tmp_path / "comfyui.safetensors")
    loaded = build_model()
    load_adapter(loaded.transformer, tmp_path / "comfyui.safetensors", pipeline="WanPipeline", what="model.adapter")
    torch.testing.assert_close(predict(loaded), predict(with_adapter()))


def test_musubi_tuners_format_is_loaded(tmp_path: Path) -> None:
    """musubi-tuner: ``lora_unet_<layer with underscores>.lora_down|lora_up.weight``, and an alpha for each layer."""
    renamed = {}
    for name, tensor in original_names(adapter_weights(with_adapter().transformer)).items():
        layer, factor = name.removeprefix("diffusion_model.").split(".lora_")
        key = "lora_unet_" + layer.replace(".", "_")
        renamed[f"{key}.lora_{'down' if factor.startswith('A') else 'up'}.weight"] = tensor
        renamed[f"{key}.alpha"] = torch.tensor(3.0)
    save_file(renamed, tmp_path / "musubi.safetensors")
    loaded = build_model()
    load_adapter(loaded.transformer, tmp_path / "musubi.safetensors", pipeline="WanPipeline", what="model.adapter")
    torch.testing.assert_close(predict(loaded), predict(with_adapter()))


def test_diffsynths_format_is_loaded(tmp_path: Path) -> None:
    """DiffSynth-Studio with --remove_prefix_in_ckpt pipe.dit.: names of the original code without a prefix, and peft's name of the adapter."""
    original = original_names(adapter_weights(with_adapter().transformer))
    renamed = {name.removeprefix("diffusion_model.").replace(".weight", ".default.weight"): tensor for name, tensor in original.items()}
    assert "blocks.0.self_attn.q.lora_A.default.weight" in renamed
    save_file(renamed, tmp_path / "diffsynth.safetensors")
    loaded = build_model()
    load_adapter(loaded.transformer, tmp_path / "diffsynth.safetensors", pipeline="WanPipeline", what="model.adapter")
    torch.testing.assert_close(predict(loaded), predict(with_adapter()))


def test_targets_that_match_nothing_are_refused_with_examples() -> None:
    with pytest.raises(
        MotiveError,
        match=r"finetune.lora.targets = 'to_x' matches .* none of the model's \d+ Linear layers, such as .*blocks\.0\.attn1\.to_k",
    ):
        add_adapter(build_model().transformer, Lora(targets="to_x"), 0)


def test_a_target_is_a_whole_name() -> None:
    model = build_model()
    add_adapter(model.transformer, Lora(targets=r"blocks\.1\.ffn\.net\.2"), 0)
    assert list(adapter_layers(model.transformer)) == ["blocks.1.ffn.net.2"]


def test_the_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    write_adapter(adapter_weights(with_adapter().transformer), tmp_path / LORA_FILE)
    wider, shallower = build_model(heads=4), build_model(num_layers=1)
    for other, why in ((wider, r"has the shape \[3, 24\], and the layer 48 inputs"), (shallower, r"there is no Linear layer blocks\.1")):
        with pytest.raises(MotiveError, match=rf"model.adapter = .* is the LoRA of another model.*{why}"):
            load_adapter(other.transformer, tmp_path / LORA_FILE, pipeline="WanPipeline", what="model.adapter")
        assert not adapter_layers(other.transformer)


def test_a_file_that_is_no_adapter_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    save_file({"weight": torch.ones(2)}, tmp_path / "plain.safetensors")
    for name, why in (("cut.safetensors", "cannot be read as a LoRA"), ("plain.safetensors", "holds no LoRA for a transformer")):
        with pytest.raises(MotiveError, match=re.escape(name) + ".*" + why):
            load_adapter(build_model().transformer, tmp_path / name, pipeline="WanPipeline", what="model.adapter")


def test_a_folder_names_its_adapter(tmp_path: Path) -> None:
    with pytest.raises(MotiveError, match=r"model.adapter = .*no such file or folder"):
        adapter_file(tmp_path / "absent")
    with pytest.raises(MotiveError, match="0 safetensors files"):
        adapter_file(tmp_path)
    (tmp_path / "one.safetensors").touch()
    assert adapter_file(tmp_path) == tmp_path / "one.safetensors"
    (tmp_path / "two.safetensors").touch()
    with pytest.raises(MotiveError, match="2 safetensors files.*" + LORA_FILE):
        adapter_file(tmp_path)
    (tmp_path / LORA_FILE).touch()
    assert adapter_file(tmp_path) == tmp_path / LORA_FILE
