"""The influence of every clip on every query (eq. 10), with the same bits whatever else is computed with it.

Axis suffixes: Q queries, N clips, P projected entries.

A feature is a unit-length float32 row. Rounded to multiples of 2^-26, it is a vector of integers whose length is at most 2^26. By
Cauchy-Schwarz, every partial sum of an inner product of two such vectors is an integer of at most 2^52, and float64 holds all integers up to
2^53. So the matrix product is exact in any order of summation: an entry of the matrix depends only on its own query and its own clip. Other
rows, the tiles, the number of threads and the linear algebra library cannot change a bit of it. Rounding changes an entry of a feature by at
most 2^-27, and an influence by about 1e-8: less than the error of a float32 product.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
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
"""Feature entries that a thread rounds and multiplies at a time, 16 MiB in float64. They are many because threads wait for each other in between."""

AHEAD_ENTRIES = 2**22
"""Finished entries that may wait beyond one tile for each thread, 16 MiB, so that threads need not wait while a column of chunks is written."""

QUERIES_AT_ONCE = 8
"""Queries are padded to a multiple of this. The product is then faster, on processors that multiply eight float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class GridRows:
    """Features rounded to the grid: integers in float64, and each row's length in grid units."""

    integers_RP: Float64[torch.Tensor, "R P"]
    length_R: Float64[torch.Tensor, " R"]


class Scratch:
    """Buffers of one thread, to round up to ``num_clips`` features and multiply them by ``num_queries``. Fresh memory for each tile would cost
    more than the arithmetic.
    """

    def __init__(self, num_clips: int, num_entries: int, num_queries: int = 0) -> None:
        self._rounded_NP = torch.empty(num_clips, num_entries)
        self._integers_NP = torch.empty(num_clips, num_entries, dtype=torch.float64)
        self._product_NQ = torch.empty(num_clips, num_queries, dtype=torch.float64)

    def on_grid(self, features_NP: Float32[np.ndarray, "N P"]) -> GridRows:
        """The features as integers: multiples of 2^-26, rounded half to even. They are valid until these buffers are used again.

        Raises:
            ValueError: a row is not finite or longer than 1, for which the product would not be exact.
        """
        # Scaling by a power of two is exact in float32, and float32 numbers of 2^24 or more are integers already.
        rounded_NP = self._rounded_NP[: len(features_NP)]
        with np.errstate(over="ignore"):  # such features are refused below
            np.multiply(features_NP, np.float32(2.0**GRID_BITS), out=rounded_NP.numpy())
        integers_NP = self._integers_NP[: len(features_NP)].copy_(rounded_NP.round_())
        length_N = torch.linalg.vector_norm(integers_NP, dim=1)
        if not bool((length_N <= MAX_LENGTH).all()):
            raise ValueError("a gradient feature is not finite or longer than 1; features are stored with unit length")
        return GridRows(integers_RP=integers_NP, length_R=length_N)

    def product(self, clips: GridRows, queries_PQ: Float64[torch.Tensor, "P Q"]) -> Float64[torch.Tensor, "N Q"]:
        """The exact product of the integers, in these buffers."""
        return torch.mm(clips.integers_RP, queries_PQ, out=self._product_NQ[: len(clips.length_R)])


def on_grid(features_RP: Float32[np.ndarray, "R P"]) -> GridRows:
    """The features as integers, in new memory; see :meth:`Scratch.on_grid`."""
    return Scratch(*features_RP.shape).on_grid(features_RP)


class QueryGradients:
    """The side of the product that is the same for every tile: the queries as integers, and the factor of each query. If there are more than
    :data:`QUERIES_AT_ONCE`, zeros pad them to a multiple of it.
    """

    def __init__(self, queries_QP: Float32[np.ndarray, "Q P"], norm_Q: Float64[np.ndarray, " Q"] | None) -> None:
        rows = on_grid(queries_QP)
        self.num_queries = len(queries_QP)
        missing = -self.num_queries % QUERIES_AT_ONCE if self.num_queries > QUERIES_AT_ONCE else 0
        self._integers_PQ = torch.nn.functional.pad(rows.integers_RP.T, (0, missing)).contiguous()
        self._factor_Q = torch.nn.functional.pad(row_factor(rows, norm_Q), (0, missing))

    def scratch(self, num_clips: int) -> Scratch:
        """Buffers for tiles of up to ``num_clips``."""
        return Scratch(num_clips, *self._integers_PQ.shape)

    def influence(
        self, clips_NP: Float32[np.ndarray, "N P"], norm_N: Float64[np.ndarray, " N"] | None, scratch: Scratch
    ) -> Float32[np.ndarray, "Q N"]:
        """The exact product with the clips' features, scaled once for each query and once for each clip, in this order."""
        clips = scratch.on_grid(clips_NP)
        product_NQ = scratch.product(clips, self._integers_PQ).mul_(self._factor_Q).mul_(row_factor(clips, norm_N)[:, None])
        tile_QN = torch.empty(self.num_queries, len(clips_NP)).copy_(product_NQ[:, : self.num_queries].T)
        return tile_QN.add_(0.0).numpy()  # adding 0 turns -0 into 0, so that equal scores have equal bits


