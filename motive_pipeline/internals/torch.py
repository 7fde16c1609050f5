"""Undocumented parts of torch: in-place operations on lists of tensors, and the names of its fused attention kernels."""

from __future__ import annotations

from collections.abc import Sequence

import torch

TESTED = ">=2.13,<2.14"

FUSED_ATTENTION = frozenset(
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
)
"""The operators that ``scaled_dot_product_attention`` becomes. Their first arguments are queries and keys [B, heads, tokens, dim]."""


def subtract_each(tensors: Sequence[torch.Tensor], amounts: Sequence[torch.Tensor]) -> None:
    """``tensor -= amount`` for each pair, in few kernels."""
    torch._foreach_sub_(list(tensors), list(amounts))  # pyright: ignore[reportPrivateImportUsage]


def add_each(tensors: Sequence[torch.Tensor], amounts: Sequence[torch.Tensor], factor: float) -> None:
    """``tensor += factor * amount`` for each pair, in few kernels."""
    torch._foreach_add_(list(tensors), list(amounts), alpha=factor)  # pyright: ignore[reportPrivateImportUsage]


def copy_each(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
    """``target.copy_(source)`` for each pair, in few kernels."""
    torch._foreach_copy_(list(targets), list(sources))  # pyright: ignore[reportPrivateImportUsage]


def lerp_each(tensors: Sequence[torch.Tensor], ends: Sequence[torch.Tensor], weight: float) -> None:
    """``tensor += weight * (end - tensor)`` for each pair, in few kernels."""
    torch._foreach_lerp_(list(tensors), list(ends), weight)  # pyright: ignore[reportPrivateImportUsage]
