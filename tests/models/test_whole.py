"""A model that is not whole is refused before it is used, in words that name the component, the file, what is wrong and what to do."""

import json
import os
import shutil
import struct
import time

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

from motive_pipeline import config, doctor
from motive_pipeline.errors import MotiveError
from motive_pipeline.models import folder as model_folders
from motive_pipeline.models import sound, whole
from motive_pipeline.models.folder import TINY, encoders_hash, model_folder, model_hash
from motive_pipeline.models.load import load_model
from motive_pipeline.models.whole import Flaw, read_header, require_finite
from tests.clip_fixtures import project
from tests.tiny_wan import build_pipeline, build_transformer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 123456\n"
SINGLE, SHARDED = "one file", "shards"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The same small model with each component's weights in one file and in shards."""
    folders = {form: tmp_path_factory.mktemp("models") / "wan" for form in (SINGLE, SHARDED)}
    build_pipeline().save_pretrained(folders[SINGLE])
    build_pipeline().save_pretrained(folders[SHARDED], max_shard_size="5KB")
    return folders


@pytest.fixture(params=[SINGLE, SHARDED])
def model(request, sources, tmp_path):
    return shutil.copytree(sources[request.param], tmp_path / "model")


@pytest.fixture
def sharded(sources, tmp_path):
    return shutil.copytree(sources[SHARDED], tmp_path / "model")


@pytest.fixture
def single(sources, tmp_path):
    return shutil.copytree(sources[SINGLE], tmp_path / "model")


def section(path) -> config.Model:
    return config.Model(path=str(path), dtype="float32", device="cpu", max_prompt_tokens=8)


def weights(folder):
    return sorted(folder.glob("*.safetensors"))


def rewrite(folder, change):
    """Put ``change`` of each file's tensors into its place, and what the files then hold into the index."""
    weight_map = {}
    for file in weights(folder):
        tensors = change(load_file(file))
        save_file(tensors, file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file.name)
    for index in folder.glob("*.index.json"):
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def without(start):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not name.startswith(start)}


def with_extra_block(tensors):
    return tensors | {name.replace("blocks.0.", "blocks.2."): tensor.clone() for name, tensor in tensors.items() if "blocks.0." in name}


def with_value(value):
    def change(tensors):
        if "blocks.1.ffn.net.2.weight" in tensors:
            tensors["blocks.1.ffn.net.2.weight"][3, 5] = value
        return tensors

    return change


def reshaped(tensors):
    return {name: tensor[:-1].contiguous() if name == "patch_embedding.bias" else tensor for name, tensor in tensors.items()}


def as_integers(tensors):
    return {name: tensor.to(torch.int8) if name == "patch_embedding.bias" else tensor for name, tensor in tensors.items()}


def drop_vocabulary(folder):
    for file in (folder / "tokenizer").iterdir():
        if file.name != "tokenizer_config.json":
            file.unlink()


def empty_vocabulary(folder):
    file = folder / "tokenizer/tokenizer.json"
    vocabulary = json.loads(file.read_text())
    vocabulary["model"]["vocab"] = vocabulary["model"]["vocab"][:4]
    file.write_text(json.dumps(vocabulary))


def cut(file, num_bytes):
    file.write_bytes(file.read_bytes()[:num_bytes])


def in_config(component, **values):
    def change(folder):
        file = folder / component / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return change


