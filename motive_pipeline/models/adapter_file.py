"""Where the file of a LoRA lies. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path

from motive_pipeline.errors import MotiveError

LORA_FILE = "pytorch_lora_weights.safetensors"
"""diffusers' name for the file."""

COMFYUI_FILE = "comfyui_lora.safetensors"
"""The same adapter under the names of the model's original code, as ComfyUI reads it and musubi-tuner converts it."""


def adapter_file(path: Path, what: str = "model.adapter") -> Path:
    """The file that ``path`` names: itself, or in a folder :data:`LORA_FILE`, else the only safetensors file there. ``what`` names the setting.

    Raises:
        MotiveError: there is none, or there are several.
    """
    if path.is_file():
        return path
    found = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    if path / LORA_FILE in found:
        return path / LORA_FILE
    if len(found) != 1:
        number = f"{len(found)} safetensors files" if path.is_dir() else "no such file or folder"
        raise MotiveError(f"{what} = {str(path)!r}: {number}. Name the adapter's .safetensors file, or a folder that holds {LORA_FILE}.")
    return found[0]
