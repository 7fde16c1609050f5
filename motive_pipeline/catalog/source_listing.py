"""A source -> rows of the catalog and rejects: each different content is probed once."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from motive_pipeline.catalog.inventory import Inventory, take_inventory
from motive_pipeline.catalog.publisher_metadata import publisher_columns
from motive_pipeline.catalog.scan import Scan, SourceFile, hash_threads, scan
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.sources.protocol import ClipSource
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.rows import RowReject
from motive_pipeline.storage.workspace import Reject, RowCounts, Workspace
from motive_pipeline.video.flags import flag_bits, flag_names
from motive_pipeline.video.probe import VideoFacts
from motive_pipeline.video.readers import Prober

log = logging.getLogger(__name__)

PROBED = ("num_frames", "fps", "width", "height", "duration_s", "flags")
"""The fields of a row of the probing store, one float64 vector."""

_COMMIT_ROWS = 512
_JSON = json.JSONEncoder(ensure_ascii=False)

TEXT_COLUMNS = (
    "clip_id", "path", "caption", "source", "sources", "caption_source", "other_captions", "category", "flags", "published", "disagrees",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SourceListing:
    """The contents of a source: a row for each usable one, sorted by clip_id, and the rejects.

    ``counted`` are the rejects that count for the gate; videos that no row of a table names do not. ``differences`` counts the
    differences between a table and the files beside it. ``inventory`` says what else lies below the source's folder.
    """

    frame: pd.DataFrame
    rejects: list[Reject]
    counted: list[Reject]
    counts: RowCounts
    num_entries: int
    differences: dict[str, int]
    inventory: Inventory


def list_source(ws: Workspace, source: ClipSource, asset: str) -> SourceListing:
    """Scan ``source``, probe the new contents, and make the rows and the rejects of ``asset``.

    Raises:
        MotiveError: the source is missing or empty.
    """
    contents = _Contents(ws, asset)
    found = scan(source, HashMemory(ws.state), threads=hash_threads(ws), seen=contents.add)
    rows, refused, counts = contents.probe(source.name)
    rejects = _rejects(asset, found, contents.files, refused)
    if ws.config.clips.policies.no_caption == "reject":
        rejects += [
            _without_caption(asset, row["clip_id"], file) for row in rows if not row["caption"] for file in contents.files[row["clip_id"]]
        ]
        rejects.sort(key=lambda reject: reject.path)
        rows = [row for row in rows if row["caption"]]
    uncounted = {(bad.path, bad.reason) for bad in found.bad if not bad.counts}
    inventory = take_inventory(source, found)
    without_caption = sum(not row["caption"] for row in rows)
    log.info("%s: %s; %d clips, %d of them without a caption", source.key, inventory.told(), len(rows), without_caption)
    return SourceListing(
        frame=catalog_table(rows),
        rejects=rejects,
        counted=[reject for reject in rejects if (reject.path, reject.reason) not in uncounted],
        counts=RowCounts(computed=counts.computed, reused=counts.reused, rejected=len(rejects)),
        num_entries=len(found.files) + sum(bad.counts for bad in found.bad),
        differences=found.differences(),
        inventory=inventory,
    )


class _Contents:
    """The different contents of a source, each with its files in order. New ones are probed while the next files are hashed."""

    def __init__(self, ws: Workspace, asset: str) -> None:
        self.files: dict[str, list[SourceFile]] = {}
        self._asset = asset
        self._store = ws.store("clip_catalog", {"probed": ("fact",)})
        self._prober = Prober(ws.config.engine)

    def add(self, file: SourceFile) -> None:
        """Take in the next file of the source."""
        if file.clip_id in self.files:
            self.files[file.clip_id].append(file)
            return
        self.files[file.clip_id] = [file]
        if self._store.find(digest(file.clip_id)) is None:
            self._prober.prefetch([file.entry.file])

    def probe(self, source: str) -> tuple[list[dict[str, Any]], dict[str, RowReject], RowCounts]:
        """(rows of the catalog in the order of clip_id, rejections by clip_id, counts) of all contents."""
        keys = {clip_id: digest(clip_id) for clip_id in self.files}
        outcome = compute_rows(
            self._store,
            [Work(key=keys[clip_id], item=files[0].entry.file) for clip_id, files in self.files.items()],
            lambda file: {"probed": _vector(self._prober(file))},
            what=self._asset,
            commit_rows=_COMMIT_ROWS,
        )
        known = [clip_id for clip_id in sorted(self.files) if keys[clip_id] in outcome.refs]
        vectors = dict(self._store.read_many([outcome.refs[keys[clip_id]] for clip_id in known], "probed"))
        rows = [_row(clip_id, self.files[clip_id], vectors[place].tolist(), source) for place, clip_id in enumerate(known)]
        return rows, {clip_id: outcome.rejects[key] for clip_id, key in keys.items() if key in outcome.rejects}, outcome.counts


def _vector(facts: VideoFacts) -> np.ndarray:
    return np.array([facts.num_frames, facts.fps, facts.width, facts.height, facts.duration_s, flag_bits(facts.flags)], dtype=np.float64)


def _row(clip_id: str, files: Sequence[SourceFile], vector: list[float], source: str) -> dict[str, Any]:
    """One row of the catalog. ``files`` have equal bytes and are in the order of their names; the first one with a caption gives it."""
    probed: dict[str, float] = dict(zip(PROBED, vector, strict=True))
    entries = [file.entry for file in files]
    caption = next((entry.caption for entry in entries if entry.caption), entries[0].caption)
    others = {text for entry in entries for text in (entry.caption, *entry.further_captions) if text and text != caption}
    metadata = next((entry.metadata for entry in entries if entry.metadata), {})
    return {
        "clip_id": clip_id,
        "path": entries[0].file.location,
        "caption": caption or "",
        "num_frames": int(probed["num_frames"]),
        "fps": probed["fps"],
        "width": int(probed["width"]),
        "height": int(probed["height"]),
        "duration_s": probed["duration_s"],
        "source": source,
        "sources": _JSON.encode([entry.relative for entry in entries]),
        "caption_source": "sidecar" if caption else "none" if caption is None else "empty_sidecar",
        "other_captions": _JSON.encode(sorted(others)) if others else "[]",
        "category": entries[0].extra.get("category", ""),
        "flags": ",".join(flag_names(int(probed["flags"]))),
        **publisher_columns(metadata, probed),
    }


def catalog_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """``rows`` as a table. It has all columns, with their types, even if there is no row."""
    columns = ["clip_id", "path", "caption", *PROBED[:-1], "source", "sources", "caption_source", "other_captions", "category", "flags"]
    columns += ["aesthetic_score", "motion_score", "published", "disagrees"]
    frame = pd.DataFrame(rows, columns=columns)
    types = {
        name: "object" if name in TEXT_COLUMNS else "int64" if name in ("num_frames", "width", "height") else "float64" for name in columns
    }
    return frame.astype(types)


def _rejects(asset: str, found: Scan, by_content: dict[str, list[SourceFile]], refused: Mapping[str, RowReject]) -> list[Reject]:
    """The bad entries, and every file of each content that could not be probed."""
    rejects = [Reject(path=bad.path, clip_id="", stage=asset, reason=bad.reason, detail=bad.detail) for bad in found.bad]
    for clip_id, why in refused.items():
        rejects += [
            Reject(path=file.entry.file.location, clip_id=clip_id, stage=asset, reason=why.reason, detail=why.detail)
            for file in by_content[clip_id]
        ]
    return sorted(rejects, key=lambda reject: reject.path)


def _without_caption(asset: str, clip_id: str, file: SourceFile) -> Reject:
    detail = "no caption, or an empty one; clips.policies.no_caption rejects that"
    return Reject(path=file.entry.file.location, clip_id=clip_id, stage=asset, reason="no_caption", detail=detail)