DAMAGE = {
    "no vocabulary": (
        drop_vocabulary,
        "tokenizer",
        ["tokenizer holds no vocabulary (tokenizer.json, spiece.model)", "Copy or download it"],
    ),
    "vocabulary without words": (empty_vocabulary, "tokenizer", ["same ids to all words", "Copy or download it again"]),
    "vocabulary is a pointer": (
        lambda folder: (folder / "tokenizer/tokenizer.json").write_text(POINTER),
        "tokenizer",
        ["tokenizer.json is a Git LFS pointer", "`git lfs pull`"],
    ),
    "vocabulary of another kind": (
        lambda folder: (folder / "tokenizer/tokenizer.json").write_text('{"model": 3}'),
        "tokenizer",
        ["transformers", "cannot load the T5Tokenizer", "Copy or download its vocabulary again"],
    ),
    "lacking embedding": (
        lambda folder: rewrite(folder / "text_encoder", without(("shared.", "encoder.embed_tokens."))),
        "text_encoder",
        ["UMT5EncoderModel", "missing tensors (2): encoder.embed_tokens.weight, shared.weight", "Copy or download the component again"],
    ),
    "lacking block": (
        lambda folder: rewrite(folder / "transformer", without("blocks.1.")),
        "transformer",
        ["WanTransformer3DModel", "missing tensors (27): blocks.1.attn1.", "and 24 more"],
    ),
    "lacking tensors of the VAE": (
        lambda folder: rewrite(folder / "vae", without("decoder.conv_in.")),
        "vae",
        ["AutoencoderKLWan", "missing tensors (2): decoder.conv_in.bias, decoder.conv_in.weight."],
    ),
    "extra block": (
        lambda folder: rewrite(folder / "transformer", with_extra_block),
        "transformer",
        ["tensors that it does not have (27): blocks.2.", "the config.json that belongs to it"],
    ),
    "wrong shape": (
        lambda folder: rewrite(folder / "transformer", reshaped),
        "transformer",
        ["wrong shapes (1): patch_embedding.bias is [23] instead of [24]"],
    ),
    "quantised": (
        lambda folder: rewrite(folder / "transformer", as_integers),
        "transformer",
        ["integers instead of floats (1): patch_embedding.bias"],
    ),
    "LFS pointer": (
        lambda folder: weights(folder / "transformer")[-1].write_text(POINTER),
        "transformer",
        [".safetensors is a Git LFS pointer", "`git lfs pull`"],
    ),
    "cut file": (
        lambda folder: cut(weights(folder / "vae")[0], -8),
        "vae",
        [".safetensors is cut: it has", "bytes, and its header says", "Copy or download it again"],
    ),
    "cut within the header": (
        lambda folder: cut(weights(folder / "vae")[0], 100),
        "vae",
        ["is cut: it ends within its header, after 100 bytes"],
    ),
    "empty file": (lambda folder: cut(weights(folder / "vae")[0], 0), "vae", ["is cut: it ends within its header, after 0 bytes"]),
    "zeros": (
        lambda folder: weights(folder / "vae")[0].write_bytes(bytes(5000)),
        "vae",
        ["has no readable safetensors header"],
    ),
    "web page": (
        lambda folder: weights(folder / "vae")[0].write_text("<!DOCTYPE html>"),
        "vae",
        ["is not a safetensors file", "Copy or download it again"],
    ),
    "longer file": (
        lambda folder: weights(folder / "vae")[0].write_bytes(weights(folder / "vae")[0].read_bytes() + b"0"),
        "vae",
        ["is too long: it has"],
    ),
    "no config": (
        lambda folder: (folder / "vae/config.json").rename(folder / "vae/other.json"),
        "vae",
        ["vae/config.json is missing"],
    ),
    "cut config": (lambda folder: cut(folder / "vae/config.json", 20), "vae", ["vae/config.json cannot be read as JSON"]),
    "scheduler's config is a list": (
        lambda folder: (folder / "scheduler/scheduler_config.json").write_text("[]"),
        "scheduler",
        ["scheduler_config.json holds no JSON object"],
    ),
    "config of a larger model": (in_config("transformer", num_layers=3), "transformer", ["missing tensors (27): blocks.2."]),
    "config that no class can use": (
        in_config("transformer", num_layers="many"),
        "transformer",
        ["config.json describes no WanTransformer3DModel"],
    ),
    "NaN": (
        lambda folder: rewrite(folder / "transformer", with_value(float("nan"))),
        "transformer",
        ["the tensor blocks.1.ffn.net.2.weight in", ".safetensors holds NaN or infinity"],
    ),
    "infinity": (
        lambda folder: rewrite(folder / "transformer", with_value(-float("inf"))),
        "transformer",
        ["the tensor blocks.1.ffn.net.2.weight in", ".safetensors holds NaN or infinity"],
    ),
}
NOT_AT_LOADING = ("NaN", "infinity")


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_wrong_is_named_at_the_first_look(model, tmp_path, kind):
    damage, component, says = DAMAGE[kind]
    damage(model)
    ws = project(tmp_path, model={"path": str(model)})
    for look in (model_hash, encoders_hash):
        with pytest.raises(MotiveError) as error:
            look(ws)
        for words in ("model.path = ", f"the component {component}: ", str(model / component), *says):
            assert words in str(error.value)
    if kind not in NOT_AT_LOADING:
        with pytest.raises(MotiveError) as at_loading:
            load_model(section(model), threads=1)
        assert str(at_loading.value) == str(error.value)
    found, _ = doctor._model(ws.config)
    assert found.status == "fail"
    assert " ".join(str(error.value).split()) == found.detail


