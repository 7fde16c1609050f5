"""What a denoiser is told besides noisy latents and a timestep: named tensors, such as a prompt's embedding and its attention mask.

Each family names its own. The tensors of one clip have no batch axis; those of a batch have one in front.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

Conditioning = Mapping[str, torch.Tensor]

PROMPT = "prompt_embeds"
"""The prompt's embedding, [L, E], which every family has."""


def stacked(clips: Sequence[Conditioning]) -> Conditioning:
    """The conditioning of a batch from that of its clips, which have the same names and shapes."""
    return {name: torch.stack([clip[name] for clip in clips]) for name in clips[0]}


def repeated(clip: Conditioning, times: int) -> Conditioning:
    """The conditioning of a batch of one clip ``times`` times, without a copy."""
    return {name: tensor.expand(times, *tensor.shape) for name, tensor in clip.items()}


def part_of(batch: Conditioning, rows: slice) -> Conditioning:
    """The conditioning of some rows of a batch."""
    return {name: tensor[rows] for name, tensor in batch.items()}


def on_device(conditioning: Conditioning, device: torch.device) -> Conditioning:
    """The same tensors on ``device``."""
    return {name: tensor.to(device) for name, tensor in conditioning.items()}
