"""Gradient checkpointing: blocks keep their inputs, and compute the rest again in backward (Chen et al., 2016); with or without self-attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from motive_pipeline.internals.torch import FUSED_ATTENTION

Checkpointing = bool | Literal["full"]
"""Whether; ``full``: self-attention, too."""


@contextmanager
def checkpointed(module: torch.nn.Module, how: Checkpointing) -> Iterator[None]:
    """While this lasts the blocks of diffusers' ``module`` are checkpointed, if so asked.

    But for ``full``, what self-attention gives is kept, which is as large as a block's input: of a clip as long as video models take (30,000
    tokens), computing it again would be most of a block's forward pass.
    """
    if not how:
        yield
        return
    if how == "full":
        module.enable_gradient_checkpointing()  # type: ignore[operator]
    else:
        contexts = partial(create_selective_checkpoint_contexts, _kept_or_not)
        module.enable_gradient_checkpointing(partial(checkpoint, use_reentrant=False, context_fn=contexts))  # type: ignore[operator]
    try:
        yield
    finally:
        module.disable_gradient_checkpointing()  # type: ignore[operator]


def _kept_or_not(_context: Any, operation: Any, *arguments: Any, **_: Any) -> CheckpointPolicy:
    """Of attention the one over all tokens: few keys, as a prompt has, are soon attended to again."""
    if operation in FUSED_ATTENTION and arguments[1].shape[-2] >= arguments[0].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
