"""Gradient checkpointing: blocks keep their inputs alone, and compute the rest again in backward (Chen et al., 2016), self-attention excepted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

_ATTENTION = {
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
    )
}
"""torch's fused kernels of attention; their arguments begin with queries and keys [B, heads, tokens, dim]."""


def checkpoint_blocks(module: torch.nn.Module) -> None:
    """Checkpoint the blocks of diffusers' ``module`` until its ``disable_gradient_checkpointing``.

    What self-attention gives is kept, which is about as large as a block's input: of a clip as long as video models take (30,000 tokens),
    computing it again would be most of a block's forward pass.
    """
    contexts = partial(create_selective_checkpoint_contexts, _kept_or_not)
    module.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=contexts))  # type: ignore[operator]


@contextmanager
def checkpointed(module: torch.nn.Module, enabled: bool) -> Iterator[None]:
    """While this lasts ``module`` is checkpointed, if ``enabled``."""
    if not enabled:
        yield
        return
    checkpoint_blocks(module)
    try:
        yield
    finally:
        module.disable_gradient_checkpointing()  # type: ignore[operator]


def _kept_or_not(_context: Any, operation: Any, *arguments: Any, **_: Any) -> CheckpointPolicy:
    """Of attention the one over all tokens: few keys, as a prompt has, are soon attended to again."""
    if operation in _ATTENTION and arguments[1].shape[-2] >= arguments[0].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
