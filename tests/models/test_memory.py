"""Predicted memory: the constants are what torch saves, the sums are right, and a setting that cannot fit is refused in words that help."""

import logging
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import CLIPVisionConfig, CLIPVisionModel

from motive_pipeline.config import Config, parse_config
from motive_pipeline.errors import GateFailed
from motive_pipeline.internals.diffusers import float32_modules
from motive_pipeline.models import memory_limit
from motive_pipeline.models.chips import MEASURED
from motive_pipeline.models.memory import CPU_OVERHEAD_BYTES, GPU_OVERHEAD_BYTES, VAE_ENCODER_SHARE, _Stages, lora_parameters, stage_memory
from motive_pipeline.models.memory_limit import device_memory, require_memory, stage_need
from motive_pipeline.models.published_shapes import (
    CLIP_VIT_H_PARAMETERS,
    PUBLISHED,
    VAE_2_1,
    WAN_1_3B,
    WAN_5B,
    WAN_14B,
    WAN_14B_I2V,
    WAN_14B_I2V_2_1,
)
from motive_pipeline.models.read_shapes import model_shape, shape_of_folder
from motive_pipeline.models.shapes import DenoiserShape, ModelShape
from motive_pipeline.models.wan_attention import use_lean_attention
from tests.tiny_wan import build_pipeline, build_transformer, save_tiny_wan
from tests.tiny_wan_image import build_image_pipeline, save_image_model

HUB = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
GB = 1e9


def config(text: str = "", *, path: str = HUB, clips: str = "num_frames: 81, width: 832, height: 480", dtype: str = "bfloat16") -> Config:
    start = f"clips: {{source: demo, {clips}}}\nqueries: {{source: demo}}\nmodel: {{path: '{path}', dtype: {dtype}, device: cpu}}\n"
    return parse_config(start + text, Path("/nowhere/motive.yaml"))


def need(stage: str, text: str = "", **changed) -> float:
    settings = config(text, **changed)
    return stage_memory(PUBLISHED[settings.model.path], settings, on_gpu=True)[stage].num_bytes / GB


