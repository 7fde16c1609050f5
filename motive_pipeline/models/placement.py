"""Which denoiser is on a device: one at a time, whoever else holds another one.

A base model and a checkpoint of it, or the two experts of a model, need not fit a device together. On the CPU everything stays where it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_CPU = torch.device("cpu")
_on_device: dict[torch.device, weakref.ref[torch.nn.Module]] = {}


def occupy(denoiser: torch.nn.Module, device: torch.device) -> None:
    """Move ``denoiser`` to ``device``. The denoiser that was moved there before goes to main memory first.

    Parameters stay the same objects, so hooks and optimizers keep working. Costs nothing where the denoiser is there already.
    """
    if device.type == "cpu":
        return
    before = _on_device.get(device)
    if before is not None and before() is denoiser:
        return
    vacate(device)
    denoiser.to(device)
    _on_device[device] = weakref.ref(denoiser)


def vacate(device: torch.device) -> None:
    """Move the denoiser that occupies ``device`` to main memory, if there is one."""
    before = _on_device.pop(device, None)
    denoiser = None if before is None else before()
    if denoiser is not None:
        denoiser.to(_CPU)


@contextmanager
def in_turn(denoisers: Sequence[torch.nn.Module], device: torch.device, *, before: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A context in which each of ``denoisers`` occupies ``device`` when it is called: a sampler may change from one expert to the other. ``before`` is
    called before the first of these calls."""
    called = []

    def enter(denoiser: torch.nn.Module, _arguments: Any) -> None:
        if not called:
            called.append(True)
            before()
        occupy(denoiser, device)

    hooks = [denoiser.register_forward_pre_hook(enter) for denoiser in denoisers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
