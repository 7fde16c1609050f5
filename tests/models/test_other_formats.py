"""Single-file checkpoints and adapters as ``model.path``: refused, with a command that works."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import WanPipeline
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from motive_pipeline.config import Model
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.folder import model_folder
from motive_pipeline.models.load import load_model

ORIGINAL_NAMES = (
    ("condition_embedder.time_embedder.linear_1", "time_embedding.0"),
    ("condition_embedder.time_embedder.linear_2", "time_embedding.2"),
    ("condition_embedder.text_embedder.linear_1", "text_embedding.0"),
    ("condition_embedder.text_embedder.linear_2", "text_embedding.2"),
    ("condition_embedder.time_proj", "time_projection.1"),
    ("attn1", "self_attn"),
    ("attn2", "cross_attn"),
    ("to_out.0", "o"),
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
    (".norm2.", ".norm3."),
    ("proj_out", "head.head"),
)
"""diffusers' name of a part of Wan's transformer -> that of the original repository."""


def refusal(path: Path) -> str:
    with pytest.raises(MotiveError) as refused:
        model_folder(settings(path))
    return str(refused.value)


def settings(path: Path) -> Model:
    return Model(path=str(path), dtype="float32", device="cpu", max_prompt_tokens=8)


def convert(message: str, base: Path, folder: Path) -> Path:
    """Run the command of ``message`` (in this process: importing diffusers once is enough)."""
    program, option, script = shlex.split(message.splitlines()[-1])
    assert (program, option) == ("python", "-c")
    exec(script.replace("'BASE'", repr(str(base))).replace("'FOLDER'", repr(str(folder))), {})
    return folder


def output_of(folder: Path) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    latents, prompt = torch.randn(1, 16, 2, 4, 4, generator=random), torch.randn(1, 8, 16, generator=random)
    with torch.no_grad():
        return load_model(settings(folder), threads=1, path=folder).predict(latents, torch.tensor([500.0]), {"prompt_embeds": prompt})


def original_name(name: str) -> str:
    if name == "scale_shift_table":
        return "head.modulation"
    for ours, theirs in ORIGINAL_NAMES:
        name = name.replace(ours, theirs)
    return name.replace("scale_shift_table", "modulation")


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_single_file_checkpoint_is_converted_by_the_command_of_the_message(tiny_model, tmp_path, prefix):
    weights = load_file(tiny_model / "transformer/diffusion_pytorch_model.safetensors")
    file = tmp_path / "it's wan.safetensors"
    save_file({prefix + original_name(name): tensor + 0.01 for name, tensor in weights.items()}, file)
    message = refusal(file)
    assert f"model.path = {str(file)!r}: {file} is a single-file checkpoint, as ComfyUI has them" in message
    assert f"the {len(weights)} tensors of a WanTransformer3DModel" in message
    converted = convert(message, tiny_model, tmp_path / "converted")
    found = load_file(converted / "transformer/diffusion_pytorch_model.safetensors")
    assert found.keys() == weights.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(found[name].float(), tensor + 0.01, rtol=2**-8, atol=1e-6)
    assert output_of(converted).isfinite().all()


def save_adapter(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    """A LoRA as diffusers saves it; returns what the base's weights become with it."""
    pipeline = WanPipeline.from_pretrained(base)
    transformer = pipeline.transformer
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q"], init_lora_weights="gaussian"))
    for name, parameter in transformer.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    WanPipeline.save_lora_weights(folder, transformer_lora_layers=get_peft_model_state_dict(transformer))
    return {
        f"{name}.weight": (module.base_layer.weight + module.get_delta_weight("default")).detach()
        for name, module in transformer.named_modules()
        if name.endswith("to_q")
    }


def test_an_adapter_is_fused_by_the_command_of_the_message(tiny_model, tmp_path):
    expected = save_adapter(tiny_model, tmp_path / "adapter")
    messages = [refusal(tmp_path / "adapter"), refusal(tmp_path / "adapter/pytorch_lora_weights.safetensors")]
    for message in messages:
        assert "is an adapter (LoRA), which is no model without the one that it was trained on" in message
    assert messages[0].splitlines()[-1] == messages[1].splitlines()[-1]
    converted = convert(messages[0], tiny_model, tmp_path / "converted")
    found = load_file(converted / "transformer/diffusion_pytorch_model.safetensors")
    assert not any("lora" in name for name in found)
    assert len(expected) == 4
    for name, weight in expected.items():
        torch.testing.assert_close(found[name].float(), weight, rtol=1e-5, atol=1e-6)
    assert not torch.equal(output_of(converted), output_of(tiny_model))


def test_what_cannot_be_converted_is_named(tiny_model, tmp_path):
    component = shutil.copytree(tiny_model / "transformer", tmp_path / "transformer")
    assert "holds one component (WanTransformer3DModel), not a whole model" in refusal(component)
    save_file({"some.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert "is a single-file checkpoint (1 tensors) of a model that is not known here" in refusal(tmp_path / "other.safetensors")
    (tmp_path / "wan.gguf").write_bytes(b"GGUF")
    assert "is a single file (.gguf). Name a folder in diffusers' format" in refusal(tmp_path / "wan.gguf")
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    assert "cut.safetensors" in refusal(tmp_path / "cut.safetensors")
    (tmp_path / "empty").mkdir()
    assert "has no model_index.json" in refusal(tmp_path / "empty")
