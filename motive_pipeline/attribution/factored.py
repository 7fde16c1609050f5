"""``gradient.projection: factored``: sketches the weight gradient of each Linear without ever forming it.

The gradient of a weight W [O, I] is G = B^T A, with A [T, I] the layer's input and B [T, O] the gradient of its output. Only

    S = G R = B^T (A R),     R [I, k]: random signs / sqrt(k), k = WIDTH

is computed. The forward pass computes A R and saves it for backward in place of A; backward multiplies it by B^T. This takes
T*k*(I + O) operations instead of T*I*O. Fastfood (projection.py) then treats S as one more parameter, of O*k entries. E<Sx, Sy> = <x, y>, and
a composition of unbiased projections is unbiased: everything that holds for Fastfood's rows, prefixes included, holds here too.

The price is variance: at most |x|^2 |y|^2 / k of a layer's own share (for gradients of rank one; less for others), independent between
layers. So the layer with the largest share of the energy decides. Only the layers of the repeated blocks are factored: they are many and alike,
and take nearly all the time. Projected entry by entry are the few other layers (embeddings; the output layer, which alone may hold half of the
energy), weights with a side of at most ``SHORT`` entries (LoRA's factors) and parameters that are no Linear's weight.

Both products are summed in float32. On a GPU, bfloat16 rows are multiplied without conversion, in its matrix units, which sum in float32.
Signs are exact in bfloat16, and A R enters the second product as two bfloat16 terms, which keep 16 bits of its mantissa.

Axes: T tokens, O and I a layer's outputs and inputs, k = WIDTH.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float

from motive_pipeline.attribution import noise

WIDTH = 32
SHORT = 128
TILE_TOKENS = 8192
"""This many tokens are converted to float32 at a time."""


class FactoredLinear:
    """The sketch S of one Linear's weight gradient, summed over all uses of the layer in a pass.

    ``halves``: multiply bfloat16 rows without converting them; the default on a GPU. The two ways differ by rounding only.
    """

    def __init__(
        self, weight_OI: torch.Tensor, *, name: str, seed: int, device: torch.device, width: int, halves: bool | None = None
    ) -> None:
        num_outputs, num_inputs = weight_OI.shape
        self.size = num_outputs * width
        self._root = math.sqrt(width)
        signs_Ik = noise.signs(seed, f"factor of {name}", num_inputs * width).view(num_inputs, width).to(device)
        self._signs_Ik = signs_Ik / self._root
        self._bare_signs_Ik = signs_Ik.to(torch.bfloat16)
        self._halves = device.type != "cpu" if halves is None else halves
        self._sketch_Ok: torch.Tensor | None = None

    def narrowed(self, rows_TI: Float[torch.Tensor, "T I"]) -> Float[torch.Tensor, "T k"]:
        """A R in float32, for any dtype of A."""
        if self._halves and rows_TI.dtype == torch.bfloat16:
            return _float32_product(rows_TI, self._bare_signs_Ik).div_(self._root)
        if len(rows_TI) <= TILE_TOKENS:
            return rows_TI.float() @ self._signs_Ik
        return torch.cat([tile.float() @ self._signs_Ik for tile in rows_TI.split(TILE_TOKENS)])

    def add(self, output_gradient_TO: Float[torch.Tensor, "T O"], narrowed_Tk: Float[torch.Tensor, "T k"]) -> None:
        """Add one use of the layer in backward."""
        if self._halves and output_gradient_TO.dtype == torch.bfloat16:
            high_kO, low_kO = _float32_product(bfloat16_terms(narrowed_Tk).T, output_gradient_TO).chunk(2)
            self._add((high_kO + low_kO).T)
            return
        for gradient, narrowed in zip(output_gradient_TO.split(TILE_TOKENS), narrowed_Tk.split(TILE_TOKENS), strict=True):
            self._add((narrowed.T @ gradient.float()).T)  # on a CPU a third faster than the transposed product

    def add_formed(self, gradient_OI: Float[torch.Tensor, "O I"]) -> None:
        """Add a weight gradient that autograd formed after all, because the weight was used outside its layer's own ``forward``."""
        self._add(self.narrowed(gradient_OI))

    def take(self) -> torch.Tensor | None:
        """Return the sketch and reset it; None if the layer took no part in the pass."""
        sketch_Ok, self._sketch_Ok = self._sketch_Ok, None
        return sketch_Ok

    def _add(self, part_Ok: torch.Tensor) -> None:
        self._sketch_Ok = part_Ok if self._sketch_Ok is None else self._sketch_Ok.add_(part_Ok)


