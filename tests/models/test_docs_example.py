"""The family that docs/models.md shows, run as it stands there."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file

from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.config import Finetune, Gradient, Model
from motive_pipeline.graph.families import FAMILIES
from motive_pipeline.models.load import load_model
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.training.loop import finetune
from tests.clip_fixtures import moving_square
from tests.eval_fixtures import open_workspace, publish_upstream

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture
def blur(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as the module ``blur``, with its entry among the families."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 80
    (tmp_path / "blur.py").write_text(code, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("blur", tmp_path / "blur.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "blur", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(FAMILIES, module.FAMILY.pipeline, module.FAMILY)
    return module


@pytest.fixture
def folder(blur: ModuleType, tmp_path: Path) -> Path:
    """A model of the family with random weights."""
    folder = tmp_path / "blur"
    for name in ("vae", "transformer"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    index = {"_class_name": "BlurPipeline", "vae": ["blur", "Box"], "transformer": ["blur", "Net"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(blur.Net().state_dict(), folder / blur.WEIGHTS)
    return folder


def test_the_example_is_a_family(folder, tmp_path):
    settings = Model(path=str(folder), dtype="float32", device="cpu", max_prompt_tokens=8)
    model = load_model(settings, threads=1)
    assert isinstance(model, VideoModel)
    clips = {
        name: (model.encode_video(moving_square(seed=seed)), model.encode_prompt(f"a {name} square"))
        for seed, name in enumerate(("red", "blue"))
    }
    latents, told = clips["red"]
    assert latents.shape == model.grid.shape(9, 48, 64)
    assert model.decode_latents(latents).shape == (9, 48, 64, 3)
    mask = torch.ones(latents.shape[1:])
    feature = build_clip_gradient(model, Gradient(store_dim=64))(latents, told, mask)
    assert feature.gradient_P @ feature.gradient_P == pytest.approx(1, abs=1e-5)
    (video,) = model.generate(["red"], seeds=[0], num_frames=9, height=48, width=64, num_steps=2, guidance=1.0)
    trained = load_model(settings, threads=1, path=folder)
    finetune(trained, {tuple(latents.shape[1:]): list(clips)}, clips.__getitem__, Finetune(steps=2, batch_size=2), training=0)
    trained.save(tmp_path / "checkpoint")
    again = load_model(settings, threads=1, path=tmp_path / "checkpoint")
    (other,) = again.generate(["red"], seeds=[0], num_frames=9, height=48, width=64, num_steps=2, guidance=1.0)
    assert video.shape == other.shape == (9, 48, 64, 3)
    assert not torch.equal(again.transformer.leave.weight, model.transformer.leave.weight)


@pytest.mark.slow
def test_every_stage_takes_the_example(folder, tmp_path):
    ws = open_workspace(tmp_path / "project", folder)
    publish_upstream(ws)
    assert len(ws.published("voted_ranking/motive").table("ranking")) == 9
    assert len(ws.published("generated_videos/motive").table("videos")) > 0
