"""Counter-based random numbers: each one is a function of (seed, name, index), independent of any state or order.

The generator is Philox 4x32 with 10 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), in 64-bit integer
operations of torch: the same bits on every device. Normal deviates are computed in float64 on the CPU and rounded to float32, so they are
the same on every device, too.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter_4N: Int[torch.Tensor, "4 N"], key: tuple[int, int]) -> Int[torch.Tensor, "4 N"]:
    """Philox 4x32-10: four random 32-bit words (held in int64) for each counter of four 32-bit words, under a key of two."""
    c0, c1, c2, c3 = counter_4N.unbind(0)
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return torch.stack((c0, c1, c2, c3))


def stream_key(seed: int, name: str) -> tuple[int, int]:
    """The Philox key of the stream ``name`` under ``seed``: the first 64 bits of a SHA-256."""
    first = hashlib.sha256(f"{seed}\0{name}".encode()).digest()[:8]
    return int.from_bytes(first[:4], "little"), int.from_bytes(first[4:], "little")


def words(seed: int, name: str, count: int) -> Int[torch.Tensor, " N"]:
    """The first ``count`` 32-bit words of a stream, in int64: word i is output i mod 4 of counter (i // 4, 0, 0, 0)."""
    blocks = torch.arange((count + 3) // 4)
    counter_4N = torch.stack((blocks & _WORD, blocks >> 32, torch.zeros_like(blocks), torch.zeros_like(blocks)))
    return philox(counter_4N, stream_key(seed, name)).T.flatten()[:count]


def uniforms(seed: int, name: str, count: int) -> Float[torch.Tensor, " N"]:
    """``count`` float64 numbers in the open interval (0, 1)."""
    return _to_unit(words(seed, name, count))


def normals(seed: int, name: str, count: int) -> Float[torch.Tensor, " N"]:
    """``count`` float32 standard normal deviates."""
    return _to_normal(words(seed, name, 2 * count).view(-1, 2))


def signs(seed: int, name: str, count: int) -> Float[torch.Tensor, " N"]:
    """``count`` float32 numbers, each -1 or +1."""
    return 1.0 - 2.0 * (words(seed, name, count) >> 31).float()


def permutation(seed: int, name: str, count: int) -> Int[torch.Tensor, " N"]:
    """A permutation of 0 ... count-1: the order that sorts random 62-bit numbers."""
    pairs_N2 = words(seed, name, 2 * count).view(-1, 2)
    return torch.argsort((pairs_N2[:, 0] >> 1 << 31) | (pairs_N2[:, 1] >> 1), stable=True)


@lru_cache(maxsize=8)
def latent_noise(seed: int, shape_CFHW: tuple[int, int, int, int]) -> Float[torch.Tensor, "C F h w"]:
    """The Gaussian noise that all clips share (docs/method.md), for latents of one shape; float32 on the CPU. Do not modify it.

    The value at (c, f, y, x) depends only on ``seed`` and (c, f, y, x): latents of different shapes get the same noise where they overlap.
    """
    channels, frames, height, width = shape_CFHW
    pairs = (channels + 1) // 2
    grid = torch.meshgrid(torch.arange(width), torch.arange(height), torch.arange(frames), torch.arange(pairs), indexing="ij")
    counter_4N = torch.stack([axis.permute(3, 2, 1, 0).flatten() for axis in grid])
    w0, w1, w2, w3 = philox(counter_4N, stream_key(seed, "latent_noise"))
    values = torch.stack((_to_normal(torch.stack((w0, w1), 1)), _to_normal(torch.stack((w2, w3), 1))))
    return values.view(2, pairs, frames, height, width).transpose(0, 1).flatten(0, 1)[:channels].contiguous()


def _multiply(a: torch.Tensor, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 32 bits of a 32 x 32 bit product. int64 overflow wraps around, so all 64 bits are right."""
    product = a * b
    return (product >> 32) & _WORD, product & _WORD


def _to_unit(words_: torch.Tensor) -> torch.Tensor:
    return (words_.double() + 0.5) / 2.0**32


def _to_normal(words_N2: torch.Tensor) -> torch.Tensor:
    """Box and Muller's transform: one deviate from two words."""
    u, v = _to_unit(words_N2.cpu()).unbind(1)
    return (torch.sqrt(-2.0 * torch.log(u)) * torch.cos(2.0 * math.pi * v)).float()
