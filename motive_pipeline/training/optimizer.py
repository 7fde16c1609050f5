"""What a training moves: weights in float32, the optimizer over them, their running mean; and all of it as named tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

from motive_pipeline.config import Finetune
from motive_pipeline.errors import MotiveError
from motive_pipeline.training.weights import MasterWeights, RunningMean


class Optimization:
    """The optimizer over ``parameters``, and the running mean of their weights if ``finetune.ema`` asks for one.

    Raises:
        MotiveError: ``finetune.optimizer`` cannot be used here.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter], settings: Finetune) -> None:
        self._weights = MasterWeights(parameters)
        self._masters = self._weights.masters
        self._optimizer = build_optimizer(self._masters, settings)
        self._average = None if settings.ema is None else RunningMean(self._masters, settings.ema)
        self._clip_norm = settings.clip_norm

    @property
    def has_mean(self) -> bool:
        """Whether there is a running mean."""
        return self._average is not None

    def take_gradients(self) -> None:
        """Add the gradients that a backward pass left to those of this step."""
        self._weights.take_gradients()

    def clip_gradients(self) -> float:
        """Scale the step's gradient down to ``finetune.clip_norm``, if it is longer; returns its length before."""
        return torch.nn.utils.clip_grad_norm_(self._masters, self._clip_norm).item()

    def step(self, learning_rate: float) -> None:
        """Move the weights by the step's gradient."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._weights.write_back()
        if self._average is not None:
            self._average.add()

    @contextmanager
    def mean_in_place(self) -> Iterator[None]:
        """The model has the mean as its weights inside the block, and its own ones, to the bit, after it."""
        assert self._average is not None, "finetune.ema asks for no mean"
        with self._average.in_place(self._weights):
            yield

    def finish(self) -> None:
        """End with the running mean as the weights, if there is one."""
        if self._average is not None:
            self._average.write_back()
            self._weights.write_back()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights, running mean and the optimizer's moments by name: everything that the next step depends on."""
        named = {f"weight.{number}": master for number, master in enumerate(self._masters)}
        if self._average is not None:
            named |= {f"mean.{name}": tensor for name, tensor in self._average.tensors().items()}
        return named | {f"optimizer.{name}": tensor for name, tensor in optimizer_tensors(self._optimizer, self._masters).items()}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what :meth:`tensors` gave, to the bit."""
        for number, master in enumerate(self._masters):
            master.copy_(tensors[f"weight.{number}"])
        self._weights.write_back()
        if self._average is not None:
            self._average.restore(_under(tensors, "mean."))
        restore_optimizer(self._optimizer, self._masters, _under(tensors, "optimizer."))


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def build_optimizer(masters: Sequence[torch.Tensor], settings: Finetune) -> torch.optim.Optimizer:
    """AdamW over ``masters``, with moments in float32 or, for ``adamw8bit``, in 8 bits (Dettmers et al. 2022, arXiv 2110.02861).

    Raises:
        MotiveError: bitsandbytes is not installed.
    """
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(masters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True)
    require_optimizer(settings)
    from bitsandbytes.optim.adamw import AdamW8bit  # pyright: ignore[reportMissingImports]  (optional)

    return AdamW8bit(masters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay)


def require_optimizer(settings: Finetune) -> None:
    """Check that ``finetune.optimizer`` can be used here, before any work.

    Raises:
        MotiveError: it needs bitsandbytes, which is not installed or does not work here.
    """
    if settings.optimizer != "adamw8bit":
        return
    try:
        import bitsandbytes.optim  # noqa: F401  # pyright: ignore[reportMissingImports]
    except (ImportError, OSError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise MotiveError(
            f"finetune.optimizer: adamw8bit needs bitsandbytes, which cannot be imported here ({reason}). Install it (pip install bitsandbytes), or use "
            "adamw."
        ) from error


def optimizer_tensors(optimizer: torch.optim.Optimizer, masters: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state of the optimizer: ``<number of the master>.<name>`` -> tensor; bitsandbytes' count of steps, a plain int, as an int64 tensor."""
    return {
        f"{number}.{name}": torch.as_tensor(value)
        for number, master in enumerate(masters)
        for name, value in optimizer.state[master].items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, masters: Sequence[torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back the state that :func:`optimizer_tensors` gave."""
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        master = masters[int(number)]
        is_count = tensor.dtype == torch.int64
        optimizer.state[master][key] = int(tensor) if is_count else tensor.to(master.device)
