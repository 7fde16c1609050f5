"""Files -> catalogs: one row for each different content, with what the container says of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motive_pipeline.catalog.publisher_metadata import publisher_columns
from motive_pipeline.catalog.scan import Scan, SourceFile, hash_threads, scan
from motive_pipeline.engine import Work, compute_rows, require_few_rejects
from motive_pipeline.errors import GateFailed, MotiveError, RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.sources.protocol import ClipSource
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.rows import RowReject
from motive_pipeline.storage.workspace import Publication, Reject, RowCounts, Workspace
from motive_pipeline.video.contact_sheet import TILE_PX, Tile, evenly, write_sheet
from motive_pipeline.video.flags import flag_bits, flag_names
from motive_pipeline.video.probe import VideoFacts
from motive_pipeline.video.readers import FrameReader, Prober

PROBED = ("num_frames", "fps", "width", "height", "duration_s", "flags")
"""What a row of the probing store holds, as one vector of float64."""

_COMMIT_ROWS = 512
_JSON = json.JSONEncoder(ensure_ascii=False)
_PREVIEW_CLIPS = 24
_PREVIEW_COLUMNS = 6

TEXT_COLUMNS = (
    "clip_id", "path", "caption", "source", "sources", "caption_source", "other_captions", "category", "flags", "published", "disagrees",
)  # fmt: skip


def publish_clip_catalog(ws: Workspace) -> Publication:
    """Look at every file of the clips' source and publish ``catalog.parquet``, one row for each different content.

    Columns: clip_id, path (of the first file), caption, num_frames, fps, width, height, duration_s, source, ``sources`` (JSON: the names of
    all files of this content), ``caption_source`` (``sidecar``, ``empty_sidecar`` or ``none``), ``other_captions`` (JSON: what other
    files of this content say), category, ``flags`` (comma-separated), and what the data set's own table says: aesthetic_score, motion_score,
    ``published`` (JSON: all of it), ``disagrees`` (comma-separated: in which of frames, rate, length and size it contradicts the file, whose
    numbers are the ones in the other columns).

    Raises:
        MotiveError: the source is missing or empty.
        GateFailed: more than ``clips.max_reject_share`` of the files were rejected.
    """
    started = time.time()
    listing = _listing(ws, clip_source(ws), "clip_catalog")
    require_few_rejects(
        "clip_catalog",
        rejected=len(listing.counted),
        total=listing.num_entries,
        max_share=ws.config.clips.max_reject_share,
        key="clips.max_reject_share",
        reasons=[reject.reason for reject in listing.counted],
    )
    frame = listing.frame
    return ws.publish(
        "clip_catalog",
        content=digest_frame(frame),
        write=lambda folder: frame.to_parquet(folder / "catalog.parquet", index=False),
        started=started,
        facts=_facts(frame, listing.num_entries) | listing.differences,
        counts=listing.counts,
        rejects=listing.rejects,
        scores={("catalog", "catalog"): frame},
        preview=_preview(ws, frame),
    )


def publish_query_catalog(ws: Workspace) -> Publication:
    """The same for the queries and the held-out queries: ``queries.parquet``, with ``query_id`` (the clip_id) and ``role``.

    Raises:
        MotiveError: a source is missing or empty, or a held-out clip is a query, too.
        GateFailed: every query, or every held-out query, was rejected.
    """
    started = time.time()
    parts: dict[str, _Listing] = {"query": _listing(ws, query_source(ws), "query_catalog")}
    held_out = held_out_source(ws)
    if held_out is not None:
        parts["held_out"] = _listing(ws, held_out, "query_catalog")
        _require_disjoint(parts["query"].frame, parts["held_out"].frame)
    for part, listing in parts.items():
        _require_some(part, listing)
    frame = pd.concat([listing.frame.assign(role=part) for part, listing in parts.items()], ignore_index=True)
    frame = frame.rename(columns={"clip_id": "query_id"}).sort_values("query_id", ignore_index=True)
    rejects = [reject for listing in parts.values() for reject in listing.rejects]
    counts = [listing.counts for listing in parts.values()]
    return ws.publish(
        "query_catalog",
        content=digest_frame(frame),
        write=lambda folder: frame.to_parquet(folder / "queries.parquet", index=False),
        started=started,
        facts={"queries": len(parts["query"].frame), "held out": len(frame) - len(parts["query"].frame)}
        | _facts(frame, sum(listing.num_entries for listing in parts.values()))
        | {
            f"{part.replace('_', ' ')}: {words}": number for part, listing in parts.items() for words, number in listing.differences.items()
        },
        counts=RowCounts(
            computed=sum(c.computed for c in counts), reused=sum(c.reused for c in counts), rejected=sum(c.rejected for c in counts)
        ),
        rejects=rejects,
        scores={("queries", "queries"): frame},
        preview=_preview(ws, frame),
    )


@dataclass(frozen=True, kw_only=True)
class _Listing:
    """A source, looked through: a row for each usable content, sorted by clip_id, and what was rejected."""

    frame: pd.DataFrame
    rejects: list[Reject]
    counted: list[Reject]
    """Those of ``rejects`` that the gate counts: not what no row of a table asks for."""
    counts: RowCounts
    num_entries: int
    differences: dict[str, int]
    """What a table and the files beside it disagree in."""


def _listing(ws: Workspace, source: ClipSource, asset: str) -> _Listing:
    store = ws.store("clip_catalog", {"probed": ("fact",)})
    prober = Prober(ws.config.engine)
    by_content: dict[str, list[SourceFile]] = {}
    keys: dict[str, str] = {}

    def seen(file: SourceFile) -> None:
        """A new content is probed while the next files are hashed."""
        if file.clip_id in by_content:
            by_content[file.clip_id].append(file)
            return
        by_content[file.clip_id] = [file]
        keys[file.clip_id] = digest(file.clip_id)
        if store.find(keys[file.clip_id]) is None:
            prober.prefetch([file.entry.file])

    found = scan(source, HashMemory(ws.state), threads=hash_threads(ws), seen=seen)
    outcome = compute_rows(
        store,
        [Work(key=keys[clip_id], item=files[0].entry.file) for clip_id, files in by_content.items()],
        lambda file: {"probed": _vector(prober(file))},
        what=asset,
        commit_rows=_COMMIT_ROWS,
    )
    contents = sorted(by_content.items())
    refs = [outcome.refs[keys[clip_id]] for clip_id, _ in contents if keys[clip_id] in outcome.refs]
    probed = {refs[position].key: vector.tolist() for position, vector in store.read_many(refs, "probed")}
    rows = [_row(clip_id, files, probed[keys[clip_id]], source.name) for clip_id, files in contents if keys[clip_id] in probed]
    refused = {clip_id: outcome.rejects[key] for clip_id, key in keys.items() if key in outcome.rejects}
    rejects = _rejects(asset, found, by_content, refused)
    if ws.config.clips.policies.no_caption == "reject":
        rejects += [_without_caption(asset, row) for row in rows if not row["caption"]]
        rejects.sort(key=lambda reject: reject.path)
        rows = [row for row in rows if row["caption"]]
    uncounted = {(bad.path, bad.reason) for bad in found.bad if not bad.counts}
    counted = [reject for reject in rejects if (reject.path, reject.reason) not in uncounted]
    return _Listing(
        frame=_table(rows),
        rejects=rejects,
        counted=counted,
        counts=RowCounts(computed=outcome.counts.computed, reused=outcome.counts.reused, rejected=len(rejects)),
        num_entries=len(found.files) + sum(bad.counts for bad in found.bad),
        differences=found.differences(),
    )


def _vector(facts: VideoFacts) -> np.ndarray:
    return np.array([facts.num_frames, facts.fps, facts.width, facts.height, facts.duration_s, flag_bits(facts.flags)], dtype=np.float64)


def _row(clip_id: str, files: Sequence[SourceFile], vector: list[float], source: str) -> dict[str, Any]:
    """One catalog row; ``files`` hold equal bytes, in the order of their names. The first that has a caption gives it."""
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


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """``rows`` as a table whose columns are there, with their types, even when there is no row."""
    columns = ["clip_id", "path", "caption", *PROBED[:-1], "source", "sources", "caption_source", "other_captions", "category", "flags"]
    columns += ["aesthetic_score", "motion_score", "published", "disagrees"]
    frame = pd.DataFrame(rows, columns=columns)
    types = {
        name: "object" if name in TEXT_COLUMNS else "int64" if name in ("num_frames", "width", "height") else "float64" for name in columns
    }
    return frame.astype(types)


def _rejects(asset: str, found: Scan, by_content: dict[str, list[SourceFile]], refused: Mapping[str, RowReject]) -> list[Reject]:
    """Every entry that is no file, and every file of a content that could not be probed."""
    rejects = [Reject(path=bad.path, clip_id="", stage=asset, reason=bad.reason, detail=bad.detail) for bad in found.bad]
    for clip_id, why in refused.items():
        rejects += [
            Reject(path=file.entry.file.location, clip_id=clip_id, stage=asset, reason=why.reason, detail=why.detail)
            for file in by_content[clip_id]
        ]
    return sorted(rejects, key=lambda reject: reject.path)


def _without_caption(asset: str, row: dict[str, Any]) -> Reject:
    detail = "no caption, or an empty one; clips.policies.no_caption rejects that"
    return Reject(path=row["path"], clip_id=row["clip_id"], stage=asset, reason="no_caption", detail=detail)


def _require_disjoint(queries: pd.DataFrame, held_out: pd.DataFrame) -> None:
    both = queries.merge(held_out, on="clip_id", suffixes=("", "_held_out"))
    if len(both):
        listed = "; ".join(f"{row['path']} and {row['path_held_out']}" for _, row in both.head(5).iterrows())
        raise MotiveError(
            f"{len(both)} held-out clip(s) are queries, too (the same content): {listed}. Held-out clips check what the queries chose, "
            "so remove each from one of queries.path and queries.held_out_path."
        )


def _require_some(part: str, listing: _Listing) -> None:
    if listing.frame.empty:
        listed = "; ".join(f"{reject.path}: {reject.reason} ({reject.detail})" for reject in listing.rejects[:5])
        raise GateFailed(f"query_catalog: none of {listing.num_entries} {part.replace('_', '-')} file(s) can be used. {listed}")


def _facts(frame: pd.DataFrame, num_entries: int) -> dict[str, Any]:
    """What a person wants to know at a glance."""
    return {
        "clips": len(frame),
        "files": num_entries,
        "without caption": sum(not caption for caption in frame["caption"]),
        "contents in several files": sum(len(json.loads(names)) > 1 for names in frame["sources"]),
        "contents with differing captions": sum(others != "[]" for others in frame["other_captions"]),
        "publisher's numbers contradict the file": sum(names != "" for names in frame["disagrees"]),
        "frames": _range(frame["num_frames"].to_numpy()),
        "fps": _range(frame["fps"].to_numpy()),
        "seconds": _range(frame["duration_s"].to_numpy()),
        "width (px)": _range(frame["width"].to_numpy()),
        "height (px)": _range(frame["height"].to_numpy()),
    }


def _range(values: np.ndarray) -> str:
    known = values[~np.isnan(values)]
    return f"{known.min():g} to {known.max():g} (median {np.median(known):g})" if len(known) else "unknown"


def _preview(ws: Workspace, frame: pd.DataFrame) -> Callable[[Path], None]:
    """A sheet with the middle frame of some clips."""

    def draw(path: Path) -> None:
        clips = [MediaFile.parse(location) for location in evenly(frame["path"].tolist(), _PREVIEW_CLIPS)]
        frame_of = FrameReader(ws.config.engine, 0.5, width=TILE_PX, height=TILE_PX)
        frame_of.prefetch(clips)
        write_sheet(path, [_tile(clip, frame_of) for clip in clips], columns=_PREVIEW_COLUMNS)

    return draw


def _tile(clip: MediaFile, frame_of: FrameReader) -> Tile:
    try:
        return Tile(picture_HWC=frame_of(clip), text=clip.name)
    except RejectRow as rejection:
        return Tile(picture_HWC=None, text=rejection.reason)
