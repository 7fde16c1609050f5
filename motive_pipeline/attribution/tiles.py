"""Influence of every clip on every query (eq. 10), exact to the bit whatever is computed with it.

Axis suffixes: Q queries, N clips, P projected entries.

A feature is a unit-length float32 row. Rounded to multiples of 2^-26 it is a vector of integers whose length is at most 2^26, so by
Cauchy-Schwarz every partial sum of an inner product of two of them is an integer of at most 2^52, and float64 holds all integers up to
2^53. The matrix product is therefore exact in any order of summation: an entry of the matrix depends on its own query and its own clip
alone, and neither other rows, nor the tiles, nor the number of threads, nor the linear algebra library can change one bit of it.
Rounding moves an entry of a feature by at most 2^-27, and an influence by about 1e-8: less than the float32 product would lose.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import zarr
from jaxtyping import Float, Float32, Float64

Result = TypeVar("Result")

GRID_BITS = 26
MAX_LENGTH = 2.0**GRID_BITS * 1.0001
"""Longest row, in grid units, for which every sum stays below 2^53."""

TILE_ENTRIES = 2**21
"""Feature entries in one tile, the unit that is read: 8 MiB."""

BLOCK_ENTRIES = 2**19
"""Feature entries that are rounded and multiplied at a time, 4 MiB in float64: so few that they stay near the processor, so many that threads
are not held up by each other between two calls (blocks of a quarter take two threads almost twice as long)."""


@dataclass(frozen=True, kw_only=True)
class GridRows:
    """Features rounded to the grid: integers in float64, and each row's length in grid units."""

    integers_RP: Float64[torch.Tensor, "R P"]
    length_R: Float64[torch.Tensor, " R"]


class Scratch:
    """Memory for rounding up to ``num_rows`` rows: fresh memory for each block would cost more than the arithmetic."""

    def __init__(self, num_rows: int, num_entries: int) -> None:
        self.rounded_RP = torch.empty(num_rows, num_entries)
        self.integers_RP = torch.empty(num_rows, num_entries, dtype=torch.float64)


def on_grid(features_RP: Float32[np.ndarray, "R P"], scratch: Scratch | None = None) -> GridRows:
    """The features as integers: multiples of 2^-26, rounded half to even. With ``scratch`` they lie in it, until it is used again.

    Raises:
        ValueError: a row is not finite or longer than 1, for which the product would not be exact.
    """
    if scratch is None:
        scratch = Scratch(*features_RP.shape)
    rounded_RP, integers_RP = scratch.rounded_RP[: len(features_RP)], scratch.integers_RP[: len(features_RP)]
    # Scaling by a power of two is exact in float32, and float32 numbers of 2^24 or more are integers already.
    torch.mul(torch.from_numpy(np.ascontiguousarray(features_RP)), 2.0**GRID_BITS, out=rounded_RP).round_()
    integers_RP.copy_(rounded_RP)
    length_R = torch.linalg.vector_norm(integers_RP, dim=1)
    if not bool((length_R <= MAX_LENGTH).all()):
        raise ValueError("a gradient feature is not finite or longer than 1; features are stored with unit length")
    return GridRows(integers_RP=integers_RP, length_R=length_R)


def influence_tiles(
    queries_QP: Float32[np.ndarray, "Q P"],
    clips_NP: Float32[np.ndarray, "N P"],
    *,
    query_norm_Q: Float64[np.ndarray, " Q"] | None = None,
    clip_norm_N: Float64[np.ndarray, " N"] | None = None,
) -> Float32[np.ndarray, "Q N"]:
    """Influence of each clip on each query (eq. 10).

    Without norms: the cosine in R^P, i.e. both rows are brought to unit length again (a prefix of a stored feature is shorter than 1).
    A norm takes the place of that unit length: with both it is the cosine times both norms ("dot"). A zero row has influence 0.
    """
    return _tile(on_grid(queries_QP), clips_NP, query_norm_Q, clip_norm_N)


