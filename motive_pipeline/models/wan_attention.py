"""Wan's attention in fewer passes over memory than diffusers: the same formulas, so the same numbers except for the last bits.

diffusers applies rotary embeddings to queries and keys with strided reads and writes, and torch has no CPU kernel for the backward of an RMS norm.
On a CPU this costs 8 % of a model's forward and backward pass (`python -m benchmarks.gradient_pass` measures both).

Axes: B batch, T tokens, H heads, D entries of a head, C = H D.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Complex, Float
from torch.autograd.function import once_differentiable

from motive_pipeline.internals.diffusers import (
    WanAttention,
    WanAttnProcessor,
    attention_backend,
    dispatch_attention_fn,
    is_plain_attention,
)


def use_lean_attention(transformer: torch.nn.Module) -> None:
    """Give :class:`LeanAttention` to every attention of diffusers' Wan ``transformer`` that has diffusers' own processor. The backend stays."""
    for module in transformer.modules():
        if isinstance(module, WanAttention) and type(module.processor) is WanAttnProcessor:
            lean = LeanAttention()
            vars(lean).update(vars(module.processor))
            module.set_processor(lean)  # pyright: ignore[reportArgumentType]  (a closed list of classes)


class LeanAttention(WanAttnProcessor):
    """An attention processor for diffusers. Cases that text-to-video models do not have (image keys, fused projections) are left to diffusers."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Float[torch.Tensor, "B T C"],
        encoder_hidden_states: Float[torch.Tensor, "B L C"] | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> Float[torch.Tensor, "B T C"]:
        if not is_plain_attention(attn, self):
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)
        attended = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query_BTC = rms_norm(attn.norm_q, attn.to_q(hidden_states))
        key_BTC = rms_norm(attn.norm_k, attn.to_k(attended))
        query, key, value = (each.unflatten(2, (attn.heads, -1)) for each in (query_BTC, key_BTC, attn.to_v(attended)))
        if rotary_emb is not None:
            cos, sin = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in rotary_emb)
            turn = torch.complex(cos[..., 0::2], sin[..., 1::2])  # each value occurs twice, for both entries of a pair
            query, key = apply_rotary(query, turn), apply_rotary(key, turn)
        given_BTHD = dispatch_attention_fn(query, key, value, attn_mask=attention_mask, backend=attention_backend(self))
        return attn.to_out[1](attn.to_out[0](given_BTHD.flatten(2, 3).type_as(query)))


def apply_rotary(x_BTHD: Float[torch.Tensor, "B T H D"], turn_BTHd: Complex[torch.Tensor, "1 T 1 D/2"]) -> Float[torch.Tensor, "B T H D"]:
    """Rotate each pair of neighbouring entries by its angle: as a complex number, times ``turn_BTHd`` of length 1 (Su et al., 2021)."""
    pairs = x_BTHD.to(torch.promote_types(x_BTHD.dtype, turn_BTHd.real.dtype)).contiguous().unflatten(-1, (-1, 2))
    return torch.view_as_real(torch.view_as_complex(pairs) * turn_BTHd).flatten(-2).type_as(x_BTHD)


def rms_norm(norm: torch.nn.Module, x_BTC: Float[torch.Tensor, "B T C"]) -> Float[torch.Tensor, "B T C"]:
    """``norm(x_BTC)``, in fewer passes for an RMS norm of the last axis on a CPU; elsewhere torch has kernels for both directions.

    The fast path runs no hooks of ``norm`` and does not support torch.func.
    """
    weight = norm.weight if type(norm) is torch.nn.RMSNorm else None
    if (
        weight is None
        or weight.ndim != 1
        or x_BTC.device.type != "cpu"
        or x_BTC.dtype != weight.dtype
        or x_BTC.dtype not in (torch.float32, torch.float64)
    ):
        return norm(x_BTC)
    eps = torch.finfo(x_BTC.dtype).eps if norm.eps is None else norm.eps
    return _RMSNorm.apply(x_BTC, weight, eps)  # type: ignore[no-any-return]


class _RMSNorm(torch.autograd.Function):
    """y = x r w with r = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich, 2019); so dx = r (g w - x r^2 mean(g w x)) and dw = sum over rows of g x r."""

    @staticmethod
    def forward(ctx: Any, x_BTC: torch.Tensor, weight_C: torch.Tensor, eps: float) -> torch.Tensor:
        mean_square_BT1 = torch.linalg.vector_norm(x_BTC, dim=-1, keepdim=True).square_().div_(x_BTC.shape[-1])
        inverse_BT1 = mean_square_BT1.add_(eps).rsqrt_()
        ctx.save_for_backward(x_BTC, weight_C, inverse_BT1)
        return (x_BTC * inverse_BT1).mul_(weight_C)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BTC: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        x_BTC, weight_C, inverse_BT1 = ctx.saved_tensors
        product_NC = (grad_BTC * x_BTC).flatten(0, -2)
        inverse_N = inverse_BT1.flatten()
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            mean_N = torch.mv(product_NC, weight_C).div_(x_BTC.shape[-1])
            grad_x = (grad_BTC * weight_C).addcmul_(x_BTC, (inverse_N.square() * mean_N).view_as(inverse_BT1), value=-1).mul_(inverse_BT1)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.mv(product_NC.t(), inverse_N)
        return grad_x, grad_weight, None