@pytest.mark.parametrize("kind", ["lacking block", "no vocabulary"])
def test_a_checkpoint_is_checked_as_the_base_model_is(single, kind):
    damage, component, says = DAMAGE[kind]
    damage(single)
    with pytest.raises(MotiveError) as error:
        load_model(section(TINY), threads=1, path=single)
    for words in (f"checkpoint: the component {component}: ", *says):
        assert words in str(error.value)


def test_a_missing_shard_is_named(sharded):
    weights(sharded / "transformer")[1].unlink()
    with pytest.raises(
        MotiveError, match=r"transformer: .*index\.json lists diffusion_pytorch_model-00002-of-\d+\.safetensors, which is missing"
    ):
        model_folder(section(sharded))
    for shard in weights(sharded / "text_encoder"):
        shard.unlink()
    with pytest.raises(MotiveError, match=r"text_encoder: .*model-00001-of-.*, model-00002-of-.*, which are missing\. Copy or download"):
        model_folder(section(sharded))


def test_a_shard_that_lacks_a_listed_tensor_is_named(sharded):
    shard = weights(sharded / "transformer")[0]
    tensors = load_file(shard)
    name = sorted(tensors)[0]
    save_file({each: tensor for each, tensor in tensors.items() if each != name}, shard)
    with pytest.raises(MotiveError, match=rf"{shard} lacks the tensor {name}, which .*index\.json lists in it"):
        model_folder(section(sharded))


def test_a_tensor_that_the_index_lists_in_another_shard_is_named(sharded):
    first, second = [shard for shard in weights(sharded / "transformer") if len(load_file(shard)) > 1][:2]
    index = sharded / "transformer/diffusion_pytorch_model.safetensors.index.json"
    entries = json.loads(index.read_text())
    name = next(name for name, shard in entries["weight_map"].items() if shard == first.name)
    entries["weight_map"][name] = second.name
    index.write_text(json.dumps(entries))
    with pytest.raises(MotiveError, match=rf"{second} lacks the tensor {name}"):
        model_folder(section(sharded))


def test_a_tensor_in_two_shards_is_named(sharded):
    first, second = weights(sharded / "transformer")[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor + 1}, second)
    with pytest.raises(MotiveError, match=rf"{second} and {first.name} both hold {name}"):
        model_folder(section(sharded))


