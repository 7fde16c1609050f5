"""Finds clips that look alike, and queries that are also among the clips. They are listed, never removed.

A query that is also a training clip votes for itself. Many copies of one clip fill the top of a ranking with one motion.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.graph import Role
from motive_pipeline.storage.workspace import Workspace

MAX_BITS = 15
"""Two clips are near-duplicates if at most this many of their 256 hash bits differ.

Copies at half the size and a quarter of the data rate differed in 0 to 10 bits (16 pieces of three real films), but in 8 to 34 bits when
pictures are small and smooth (12 generated clips): some of such copies are missed. Between different pieces of the same films, the smallest
difference was 14 bits, the median 122."""

DUPLICATE_COLUMNS = ("kind", "clip_id", "other_id", "distance_bits", "path", "other_path")
MAX_LISTED = 100_000

_BANDS = MAX_BITS + 1
"""There is one band more than bits may differ. So two near-duplicates agree in at least one band, and only clips that share a band are
compared."""

_MANY = 2000


def duplicates_table(ws: Workspace) -> pd.DataFrame:
    """Pairs of clips, and pairs of a query and a clip, that look alike. Columns: :data:`DUPLICATE_COLUMNS`.

    ``kind`` is ``near_duplicate``, ``query_in_pool`` (the same content) or ``query_like_clip``. Of more than :data:`MAX_LISTED` pairs, only
    the nearest are listed.
    """
    roles: tuple[tuple[Role, str], ...] = (("clip", "latents"), ("query", "query_latents"))
    phash_of: dict[tuple[Role, str], str] = {}
    paths: dict[tuple[Role, str], str] = {}
    for role, asset in roles:
        publication = ws.published_or_none(asset)
        if publication is None:
            continue
        index = publication.table("index")
        if "phash" in index:
            phash_of |= {(role, str(clip)): str(phash) for clip, phash in zip(index["clip_id"], index["phash"], strict=True) if phash}
            paths |= {(role, clip.clip_id): clip.location for clip in catalog_clips(ws, role)}
    keys = sorted(phash_of)
    rows = []
    for left, right, bits in near_pairs([phash_of[key] for key in keys]):
        (role, clip), (other_role, other) = keys[left], keys[right]
        if role == other_role == "query":
            continue
        same = clip == other
        kind = "near_duplicate" if role == other_role else "query_in_pool" if same else "query_like_clip"
        rows.append((kind, clip, other, bits, paths[role, clip], paths[other_role, other]))
    rows.sort(key=lambda row: (row[3], *row[:3]))
    return pd.DataFrame(rows[:MAX_LISTED], columns=list(DUPLICATE_COLUMNS)).astype(
        {name: "int64" if name == "distance_bits" else "object" for name in DUPLICATE_COLUMNS}
    )


def near_pairs(phashes: Sequence[str], most_bits: int = MAX_BITS) -> list[tuple[int, int, int]]:
    """(i, j, bits that differ) with i < j for every two hashes that differ in at most ``most_bits`` (up to :data:`MAX_BITS`)."""
    if len(phashes) < 2:
        return []
    words_N4 = np.array([[int(text[16 * k : 16 * k + 16], 16) for k in range(4)] for text in phashes], dtype=np.uint64)
    bands_NB = words_N4.view(np.uint16).reshape(len(words_N4), _BANDS)
    found: dict[tuple[int, int], int] = {}
    for band in range(_BANDS):
        order = np.argsort(bands_NB[:, band], kind="stable")
        starts = np.flatnonzero(np.diff(bands_NB[order, band])) + 1
        for group in np.split(order, starts):
            if len(group) > 1:
                _compare(words_N4, np.sort(group), most_bits, found)
    return sorted((left, right, bits) for (left, right), bits in found.items())


def _compare(words_N4: np.ndarray, group: np.ndarray, most_bits: int, found: dict[tuple[int, int], int]) -> None:
    """Compare all pairs in ``group``, in slabs that bound the memory: very many clips can share a band (black frames)."""
    for first in range(0, len(group), _MANY):
        slab = group[first : first + _MANY]
        for second in range(first, len(group), _MANY):
            other = group[second : second + _MANY]
            bits = np.bitwise_count(words_N4[slab, None] ^ words_N4[None, other]).sum(axis=2)
            for row, column in zip(*np.nonzero(bits <= most_bits), strict=True):
                left, right = int(slab[row]), int(other[column])
                if left < right:
                    found[left, right] = int(bits[row, column])
