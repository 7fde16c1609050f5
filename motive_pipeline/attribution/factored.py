"""``gradient.projection: factored``: what a Linear adds to a projected gradient, without its weight's gradient ever being formed.

The gradient of a weight W [O, I] is G = B^T A, with A [T, I] the layer's input and B [T, O] the gradient of its output. Both sides are folded:

    S = F_O G F_I^T = (B F_O^T)^T (A F_I^T)        F_I [k, I]: entry i gets a random sign and is added to place i mod k, k = SIDE

so the product that costs T*O*I operations costs T*k*k, and backward keeps T*k numbers of the input instead of T*I. S is then one more
parameter of k*k entries for Fastfood (projection.py). The two maps have independent signs, E<Sx, Sy> = <x, y>, and a linear map of unbiased
ones is unbiased: all that holds for Fastfood's rows, prefixes included, holds for these.

The price is variance. Folding one side makes an error of the order <x, y>^2 / k for a gradient of rank one, smaller for higher ranks,
and independent between layers: what matters is the largest layer's share of the energy. So a weight with a side of at most ``SIDE`` (the
output layer, the patch embedding, LoRA's factors) is not folded but projected entry by entry, as is everything that is no Linear's weight.

Axes: T tokens, O and I a layer's outputs and inputs, k folded entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeGuard

import torch
from jaxtyping import Float

from motive_pipeline.attribution import noise

SIDE = 128


class Fold:
    """F x for rows x of ``size`` entries: random signs, then the sum over segments of ``side``; nothing at all if ``size`` is no longer."""

    def __init__(self, size: int, *, side: int, seed: int, name: str, device: torch.device) -> None:
        self.width = min(size, side)
        self._segments = noise.signs(seed, name, size).to(device).split(side) if size > side else None

    def __call__(self, rows_TD: Float[torch.Tensor, "T D"]) -> Float[torch.Tensor, "T k"]:
        """The folded rows in float32, whatever the rows' own type."""
        if self._segments is None:
            return rows_TD.float()
        first, *others = self._segments
        folded_Tk, start = rows_TD[:, : self.width] * first, self.width
        for signs in others:
            folded_Tk[:, : len(signs)].addcmul_(rows_TD[:, start : start + len(signs)].float(), signs)
            start += len(signs)
        return folded_Tk


class FactoredLinear:
    """The sketch S of one Linear's weight gradient, summed over all uses of the layer in a pass."""

    def __init__(self, weight_OI: torch.Tensor, *, name: str, seed: int, device: torch.device, side: int) -> None:
        num_outputs, num_inputs = weight_OI.shape
        self.fold_output = Fold(num_outputs, side=side, seed=seed, name=f"output fold of {name}", device=device)
        self.fold_input = Fold(num_inputs, side=side, seed=seed, name=f"input fold of {name}", device=device)
        self.sketch: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """Entries of the sketch."""
        return self.fold_output.width * self.fold_input.width

    def add(self, output_gradient_TO: Float[torch.Tensor, "T O"], folded_input_Tk: Float[torch.Tensor, "T k"]) -> None:
        """One use of the layer in backward."""
        self._add(self.fold_output(output_gradient_TO).T @ folded_input_Tk)

    def add_formed(self, gradient_OI: Float[torch.Tensor, "O I"]) -> None:
        """A weight gradient that autograd formed after all, because the weight was used outside its layer's own ``forward``."""
        self._add(self.fold_output(self.fold_input(gradient_OI).T.contiguous()).T)

    def _add(self, part: torch.Tensor) -> None:
        self.sketch = part if self.sketch is None else self.sketch + part


class FactoredLinears:
    """The Linears of ``module`` whose weights are among ``chosen`` and have both sides longer than ``side``.

    ``weights`` maps the weight's name to its factored layer.
    """

    def __init__(
        self, module: torch.nn.Module, chosen: Mapping[str, torch.nn.Parameter], *, seed: int, device: torch.device, side: int = SIDE
    ) -> None:
        self._layers: dict[str, torch.nn.Linear] = {}
        for layer_name, layer in module.named_modules():
            name = f"{layer_name}.weight" if layer_name else "weight"
            if _is_plain_linear(layer) and name in chosen and min(layer.weight.shape) > side:
                self._layers[name] = layer
        self.weights = {
            name: FactoredLinear(layer.weight, name=name, seed=seed, device=device, side=side) for name, layer in self._layers.items()
        }

    @contextmanager
    def sketching(self) -> Iterator[None]:
        """While this lasts the layers sketch their weights' gradients in backward instead of forming them."""
        for name, layer in self._layers.items():
            self.weights[name].sketch = None
            layer.forward = partial(_forward, layer, self.weights[name])  # type: ignore[method-assign]
        try:
            yield
        finally:
            for layer in self._layers.values():
                del layer.forward

    def give_to(self, add: Callable[[str, torch.Tensor], None]) -> None:
        """Hand over the sketches of the last pass, in the order of their names, and forget them."""
        for name, factored in sorted(self.weights.items()):
            if factored.sketch is not None:
                add(name, factored.sketch)
            factored.sketch = None


def _is_plain_linear(module: torch.nn.Module) -> TypeGuard[torch.nn.Linear]:
    """Whether ``module`` computes as ``torch.nn.Linear`` does: a subclass or a wrapper may do something else with its weight."""
    return isinstance(module, torch.nn.Linear) and type(module).forward is torch.nn.Linear.forward and "forward" not in vars(module)


def _forward(layer: torch.nn.Linear, factored: FactoredLinear, input_tensor: torch.Tensor) -> torch.Tensor:
    return _SketchedLinear.apply(input_tensor, layer.weight, layer.bias, factored)  # type: ignore[no-any-return]


class _SketchedLinear(torch.autograd.Function):
    """A Linear that keeps its folded input for backward, and gives its weight no gradient but a sketch."""

    @staticmethod
    def forward(ctx: Any, input_tensor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, factored: FactoredLinear) -> Any:  # type: ignore[override]
        ctx.factored = factored
        ctx.save_for_backward(factored.fold_input(input_tensor.reshape(-1, input_tensor.shape[-1])), weight)
        return torch.nn.functional.linear(input_tensor, weight, bias)

    @staticmethod
    def backward(ctx: Any, output_gradient: torch.Tensor) -> Any:  # type: ignore[override]
        folded_input_Tk, weight = ctx.saved_tensors
        gradient_TO = output_gradient.reshape(-1, output_gradient.shape[-1])
        ctx.factored.add(gradient_TO, folded_input_Tk)
        to_input = output_gradient @ weight if ctx.needs_input_grad[0] else None
        to_bias = gradient_TO.sum(dim=0) if ctx.needs_input_grad[2] else None
        return to_input, None, to_bias, None
