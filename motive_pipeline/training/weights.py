"""The weights that the optimizer moves: in float32 whatever type the model has, and their running mean."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch


class MasterWeights:
    """The trained parameters in float32 for the optimizer. A float32 parameter is its own master."""

    def __init__(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        self._parameters = [parameter.requires_grad_(True) for parameter in parameters]
        self.masters = [p if p.dtype == torch.float32 else torch.nn.Parameter(p.detach().float()) for p in self._parameters]

    def take_gradients(self) -> None:
        """Add the parameters' gradients to those of their masters, in float32."""
        for parameter, master in zip(self._parameters, self.masters, strict=True):
            if master is not parameter and parameter.grad is not None:
                gradient = parameter.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
                parameter.grad = None

    @torch.no_grad()
    def write_back(self) -> None:
        """Write the masters back to the parameters, rounded to their type."""
        for parameter, master in zip(self._parameters, self.masters, strict=True):
            if master is not parameter:
                parameter.copy_(master)


class RunningMean:
    """The mean of the weights after each step, in which a step counts ``decay`` times as much as the next one (exponential moving average).

    The weights before the first step do not count: after step t it is sum_i decay^(t - i) w_i / sum_i decay^(t - i).
    """

    def __init__(self, masters: Sequence[torch.Tensor], decay: float) -> None:
        self._masters = masters
        self._means = [torch.empty_like(master, requires_grad=False) for master in masters]
        self._decay = decay
        self._num_steps = 0

    @torch.no_grad()
    def add(self) -> None:
        """Take in the weights as they are now."""
        self._num_steps += 1
        share = (1 - self._decay) / (1 - self._decay**self._num_steps)
        for mean, master in zip(self._means, self._masters, strict=True):
            mean.copy_(master) if self._num_steps == 1 else mean.lerp_(master, share)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The means, and the number of steps that they are over, by name."""
        return {str(number): mean for number, mean in enumerate(self._means)} | {"steps": torch.tensor(self._num_steps)}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put back what :meth:`tensors` gave."""
        self._num_steps = int(tensors["steps"])
        for number, mean in enumerate(self._means):
            mean.copy_(tensors[str(number)])

    @torch.no_grad()
    def write_back(self) -> None:
        """Replace the weights by their mean."""
        for mean, master in zip(self._means, self._masters, strict=True):
            master.copy_(mean)

    @contextmanager
    def in_place(self, weights: MasterWeights) -> Iterator[None]:
        """The model has the mean as its weights inside the block, and its own ones, to the bit, after it. Needs no further memory."""
        self._exchange()
        weights.write_back()
        try:
            yield
        finally:
            self._exchange()
            weights.write_back()

    def _exchange(self) -> None:
        for mean, master in zip(self._means, self._masters, strict=True):
            mean.data, master.data = master.data, mean.data
