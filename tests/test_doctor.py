"""``motive doctor``: a line for each thing, what is wrong and what to do, and an exit code."""

import importlib.metadata
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from motive_pipeline import cli, doctor
from motive_pipeline.config import Config, parse_config
from motive_pipeline.models.folder import TINY

BASE = "clips: {source: demo}\nqueries: {source: demo}\n"
TINY_MODEL = "model: {path: tiny, dtype: float32}\n"
GIGABYTE = 10**9


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no config named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTIVE_CONFIG", raising=False)
    return tmp_path


def config(text: str = TINY_MODEL) -> Config:
    return parse_config(BASE + text, Path.cwd() / "motive.yaml")


def big(billions: float = 1.4) -> doctor._Model:
    return doctor._Model(num_bytes=int(3 * billions * GIGABYTE), num_parameters=int(billions * GIGABYTE))


def test_a_sound_machine_has_a_line_for_everything_and_nothing_is_left_behind(here: Path, capsys: pytest.CaptureFixture):
    (here / "motive.yaml").write_text(BASE + TINY_MODEL)
    assert cli.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["versions", "settings", "video", "model", "memory", "gpu", "disk"]
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    assert str(here / "motive.yaml") in lines[1]
    assert [path.name for path in here.iterdir()] == ["motive.yaml"]


def test_without_a_config_it_looks_at_what_the_demo_needs(capsys: pytest.CaptureFixture):
    assert cli.main(["doctor"]) == 0
    assert re.search(r"warn +settings +no motive.yaml here.*motive demo", capsys.readouterr().out)


def test_settings_that_cannot_be_used_fail_and_the_rest_is_looked_at(here: Path, capsys: pytest.CaptureFixture):
    (here / "bad.yaml").write_text(BASE + "subset: {share: 0}\n")
    assert cli.main(["doctor", "--config", "bad.yaml"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"fail +settings +.*subset\.share = 0", out)
    assert len(out.splitlines()) == 7


def test_a_missing_or_old_library_is_named(monkeypatch: pytest.MonkeyPatch):
    needed = ["numpy>=1.0", "numpy>=99; python_version >= '3'", "no-such-package>=1", "also-not-there; extra == 'dev'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    found = doctor._versions()
    assert found.status == "fail"
    assert f"numpy {importlib.metadata.version('numpy')} is not >=99; no-such-package is missing." in found.detail
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed[:1] + needed[3:])
    assert doctor._versions().status == "ok"


def test_a_package_that_is_not_installed_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", missing)
    assert doctor._versions().status == "warn"


def test_an_encoder_that_spoils_frames_is_noticed(monkeypatch: pytest.MonkeyPatch):
    from motive_pipeline.video import encode

    write = encode.write_mp4
    assert doctor._video().status == "ok"
    monkeypatch.setattr(encode, "write_mp4", lambda path, frames, fps: write(path, 255 - frames, fps))
    assert doctor._video().status == "fail"
    monkeypatch.setattr(encode, "write_mp4", lambda path, frames, fps: write(path, frames[:3], fps))
    assert doctor._video().status == "fail"
    monkeypatch.setattr(encode, "write_mp4", lambda path, frames, fps: Path(path).write_bytes(b"no video"))
    assert "cannot be written and read" in doctor._video().detail


def test_a_decoder_that_is_missing_is_a_warning(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "DECODERS", ("h264", "no_such_codec"))
    found = doctor._video()
    assert found.status == "warn"
    assert "no_such_codec" in found.detail


def test_the_size_of_a_model_is_that_of_its_weights():
    found, model = doctor._model(config())
    assert found.status == "ok"
    assert model is not None
    weights = load_file(TINY / "transformer" / "diffusion_pytorch_model.safetensors")
    assert model.num_parameters == sum(each.numel() for each in weights.values())
    assert model.num_bytes == sum(file.stat().st_size for file in TINY.rglob("*.safetensors"))


@pytest.mark.parametrize("path", ["/no/such/folder", "nowhere"])
def test_a_model_that_is_nowhere_fails(path: str):
    found, model = doctor._model(config(f"model: {{path: {path}}}\n"))
    assert found.status == "fail"
    assert "model.path" in found.detail
    assert model is None


def test_a_model_of_the_hub_is_not_downloaded(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *arguments, **options: pytest.fail("a download"))
    found, model = doctor._model(config("model: {path: nobody/nothing}\n"))
    assert (found.status, model) == ("warn", None)
    assert "the first run downloads it" in found.detail


WAN = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


@pytest.mark.parametrize(("gigabytes", "path", "status"), [(2, "tiny", "fail"), (16, "tiny", "ok"), (16, WAN, "warn"), (256, WAN, "ok")])
def test_memory_is_compared_with_what_the_stages_need(gigabytes: int, path: str, status: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": gigabytes * GIGABYTE}.__getitem__)
    settings = "gradient: {checkpointing: true}\nfinetune: {micro_batch_size: 1, checkpointing: true}\n"
    found = doctor._memory(config(f"model: {{path: {path}, device: cpu}}\n{settings}"), None)
    assert found.status == status
    if status == "warn":
        assert re.search(r"finetune: needs about \d+ GB, this machine's main memory .* has 13 GB: use .*`finetune.lora`", found.detail)


def test_a_gpu_s_main_memory_holds_the_model(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 6 * GIGABYTE}.__getitem__)
    monkeypatch.setattr(doctor, "_wants_gpu", lambda config: True)
    assert doctor._memory(config(), big()).status == "warn"
    assert doctor._memory(config(), None).status == "ok"


class TestGpu:
    def test_none_where_one_is_asked_for_fails(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        found = doctor._gpu(config("model: {path: tiny, device: cuda}\n"))
        assert found.status == "fail"
        assert "model.device" in found.detail

    @pytest.mark.parametrize(("path", "status"), [("tiny", "ok"), ("someone/wan", "warn")])
    def test_none_is_fine_for_a_small_model(self, path: str, status: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert doctor._gpu(config(f"model: {{path: {path}}}\n")).status == status

    @pytest.mark.parametrize(
        ("free", "total", "status", "says"),
        [
            (78, 80, "ok", "finetune needs most, about 35 GB"),
            (12, 80, "warn", "Other processes"),
            (23, 24, "warn", "finetune: needs about 35 GB, this GPU has 24 GB: use `finetune.optimizer: adamw8bit`, `finetune.lora`"),
        ],
    )
    def test_its_memory_is_compared_with_what_training_takes(self, free, total, status, says, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free * GIGABYTE, total * GIGABYTE))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A card")
        settings = "gradient: {checkpointing: true}\nfinetune: {micro_batch_size: 1, checkpointing: true}\n"
        found = doctor._gpu(config(f"model: {{path: {WAN}, dtype: bfloat16}}\n{settings}"))
        assert found.status == status
        assert says in found.detail


class TestDisk:
    def test_a_place_that_cannot_be_written_fails(self, here: Path):
        (here / "file").write_text("")
        found = doctor._disk(config(f"storage: {{root: {here}/file/root}}\n"), None)
        assert found.status == "fail"
        assert f"{here}/file cannot be written" in found.detail

    @pytest.mark.parametrize(("free", "status"), [(0.5, "fail"), (20, "warn"), (200, "ok")])
    def test_the_checkpoints_of_all_arms_must_fit(self, free: float, status: str, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": free * GIGABYTE}))
        found = doctor._disk(config("finetune: {seeds: 3}\n"), big())
        assert found.status == status
        assert "checkpoints of 15 trainings take 63.0 GB" in found.detail
