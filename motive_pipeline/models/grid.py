"""How decoded frames map to a model's latents. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LatentGrid:
    """How decoded frames map to the latent grid: latent frame 0 is frame 0, latent frame k covers frames s*(k-1)+1 ... s*k."""

    channels: int
    temporal_stride: int
    spatial_stride: int

    def shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """(C, F, H, W) of the latents of a clip of ``num_frames`` = n * temporal_stride + 1 frames of ``height`` x ``width`` pixels."""
        s = self.spatial_stride
        return self.channels, (num_frames - 1) // self.temporal_stride + 1, height // s, width // s
