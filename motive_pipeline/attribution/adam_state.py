"""``influence.adam_state``: reads Adam's second moments from an optimizer's saved state.

Two kinds of file are read. ``.safetensors``: one tensor for each parameter, under the transformer's name for it, with or without the suffix
``.exp_avg_sq``. Anything else: ``optimizer.state_dict()`` as ``torch.save`` wrote it (accelerate's ``optimizer.bin``, a trainer's
``optimizer.pt``). Its state is keyed by parameter names, or by numbers in a single group that holds all parameters in the model's order.
The bias correction 1 / (1 - beta2^step) is skipped: it is one factor for all entries, and only ratios count (preconditioner.py).
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # noqa: TID251 - how torch.load refuses a file; nothing is unpickled here
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from motive_pipeline.errors import MotiveError

_KEY = "influence.adam_state"
_MOMENT = "exp_avg_sq"


def load_adam_state(file: Path, parameters: Mapping[str, torch.Tensor], chosen: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The second moments of the ``chosen`` parameters, in float32 on the CPU. ``parameters`` are all parameters of the model, in its order.

    Raises:
        MotiveError: the file is missing, holds no second moments, or holds those of another model.
    """
    found = _from_safetensors(file) if file.suffix == ".safetensors" else _from_torch(file, list(parameters))
    absent = [name for name in chosen if name not in found]
    if absent:
        raise MotiveError(
            f"{_KEY}: {file} has no second moment for {len(absent)} of {len(chosen)} parameters, such as {absent[0]}. It must come from a "
            "training of all parameters that gradient.parameters selects."
        )
    for name, parameter in chosen.items():
        if found[name].shape != parameter.shape:
            ours, theirs = tuple(parameter.shape), tuple(found[name].shape)
            raise MotiveError(
                f"{_KEY}: in {file} the second moment of {name} has the shape {theirs}, the parameter {ours}: it is another model's."
            )
        if not bool((found[name] >= 0).all()) or not bool(found[name].isfinite().all()):
            raise MotiveError(f"{_KEY}: in {file} the second moment of {name} holds a negative or infinite number.")
    return {name: found[name].float() for name in chosen}


def _from_safetensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return {name.removesuffix(f".{_MOMENT}"): moment for name, moment in load_file(file).items()}
    except (OSError, SafetensorError) as error:
        raise MotiveError(f"{_KEY}: cannot read {file} as safetensors: {error}") from error


def _from_torch(file: Path, names: list[str]) -> dict[str, torch.Tensor]:
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise MotiveError(
            f"{_KEY}: cannot read {file} as an optimizer's state (only tensors and numbers are allowed in it): {error}"
        ) from error
    if not isinstance(saved, dict) or not isinstance(state := saved.get("state"), dict):
        raise MotiveError(f"{_KEY}: {file} is not an optimizer's state_dict (it has no 'state').")
    moments = {key: entry[_MOMENT] for key, entry in state.items() if isinstance(entry, dict) and _MOMENT in entry}
    if not moments:
        raise MotiveError(f"{_KEY}: {file} holds no {_MOMENT}, which Adam and AdamW keep for each parameter; another optimizer's state?")
    if all(isinstance(key, str) for key in moments):
        return {key.removeprefix("module."): moment for key, moment in moments.items()}
    return _by_number(file, saved, moments, names)


def _by_number(file: Path, saved: dict[str, Any], moments: Mapping[int, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """The moments by name, from the state of a plain torch optimizer, which numbers its parameters."""
    groups = [group["params"] for group in saved.get("param_groups", [])]
    if len(groups) != 1 or len(groups[0]) != len(names):
        counts = " + ".join(str(len(group)) for group in groups) or "none"
        raise MotiveError(
            f"{_KEY}: {file} numbers its parameters ({counts}), and the model has {len(names)}: which is which cannot be told. "
            "Save the state by name (torch.distributed.checkpoint.state_dict.get_optimizer_state_dict), or as safetensors."
        )
    return {name: moments[number] for name, number in zip(names, groups[0], strict=True) if number in moments}
