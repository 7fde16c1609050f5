"""Streams the gradients of a backward pass parameter by parameter, so that they never exist all at once; rejects a clip that does not fit."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch

from motive_pipeline.config.method import ADAPTER
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.models.adapter import adapter_parameters, is_fresh
from motive_pipeline.models.checkpointing import Checkpointing, checkpointed

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "alloc_failed")
"""Messages of torch's CPU allocator and the GPU's libraries where they raise no exception class of their own; compared in lower case."""


def selected_parameters(module: torch.nn.Module, pattern: str) -> dict[str, torch.nn.Parameter]:
    """The parameters whose names ``pattern`` (a regular expression) matches anywhere. ``all`` are all of them. ``adapter`` are those of the module's LoRA; of
    a fresh one B alone, because the gradient of A is zero there.

    Raises:
        MotiveError: the pattern is not a regular expression, or matches no name.
    """
    named = dict(module.named_parameters())
    if pattern == "all":
        return named
    if pattern == ADAPTER:
        of_adapter = adapter_parameters(module)
        return {name: parameter for name, parameter in of_adapter.items() if ".lora_B." in name} if is_fresh(module) else of_adapter
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise MotiveError(f"gradient.parameters = {pattern!r} is not a regular expression: {error}.") from error
    chosen = {name: parameter for name, parameter in named.items() if expression.search(name)}
    if not chosen:
        examples = ", ".join(list(named)[:: max(1, len(named) // 8)][:8])
        raise MotiveError(f"gradient.parameters = {pattern!r} matches none of the model's {len(named)} parameters, such as {examples}.")
    return chosen


@contextmanager
def streamed_gradients(
    module: torch.nn.Module,
    chosen: Mapping[str, torch.nn.Parameter],
    take: Callable[[str, torch.Tensor], None],
    *,
    checkpointing: Checkpointing = False,
) -> Iterator[None]:
    """A context in which only the ``chosen`` parameters of ``module`` have gradients. Backward passes each to ``take`` with its name and frees
    it. Afterwards the module is as it was before.
    """
    others = [parameter for name, parameter in module.named_parameters() if name not in chosen]
    with (
        _requires_grad(chosen.values(), True),
        _requires_grad(others, False),
        checkpointed(module, checkpointing),
        _streamed_into(take, chosen),
        torch.enable_grad(),
    ):
        yield


@contextmanager
def reject_on_oom(latents_CFHW: torch.Tensor) -> Iterator[None]:
    """Turn an out-of-memory error, on any device, into a rejection of the clip with these latents. Other errors pass.

    Raises:
        RejectRow: ``out_of_memory``, tried again in the next run.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        shape = " x ".join(str(size) for size in latents_CFHW.shape)
        detail = f"the gradient of latents {shape} does not fit in memory; gradient.checkpointing: true needs less, full the least"
        raise RejectRow("out_of_memory", detail, transient=True) from error


class DeterministicPasses:
    """Runs passes with deterministic kernels only, if torch was told to prefer them, until an operation turns out to have none.

    With torch's mode ``warn_only``, the backward pass of attention on a GPU would use a faster kernel that is not deterministic. Strict mode
    avoids this. If not ``demanded``, passes run under torch's own mode.
    """

    def __init__(self, *, demanded: bool = True) -> None:
        self._possible = demanded

    def __call__(self, run: Callable[[], Result]) -> Result:
        """The result of ``run``. If an operation has no deterministic kernel, ``run`` is called a second time and must then start over."""
        if not self._possible:
            return run()
        try:
            with _strict_determinism():
                return run()
        except RuntimeError as error:
            if "deterministic" not in str(error):
                raise
            log.warning("gradients may differ in their last bits from run to run on this device: %s", str(error).split(", but")[0])
            self._possible = False
        return run()


def is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Whether the error says that memory ran out, on any device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)


@contextmanager
def _strict_determinism() -> Iterator[None]:
    """A context in which torch raises RuntimeError where it was told only to warn: at an operation without a deterministic kernel."""
    if not (torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()):
        yield
        return
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def _requires_grad(parameters: Iterable[torch.nn.Parameter], required: bool) -> Iterator[None]:
    changed = [parameter for parameter in parameters if parameter.requires_grad != required]
    try:
        for parameter in changed:
            parameter.requires_grad_(required)
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(not required)


@contextmanager
def _streamed_into(take: Callable[[str, torch.Tensor], None], chosen: Mapping[str, torch.nn.Parameter]) -> Iterator[None]:
    """A context in which every gradient that backward finishes is passed to ``take`` with its parameter's name, and freed."""

    def hook(name: str, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:  # a weight whose layer sketches its gradient (factored.py) has none
            take(name, parameter.grad)
            parameter.grad = None

    for parameter in chosen.values():
        parameter.grad = None
    handles = [
        parameter.register_post_accumulate_grad_hook(lambda tensor, name=name: hook(name, tensor)) for name, parameter in chosen.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in chosen.values():
            parameter.grad = None