def saved_by_a_block(
    dtype: torch.dtype, *, width: int, ffn: int, token_timesteps: bool = False, takes_image: bool = False, tokens: int = 64, prompt: int = 8
) -> int:
    """Bytes that autograd keeps for one block more, each storage once, parameters not counted."""

    def saved(num_layers: int) -> int:
        image_dim = 16 if takes_image else None
        denoiser = build_transformer(num_layers=num_layers, heads=width // 128, head_dim=128, ffn_dim=ffn, image_dim=image_dim)
        exact = float32_modules(denoiser)
        for name, parameter in denoiser.named_parameters():
            if not any(part in name for part in exact):
                parameter.data = parameter.data.to(dtype)
        use_lean_attention(denoiser)
        weights = {parameter.untyped_storage().data_ptr() for parameter in denoiser.parameters()}
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        timestep = torch.full((1, tokens), 500.0) if token_timesteps else torch.tensor([500.0])
        given = {"hidden_states": torch.randn(1, 16, tokens // 16, 8, 8).to(dtype), "timestep": timestep}
        if takes_image:
            given["encoder_hidden_states_image"] = torch.randn(1, 257, 16).to(dtype)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            out = denoiser(**given, encoder_hidden_states=torch.randn(1, prompt, 16).to(dtype), return_dict=False)[0]
        assert out.requires_grad
        return sum(kept.values())

    return saved(2) - saved(1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("token_timesteps", [False, True])
@pytest.mark.parametrize(("width", "ffn"), [(256, 512), (128, 1024)])
def test_a_block_saves_what_the_constants_say(dtype, token_timesteps, width, ffn):
    counted = saved_by_a_block(getattr(torch, dtype), width=width, ffn=ffn, token_timesteps=token_timesteps)
    denoiser = DenoiserShape(
        num_layers=1, width=width, ffn=ffn, text_dim=16, patch=(1, 2, 2), parameters=0, largest=0, token_timesteps=token_timesteps
    )
    shape = ModelShape(denoiser=denoiser, vae=VAE_2_1, text_parameters=0)
    settings = config(clips="num_frames: 13, width: 64, height: 64", dtype=dtype)
    settings = settings.model_copy(update={"model": settings.model.model_copy(update={"max_prompt_tokens": 8})})
    assert _Stages(shape, settings, on_gpu=True)._block(1) == pytest.approx(counted, rel=0.08)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_block_with_keys_of_an_image_saves_what_the_constants_say(dtype):
    size = {"width": 256, "ffn": 512}
    counted = saved_by_a_block(getattr(torch, dtype), **size, takes_image=True, tokens=512, prompt=512)
    denoiser = DenoiserShape(num_layers=1, **size, text_dim=16, patch=(1, 2, 2), parameters=0, largest=0, takes_image=True)
    settings = config(clips="num_frames: 29, width: 128, height: 128", dtype=dtype)
    stages = _Stages(ModelShape(denoiser=denoiser, vae=VAE_2_1, text_parameters=0), settings, on_gpu=True)
    assert stages.tokens == 512
    assert stages._block(1) == pytest.approx(counted, rel=0.08)


@pytest.mark.parametrize("row", MEASURED, ids=lambda row: f"{row.model} {row.deterministic}")
def test_the_gradient_pass_is_predicted_as_it_was_measured_on_a_gpu(row):
    size = f"num_frames: {row.num_frames}, width: {row.width}, height: {row.height}"
    predicted = need("gradients", "gradient: {checkpointing: true}", path=row.model, clips=size)
    assert predicted - GPU_OVERHEAD_BYTES / GB == pytest.approx(row.memory_gb, rel=0.1)


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        (WAN_1_3B, {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960}),
        (WAN_14B, {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824}),
        (WAN_14B_I2V, {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824, "in_channels": 36}),
        (
            WAN_14B_I2V_2_1,
            {
                "num_layers": 40,
                "num_attention_heads": 40,
                "ffn_dim": 13824,
                "in_channels": 36,
                "image_dim": 1280,
                "added_kv_proj_dim": 5120,
            },
        ),
        (WAN_5B, {"num_layers": 30, "num_attention_heads": 24, "ffn_dim": 14336, "in_channels": 48, "out_channels": 48}),
    ],
)
def test_published_denoisers_have_the_parameters_of_diffusers_class(shape, settings):
    with torch.device("meta"):
        built = WanTransformer3DModel(**{"attention_head_dim": 128, **settings, "num_layers": 1})
    sizes = {name: parameter.numel() for name, parameter in built.named_parameters()}
    of_a_block = sum(size for name, size in sizes.items() if name.startswith("blocks."))
    assert shape.parameters == sum(sizes.values()) + (settings["num_layers"] - 1) * of_a_block
    linears = {name for name, module in built.named_modules() if isinstance(module, torch.nn.Linear)}
    assert {name for name, _, _ in shape.linears if not name.startswith("blocks.") or name.startswith("blocks.0.")} == linears
    assert shape.largest == max(sizes.values())


def test_published_vaes_have_the_parameters_of_diffusers_class():
    with torch.device("meta"):
        built = AutoencoderKLWan()
    assert VAE_2_1.parameters == sum(parameter.numel() for parameter in built.parameters())


def test_the_published_image_encoder_has_the_parameters_of_transformers_class():
    """image_encoder/config.json of Wan 2.1 I2V."""
    size = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "patch_size": 14}
    with torch.device("meta"):
        built = CLIPVisionModel(CLIPVisionConfig(**size, image_size=224, hidden_act="gelu"))
    assert sum(parameter.numel() for parameter in built.parameters()) == CLIP_VIT_H_PARAMETERS


def test_an_image_to_video_model_needs_its_image_encoder_and_draws_one_video_at_a_time(tmp_path):
    found, settings = shape_of_folder(save_image_model("wan2.1", tmp_path / "i2v")), config("generate: {batch_size: 4}")
    encoder = build_image_pipeline("wan2.1").image_encoder
    assert found.image_parameters == sum(parameter.numel() for parameter in encoder.parameters())
    assert (found.starts_from_frame, found.denoiser.takes_image) == (True, True)
    memory = stage_memory(found, settings, on_gpu=True)
    assert memory["latents"].parts["image encoder"] == 4 * found.image_parameters
    alone = stage_memory(found, config("generate: {batch_size: 1}"), on_gpu=True)
    assert memory["generate"] == alone["generate"]
    assert stage_memory(PUBLISHED[HUB], settings, on_gpu=True)["generate"].num_bytes > need("generate", "generate: {batch_size: 1}") * GB


def test_the_shape_of_a_folder_is_that_of_its_weights(tmp_path):
    folder = save_tiny_wan(tmp_path / "wan", expand_timesteps=True)
    pipeline, found = build_pipeline(), shape_of_folder(folder)
    assert found.denoiser.parameters == sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    assert found.vae.parameters == sum(parameter.numel() for parameter in pipeline.vae.parameters())
    assert found.text_parameters == sum(parameter.numel() for parameter in pipeline.text_encoder.parameters())
    assert (found.denoiser.width, found.denoiser.ffn, found.denoiser.token_timesteps, found.experts) == (24, 48, True, 1)
    assert ("blocks.0.ffn.net.0.proj", 48, 24) in found.denoiser.linears
    assert found.num_tokens(9, 32, 48) == 3 * 2 * 3


def test_a_model_that_is_stored_in_another_dtype_takes_its_file_too_on_a_cpu(tmp_path):
    folder = save_tiny_wan(tmp_path / "wan")
    shape, size = shape_of_folder(folder), (folder / "transformer/diffusion_pytorch_model.safetensors").stat().st_size
    for dtype, on_gpu, more in (("float32", False, 0), ("bfloat16", False, size), ("bfloat16", True, 0)):
        weights = stage_memory(shape, config(dtype=dtype), on_gpu=on_gpu)["scores"].parts["denoiser"]
        assert weights == (4 if dtype == "float32" else 2) * shape.denoiser.parameters + more


def test_an_unknown_model_is_not_refused(caplog):
    assert model_shape(config(path="nobody/nothing").model) is None
    require_memory(config(path="nobody/nothing"), "finetune")


def test_full_fine_tuning_takes_twenty_bytes_a_parameter_in_bfloat16():
    """2 for the weights, 4 for their float32 copies, 8 for AdamW, 4 and 2 for gradients; the activations are small here."""
    few = {"clips": "num_frames: 1, width: 64, height: 64"}
    whole = need("finetune", "finetune: {micro_batch_size: 1, checkpointing: true}", **few)
    assert whole == pytest.approx(20 * WAN_1_3B.parameters / GB + 1.0, rel=0.02)
    eight_bit = need("finetune", "finetune: {micro_batch_size: 1, checkpointing: true, optimizer: adamw8bit}", **few)
    assert whole - eight_bit == pytest.approx(6 * WAN_1_3B.parameters / GB)
    averaged = need("finetune", "finetune: {micro_batch_size: 1, checkpointing: true, ema: 0.9}", **few)
    assert averaged - whole == pytest.approx(4 * WAN_1_3B.parameters / GB)


def test_settings_that_save_memory_do():
    base = need("finetune", "finetune: {batch_size: 8}")
    micro = need("finetune", "finetune: {batch_size: 8, micro_batch_size: 1}")
    checkpointed = need("finetune", "finetune: {batch_size: 8, micro_batch_size: 1, checkpointing: true}")
    lora = need("finetune", "finetune: {batch_size: 8, micro_batch_size: 1, checkpointing: true, lora: {rank: 32}}")
    assert base > micro > checkpointed > lora
    assert need("gradients") > need("gradients", "gradient: {checkpointing: true}") > need("gradients", "gradient: {checkpointing: full}")
    assert need("gradients", "gradient: {draws: 4, draws_at_once: 4}") > 3 * need("gradients", "gradient: {draws: 4}")


def test_lora_counts_the_layers_that_its_pattern_matches():
    width, ffn, rank = 1536, 8960, 16
    all_layers = lora_parameters(WAN_1_3B, config("finetune: {lora: {}}").finetune.lora.targets, rank)
    assert all_layers == 30 * rank * (8 * 2 * width + 2 * (width + ffn))
    assert lora_parameters(WAN_1_3B, r".*\.to_q", rank) == 30 * rank * 2 * 2 * width
    assert lora_parameters(WAN_1_3B, "nothing", rank) == 0


def test_lora_keeps_float32_copies_of_its_inputs_and_dropout_another():
    tokens, inputs, start = 32_760, 9 * 1536 + 8960, "finetune: {micro_batch_size: 1, checkpointing: true, lora: "
    one, two, dropped = (need("finetune", start + given) for given in ("{rank: 1}}", "{rank: 2}}", "{rank: 1, dropout: 0.1}}"))
    assert dropped - one == pytest.approx(4 * tokens * inputs / GB)
    assert two - one == pytest.approx(
        (4 * tokens * 10 + 16 * lora_parameters(WAN_1_3B, config("finetune: {lora: {}}").finetune.lora.targets, 1)) / GB
    )


def test_on_a_cpu_every_component_that_a_stage_uses_stays_in_main_memory():
    settings = config("finetune: {micro_batch_size: 1, checkpointing: true}")
    on_cpu, on_gpu = (stage_memory(PUBLISHED[HUB], settings, on_gpu=where) for where in (False, True))
    text = 2.0 * PUBLISHED[HUB].text_parameters
    more = {stage: on_cpu[stage].num_bytes - on_gpu[stage].num_bytes + GPU_OVERHEAD_BYTES - CPU_OVERHEAD_BYTES for stage in on_cpu}
    assert more["scores"] == more["gradients"] == 0
    assert more["finetune"] == pytest.approx(text), "the empty prompt is encoded"
    assert more["generate"] == pytest.approx(text - 4 * VAE_ENCODER_SHARE * VAE_2_1.parameters, rel=0.01), (
        "the VAE's encoder is not touched"
    )
    assert more["latents"] == pytest.approx(-4 * (1 - VAE_ENCODER_SHARE) * VAE_2_1.parameters)


def test_what_does_not_fit_is_said_with_both_figures_and_what_needs_less():
    settings = config("finetune: {micro_batch_size: 1, checkpointing: true}")
    found = stage_need(PUBLISHED[HUB], settings, "finetune", have_gb=24.0, device="this GPU", on_gpu=True)
    assert found.cannot_fit
    assert str(found).startswith(
        "finetune: needs about 35 GB, this GPU has 24 GB: use `finetune.optimizer: adamw8bit`, `finetune.lora` (together about"
    )
    assert "checkpointing" not in str(found), "it is on already"
    close = stage_need(PUBLISHED[HUB], settings, "finetune", have_gb=33.0, device="this GPU", on_gpu=True)
    assert not close.fits
    assert not close.cannot_fit
    assert str(stage_need(PUBLISHED[HUB], settings, "finetune", have_gb=80.0, device="this GPU", on_gpu=True)).endswith("has 80 GB")


def test_advice_is_true():
    """With the settings that the advice names, the need is what it says."""
    found = stage_need(PUBLISHED[HUB], config(dtype="float32"), "gradients", have_gb=24.0, device="this GPU", on_gpu=True)
    told = float(str(found).split("together about ")[1].split(" GB")[0])
    assert need("gradients", "gradient: {checkpointing: full}") == pytest.approx(told, abs=0.5)
    assert "`gradient.checkpointing: true`" in str(found)


def test_a_stage_that_cannot_fit_stops_before_it_loads_the_model(monkeypatch, caplog):
    monkeypatch.setattr(memory_limit, "device_memory", lambda name: (24.0, "this GPU", True))
    with pytest.raises(GateFailed, match=r"finetune: needs about \d+ GB, this GPU has 24 GB: use .*`finetune.lora`"):
        require_memory(config(), "finetune")
    monkeypatch.setattr(memory_limit, "_said", set())
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            require_memory(config(), "scores")
    assert [record.getMessage() for record in caplog.records] == ["scores: needs about 5.3 GB, this GPU has 24 GB."]


def test_main_memory_is_that_of_the_machine():
    total_gb, _, on_gpu = device_memory("cpu")
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert not on_gpu
    assert total_gb == pytest.approx(int(lines["MemTotal"].split()[0]) * 1024 / GB, rel=0.01)