def bfloat16_terms(values_Tk: Float[torch.Tensor, "T k"]) -> Float[torch.Tensor, "T 2*k"]:
    """Split float32 numbers into two bfloat16 terms each, whose sum keeps 16 bits: side by side, the larger terms first."""
    high_Tk = values_Tk.to(torch.bfloat16)
    return torch.cat([high_Tk, (values_Tk - high_Tk).to(torch.bfloat16)], dim=1)


def _float32_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The product of two bfloat16 matrices, summed and returned in float32."""
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)  # pyright: ignore[reportCallIssue]
    return left.float() @ right.float()


class FactoredLinears:
    """The Linears in the repeated blocks of ``module`` whose weights are among ``chosen`` and have both sides longer than ``short``.

    ``weights`` maps the weight's name to its factored layer.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        chosen: Mapping[str, torch.nn.Parameter],
        *,
        seed: int,
        device: torch.device,
        width: int = WIDTH,
        short: int = SHORT,
    ) -> None:
        self._layers = {
            f"{layer_name}.weight": layer
            for layer_name, layer in _linears_of_blocks(module)
            if f"{layer_name}.weight" in chosen and min(layer.weight.shape) > short
        }
        self.weights = {
            name: FactoredLinear(layer.weight, name=name, seed=seed, device=device, width=width) for name, layer in self._layers.items()
        }

    @contextmanager
    def sketching(self) -> Iterator[None]:
        """A context in which the layers sketch their weights' gradients in backward instead of forming them."""
        for name, layer in self._layers.items():
            self.weights[name].take()  # a failed pass may have left one
            layer.forward = partial(_forward, layer, self.weights[name])
        try:
            yield
        finally:
            for layer in self._layers.values():
                del layer.forward

    def give_to(self, add: Callable[[str, torch.Tensor], None]) -> None:
        """Pass the sketches to ``add``, in the order of their names."""
        for name, factored in sorted(self.weights.items()):
            sketch_Ok = factored.take()
            if sketch_Ok is not None:
                add(name, sketch_Ok)


def _linears_of_blocks(module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Linear]]:
    """The Linears below any ``ModuleList``, by name. Only those with ``torch.nn.Linear``'s own ``forward``: a subclass may compute otherwise."""
    lists = tuple(f"{name}." for name, child in module.named_modules() if isinstance(child, torch.nn.ModuleList))
    for name, child in module.named_modules():
        own = "forward" in vars(child) or type(child).forward is not torch.nn.Linear.forward
        if isinstance(child, torch.nn.Linear) and not own and name.startswith(lists):
            yield name, child


def _forward(layer: torch.nn.Linear, factored: FactoredLinear, input: torch.Tensor) -> torch.Tensor:
    return _SketchedLinear.apply(input, layer.weight, layer.bias, factored)  # type: ignore[no-any-return]


class _SketchedLinear(torch.autograd.Function):
    """A Linear that saves its narrowed input for backward and sketches its weight's gradient instead of returning it."""

    @staticmethod
    def forward(ctx: Any, input_tensor: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, factored: FactoredLinear) -> Any:  # type: ignore[override]
        ctx.factored = factored
        ctx.save_for_backward(factored.narrowed(input_tensor.reshape(-1, input_tensor.shape[-1])), weight)
        return torch.nn.functional.linear(input_tensor, weight, bias)

    @staticmethod
    def backward(ctx: Any, output_gradient: torch.Tensor) -> Any:  # type: ignore[override]
        narrowed_Tk, weight = ctx.saved_tensors
        gradient_TO = output_gradient.reshape(-1, output_gradient.shape[-1])
        ctx.factored.add(gradient_TO, narrowed_Tk)
        to_input = output_gradient @ weight if ctx.needs_input_grad[0] else None
        to_bias = gradient_TO.sum(dim=0) if ctx.needs_input_grad[2] else None
        return to_input, None, to_bias, None
