"""``finetune.command``: a trainer of the user's own takes the stage. Here it is a small program that reads the export and writes a checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.config import Finetune
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.models.adapter_file import COMFYUI_FILE, LORA_FILE
from motive_pipeline.models.load import load_model
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.finetune import checkpoint_folder, load_records, publish_checkpoint
from motive_pipeline.training.own_checkpoint import found_checkpoint
from motive_pipeline.training.own_trainer import filled
from tests.curation_fixtures import publish_table
from tests.gradient_fixtures import workspace

TRAINER = """
import json, shutil, sys, time
from pathlib import Path
import numpy as np
from safetensors.numpy import load_file, save_file

how, subset, model, output, steps, seed, arm = sys.argv[1:]
subset, model, output = Path(subset), Path(model), Path(output)
rows = [json.loads(line) for line in (subset / "metadata.jsonl").read_text().splitlines()]
assert all((subset / row["video"]).is_file() for row in rows)
for step in range(3):
    sys.stdout.write(f"step {step} of {steps}\\r")
print(f"trained on {len(rows)} clips of {arm}", flush=True)
(output / "arguments.json").write_text(json.dumps([*sys.argv[1:]]))
if how == "fails":
    sys.exit("CUDA error: out of luck")
if how == "sleeps":
    (output / "asleep").touch()
    time.sleep(600)
random = np.random.default_rng(int(seed))
if how.startswith("lora"):
    layer = "transformer.blocks.0.attn1.to_q"
    weights = {f"{layer}.lora_A.weight": random.random((2, 24), dtype=np.float32), f"{layer}.lora_B.weight": random.random((24, 2), dtype=np.float32)}
    said = {"lora": None, "lora_says_steps": {"ss_steps": steps}, "lora_says_fewer": {"ss_steps": "1"}}.get(how)
    save_file(weights, output / "adapter.safetensors", metadata=said)
    if how == "lora_of_another_model":
        save_file({name: np.zeros((3, 5), np.float32) for name in weights}, output / "adapter.safetensors")
    if how == "lora_twice":
        save_file(weights, output / "adapter-000001.safetensors")
if how in ("transformer", "pipeline"):
    if how == "pipeline":
        shutil.copytree(model, output / "final")
    target = output / "final" / "transformer"
    target.mkdir(parents=True, exist_ok=True)
    for file in (model / "transformer").iterdir():
        shutil.copyfile(file, target / file.name)
    file = target / "diffusion_pytorch_model.safetensors"
    save_file({name: value + np.float32(0.25) for name, value in load_file(file).items()}, file)
