"""What another trainer left: a LoRA, or the transformer in diffusers' format; found, read and laid out as our own checkpoints are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from motive_pipeline.errors import GateFailed
from motive_pipeline.storage import atomic

WEIGHTS = "diffusion_pytorch_model"
STEP_KEYS = ("ss_steps", "training_steps", "step")
"""Names under which trainers write the number of steps into a file's metadata (musubi-tuner and its relatives; ai-toolkit has a JSON object ``training_info``)."""


@dataclass(frozen=True, kw_only=True)
class OwnCheckpoint:
    """``path`` is a LoRA's file, or the folder of a transformer. ``steps`` is how many steps it says that it was trained for; None if it says nothing."""

    path: Path
    is_adapter: bool
    steps: int | None


def found_checkpoint(output: Path, pattern: str, *, expert: str, what: str) -> OwnCheckpoint:
    """The one checkpoint below ``output`` among the files and folders that the glob ``pattern`` names.

    Raises:
        GateFailed: there is none, there are several, or it cannot be read.
    """
    found = list(_candidates(output, pattern, expert))
    if len(found) != 1:
        listed = "".join(f"\n  {path.relative_to(output)}" for path in sorted(found)[:10])
        number = f"left {len(found)} checkpoints" if found else "left no checkpoint"
        raise GateFailed(
            f"{what}: finetune.command {number} in {output}{listed}\nIt has to leave one that finetune.command_checkpoint ({pattern}) names: the .safetensors file of "
            f"a LoRA, or a folder with {WEIGHTS}.safetensors and config.json in diffusers' format (or a pipeline that has it as {expert}/)."
        )
    return OwnCheckpoint(path=found[0], is_adapter=found[0].is_file(), steps=_steps(found[0], what))


def _candidates(output: Path, pattern: str, expert: str) -> Iterator[Path]:
    """Every transformer folder, and every safetensors file outside of folders in diffusers' format."""
    named = {path for path in (output, *output.glob(pattern)) if path == output or atomic.TEMP_PREFIX not in path.name}
    folders = {path for path in named if path.is_dir() and any(path.glob(f"{WEIGHTS}*.safetensors")) and (path / "config.json").is_file()}
    pipelines = {path for path in named if (path / "model_index.json").is_file()}
    inside = folders | pipelines
    yield from sorted(path for path in folders if path.name == expert or not any(pipeline in path.parents for pipeline in pipelines))
    for file in sorted(named):
        if file.suffix == ".safetensors" and file.is_file() and not any(folder in file.parents for folder in inside):
            yield file


def _steps(path: Path, what: str) -> int | None:
    """The number of steps in the metadata of a checkpoint's file."""
    file = path if path.is_file() else min(path.glob(f"{WEIGHTS}*.safetensors"))
    try:
        with safe_open(file, "np") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise GateFailed(f"{what}: finetune.command left {file}, which is no whole safetensors file ({error}).") from error
    with contextlib.suppress(ValueError, AttributeError):
        metadata |= {key: str(value) for key, value in json.loads(metadata.get("training_info", "{}")).items()}
    found = [metadata[key] for key in STEP_KEYS if metadata.get(key, "").isdigit()]
    return int(found[0]) if found else None
