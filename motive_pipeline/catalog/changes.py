"""How the files of the sources differ from the published catalog."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from motive_pipeline.catalog.catalog_clips import catalog_asset
from motive_pipeline.catalog.scan import SourceFile, data_version, scan
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.graph import Role
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.storage.workspace import Workspace

_NAMED = 3
"""A message names this many files, and counts the others."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """One clip or query as the catalog would list it. ``part`` is ``clip``, ``query`` or ``held_out``; ``names`` are those of its files."""

    clip_id: str
    caption: str
    part: str
    names: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class SourceNow:
    """The clips or the queries as their files are now: the data version, the contents, and the changes since the catalog."""

    version: str
    contents: list[Content]
    changes: list[str]
    """In words: ``12 clips added (a.mp4, b.mp4, c.mp4, ...)``. Empty if nothing has changed."""


def source_now(ws: Workspace, role: Role) -> SourceNow:
    """Scan the files and compare them with the catalog. Without a published catalog, every file is new.

    Contents that the catalog rejected are left out.

    Raises:
        MotiveError: the source is missing or empty.
    """
    memory = HashMemory(ws.state)
    sources = {"clip": clip_source(ws)} if role == "clip" else {"query": query_source(ws), "held_out": held_out_source(ws)}
    scans = {part: scan(source, memory) for part, source in sources.items() if source is not None}
    found = [content for part, scanned in scans.items() for content in _contents(part, scanned.files)]
    before, refused = _catalogued(ws, role)
    contents = [content for content in found if content.clip_id not in refused]
    noun = "clip" if role == "clip" else "query clip"
    return SourceNow(version=data_version(*scans.values()), contents=contents, changes=_changes(before, contents, noun))


def _contents(part: str, files: list[SourceFile]) -> list[Content]:
    """One for each content. The caption is that of the first file that has one."""
    by_content: dict[str, list[SourceFile]] = {}
    for file in files:
        by_content.setdefault(file.clip_id, []).append(file)
    return [
        Content(
            clip_id=clip_id,
            caption=next((file.entry.caption for file in same if file.entry.caption), ""),
            part=part,
            names=frozenset(file.entry.relative for file in same),
        )
        for clip_id, same in by_content.items()
    ]


def _catalogued(ws: Workspace, role: Role) -> tuple[list[Content], set[str]]:
    """The contents of the published catalog, and the clip ids that it rejected."""
    asset = catalog_asset(role)
    publication = ws.published_or_none(asset)
    if publication is None:
        return [], set()
    frame = publication.table("catalog").assign(role="clip") if role == "clip" else publication.table("queries")
    frame = frame.rename(columns={"query_id": "clip_id"})
    rows: list[tuple[Any, ...]] = list(frame[["clip_id", "caption", "role", "sources"]].itertuples(index=False))
    contents = [Content(clip_id=row[0], caption=row[1], part=row[2], names=frozenset(json.loads(row[3]))) for row in rows]
    return contents, {str(clip_id) for clip_id in publication.rejects()["clip_id"]} - {""}


def _changes(before: list[Content], now: list[Content], noun: str) -> list[str]:
    """The differences in words. A file that has new content under its old name is changed; it is neither added nor removed."""
    old, new = {(c.part, c.clip_id): c for c in before}, {(c.part, c.clip_id): c for c in now}
    gone = {name for key in old.keys() - new.keys() for name in old[key].names}
    come = {name for key in new.keys() - old.keys() for name in new[key].names}
    kept = [(old[key], new[key]) for key in old.keys() & new.keys()]
    renamed = {name for was, is_now in kept if was.names != is_now.names for name in is_now.names}
    captions = {min(is_now.names) for was, is_now in kept if was.caption != is_now.caption}
    words = [
        _counted(come - gone, noun, "added"),
        _counted(gone - come - renamed, noun, "removed"),
        _counted(come & gone, noun, "changed"),
        _counted(renamed, noun, "renamed"),
        _counted(captions, "caption", "edited"),
    ]
    return [text for text in words if text]


def _counted(names: Collection[str], noun: str, verb: str) -> str:
    if not names:
        return ""
    listed = sorted(names)[:_NAMED] + (["..."] if len(names) > _NAMED else [])
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''} {verb} ({', '.join(listed)})"
