"""What is loaded, and what is on the device: components are shared, one denoiser at a time, encoders only while they encode."""

import shutil

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import UMT5EncoderModel

from motive_pipeline import config
from motive_pipeline.models import placement, shared
from motive_pipeline.models.load import load_model
from motive_pipeline.models.placement import in_turn, occupy, vacate
from tests.tiny_wan import build_model, build_pipeline, build_transformer, save_tiny_wan

GPU = torch.device("cuda")
SAMPLING = {"num_frames": 5, "height": 32, "width": 32, "num_steps": 2}


class Denoiser(torch.nn.Module):
    """A module that remembers where it was moved instead of moving: no GPU is needed."""

    place = "cpu"

    def to(self, device):
        self.place = torch.device(device).type
        return self

    def forward(self, others):
        return [each.place for each in others]


@pytest.fixture(autouse=True)
def nothing_loaded(monkeypatch):
    shared.forget_components()
    monkeypatch.setattr(placement, "_on_device", {})


@pytest.fixture
def source(tmp_path):
    return save_tiny_wan(tmp_path / "wan")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The classes whose weights are loaded, in order."""
    seen = []
    for cls in (WanTransformer3DModel, UMT5EncoderModel, AutoencoderKLWan):
        real = cls.from_pretrained.__func__

        def recorded(kind, *arguments, real=real, **options):
            seen.append(kind.__name__)
            return real(kind, *arguments, **options)

        monkeypatch.setattr(cls, "from_pretrained", classmethod(recorded))
    return seen


def section(path, **changed) -> config.Model:
    return config.Model(**({"path": str(path), "dtype": "float32", "device": "cpu", "max_prompt_tokens": 8} | changed))


def test_a_checkpoint_loads_its_transformer_alone_and_changes_nobody_elses(source, tmp_path, loads):
    base = load_model(section(source), threads=1)
    base.save(tmp_path / "checkpoint")
    assert sorted(loads) == ["AutoencoderKLWan", "UMT5EncoderModel", "WanTransformer3DModel"]
    loads.clear()
    models = [load_model(section(source), threads=1, path=path) for path in (tmp_path / "checkpoint", source, tmp_path / "checkpoint")]
    assert loads == ["WanTransformer3DModel"] * 3
    for model in models:
        for name in ("vae", "text_encoder", "tokenizer"):
            assert getattr(model.pipeline, name) is getattr(base.pipeline, name), name
        assert model.pipeline.scheduler is not base.pipeline.scheduler
    before = base.transformer.proj_out.weight.clone()
    with torch.no_grad():
        models[0].transformer.proj_out.weight.zero_()
    assert torch.equal(base.transformer.proj_out.weight, before)
    assert torch.equal(models[2].transformer.proj_out.weight, before)


def test_a_checkpoint_on_another_disk_has_copies_and_shares_too(source, tmp_path, loads):
    base = load_model(section(source), threads=1)
    shutil.copytree(source, tmp_path / "copy")
    assert load_model(section(source), threads=1, path=tmp_path / "copy").pipeline.text_encoder is base.pipeline.text_encoder
    assert loads.count("UMT5EncoderModel") == 1


@pytest.mark.parametrize("component", ["vae", "text_encoder"])
def test_other_files_are_loaded(source, tmp_path, component):
    base = load_model(section(source), threads=1)
    save_tiny_wan(tmp_path / "other", seed=1)
    shutil.copytree(source, tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / component)
    shutil.copytree(tmp_path / "other" / component, tmp_path / "mixed" / component)
    mixed = load_model(section(source), threads=1, path=tmp_path / "mixed")
    same = {name: getattr(mixed.pipeline, name) is getattr(base.pipeline, name) for name in ("vae", "text_encoder", "tokenizer")}
    assert same == {"vae": True, "text_encoder": True, "tokenizer": True} | {component: False}
    unlike = next(iter(getattr(mixed.pipeline, component).parameters())), next(iter(getattr(base.pipeline, component).parameters()))
    assert not torch.equal(*unlike)


def test_files_that_changed_on_disk_and_another_dtype_are_loaded_anew(source, tmp_path):
    base = load_model(section(source), threads=1)
    assert load_model(section(source, dtype="bfloat16"), threads=1, path=source).pipeline.text_encoder.dtype == torch.bfloat16
    base = load_model(section(source), threads=1, path=source)
    save_tiny_wan(tmp_path / "other", seed=1)
    shutil.copyfile(tmp_path / "other/text_encoder/model.safetensors", source / "text_encoder/model.safetensors")
    again = load_model(section(source), threads=1, path=source)
    assert again.pipeline.text_encoder is not base.pipeline.text_encoder
    assert again.pipeline.vae is base.pipeline.vae


def test_the_other_expert_is_shared_and_the_trained_one_is_not(tmp_path):
    pipeline = build_pipeline(transformer_2=build_transformer(num_layers=1, heads=2, head_dim=12, ffn_dim=24), boundary_ratio=0.9)
    pipeline.save_pretrained(tmp_path / "two")
    seen, kept = set(), []
    for expert, other in (("transformer", "transformer_2"), ("transformer_2", "transformer")):
        one, two = (load_model(section(tmp_path / "two", expert=expert), threads=1, path=tmp_path / "two") for _ in range(2))
        assert getattr(one.pipeline, other) is getattr(two.pipeline, other)
        assert one.transformer is not two.transformer
        assert not seen & {id(one.transformer), id(two.transformer)}, "a model was given another one's expert to train"
        seen |= {id(model.pipeline.transformer) for model in (one, two)} | {id(model.pipeline.transformer_2) for model in (one, two)}
        kept.extend((one, two))


def test_one_denoiser_is_on_a_gpu_at_a_time():
    one, two = Denoiser(), Denoiser()
    occupy(one, GPU)
    occupy(two, GPU)
    assert (one.place, two.place) == ("cpu", "cuda")
    occupy(one, GPU)
    assert (one.place, two.place) == ("cuda", "cpu")
    vacate(GPU)
    assert (one.place, two.place) == ("cpu", "cpu")
    occupy(two, torch.device("cpu"))
    assert two.place == "cpu"


def test_the_sampler_s_experts_take_turns():
    one, two = Denoiser(), Denoiser()
    with in_turn([one, two], GPU):
        assert one([one, two]) == ["cuda", "cpu"]
        assert two([one, two]) == ["cpu", "cuda"]
    one.place = two.place = "cpu"
    assert one([one, two]) == ["cpu", "cpu"], "the hooks are gone"


def test_encoders_leave_before_the_denoiser_runs_and_the_vae_comes_to_decode(monkeypatch):
    model = build_model()
    order = []
    monkeypatch.setattr(model, "release_encoders", lambda: order.append("released"))
    model.pipeline.text_encoder.register_forward_hook(lambda *_: order.append("text"))
    model.pipeline.transformer.register_forward_hook(lambda *_: order.append("denoised"))
    model.pipeline.vae.post_quant_conv.register_forward_hook(lambda *_: order.append("decoded"))
    model.generate(["a red circle", "a red circle"], seeds=[0, 1], guidance=2.0, **SAMPLING)
    assert order == ["text", "text", "released", *["denoised"] * 4, "decoded", "released"], "the prompt and the empty one, once each"
    order.clear()
    model.generate(["a red circle"], seeds=[0], guidance=2.0, **SAMPLING)
    assert "text" not in order, "a prompt is encoded once"


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_videos_have_the_bits_of_diffusers_own_call(guidance):
    model = build_model()
    prompts, seeds = ["a red circle", "blue", "a red circle"], [1, 2, 3]
    drawn = model.generate(prompts, seeds=seeds, guidance=guidance, **SAMPLING)
    expected = model.pipeline(
        prompt=prompts,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        num_inference_steps=2,
        guidance_scale=guidance,
        max_sequence_length=8,
        output_type="np",
        **{name: SAMPLING[name] for name in ("num_frames", "height", "width")},
    ).frames
    for ours, theirs in zip(drawn, expected, strict=True):
        assert (ours == (theirs * 255.0).round().astype("uint8")).all()
