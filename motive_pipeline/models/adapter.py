"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): put into a transformer, read from a file, written to one that other programs read.

A layer with weight W becomes x -> W x + s B A x, with A of shape [rank, in], B of [out, rank] and s = alpha / rank. A starts as a Linear layer's weights do
(Kaiming uniform), B as zero, so a fresh adapter changes nothing and has a gradient in B alone. Adapters are float32 whatever type the model has.

Files are written in diffusers' format, with s multiplied into B: whoever reads them needs no alpha.

peft and diffusers are imported where they are used: what only reads influences imports this module, too, and they take longer to import than torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from motive_pipeline.config import Lora
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.adapter_file import adapter_file
from motive_pipeline.seeds import seed_from

ADAPTER = "default"
_PREFIX = "transformer"
"""diffusers' name for the part of the model that the adapter belongs to, in the file; the second expert's adapter has it, too."""


def adapter_layers(transformer: torch.nn.Module) -> dict[str, Any]:
    """The layers that have an adapter (peft's ``LoraLayer``), by their name in the transformer; empty without one."""
    return {name: module for name, module in transformer.named_modules() if hasattr(module, "lora_A")}


def adapter_parameters(transformer: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """A and B of every adapter, by name."""
    return {name: parameter for name, parameter in transformer.named_parameters() if ".lora_A." in name or ".lora_B." in name}


def fresh_adapter_seed(training: int) -> int:
    """The seed of the adapter that every arm's training of this number starts from; attribution of a fresh adapter takes that of training 0."""
    return seed_from("lora", training)


def add_adapter(transformer: torch.nn.Module, lora: Lora, seed: int) -> None:
    """Give ``transformer`` a fresh adapter. The same seed gives the same bits on every device.

    Raises:
        MotiveError: ``finetune.lora.targets`` matches no Linear layer.
    """
    from peft import LoraConfig

    expression = re.compile(lora.targets)
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    matched = [name for name in linear if expression.fullmatch(name)]
    if not matched:
        examples = ", ".join(linear[:: max(1, len(linear) // 8)][:8])
        raise MotiveError(
            f"finetune.lora.targets = {lora.targets!r} matches the whole name of none of the model's {len(linear)} Linear layers, such as {examples}."
        )
    exactly = "|".join(map(re.escape, matched))  # peft takes a name in a list as the end of a name, too
    settings = LoraConfig(r=lora.rank, lora_alpha=lora.scale_alpha, lora_dropout=lora.dropout, target_modules=exactly)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # peft draws numbers that are replaced below
        transformer.add_adapter(settings, ADAPTER)  # type: ignore[operator]
    transformer.eval()  # new dropouts are active
    reset_adapter(transformer, seed)


def reset_adapter(transformer: torch.nn.Module, seed: int) -> None:
    """Make the transformer's adapter a fresh one, drawn from ``seed``; nothing happens without one."""
    generator = torch.Generator().manual_seed(seed)
    for _, layer in sorted(adapter_layers(transformer).items()):
        down_RI, up_OR = _factors(layer)
        down_RI.data = torch.nn.init.kaiming_uniform_(torch.empty(down_RI.shape), a=math.sqrt(5), generator=generator).to(down_RI.device)
        up_OR.data = torch.zeros(up_OR.shape, device=up_OR.device)


def is_fresh(transformer: torch.nn.Module) -> bool:
    """Whether the transformer's adapter changes nothing yet: every B is zero."""
    return all(not _factors(layer)[1].any() for layer in adapter_layers(transformer).values())


def load_adapter(transformer: torch.nn.Module, path: Path, *, pipeline: str, what: str) -> None:
    """Put the adapter at ``path`` (a file, or the folder that holds it) into ``transformer``.

    Files of diffusers are read, and what diffusers converts for the class ``pipeline``: those of the original code, ComfyUI and musubi-tuner. ``what`` names
    the setting, for messages.

    Raises:
        MotiveError: there is no such file, it cannot be read, or it is the adapter of another model.
    """
    weights, metadata = _read(adapter_file(path, what), pipeline, what)
    _require_fitting(transformer, weights, f"{what} = {str(path)!r}")
    transformer.load_lora_adapter(weights, prefix=_PREFIX, adapter_name=ADAPTER, metadata=metadata)  # type: ignore[operator]
    transformer.eval()
    for layer in adapter_layers(transformer).values():
        for factor in _factors(layer):
            factor.data = factor.data.float()


def adapter_weights(transformer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A and s B of every layer under diffusers' names, on the CPU."""
    tensors: dict[str, torch.Tensor] = {}
    for name, layer in sorted(adapter_layers(transformer).items()):
        down_RI, up_OR = _factors(layer)
        tensors[f"{_PREFIX}.{name}.lora_A.weight"] = down_RI.detach().cpu().contiguous()
        tensors[f"{_PREFIX}.{name}.lora_B.weight"] = (up_OR.detach() * layer.scaling[ADAPTER]).cpu().contiguous()
    return tensors


def write_adapter(weights: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write the tensors of an adapter as a safetensors file."""
    save_file(dict(weights), file, metadata={"format": "pt"})


@contextmanager
def active_dropout(transformer: torch.nn.Module, seed: int) -> Iterator[None]:
    """Inside the block the adapter's dropout is active, with random numbers that depend on ``seed`` alone; without an adapter that has one, nothing happens."""
    dropouts = [
        each for layer in adapter_layers(transformer).values() for each in layer.lora_dropout.values() if isinstance(each, torch.nn.Dropout)
    ]
    if not dropouts:
        yield
        return
    device = next(transformer.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        try:
            for dropout in dropouts:
                dropout.train()
            yield
        finally:
            for dropout in dropouts:
                dropout.eval()


def _factors(layer: Any) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    """A [rank, in] and B [out, rank] of a layer."""
    return layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight


def _read(file: Path, pipeline: str, what: str) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """The tensors of an adapter under diffusers' names, and the metadata that diffusers wrote beside them."""
    import diffusers

    kind = getattr(diffusers, pipeline)
    try:
        if (renamed := _of_diffsynth(file)) is not None:
            return kind.lora_state_dict(renamed), None
        return kind.lora_state_dict(
            str(file.parent), weight_name=file.name, local_files_only=True, return_lora_metadata=True, use_safetensors=True
        )
    except (SafetensorError, OSError, ValueError, KeyError, IndexError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MotiveError(
            f"{what} = {str(file)!r} cannot be read as a LoRA for a {pipeline} ({reason}). Copy it again, or write it with diffusers' save_lora_weights."
        ) from error


def _of_diffsynth(file: Path) -> dict[str, torch.Tensor] | None:
    """The tensors of a file of DiffSynth-Studio, ``<layer>.lora_A.default.weight`` by the names of the original code, under ComfyUI's names; None for others."""
    weights = load_file(file)
    if not all(".lora_" in name and name.endswith(".default.weight") for name in weights):
        return None
    return {f"diffusion_model.{name.removesuffix('.default.weight')}.weight": tensor for name, tensor in weights.items()}


def _require_fitting(transformer: torch.nn.Module, weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise MotiveError unless every factor in ``weights`` fits a Linear layer of the transformer."""
    inside = {name.removeprefix(f"{_PREFIX}."): tensor for name, tensor in weights.items() if name.startswith(f"{_PREFIX}.")}
    modules = dict(transformer.named_modules())
    wrong = [problem for name, tensor in sorted(inside.items()) if (problem := _problem(modules, name, tensor))]
    if not inside:
        raise MotiveError(f"{what} holds no LoRA for a transformer; its tensors are named {', '.join(sorted(weights)[:3]) or 'nothing'}.")
    if wrong:
        raise MotiveError(
            f"{what} is the LoRA of another model: {len(wrong)} of its {len(inside)} tensors do not fit {type(transformer).__name__} (the first: {wrong[0]}). "
            "Name the model that it was trained on in model.path."
        )


def _problem(modules: Mapping[str, torch.nn.Module], name: str, tensor: torch.Tensor) -> str | None:
    """What keeps a tensor from fitting its layer; None if it fits."""
    layer_name, _, factor = name.partition(".lora_")
    layer = modules.get(layer_name)
    if not isinstance(layer, torch.nn.Linear):
        return f"{name}: there is no Linear layer {layer_name}"
    expected = {"A": (1, layer.in_features), "B": (0, layer.out_features)}.get(factor[:1])
    if expected is not None and tensor.ndim == 2 and tensor.shape[expected[0]] != expected[1]:
        return f"{name} has the shape {list(tensor.shape)}, and the layer {layer.in_features} inputs and {layer.out_features} outputs"
    return None
