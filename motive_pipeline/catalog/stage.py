"""Publishes the catalogs of clips and of queries: one row for each different content, with the facts of its video."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.catalog.reject_gate import require_few_rejects
from motive_pipeline.catalog.source_listing import SourceListing, list_source
from motive_pipeline.config.selection import require_categories
from motive_pipeline.errors import GateFailed, MotiveError, RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import Window, num_overlapping, split_location
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.facts import spread
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace
from motive_pipeline.video.contact_sheet import TILE_PX, Tile, evenly, write_sheet
from motive_pipeline.video.readers import FrameReader

log = logging.getLogger(__name__)

_PREVIEW_CLIPS = 24
_PREVIEW_COLUMNS = 6


def publish_clip_catalog(ws: Workspace) -> Publication:
    """Scan the clips' source and publish ``catalog.parquet``, with one row for each different content.

    Columns: clip_id, path (of the first file), caption, num_frames, fps, width, height, duration_s, source, ``sources`` (JSON: the names of
    all files of this content), ``caption_source`` (``sidecar``, ``empty_sidecar`` or ``none``), ``other_captions`` (JSON: the other
    captions of this content), category, ``flags`` (comma-separated). From the publisher's metadata: aesthetic_score, motion_score,
    ``published`` (all of it, as JSON) and ``disagrees`` (comma-separated: which numbers it contradicts; the other columns have those of the
    file). A window of a file is a content of its own: ``path`` and ``sources`` name it (files/window.py), num_frames and duration_s are its own.

    Raises:
        MotiveError: the source is missing or empty.
        GateFailed: more than ``clips.max_reject_share`` of the files were rejected.
    """
    started = time.time()
    listing = list_source(ws, clip_source(ws), "clip_catalog")
    require_few_rejects(ws, "clip_catalog", listing.counted, total=listing.num_entries)
    frame = listing.frame
    return ws.publish(
        "clip_catalog",
        content=digest_frame(frame),
        write=lambda folder: write_parquet(frame, folder / "catalog.parquet"),
        started=started,
        facts=_facts(frame, [listing]) | listing.differences,
        counts=listing.counts,
        rejects=listing.rejects,
        scores={("catalog", "catalog"): frame},
        preview=_preview(ws, frame),
    )


def publish_query_catalog(ws: Workspace) -> Publication:
    """Scan the queries and the held-out queries and publish ``queries.parquet``. Its columns are those of the clips, with ``query_id`` (the
    clip_id) and ``role``.

    Raises:
        MotiveError: a source is missing or empty, a held-out clip is also a query, or an arm names a category that no query has.
        GateFailed: every query, or every held-out query, was rejected, or more than ``queries.max_reject_share`` of both.
    """
    started = time.time()
    parts: dict[str, SourceListing] = {"query": list_source(ws, query_source(ws), "query_catalog")}
    held_out = held_out_source(ws)
    if held_out is not None:
        parts["held_out"] = list_source(ws, held_out, "query_catalog")
        _require_disjoint(parts["query"].frame, parts["held_out"].frame)
    for part, listing in parts.items():
        _require_some(part, listing)
    categories = set(parts["query"].frame["category"].astype(str))
    require_categories(map(ws.config.arm, ws.config.arms), categories, "the queries")  # before the work that an arm needs
    rejected = [reject for listing in parts.values() for reject in listing.counted]
    require_few_rejects(ws, "query_catalog", rejected, total=sum(listing.num_entries for listing in parts.values()), role="query")
    frame = pd.concat([listing.frame.assign(role=part) for part, listing in parts.items()], ignore_index=True)
    frame = frame.rename(columns={"clip_id": "query_id"}).sort_values("query_id", ignore_index=True)
    if without := frame["caption"].tolist().count(""):
        log.warning(
            "query_catalog: %d of %d queries have no caption. Ranking works, but generated_videos refuses them unless generate.prompts names a file of "
            "prompts.", without, len(frame),
        )  # fmt: skip
    rejects = [reject for listing in parts.values() for reject in listing.rejects]
    counts = [listing.counts for listing in parts.values()]
    return ws.publish(
        "query_catalog",
        content=digest_frame(frame),
        write=lambda folder: write_parquet(frame, folder / "queries.parquet"),
        started=started,
        facts={"queries": len(parts["query"].frame), "held out": len(frame) - len(parts["query"].frame)}
        | _facts(frame, list(parts.values()))
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


def _require_disjoint(queries: pd.DataFrame, held_out: pd.DataFrame) -> None:
    both = queries.merge(held_out, on="clip_id", suffixes=("", "_held_out"))
    if len(both):
        listed = "; ".join(f"{row['path']} and {row['path_held_out']}" for _, row in both.head(5).iterrows())
        raise MotiveError(
            f"{len(both)} held-out clip(s) are queries, too (the same content): {listed}. Held-out clips check what the queries chose, "
            "so remove each from one of queries.path and queries.held_out_path."
        )


def _require_some(part: str, listing: SourceListing) -> None:
    if listing.frame.empty:
        listed = "; ".join(f"{reject.path}: {reject.reason} ({reject.detail})" for reject in listing.rejects[:5])
        raise GateFailed(f"query_catalog: none of {listing.num_entries} {part.replace('_', '-')} file(s) can be used. {listed}")


def _facts(frame: pd.DataFrame, listings: Sequence[SourceListing]) -> dict[str, Any]:
    """Figures for a person."""
    inventories = [listing.inventory for listing in listings]
    splits = "; ".join(told for inventory in inventories if (told := inventory.told_splits()))
    return {
        "clips": len(frame),
        "files": sum(inventory.num_files for inventory in inventories),
        "not videos": sum(sum(inventory.not_videos.values()) for inventory in inventories),
        "files by kind": "; ".join(inventory.told() for inventory in inventories),
        **({"several splits in one tree": splits} if splits else {}),
        "without caption": sum(not caption for caption in frame["caption"]),
        "contents in several files": sum(len(json.loads(names)) > 1 for names in frame["sources"]),
        "contents with differing captions": sum(others != "[]" for others in frame["other_captions"]),
        "publisher's numbers contradict the file": sum(names != "" for names in frame["disagrees"]),
        **spread("frames", frame["num_frames"].to_numpy()),
        **spread("fps", frame["fps"].to_numpy()),
        **spread("seconds", frame["duration_s"].to_numpy()),
        **spread("width (px)", frame["width"].to_numpy()),
        **spread("height (px)", frame["height"].to_numpy()),
    } | _window_facts(frame["path"].tolist())


def _window_facts(locations: Iterable[str]) -> dict[str, int]:
    """The number of clips that are windows of a file, and of those that share frames with another clip. Nothing without windows."""
    of_file: dict[str, list[Window | None]] = {}
    for place, window in map(split_location, locations):
        of_file.setdefault(place, []).append(window)
    windows = [window for clips in of_file.values() for window in clips if window is not None]
    if not windows:
        return {}
    return {"windows of files": len(windows), "windows that overlap": sum(num_overlapping(clips) for clips in of_file.values())}


def _preview(ws: Workspace, frame: pd.DataFrame) -> Callable[[Path], None]:
    """Draws a contact sheet with the middle frame of some clips."""

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