def _tile(
    queries: GridRows,
    clips_NP: Float32[np.ndarray, "N P"],
    query_norm_Q: Float64[np.ndarray, " Q"] | None,
    clip_norm_N: Float64[np.ndarray, " N"] | None,
) -> Float32[np.ndarray, "Q N"]:
    """The product block by block of clips."""
    num_clips, num_entries = clips_NP.shape
    step = max(1, BLOCK_ENTRIES // num_entries)
    scratch = Scratch(min(step, num_clips), num_entries)
    tile_QN = torch.empty(len(queries.length_R), num_clips)
    for start in range(0, num_clips, step):
        block = slice(start, start + step)
        norm_N = None if clip_norm_N is None else clip_norm_N[block]
        tile_QN[:, block] = _product(queries, on_grid(clips_NP[block], scratch), query_norm_Q, norm_N)
    return tile_QN.numpy()


def _product(
    queries: GridRows,
    clips: GridRows,
    query_norm_Q: Float64[np.ndarray, " Q"] | None,
    clip_norm_N: Float64[np.ndarray, " N"] | None,
) -> Float32[torch.Tensor, "Q N"]:
    """The exact product of the integers, scaled once for each query and once for each clip, in this order."""
    tile_QN = queries.integers_RP @ clips.integers_RP.T
    tile_QN.mul_(row_factor(queries, query_norm_Q)[:, None]).mul_(row_factor(clips, clip_norm_N)[None, :])
    return tile_QN.float().add_(0.0)  # adding 0 turns -0 into 0, so that equal scores have equal bits


def row_factor(rows: GridRows, norm_R: Float64[np.ndarray, " R"] | None) -> Float64[torch.Tensor, " R"]:
    """What each row of integers is multiplied by to have unit length, or its norm; 0 for a zero row."""
    wanted_R = 1.0 if norm_R is None else torch.from_numpy(norm_R)
    return torch.where(rows.length_R > 0, wanted_R / rows.length_R, 0.0)


def tile_clips(gradient_NP: zarr.Array, proj_dim: int) -> int:
    """How many clips a tile holds: whole chunks of the stored array, about :data:`TILE_ENTRIES` entries."""
    chunk_clips = gradient_NP.chunks[0]
    return max(1, TILE_ENTRIES // proj_dim // chunk_clips) * chunk_clips


def stream_influence(
    queries_QP: Float32[np.ndarray, "Q P"],
    gradient_NP: zarr.Array,
    *,
    clips_per_tile: int,
    threads: int,
    query_norm_Q: Float64[np.ndarray, " Q"] | None = None,
    clip_norm_N: Float64[np.ndarray, " N"] | None = None,
) -> Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]:
    """``(first clip, influence)`` for tile after tile of a stored array, of which the first P columns are read.

    Memory: a few tiles, whatever N is. Each of ``threads`` workers reads and multiplies a tile of its own.
    """
    queries = on_grid(queries_QP)
    num_clips, proj_dim = gradient_NP.shape[0], queries_QP.shape[1]

    def tile(start: int) -> Float[np.ndarray, "Q tile"]:
        stop = min(start + clips_per_tile, num_clips)
        clips_NP = np.asarray(gradient_NP[start:stop, :proj_dim])
        norm_N = None if clip_norm_N is None else clip_norm_N[start:stop]
        return _tile(queries, clips_NP, query_norm_Q, norm_N)

    yield from in_order(tile, range(0, num_clips, clips_per_tile), threads=threads)


def in_order(function: Callable[[int], Result], starts: Iterable[int], *, threads: int) -> Iterator[tuple[int, Result]]:
    """``(start, function(start))`` for each of ``starts``, computed ``threads`` at a time on one thread each, given in their order."""
    with _one_thread_each(), ThreadPoolExecutor(threads) as workers:
        pending: deque[tuple[int, Future[Result]]] = deque()
        for start in starts:
            pending.append((start, workers.submit(function, start)))
            if len(pending) > threads:
                first, future = pending.popleft()
                yield first, future.result()
        for first, future in pending:
            yield first, future.result()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """While tiles run side by side, each product uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