"""


@pytest.fixture
def trained(folder: Path):
    """A function ``(how, **finetune) -> Workspace``: the small project with subsets of two arms, and the trainer told ``how``."""
    script = folder / "trainer.py"
    script.write_text(TRAINER)

    def build(how: str, **finetune) -> Workspace:
        words = ["{subset}", "{model}", "{output}", "{steps}", "{seed}", "{arm}"]
        settings = {"command": [sys.executable, str(script), how, *words], "steps": 7, **finetune}
        ws = workspace(folder, finetune=settings)
        clips = sorted(clip.clip_id for clip in catalog_clips(ws, "clip"))
        for arm, chosen in {"motive": clips[:2], "full": clips}.items():
            publish_table(ws, f"curated_subset/{arm}", "subset", {"clip_id": chosen, "rank": list(range(1, len(chosen) + 1))})
        return ws

    return build


def test_its_lora_becomes_the_checkpoint(trained, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    ws = trained("lora", seeds=2)
    publication = publish_checkpoint(ws, "motive")
    assert "finetune motive, training 1: step 0 of 7" in caplog.text, "its progress is in our log"
    for number in (0, 1):
        folder = checkpoint_folder(publication.path, number)
        saved = load_file(folder / LORA_FILE)
        expected = np.random.default_rng(number).random((2, 24), dtype=np.float32)
        assert np.array_equal(saved["transformer.blocks.0.attn1.to_q.lora_A.weight"], expected)
        assert (folder / COMFYUI_FILE).exists()
        loaded = load_model(ws.config.model, threads=1, path=folder)
        assert any(".lora_A." in name for name, _ in loaded.transformer.named_parameters())
    assert publication.facts["steps"] == "7 (not verified: the trainer's checkpoint does not name them)"
    assert not list((ws.root / "work" / "finetune").glob("*/*-command")), "the exported subset is gone"
    assert publish_checkpoint(ws, "motive").counts.reused == 2


def test_every_word_of_the_command_is_replaced(trained) -> None:
    ws = trained("fails")
    with pytest.raises(GateFailed):
        publish_checkpoint(ws, "full")
    [run] = (ws.root / "work" / "finetune").glob("*/*-command")
    how, subset, model, output, steps, seed, arm = json.loads((run / "output" / "arguments.json").read_text())
    assert (how, steps, seed, arm) == ("fails", "7", "0", "full")
    assert (Path(subset), Path(output), Path(model)) == (run / "subset", run / "output", Path(ws.config.model.path))
    assert filled(["{a}{b}", '{"json": 1}', "{steps}"], {"steps": "3", "b": "x"}) == ["{a}x", '{"json": 1}', "3"]


@pytest.mark.parametrize("how", ["transformer", "pipeline"])
def test_its_transformer_takes_the_place_of_the_base_models(trained, how: str) -> None:
    ws = trained(how)
    publication = publish_checkpoint(ws, "motive")
    base, loaded = load_model(ws.config.model, threads=1), load_model(ws.config.model, threads=1, path=publication.path)
    for (name, before), (_, after) in zip(base.transformer.named_parameters(), loaded.transformer.named_parameters(), strict=True):
        torch.testing.assert_close(after, before + 0.25, msg=name)
    source = Path(ws.config.model.path)
    assert (publication.path / "vae" / "config.json").samefile(source / "vae" / "config.json")


def test_steps_that_the_checkpoint_names_are_compared(trained) -> None:
    publication = publish_checkpoint(trained("lora_says_steps"), "motive")
    assert publication.facts["steps"] == 7
    assert load_records(publication.path)[0]["steps"] == 7
    with pytest.raises(GateFailed, match=r"adapter.safetensors was trained for 1 steps by its own record, and finetune.steps is 7"):
        publish_checkpoint(trained("lora_says_fewer"), "motive")


def test_a_failure_shows_the_last_lines_of_its_log(trained) -> None:
    ws = trained("fails")
    with pytest.raises(
        GateFailed,
        match=r"(?s)finetune.command ended with exit code 1\. The last lines of .*trainer\.log:\n.*trained on 2 clips of motive\nCUDA error: out of luck",
    ):
        publish_checkpoint(ws, "motive")
    assert not ws.has_published("finetuned_checkpoint/motive")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("nothing", "left no checkpoint"),
        ("lora_twice", r"(?s)left 2 checkpoints .*adapter-000001\.safetensors.*finetune.command_checkpoint"),
        ("lora_of_another_model", r"finetune.command's checkpoint .* is the LoRA of another model"),
    ],
)
def test_what_is_no_checkpoint_is_named(trained, how: str, says: str) -> None:
    with pytest.raises(MotiveError, match=says):
        publish_checkpoint(trained(how), "motive")


def test_a_pattern_chooses_one_of_several(trained) -> None:
    publication = publish_checkpoint(trained("lora_twice", command_checkpoint="adapter.safetensors"), "motive")
    assert (publication.path / LORA_FILE).exists()


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(GateFailed, match=r"left .*cut\.safetensors, which is no whole safetensors file"):
        found_checkpoint(tmp_path, "**/*", expert="transformer", what="finetune motive")


def test_steps_in_ai_toolkits_metadata_are_read(tmp_path: Path) -> None:
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "a.safetensors", metadata={"training_info": json.dumps({"step": 40, "epoch": 2})})
    assert found_checkpoint(tmp_path, "*", expert="transformer", what="").steps == 40


def test_a_program_that_is_not_there_is_refused_before_any_work(trained) -> None:
    ws = trained("lora", command=["no-such-trainer", "{output}"])
    with pytest.raises(MotiveError, match=r"finetune.command: there is no program 'no-such-trainer' that can be run"):
        publish_checkpoint(ws, "motive")
    with pytest.raises(MotiveError, match=r"finetune.command_layout = 'nothing': no such layout"):
        publish_checkpoint(trained("lora", command_layout="nothing"), "motive")
    assert not (ws.root / "work" / "finetune").exists()


def test_words_that_stand_for_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\{step\} stands for nothing. There are: \{subset\}, \{model\}, \{output\}"):
        Finetune.model_validate({"command": ["train", "{step}", "{output}"]})
    with pytest.raises(ValueError, match=r"must say \{output\}"):
        Finetune.model_validate({"command": ["train"]})


def test_another_command_is_another_training(folder: Path) -> None:
    def fingerprint(**finetune) -> str:
        return workspace(folder, finetune=finetune).config.row_fingerprint("finetuned_checkpoint")

    assert fingerprint() == fingerprint(command_layout="musubi")
    assert len({fingerprint(), fingerprint(command=["a", "{output}"]), fingerprint(command=["b", "{output}"])}) == 3


SCRIPT = """
import json, sys
from pathlib import Path
from motive_pipeline.training.finetune import publish_checkpoint
from tests.gradient_fixtures import workspace
publish_checkpoint(workspace(Path(sys.argv[1]), finetune=json.loads(sys.argv[2])), "motive")
"""


@pytest.mark.slow
def test_when_the_run_is_stopped_the_command_ends_too(trained) -> None:
    ws = trained("sleeps")
    arguments = [str(ws.config.file.parent), json.dumps(ws.config.setting("finetune"))]
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], cwd=Path(__file__).parents[2], stderr=subprocess.DEVNULL)
    while not list((ws.root / "work" / "finetune").glob("*/*-command/output/asleep")):
        assert process.poll() is None, "the run ended before it could be stopped"
        time.sleep(0.05)
    processes = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    command = next(pid for pid in processes if "sleeps" in Path(f"/proc/{pid}/cmdline").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(command), 0)
