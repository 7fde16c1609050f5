"""Prompt embeddings, computed once for each distinct caption.

Axes: L prompt tokens, E embedding width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from motive_pipeline.models.conditioning import Conditioning

KEPT_BYTES = 2**31
"""Embeddings that other clips still need are kept in main memory up to this size; beyond it a caption is encoded again, to the same bits."""


class DistinctPrompts:
    """Encodes a caption at its first clip, and keeps the embedding until its last one. A caption that only one clip has is not kept."""

    def __init__(self, captions: Iterable[str] = ()) -> None:
        """``captions`` are those of all clips to come, with repetitions."""
        self._to_come = Counter(captions)
        self._kept: dict[str, Conditioning] = {}
        self._num_bytes = 0

    def __call__(self, caption: str, encode: Callable[[str], Conditioning]) -> Conditioning:
        """What the model is told of ``caption``: as it was kept, else from ``encode``."""
        told = self._kept[caption] if caption in self._kept else encode(caption)
        self._to_come[caption] -= 1
        if self._to_come[caption] <= 0:
            self._drop(caption)
        elif caption not in self._kept and self._num_bytes + _num_bytes(told) <= KEPT_BYTES:
            self._kept[caption] = told
            self._num_bytes += _num_bytes(told)
        return told

    def _drop(self, caption: str) -> None:
        dropped = self._kept.pop(caption, None)
        self._num_bytes -= 0 if dropped is None else _num_bytes(dropped)


def _num_bytes(told: Conditioning) -> int:
    return sum(tensor.nbytes for tensor in told.values())
