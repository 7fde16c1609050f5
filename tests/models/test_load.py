"""From the config's ``model`` section to a model: finding it, knowing it by content, loading it once, and saying what is wrong."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

from motive_pipeline import config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph.families import FAMILIES
from motive_pipeline.models import folder as model_folders
from motive_pipeline.models.folder import encoders_hash, folder_hash, part_hash
from motive_pipeline.models.load import latent_grid, load_model, model_folder, model_hash, observe_base_encoders, observe_base_model
from tests.clip_fixtures import project
from tests.tiny_wan import save_tiny_wan


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return save_tiny_wan(tmp_path_factory.mktemp("model") / "wan")


@pytest.fixture
def copy(source, tmp_path):
    return shutil.copytree(source, tmp_path / "copy")


def section(path, **changed) -> config.Model:
    return config.Model(path=str(path), dtype="float32", device="cpu", max_prompt_tokens=8, **changed)


def test_importing_it_touches_no_torch():
    code = "import sys, motive_pipeline.models.load; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_embedded_model_is_found_by_name(tmp_path):
    ws = project(tmp_path)
    assert model_folder(ws.config.model) == model_folders.TINY
    grid = latent_grid(ws)
    assert grid.shape(17, 64, 64) == (grid.channels, 5, 8, 8)


def test_the_base_model_is_loaded_once_and_again_when_its_files_change(copy):
    first = load_model(section(copy), threads=1)
    assert load_model(section(copy), threads=1) is first
    assert load_model(section(copy, expert="transformer"), threads=1) is first
    other = save_tiny_wan(copy.parent / "other", seed=1)
    shutil.copyfile(other / "transformer/diffusion_pytorch_model.safetensors", copy / "transformer/diffusion_pytorch_model.safetensors")
    assert load_model(section(copy), threads=1) is not first


def test_a_checkpoint_is_loaded_afresh_each_time(source):
    base = load_model(section(source), threads=1)
    one, two = (load_model(section(source), threads=1, path=source) for _ in range(2))
    assert len({id(base), id(one), id(two)}) == 3
    with torch.no_grad():
        one.transformer.get_parameter("proj_out.weight").zero_()
    assert bool(base.transformer.get_parameter("proj_out.weight").any())


def test_threads_are_fixed(source):
    load_model(section(source), threads=2)
    assert torch.get_num_threads() == 2
    load_model(section(source), threads=1)
    assert torch.get_num_threads() == 1
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: (folder / "model_index.json").unlink(), "no model_index.json"),
        (lambda folder: shutil.rmtree(folder / "vae"), "the component vae is missing"),
        (lambda folder: (folder / "transformer/diffusion_pytorch_model.safetensors").unlink(), "no weights"),
        (lambda folder: (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}'), "FluxPipeline"),
    ],
)
def test_a_broken_model_is_an_error_that_names_the_key_and_what_is_missing(copy, damage, says):
    damage(copy)
    with pytest.raises(MotiveError, match=says) as error:
        model_folder(section(copy))
    assert "model.path" in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("path", ["/no/such/folder", "no-such-name", "a/b/c"])
def test_a_name_that_is_neither_folder_nor_hub_id_is_an_error(path):
    with pytest.raises(MotiveError, match=r"model\.path = .* no such folder"):
        model_folder(section(path))


def test_a_hub_id_that_cannot_be_reached_says_what_to_do():
    with pytest.raises(MotiveError, match=r"model\.path = 'nobody/nothing'.*cannot be downloaded"):
        model_folder(section("nobody/nothing"))


def test_a_hub_id_in_the_cache_is_used_without_the_network(source, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--someone--wan"
    shutil.copytree(source, repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert model_folder(section("someone/wan")).samefile(repository / "snapshots" / "abc")


def test_a_device_that_is_not_there_is_an_error(source):
    with pytest.raises(MotiveError, match=r"model\.device = 'cuda:99'"):
        load_model(config.Model(path=str(source), device="cuda:99"), threads=1)


def test_the_hash_is_of_names_and_bytes(copy, tmp_path):
    first = folder_hash(copy, tmp_path / "memory.json")
    moved = copy.rename(copy.parent / "elsewhere")
    assert folder_hash(moved, tmp_path / "memory.json") == first
    (moved / "README.md").write_text("not part of the model")
    assert folder_hash(moved, tmp_path / "memory.json") == first
    (moved / "scheduler/scheduler_config.json").write_text("{}")
    assert folder_hash(moved, tmp_path / "memory.json") != first


@pytest.mark.parametrize("component", ["scheduler", "text_encoder", "tokenizer", "transformer", "vae"])
def test_the_hash_of_the_encoders_is_of_what_makes_latents_and_prompt_embeddings(copy, tmp_path, component):
    def hashes() -> tuple[str, str]:
        return folder_hash(copy, tmp_path / "memory.json"), part_hash(copy, tmp_path / "memory.json", FAMILIES["WanPipeline"].encoders)

    whole, encoders = hashes()
    file = next((copy / component).glob("*.json"))
    file.write_text(file.read_text() + " ")
    after = hashes()
    assert after[0] != whole
    assert (after[1] != encoders) == (component in ("text_encoder", "tokenizer", "vae"))


def test_another_class_of_an_encoder_is_another_hash_and_another_transformer_class_is_not(copy, tmp_path):
    index = copy / "model_index.json"
    entries = json.loads(index.read_text())
    before = part_hash(copy, tmp_path / "memory.json", FAMILIES["WanPipeline"].encoders)
    index.write_text(json.dumps(entries | {"transformer": ["diffusers", "Another"], "boundary_ratio": 0.9}))
    assert part_hash(copy, tmp_path / "memory.json", FAMILIES["WanPipeline"].encoders) == before
    index.write_text(json.dumps(entries | {"vae": ["diffusers", "Another"]}))
    assert part_hash(copy, tmp_path / "memory.json", FAMILIES["WanPipeline"].encoders) != before


def test_unchanged_files_are_not_read_again_and_replaced_ones_are(copy, tmp_path, monkeypatch):
    memory = tmp_path / "memory.json"
    monkeypatch.setattr(model_folders, "YOUNG_S", 0.0)
    time.sleep(0.02)
    first = folder_hash(copy, memory)
    read = []
    digest_file = model_folders.digest_file
    monkeypatch.setattr(model_folders, "digest_file", lambda file: read.append(file.name) or digest_file(file))
    assert folder_hash(copy, memory) == first
    assert read == []
    weights = copy / "transformer/diffusion_pytorch_model.safetensors"
    stat, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder_hash(copy, memory) != first, "weights replaced in place, at the same size and mtime, must be noticed"
    assert read == [weights.name]


def test_a_hard_link_to_the_model_makes_nothing_be_read_again(copy, tmp_path, monkeypatch):
    memory = tmp_path / "memory.json"
    monkeypatch.setattr(model_folders, "YOUNG_S", 0.0)
    time.sleep(0.02)
    first = folder_hash(copy, memory)
    os.link(copy / "vae/diffusion_pytorch_model.safetensors", tmp_path / "link")
    monkeypatch.setattr(model_folders, "digest_file", lambda file: pytest.fail(f"{file} was read again"))
    assert folder_hash(copy, memory) == first


def test_a_young_file_is_not_remembered(copy, tmp_path):
    folder_hash(copy, tmp_path / "memory.json")
    assert not (tmp_path / "memory.json").exists() or json.loads((tmp_path / "memory.json").read_text()) == {}


def test_the_observed_data_version_is_the_content_hash(tmp_path, copy):
    ws = project(tmp_path, model={"path": str(copy)})
    version, facts = observe_base_model(ws)
    assert version == model_hash(ws)
    assert facts["files"] == len(model_folders.model_files(copy))
    version, facts = observe_base_encoders(ws)
    assert version == encoders_hash(ws)
    assert facts["files"] < len(model_folders.model_files(copy))
