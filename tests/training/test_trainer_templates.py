"""The scripts in examples/trainers, each with a stand-in for its trainer's programs: what they are told, and that the checkpoint they leave is found.

The trainers themselves need a GPU and real weights and are not run. The stand-in writes a LoRA where the trainer would, by the rules of its own code.
"""

import json
import os
import re
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from motive_pipeline.config import Finetune
from motive_pipeline.export.trainers import TRAINERS
from motive_pipeline.training.own_checkpoint import found_checkpoint
from motive_pipeline.training.own_trainer import filled

SCRIPTS = sorted((Path(__file__).parents[2] / "examples" / "trainers").glob("*.sh"))
STAND_IN = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
[ -n "$LORA" ] && mkdir -p "$(dirname "$LORA")" && cp "$WEIGHTS" "$LORA"
exit 0
"""
LEFT = {
    "ai_toolkit": "lora/lora.safetensors",
    "diffsynth": "step-7.safetensors",
    "diffusion_pipe": "lora/20260101_00-00-00/step7/adapter_model.safetensors",
    "musubi": "lora.safetensors",
    "simpletuner": "lora/pytorch_lora_weights.safetensors",
}
"""Where each trainer leaves its LoRA below {output}, after 7 steps."""


@dataclass(frozen=True)
class Run:
    settings: Finetune
    output: Path
    subset: Path
    checkout: Path
    calls: str


def settings_in(script: Path) -> Finetune:
    """The settings that the comment at the script's head says to use."""
    comment = [line[2:] for line in script.read_text().splitlines() if line.startswith("# ")]
    start = comment.index("  finetune:")
    lines = [line for line in comment[start:] if line.startswith("  ")]
    return Finetune.model_validate(yaml.safe_load("\n".join(lines))["finetune"])


@pytest.fixture(params=SCRIPTS, ids=lambda script: script.stem)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    script: Path = request.param
    checkout, subset, output = tmp_path / "a trainer", tmp_path / "sub set", tmp_path / "out put"
    for folder in (checkout / ".venv" / "bin", subset, output):
        folder.mkdir(parents=True)
    for program in ("python", "accelerate", "deepspeed"):
        (checkout / ".venv" / "bin" / program).write_text(STAND_IN)
        (checkout / ".venv" / "bin" / program).chmod(0o755)
    (checkout / "train.sh").write_text(STAND_IN)
    (checkout / "train.sh").chmod(0o755)
    (subset / "metadata.jsonl").write_text('{"video": "a"}\n{"video": "b"}\n{"video": "c"}\n')
    (subset / "datasets.yaml").write_text('datasets:\n  - folder_path: "videos"\n    num_frames: 81\n')
    (tmp_path / "lora").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    settings = settings_in(script)
    words = {"subset": str(subset), "model": str(tmp_path / "mo del"), "output": str(output), "steps": "7", "seed": "2", "arm": "motive"}
    names = ("MUSUBI", "DIFFUSION_PIPE", "DIFFSYNTH", "AI_TOOLKIT", "SIMPLETUNER")
    environment = (
        os.environ | dict.fromkeys(names, str(checkout)) | dict.fromkeys(("WAN_DIT", "WAN_VAE", "WAN_T5", "WAN_CKPT"), "/models/wan")
    )
    environment |= {"CALLS": str(tmp_path / "calls"), "LORA": str(output / LEFT[script.stem]), "WEIGHTS": str(tmp_path / "lora")}
    subprocess.run(filled(settings.command or (), words), check=True, env=environment, cwd=script.parents[2])
    return Run(settings=settings, output=output, subset=subset, checkout=checkout, calls=(tmp_path / "calls").read_text())


def test_its_settings_are_valid_and_its_checkpoint_is_the_one_that_counts(run: Run) -> None:
    assert run.settings.command_layout in TRAINERS
    found = found_checkpoint(run.output, run.settings.command_checkpoint, expert="transformer", what="finetune")
    assert found.is_adapter


def test_the_trainer_is_told_subset_output_and_steps(run: Run) -> None:
    configs = [file for pattern in ("*.toml", "*.yaml") for file in run.output.glob(pattern)] + list(
        run.checkout.glob("config/*/config.json")
    )
    told = run.calls + "".join(file.read_text() for file in configs)
    for value in (str(run.subset), str(run.output)) if run.settings.command_layout != "ai_toolkit" else (str(run.output), "videos"):
        assert value in told
    if run.settings.command_layout == "diffsynth":
        assert "--dataset_repeat 3 --num_epochs 1 --save_steps 7" in told, "3 passes over 3 clips are at least 7 steps"
    else:
        assert re.search(r"(steps\D{1,4}|max_train_steps )7\b", told)


def test_its_config_can_be_read(run: Run) -> None:
    for file in run.output.glob("*.toml"):
        assert tomllib.loads(file.read_text())["max_steps"] == 7
    for file in run.output.glob("*.yaml"):
        [process] = yaml.safe_load(file.read_text())["config"]["process"]
        assert process["train"]["steps"] == 7
        assert process["datasets"] == [{"folder_path": "videos", "num_frames": 81}]
    for file in run.checkout.glob("config/*/config.json"):
        assert json.loads(file.read_text())["--max_train_steps"] == 7