@pytest.mark.parametrize("index", ["{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_an_index_without_shards_is_named(sharded, index):
    (sharded / "vae/diffusion_pytorch_model.safetensors.index.json").write_text(index)
    with pytest.raises(MotiveError, match=r"vae: .*index\.json has no weight_map"):
        model_folder(section(sharded))


def test_shards_without_their_index_are_no_weights(sharded):
    (sharded / "vae/diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(
        MotiveError, match=r"holds no weights in diffusion_pytorch_model\.safetensors or in shards.*there are .*-00001-of.*copy the index"
    ):
        model_folder(section(sharded))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin"])
def test_weights_of_another_name_or_format_are_named(single, name):
    weights(single / "transformer")[0].rename(single / "transformer" / name)
    with pytest.raises(MotiveError, match=rf"there is {name}\. Give a variant the name without its suffix"):
        model_folder(section(single))


def test_a_broken_model_index_is_named(single):
    (single / "model_index.json").write_text("{")
    with pytest.raises(MotiveError, match=r"model\.path = .*model_index\.json cannot be read as JSON"):
        model_folder(section(single))


def test_a_class_that_the_library_does_not_have_is_named(single):
    index = json.loads((single / "model_index.json").read_text())
    (single / "model_index.json").write_text(json.dumps(index | {"vae": ["diffusers", "AutoencoderOfTomorrow"]}))
    with pytest.raises(MotiveError, match=r"the component vae: diffusers .* has no class AutoencoderOfTomorrow"):
        load_model(section(single), threads=1)


def test_a_whole_model_passes(model, tmp_path):
    assert len(model_hash(project(tmp_path, model={"path": str(model)}))) == 32
    load_model(section(model), threads=1)


def test_the_embedded_model_passes(tmp_path):
    model_hash(project(tmp_path))
    load_model(section("tiny"), threads=1)


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_one_of_two_tied_tensors_is_enough(model, tmp_path, kept):
    def change(tensors):
        return {kept if name in ("shared.weight", "encoder.embed_tokens.weight") else name: tensor for name, tensor in tensors.items()}

    rewrite(model / "text_encoder", change)
    model_hash(project(tmp_path, model={"path": str(model)}))


def test_tensors_that_the_class_ignores_are_ignored(single, tmp_path):
    rewrite(single / "transformer", lambda tensors: tensors | {"blocks.0.attn2.norm_added_q.weight": torch.ones(24)})
    model_hash(project(tmp_path, model={"path": str(single)}))


def test_tensors_that_the_class_can_do_without_may_be_missing(single, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.UMT5EncoderModel._keys_to_ignore_on_load_missing", [r"final_layer_norm"])
    rewrite(single / "text_encoder", without("encoder.final_layer_norm"))
    model_hash(project(tmp_path, model={"path": str(single)}))


def test_a_file_beside_the_weights_is_not_one_of_them(single, tmp_path):
    (single / "transformer/diffusion_pytorch_model.bin").write_text(POINTER)
    (single / "transformer/diffusion_pytorch_model.fp16.safetensors").write_text(POINTER)
    (single / "text_encoder/model.safetensors.index.json").write_text("{}")
    model_hash(project(tmp_path, model={"path": str(single)}))
    load_model(section(single), threads=1)


def test_models_in_the_layout_of_wan_2_2_pass_and_their_second_expert_is_checked(tmp_path):
    size = {"num_layers": 2, "heads": 2, "head_dim": 12, "ffn_dim": 48}
    two = tmp_path / "two experts"
    build_pipeline(transformer_2=build_transformer(**size), boundary_ratio=0.875).save_pretrained(two)
    ws = project(tmp_path / "a", model={"path": str(two)})
    model_hash(ws)
    rewrite(two / "transformer_2", with_value(float("nan")))
    with pytest.raises(MotiveError, match="the component transformer_2: the tensor blocks"):
        model_hash(ws)
    shutil.rmtree(two / "transformer_2")
    with pytest.raises(MotiveError, match="the component transformer_2 is missing"):
        model_hash(ws)
    dense = tmp_path / "tokens"
    pipeline = build_pipeline(expand_timesteps=True)
    strides = {
        "temperal_downsample": [False, True, True],
        "scale_factor_spatial": 16,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
    }
    pipeline.register_modules(vae=AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, patch_size=2, **strides))
    pipeline.save_pretrained(dense)
    model_hash(project(tmp_path / "b", model={"path": str(dense)}))


def test_a_second_look_reads_no_weight_and_needs_no_class(model, tmp_path, monkeypatch):
    ws = project(tmp_path, model={"path": str(model)})
    monkeypatch.setattr(model_folders, "YOUNG_S", 0.0)
    time.sleep(0.02)
    first = model_hash(ws)
    with monkeypatch.context() as second:
        second.setattr(sound, "require_finite", lambda file: pytest.fail(f"{file} was searched again"))
        second.setattr(sound, "require_fits", lambda *_: pytest.fail("the classes were built again"))
        second.setattr(model_folders, "digest_file", lambda file: pytest.fail(f"{file} was read again"))
        assert model_hash(ws) == first
        encoders_hash(ws)
    file = weights(model / "transformer")[0]
    stat = file.stat()
    rewrite(model / "transformer", with_value(float("nan")))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(MotiveError, match="holds NaN or infinity"):
        model_hash(ws)
    with pytest.raises(MotiveError, match="holds NaN or infinity"):
        model_hash(ws)


@pytest.mark.parametrize("changed", ["transformer/config.json", "tokenizer/tokenizer.json", "headers", "class", "version"])
def test_what_the_classes_look_at_is_looked_at_again_when_it_changes(single, tmp_path, monkeypatch, changed):
    ws = project(tmp_path, model={"path": str(single)})
    model_hash(ws)
    looked = []
    monkeypatch.setattr(sound, "require_fits", lambda *_: looked.append(1))
    model_hash(ws)
    assert looked == []
    if changed == "headers":
        rewrite(single / "transformer", without("blocks.1."))
    elif changed == "class":
        index = single / "model_index.json"
        index.write_text(index.read_text().replace("T5Tokenizer", "PreTrainedTokenizerFast"))
    elif changed == "version":
        monkeypatch.setattr(sound, "version", lambda library: "0")
    else:
        (single / changed).write_text((single / changed).read_text() + " ")
    model_hash(ws)
    assert looked == [1]


def test_a_damaged_memory_of_checks_is_forgotten(single, tmp_path, caplog):
    ws = project(tmp_path, model={"path": str(single)})
    first = model_hash(ws)
    model_folders.check_memory(ws).write_text("{")
    assert model_hash(ws) == first
    assert "model_checks.json" in caplog.text


def test_the_structure_is_checked_without_torch(single):
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from motive_pipeline.models.folder import require_pipeline; "
        f"require_pipeline(Path({str(single)!r}), 'x'); sys.exit(bool({{'torch', 'diffusers', 'transformers'}} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("at", [0, 17, 99])
def test_nan_and_infinity_are_found_in_every_type_and_place_and_nothing_else_is(tmp_path, monkeypatch, kind, at):
    monkeypatch.setattr(whole, "_SCAN_BYTES", 64)
    dtype, file = TYPES[kind], tmp_path / "x.safetensors"
    limits = torch.finfo(dtype)
    fine = torch.tensor([limits.max, limits.min, limits.smallest_normal, 0.0, -1.0], dtype=torch.float64).repeat(20)
    save_file({"a": fine.to(dtype), "b": torch.zeros(3, dtype=dtype), "empty": torch.zeros(0, dtype=dtype)}, file)
    assert read_header(file)["a"].dtype == kind
    require_finite(file)
    for value in (float("nan"), float("inf"), -float("inf")):
        bad = fine.clone()
        bad[at] = value
        bad = bad.to(dtype)
        if not bool(torch.isfinite(bad.float()).all()):
            save_file({"a": bad, "b": torch.zeros(3, dtype=dtype)}, file)
            with pytest.raises(Flaw, match="the tensor a in"):
                require_finite(file)


def test_integers_are_never_nan(tmp_path):
    save_file({"a": torch.full((4,), -1, dtype=torch.int32)}, tmp_path / "x.safetensors")
    require_finite(tmp_path / "x.safetensors")


def test_a_header_that_describes_no_tensors_is_named(tmp_path):
    file = tmp_path / "x.safetensors"
    for header in (b"[1, 2]", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [1]}}', b'{"a": '):
        file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        with pytest.raises(Flaw, match="has no readable safetensors header"):
            read_header(file)


def test_the_tensors_of_a_header_are_those_that_were_saved(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(5, dtype=torch.float16)}, file)
    found = read_header(file)
    assert {name: (tensor.dtype, tensor.shape, tensor.num_bytes) for name, tensor in found.items()} == {
        "a": ("F32", (2, 3), 24),
        "b": ("F16", (5,), 10),
    }
    start = found["a"].start
    assert np.frombuffer(file.read_bytes()[start : start + 24], "<f4").tolist() == list(range(6))


def test_a_vocabulary_may_be_a_sentencepiece_file_but_not_an_empty_one(single):
    (single / "tokenizer/tokenizer.json").unlink()
    vocabulary = single / "tokenizer/spiece.model"
    vocabulary.write_bytes(b"pieces")
    assert model_folder(section(single)) == single
    with pytest.raises(MotiveError, match=r"cannot load the T5Tokenizer .*a tokenizer\.json needs no further library"):
        load_model(section(single), threads=1)
    vocabulary.write_bytes(b"")
    with pytest.raises(MotiveError, match=r"spiece\.model is empty\. Copy or download it again"):
        model_folder(section(single))


def test_a_tokenizer_with_ids_that_the_text_encoder_does_not_know_is_refused(single):
    known = json.loads((single / "text_encoder/config.json").read_text())["vocab_size"]
    file = single / "tokenizer/tokenizer.json"
    saved = json.loads(file.read_text())
    assert len(saved["model"]["vocab"]) == known
    one_more = saved["added_tokens"][0] | {"id": known, "content": "<one more>"}
    file.write_text(json.dumps(saved | {"added_tokens": [*saved["added_tokens"], one_more]}))
    with pytest.raises(MotiveError, match=rf"has ids up to {known}, and its text encoder knows {known} ids: they do not belong together"):
        load_model(section(single), threads=1)


class Hub:
    """A cache of the hub with one repository, and a hub that can give the files that the cache lacks."""

    def __init__(self, source, cache, monkeypatch):
        self.source, self.snapshot, self.downloads = source, cache / "models--someone--wan" / "snapshots" / "abc", 0
        shutil.copytree(source, self.snapshot)
        (self.snapshot.parents[1] / "refs").mkdir()
        (self.snapshot.parents[1] / "refs" / "main").write_text("abc")
        self.answer = self.complete
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        monkeypatch.setattr("huggingface_hub.snapshot_download", self.download)

    def download(self, name, *, revision, allow_patterns):
        assert name == "someone/wan"
        self.downloads += 1
        self.answer()
        return str(self.snapshot)

    def complete(self):
        for file in self.source.rglob("*"):
            target = self.snapshot / file.relative_to(self.source)
            if file.is_file() and not target.exists():
                shutil.copyfile(file, target)

    def offline(self):
        raise OSError("no network")


@pytest.fixture
def hub(sources, tmp_path, monkeypatch):
    return Hub(sources[SHARDED], tmp_path / "hub", monkeypatch)


def test_a_whole_snapshot_is_not_downloaded_again(hub):
    assert model_folder(section("someone/wan")) == hub.snapshot
    assert hub.downloads == 0


def test_a_snapshot_that_lacks_a_shard_is_completed(hub):
    weights(hub.snapshot / "transformer")[0].unlink()
    assert model_folder(section("someone/wan")) == hub.snapshot
    assert hub.downloads == 1
    load_model(section("someone/wan"), threads=1)


def test_without_the_network_the_error_names_what_the_snapshot_lacks(hub):
    shard = weights(hub.snapshot / "transformer")[0]
    shard.unlink()
    hub.answer = hub.offline
    says = (
        rf"model\.path = .*component transformer: .*lists {shard.name}, which is missing.*cannot be completed from the hub \(no network\)"
    )
    with pytest.raises(MotiveError, match=says + r".*the network, or set model\.path to a folder"):
        model_folder(section("someone/wan"))


def test_what_a_download_does_not_mend_says_what_to_delete(hub):
    shard = weights(hub.snapshot / "transformer")[0]
    cut(shard, -8)
    with pytest.raises(
        MotiveError, match=rf"{shard} is cut.*downloading did not complete it.*delete {hub.snapshot.parents[1]}: the next run"
    ):
        model_folder(section("someone/wan"))
    assert hub.downloads == 1
