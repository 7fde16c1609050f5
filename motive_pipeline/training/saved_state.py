"""Saved states of an unfinished training: everything that its next step depends on, so that a stopped training goes on with the same bits.

A state is a folder ``<training>-step-<n>`` beside the folder of the finished training: tensors, what was recorded so far, and a hash of every file. It
appears whole; the one before it is removed afterwards, so there is always one to go on from.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from motive_pipeline.storage import atomic
from motive_pipeline.storage.work_folders import load_work, save_work

log = logging.getLogger(__name__)

TENSORS, RECORD = "state.safetensors", "state.json"


@dataclass(frozen=True, kw_only=True)
class State:
    """A training after ``step`` steps: ``tensors`` are the weights, their running mean and the optimizer's moments by name; ``notes`` is what else was
    recorded so far (a JSON object)."""

    step: int
    losses: list[float]
    tensors: Mapping[str, torch.Tensor]
    notes: Mapping[str, Any] = field(default_factory=dict)


class SavedStates:
    """The states of one training. ``folder`` is where the finished training will be."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: State) -> None:
        """Keep ``state`` in place of earlier ones."""
        target = self._folder.parent / f"{self._folder.name}-step-{state.step}"
        earlier = [path for path in self._folders() if path != target]
        with atomic.new_folder(target) as temp:
            save_file({name: tensor.detach().contiguous() for name, tensor in state.tensors.items()}, temp / TENSORS)
            save_work(temp, RECORD, {"step": state.step, "losses": state.losses, "notes": dict(state.notes)})
        for path in earlier:
            atomic.remove(path)

    def newest(self) -> State | None:
        """The state with the most steps; None if there is none. A damaged one is removed, and the log says so."""
        for folder in self._folders():
            if (record := load_work(folder, RECORD)) is not None:
                return State(step=record["step"], losses=record["losses"], tensors=load_file(folder / TENSORS), notes=record["notes"])
        return None

    def remove(self) -> None:
        """Remove all states: the training is finished."""
        for path in self._folders():
            atomic.remove(path)

    def _folders(self) -> list[Path]:
        """The folders of the states, that with the most steps first."""
        found = self._folder.parent.glob(f"{self._folder.name}-step-*")
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
