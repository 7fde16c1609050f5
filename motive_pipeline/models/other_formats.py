"""Models in other formats than diffusers' folders: told apart by their files, and refused with the command that converts them.

Importing this module imports neither torch nor diffusers.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.models.whole import Flaw, read_header, read_json

LORA_FILES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors", "adapter_config.json")
"""Names that diffusers and peft give to an adapter's files."""

_LORA_PARTS = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora_unet_", ".alpha")

_TRANSFORMERS = {
    "patch_embedding.weight": ("WanPipeline", "WanTransformer3DModel", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
    "patchify_proj.weight": ("LTXPipeline", "LTXVideoTransformer3DModel", "Lightricks/LTX-Video"),
}
"""A tensor that only one kind of transformer has -> its pipeline, its class, and an example of BASE."""

_LORA_SCRIPT = (
    "from diffusers import DiffusionPipeline; p = DiffusionPipeline.from_pretrained('BASE', dtype='auto'); "
    "p.load_lora_weights({folder!r}, weight_name={name!r}); p.fuse_lora(components=['transformer']); p.unload_lora_weights(); "
    "p.save_pretrained('FOLDER')"
)
_SINGLE_SCRIPT = (
    "import torch; from diffusers import {pipeline} as P, {transformer} as T; "
    "t = T.from_single_file({file!r}, config='BASE', subfolder='transformer', dtype=torch.bfloat16); "
    "P.from_pretrained('BASE', transformer=t, dtype=torch.bfloat16).save_pretrained('FOLDER')"
)


def refuse_other_formats(path: Path, what: str) -> None:
    """Raise :class:`MotiveError` if ``path`` holds a model, or a part of one, in a format that is known and not read. ``what`` names it.

    The message says what was found, and has a command that converts it where there is one.
    """
    if path.is_file():
        _refuse_file(path, what)
    elif path.is_dir() and not (path / "model_index.json").is_file():
        _refuse_folder(path, what)


def _refuse_folder(folder: Path, what: str) -> None:
    adapters = [folder / name for name in LORA_FILES if (folder / name).is_file()]
    if adapters:
        _refuse_lora(adapters[0].with_name("adapter_model.safetensors") if adapters[0].suffix == ".json" else adapters[0], what)
    if (config := folder / "config.json").is_file():
        name = _class_name(config)
        raise MotiveError(
            f"{what}: {folder} holds one component{f' ({name})' if name else ''}, not a whole model. Set model.path to the folder of the pipeline, "
            "which has model_index.json and a folder for each component."
        )
    single = sorted(folder.glob("*.safetensors"))
    if single:
        _refuse_file(single[0], what)


def _refuse_file(file: Path, what: str) -> None:
    if file.suffix != ".safetensors":
        raise MotiveError(
            f"{what}: {file} is a single file ({file.suffix or 'no suffix'}). Name a folder in diffusers' format or a hub id such as "
            "Wan-AI/Wan2.1-T2V-1.3B-Diffusers; a file of safetensors comes with the command that converts it."
        )
    try:
        names = read_header(file).keys()
    except Flaw as flaw:
        raise MotiveError(f"{what}: {flaw}") from flaw
    if any(part in name for name in names for part in _LORA_PARTS):
        _refuse_lora(file, what)
    known = _known_transformer(names)
    if known is None:
        raise MotiveError(
            f"{what}: {file} is a single-file checkpoint ({len(names)} tensors) of a model that is not known here. Name a folder in diffusers' format "
            "or a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
        )
    pipeline, transformer, example = known
    script = _SINGLE_SCRIPT.format(pipeline=pipeline, transformer=transformer, file=str(file))
    raise MotiveError(
        f"{what}: {file} is a single-file checkpoint, as ComfyUI has them: the {len(names)} tensors of a {transformer} without text encoder and "
        f"tokenizer. {_how(script, example)}"
    )


def _refuse_lora(file: Path, what: str) -> None:
    script = _LORA_SCRIPT.format(folder=str(file.parent), name=file.name)
    raise MotiveError(
        f"{what}: {file} is an adapter (LoRA), which is no model without the one that it was trained on. Set model.path to that model and "
        f"model.adapter to this file, to go on from the adapter; or make one model of both. {_how(script, 'Wan-AI/Wan2.1-T2V-1.3B-Diffusers')}"
    )


def _how(script: str, example: str) -> str:
    return (
        f"Convert it once, with BASE the folder or hub id of the model that it belongs to (such as {example}) and FOLDER a new folder, and set "
        f"model.path to FOLDER:\npython -c {shlex.quote(script)}"
    )


def _known_transformer(names: Collection[str]) -> tuple[str, str, str] | None:
    """The kind of transformer that has tensors of these names, perhaps behind a prefix (``model.diffusion_model.``)."""
    return next((kind for last, kind in _TRANSFORMERS.items() if any(name == last or name.endswith(f".{last}") for name in names)), None)


def _class_name(config: Path) -> str:
    try:
        return str(read_json(config).get("_class_name", ""))
    except Flaw:
        return ""
