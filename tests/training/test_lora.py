"""Training an adapter: what moves, what is published, what reads it, and settings that cannot be."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanPipeline
from safetensors.torch import load_file

from motive_pipeline.config import Finetune
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.models.adapter import adapter_parameters, adapter_weights
from motive_pipeline.models.adapter_file import COMFYUI_FILE, LORA_FILE
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.training.finetune import checkpoint_folder, load_records, publish_checkpoint
from motive_pipeline.training.loop import finetune
from tests.tiny_wan import build_model, save_tiny_wan
from tests.training_fixtures import BY_SHAPE, CLIPS, SETTINGS, make_workspace, state

LORA = {"rank": 2}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    return save_tiny_wan(tmp_path_factory.mktemp("model") / "wan")


def train(settings: Finetune, *, training: int = 0):
    model = build_model()
    finetune(model, BY_SHAPE, CLIPS.__getitem__, settings, training=training)
    return model


def test_only_the_adapter_moves() -> None:
    settings = Finetune.model_validate(SETTINGS.model_dump() | {"lora": LORA, "ema": 0.5})
    model, base = train(settings), state(build_model())
    after = {name.replace(".base_layer", ""): value for name, value in state(model).items() if ".lora_" not in name}
    assert after == base
    assert (
        min(
            float(parameter.detach().abs().max()) for name, parameter in adapter_parameters(model.transformer).items() if ".lora_B." in name
        )
        > 0
    )


def test_every_training_of_a_number_starts_from_the_same_adapter() -> None:
    settings = Finetune.model_validate(SETTINGS.model_dump() | {"lora": LORA, "steps": 1, "learning_rate": 1e-12})
    first, again, other = (adapter_weights(train(settings, training=number).transformer) for number in (0, 0, 1))
    name = "transformer.blocks.0.attn1.to_q.lora_A.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_it_is_the_gradient_of_the_product_that_adam_takes_a_step_by() -> None:
    """One step of AdamW without weight decay moves each entry of B by the learning rate, against its gradient's sign; A's gradient is zero."""
    settings = Finetune.model_validate(
        SETTINGS.model_dump() | {"lora": LORA, "steps": 1, "warmup_share": 0, "weight_decay": 0.0, "learning_rate": 1e-3}
    )
    factors = {name: value.detach() for name, value in adapter_parameters(train(settings).transformer).items()}
    moved = torch.cat([value.flatten() for name, value in factors.items() if ".lora_B." in name])
    assert float(moved.abs().median()) == pytest.approx(1e-3, rel=1e-3)


def test_what_is_published_is_the_base_with_an_adapter_beside_it(tmp_path: Path, tiny: Path) -> None:
    ws = make_workspace(tmp_path, tiny, seeds=2, lora=LORA)
    publication = publish_checkpoint(ws, "motive")
    base_file = next((tiny / "transformer").glob("*.safetensors"))
    for number in (0, 1):
        folder = checkpoint_folder(publication.path, number)
        assert next((folder / "transformer").glob("*.safetensors")).samefile(base_file), "the base's weights were copied"
        pipeline = WanPipeline.from_pretrained(folder)
        pipeline.load_lora_weights(folder)
        loaded = load_model(ws.config.model, threads=1, path=folder)
        by_diffusers = {name.split(".lora_")[0] for name, _ in pipeline.transformer.named_parameters() if ".lora_A." in name}
        assert by_diffusers == {name.split(".lora_")[0] for name in adapter_parameters(loaded.transformer)}
        saved = load_file(folder / LORA_FILE)
        assert all(torch.equal(saved[name], value) for name, value in adapter_weights(loaded.transformer).items())
        assert len(load_file(folder / COMFYUI_FILE)) == len(saved)
    contents = [record["content"] for record in load_records(publication.path)]
    assert contents[0] != contents[1]
    assert not adapter_parameters(load_model(ws.config.model, threads=1).transformer), "the shared base model was changed"


def test_the_last_watched_loss_is_that_of_the_published_adapter(tmp_path: Path, tiny: Path) -> None:
    """The weights that training ended with are those that a checkpoint gives, to the bit: the same prediction."""
    ws = make_workspace(tmp_path, tiny, lora=LORA)
    loaded = load_model(ws.config.model, threads=1, path=publish_checkpoint(ws, "motive").path)
    again = make_workspace(tmp_path, tiny, root="again", lora=LORA)
    other = load_model(again.config.model, threads=1, path=publish_checkpoint(again, "motive").path)
    assert state(loaded) == state(other)
    settings = ws.config.finetune
    assert settings.lora is not None
    assert settings.lora.scale_alpha == 2


def test_a_given_adapter_is_part_of_the_model_and_trained_on(tmp_path: Path, tiny: Path) -> None:
    first = make_workspace(tmp_path, tiny, lora=LORA)
    trained = publish_checkpoint(first, "motive").path / LORA_FILE
    ws = make_workspace(tmp_path, tiny, root="further", model_settings={"adapter": str(trained)}, lora={})
    assert model_hash(ws) != model_hash(first)
    base = load_model(ws.config.model, threads=1)
    given = load_file(trained)
    assert all(torch.equal(given[name], value) for name, value in adapter_weights(base.transformer).items())
    on = load_file(publish_checkpoint(ws, "motive").path / LORA_FILE)
    assert on.keys() == given.keys()
    assert all(on[name].shape == given[name].shape for name in on), "the adapter keeps its own rank"
    moved = [float((on[name] - given[name]).abs().max()) for name in on]
    assert min(moved) > 0
    assert max(moved) < 0.02, "three steps of 1e-3 from where it was"
    assert all(
        torch.equal(given[name], value) for name, value in adapter_weights(load_model(ws.config.model, threads=1).transformer).items()
    )


def test_an_adapter_without_lora_is_refused(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.adapter is trained on as a LoRA: set finetune\.lora"):
        make_workspace(tmp_path, tiny, model_settings={"adapter": "some.safetensors"})


def test_eight_bit_moments_without_bitsandbytes_are_refused_before_any_work(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    ws = make_workspace(tmp_path, tiny, optimizer="adamw8bit")
    with pytest.raises(MotiveError, match=r"finetune.optimizer: adamw8bit needs bitsandbytes.*pip install bitsandbytes"):
        publish_checkpoint(ws, "motive")
    assert not (ws.root / "work" / "finetune").exists()


def test_the_losses_of_an_adapter_fall_on_the_same_draws() -> None:
    settings = Finetune.model_validate(SETTINGS.model_dump() | {"lora": {"rank": 8}, "steps": 30, "caption_dropout": 0.0})
    still, trained = (
        finetune(build_model(), BY_SHAPE, CLIPS.__getitem__, settings.model_copy(update={"learning_rate": rate}), training=0)
        for rate in (1e-12, 1e-2)
    )
    assert np.mean(trained[-10:]) < 0.95 * np.mean(still[-10:])
