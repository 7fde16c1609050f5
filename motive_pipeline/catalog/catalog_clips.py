"""The clips and queries of a published catalog, and the check that their files have not changed since."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow.parquet as pq

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.graph import Role
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogClip:
    """A clip or query of a published catalog.

    ``location`` is the text of ``clips.path``, which tells where the bytes are. ``part`` is ``clip``, ``query`` or ``held_out``.
    """

    clip_id: str
    location: str
    caption: str
    part: str

    @property
    def file(self) -> MediaFile:
        """The bytes of the clip. The value is made anew, without a stat, at each call."""
        return MediaFile.parse(self.location)


def catalog_asset(role: Role) -> str:
    """The asset that lists the clips or the queries."""
    return "clip_catalog" if role == "clip" else "query_catalog"


def catalog_clips(ws: Workspace, role: Role) -> list[CatalogClip]:
    """Every clip, or every query with the held-out ones, in the order of clip_id; in a shard, those of its share.

    Raises:
        NotPublished: the catalog has not been materialized.
    """
    folder = ws.published(catalog_asset(role)).path
    if role == "clip":
        table = pq.read_table(folder / "catalog.parquet", columns=["clip_id", "path", "caption"])
        parts = ["clip"] * len(table)
    else:
        table = pq.read_table(folder / "queries.parquet", columns=["query_id", "path", "caption", "role"])
        parts = table["role"].to_pylist()
    rows = sorted(zip(*(table.column(number).to_pylist() for number in range(3)), parts, strict=True))
    return [
        CatalogClip(clip_id=clip_id, location=path, caption=caption, part=part)
        for clip_id, path, caption, part in rows
        if ws.works_on(clip_id)
    ]


def shown_sizes(ws: Workspace, role: Role) -> dict[str, tuple[int, int]]:
    """(width, height) of each clip or query as shown, by clip_id.

    Raises:
        NotPublished: the catalog has not been materialized.
    """
    file, name = ("catalog", "clip_id") if role == "clip" else ("queries", "query_id")
    table = pq.read_table(ws.published(catalog_asset(role)).path / f"{file}.parquet", columns=[name, "width", "height"])
    columns = (table.column(number).to_pylist() for number in range(3))
    return {clip_id: (width, height) for clip_id, width, height in zip(*columns, strict=True)}


def require_unchanged(clip: CatalogClip, memory: HashMemory) -> None:
    """Check that the file still has the content that it was catalogued with. Call this after reading it, before the result counts.

    Raises:
        RejectRow: ``changed_since_catalog``, ``missing_file``, ``unreadable``; all are tried again in the next run.
    """
    if memory.clip_id(clip.file) != clip.clip_id:
        raise RejectRow(
            "changed_since_catalog",
            "the file's content has changed since it was catalogued; it is a new clip in the next run",
            transient=True,
        )
