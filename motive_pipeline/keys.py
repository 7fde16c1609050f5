"""The keys of rows in the row stores: a hash of what each row is made from.

Together with the stage's own settings and code version (``graph/stages.py``), which choose the store, a key covers everything a row depends on.
It is made of content, never of an upstream asset's version: a row stays valid as long as its inputs have the same content.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from motive_pipeline.storage.digest import digest


def latent_key(clip_id: str, caption: str, encoders: str) -> str:
    """Latents and prompt embedding: the clip, its caption, and the hash of VAE, text encoder and tokenizer."""
    return digest(clip_id, caption, encoders)


def mask_key(clip_id: str, temporal_stride: int, spatial_stride: int) -> str:
    """A motion mask: the clip, and the strides of the latent grid that it lies on."""
    return digest(clip_id, temporal_stride, spatial_stride)


def embedding_key(clip_id: str, encoder: str) -> str:
    """An embedding: the clip, and the hash of the encoder with the frames it gets from a clip."""
    return digest(clip_id, encoder)


def gradient_key(clip_id: str, caption: str, latents: str, mask: str, weights: str, second_moments: str | None = None) -> str:
    """A projected gradient: the clip, its caption, and the hashes of its latents, its mask (empty without), the whole model, and the second
    moments that divide it (None without a preconditioner)."""
    return digest(clip_id, caption, latents, mask, weights, *([] if second_moments is None else [second_moments]))


def influence_map_key(network: str, weights: str, second_moments: str | None, queries: Sequence[Sequence[str]], clip: Sequence[str]) -> str:
    """An influence map: which network, the hashes of the whole model and of the second moments (None without a preconditioner), and the hashes of
    latents and mask (empty without) of each query and of the clip."""
    return digest(network, weights, second_moments, [list(query) for query in queries], list(clip))


def vbench_key(dimension: str, video: str, versions: Mapping[str, str], weights: Mapping[str, str], device: str) -> str:
    """VBench's value of a video: the dimension, the hash of the video's file, versions of the packages, hashes of the weights, and cpu or cuda:
    half-precision networks differ visibly between them."""
    return digest(dimension, video, dict(versions), dict(weights), device)
