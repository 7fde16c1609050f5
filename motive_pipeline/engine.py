"""Run a function over rows: find what is there, compute the rest here or on several devices, commit in batches, report progress.

The unit of computation is one row; a batch is only how many rows are committed at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from motive_pipeline.devices.spread import Spread, answers
from motive_pipeline.errors import RejectRow
from motive_pipeline.progress import Progress
from motive_pipeline.storage.rows import Row, RowRef, RowReject, RowStore
from motive_pipeline.storage.workspace import RowCounts

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results for the requested rows, by key, and how many were computed, reused and rejected."""

    refs: dict[str, RowRef]
    rejects: dict[str, RowReject]
    counts: RowCounts


@dataclass(frozen=True, kw_only=True, slots=True)
class Work(Generic[Item]):
    """One requested row: its key in the store, and what the row function needs to compute it."""

    key: str
    item: Item


Arrays = Mapping[str, np.ndarray | np.generic]


@dataclass(frozen=True, kw_only=True, slots=True)
class Computed:
    """The arrays of a row, and what else its computation found, which is no part of it. A row function that finds nothing else returns the arrays alone."""

    arrays: Arrays
    aside: Any


def compute_rows(
    store: RowStore,
    work: Sequence[Work[Item]],
    row_function: Callable[[Item], Arrays | Computed] | Spread[Item],
    *,
    what: str,
    commit_rows: int = 32,
    commit_s: float = 60.0,
    prefetch: Callable[[Sequence[Item]], None] | None = None,
    left_out: frozenset[str] = frozenset(),
    told: Callable[[Item, Any], None] | None = None,
) -> Outcome:
    """Get every row of ``work``: from the store if it is there, else computed by ``row_function`` and committed.

    A batch is committed when it has ``commit_rows`` rows, or when the last commit is ``commit_s`` seconds ago.
    ``row_function`` raises :class:`RejectRow` for a row that cannot be used. Any other exception stops the run; finished rows are committed
    first. A :class:`Spread` computes the rows in the processes of several devices, in any order; each row is the same bits. ``what`` names the rows
    in the log ("latents"). ``prefetch(items)`` is called once with all missing items, in order, so that their inputs can be read ahead. The arrays
    ``left_out`` are hashed and not stored. ``told(item, aside)`` is called with what a :class:`Computed` row has beside its arrays.
    """
    progress = Progress(what, total=len(work))
    refs: dict[str, RowRef] = {}
    rejects: dict[str, RowReject] = {}
    missing: list[Work[Item]] = []
    for piece in work:
        found = store.find(piece.key)
        if isinstance(found, RowRef):
            refs[piece.key] = found
        elif isinstance(found, RowReject):
            rejects[piece.key] = found
        else:
            missing.append(piece)
    progress.reused = len(refs) + len(rejects)
    batch: list[Row] = []
    refused: list[RowReject] = []

    committed = time.monotonic()

    def commit() -> None:
        nonlocal committed
        refs.update((ref.key, ref) for ref in store.append(batch, refused))
        batch.clear()
        refused.clear()
        committed = time.monotonic()

    if prefetch is not None:
        prefetch([piece.item for piece in missing])
    try:
        for number, answer in answers(row_function, [piece.item for piece in missing]):
            piece = missing[number]
            if isinstance(answer, RejectRow):
                reject = RowReject(key=piece.key, reason=answer.reason, detail=answer.detail)
                rejects[piece.key] = reject
                if not answer.transient:
                    refused.append(reject)
                progress.rejected += 1
            else:
                arrays = answer.arrays if isinstance(answer, Computed) else answer
                batch.append(Row(key=piece.key, arrays=dict(arrays), left_out=left_out))
                progress.computed += 1
                if told is not None and isinstance(answer, Computed):
                    told(piece.item, answer.aside)
            if len(batch) + len(refused) >= commit_rows or time.monotonic() - committed >= commit_s:
                commit()
            progress.report()
    finally:
        commit()
    progress.report(last=True)
    counts = RowCounts(computed=len(missing) - progress.rejected, reused=len(work) - len(missing), rejected=len(rejects))
    return Outcome(refs=refs, rejects=rejects, counts=counts)