def influence_tiles(
    queries_QP: Float32[np.ndarray, "Q P"],
    clips_NP: Float32[np.ndarray, "N P"],
    *,
    query_norm_Q: Float64[np.ndarray, " Q"] | None = None,
    clip_norm_N: Float64[np.ndarray, " N"] | None = None,
) -> Float32[np.ndarray, "Q N"]:
    """Influence of each clip on each query (eq. 10).

    Without norms it is the cosine in R^P: both rows are normalized again (a prefix of a stored feature is shorter than 1). With a norm, a row is
    scaled to that norm instead; with both, it is the cosine times both norms ("dot"). A zero row has influence 0.
    """
    queries, (num_clips, num_entries) = QueryGradients(queries_QP, query_norm_Q), clips_NP.shape
    step = max(1, min(TILE_ENTRIES // num_entries, num_clips))
    scratch = queries.scratch(step)
    influence_QN = np.empty((len(queries_QP), num_clips), dtype=np.float32)
    for start in range(0, num_clips, step):
        tile = slice(start, start + step)
        influence_QN[:, tile] = queries.influence(clips_NP[tile], None if clip_norm_N is None else clip_norm_N[tile], scratch)
    return influence_QN


def row_factor(rows: GridRows, norm_R: Float64[np.ndarray, " R"] | None) -> Float64[torch.Tensor, " R"]:
    """The factor that scales each row of integers to unit length, or to its norm; 0 for a zero row."""
    wanted_R = 1.0 if norm_R is None else torch.from_numpy(norm_R)
    return torch.where(rows.length_R > 0, wanted_R / rows.length_R, 0.0)


def tile_clips(gradient_NP: zarr.Array, proj_dim: int) -> int:
    """How many clips a tile holds: those of a chunk of the stored array, but at most :data:`TILE_ENTRIES` entries."""
    return max(1, min(gradient_NP.chunks[0], TILE_ENTRIES // proj_dim))


def stream_influence(
    queries_QP: Float32[np.ndarray, "Q P"],
    gradient_NP: zarr.Array,
    columns: slice,
    *,
    clips_per_tile: int,
    threads: int,
    query_norm_Q: Float64[np.ndarray, " Q"] | None = None,
    clip_norm_N: Float64[np.ndarray, " N"] | None = None,
) -> Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]:
    """Yield ``(first clip, influence)`` tile by tile, from P ``columns`` of a stored array.

    Memory holds a few tiles, whatever N is. Each of ``threads`` workers reads and multiplies its own tile.
    """
    queries = QueryGradients(queries_QP, query_norm_Q)
    num_clips = gradient_NP.shape[0]
    idle: SimpleQueue[Scratch] = SimpleQueue()
    for _ in range(threads):
        idle.put(queries.scratch(min(clips_per_tile, num_clips)))

    def tile(start: int) -> Float[np.ndarray, "Q tile"]:
        stop = min(start + clips_per_tile, num_clips)
        clips_NP = np.asarray(gradient_NP[start:stop, columns])
        scratch = idle.get()
        try:
            return queries.influence(clips_NP, None if clip_norm_N is None else clip_norm_N[start:stop], scratch)
        finally:
            idle.put(scratch)

    ahead = AHEAD_ENTRIES // (len(queries_QP) * clips_per_tile)
    yield from in_order(tile, range(0, num_clips, clips_per_tile), threads=threads, ahead=ahead)


def in_order(function: Callable[[int], Result], starts: Iterable[int], *, threads: int, ahead: int = 0) -> Iterator[tuple[int, Result]]:
    """Yield ``(start, function(start))`` in the order of ``starts``. ``threads`` calls run at a time, each on one thread; up to ``ahead`` more
    results may be finished.
    """
    with _one_thread_each(), ThreadPoolExecutor(threads) as workers:
        pending: deque[tuple[int, Future[Result]]] = deque()
        try:
            for start in starts:
                pending.append((start, workers.submit(function, start)))
                if len(pending) > threads + ahead:
                    first, future = pending.popleft()
                    yield first, future.result()
            for first, future in pending:
                yield first, future.result()
        finally:
            workers.shutdown(cancel_futures=True)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """A context in which each product uses one thread, because tiles run in parallel."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
