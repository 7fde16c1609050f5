"""Gradient checkpointing: blocks save their inputs and recompute the rest in backward (Chen et al., 2016), with or without self-attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from motive_pipeline.internals.torch import FUSED_ATTENTION

Checkpointing = bool | Literal["full"]
"""Whether blocks are checkpointed; ``full`` also recomputes self-attention."""


@contextmanager
def checkpointed(module: torch.nn.Module, how: Checkpointing) -> Iterator[None]:
    """A context in which the blocks of diffusers' ``module`` are checkpointed as ``how`` says.

    Unless ``full``, self-attention outputs are saved, not recomputed. They are as large as a block's input, and for a clip as long as video
    models take (30,000 tokens), recomputing them would be most of a block's forward pass.
    """
    if not how:
        yield
        return
    if how == "full":
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    else:
        contexts = partial(create_selective_checkpoint_contexts, _checkpoint_policy)
        module.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=contexts))  # type: ignore[operator]
    try:
        yield
    finally:
        module.disable_gradient_checkpointing()  # type: ignore[operator]


def _checkpoint_policy(_context: Any, operation: Any, *arguments: Any, **_: Any) -> CheckpointPolicy:
    """Save attention over all tokens. Attention to few keys, such as a prompt's, is quickly recomputed."""
    if operation in FUSED_ATTENTION and arguments[1].shape[-2] >= arguments[0].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
