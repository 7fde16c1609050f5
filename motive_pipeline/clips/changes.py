"""How the files of a source differ from the catalog that was published last, in words."""

from __future__ import annotations

import json
from dataclasses import dataclass

from motive_pipeline.clips.rowset import Role, catalog_asset
from motive_pipeline.clips.scan import HashMemory, scan
from motive_pipeline.clips.sources import clip_source, held_out_source, query_source
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class SourceChanges:
    """Numbers of different contents: ``now`` in the source, and how it differs from the published catalog."""

    now: int
    added: int
    removed: int
    renamed: int
    captions: int

    def words(self, noun: str) -> list[str]:
        """``["12 clips added", "1 caption edited"]``; empty when nothing differs."""
        parts = [
            (self.added, noun, "added"),
            (self.removed, noun, "removed"),
            (self.renamed, noun, "renamed"),
            (self.captions, "caption", "edited"),
        ]
        return [f"{count} {what}{'s' if count != 1 else ''} {verb}" for count, what, verb in parts if count]


def source_changes(ws: Workspace, role: Role) -> SourceChanges:
    """Compare the files as they are now with the published catalog; without one, everything is new.

    Raises:
        MotiveError: the source is missing or empty.
    """
    sources = [clip_source(ws)] if role == "clip" else [query_source(ws), held_out_source(ws)]
    memory = HashMemory(ws.state)
    now: dict[str, tuple[set[str], str]] = {}
    for source in sources:
        for file in scan(source, memory).files if source else []:
            names, caption = now.setdefault(file.clip_id, (set(), file.entry.caption or ""))
            names.add(file.entry.relative)
            now[file.clip_id] = (names, caption)
    before = _catalogued(ws, role)
    kept = now.keys() & before.keys()
    return SourceChanges(
        now=len(now),
        added=len(now.keys() - before.keys()),
        removed=len(before.keys() - now.keys()),
        renamed=sum(now[clip][0] != before[clip][0] for clip in kept),
        captions=sum(now[clip][1] != before[clip][1] for clip in kept),
    )


def _catalogued(ws: Workspace, role: Role) -> dict[str, tuple[set[str], str]]:
    """clip_id -> (names of its files, caption), rejected files among them with the caption they have now."""
    asset = catalog_asset(role)
    if not ws.has_published(asset):
        return {}
    publication = ws.published(asset)
    frame = publication.table("catalog" if role == "clip" else "queries")
    ids = frame["clip_id" if role == "clip" else "query_id"]
    found = {str(i): (set(json.loads(str(s))), str(c)) for i, s, c in zip(ids, frame["sources"], frame["caption"], strict=True)}
    return found
