"""The sources that the settings name: training clips, queries and held-out queries."""

from __future__ import annotations

import pkgutil
import re
from dataclasses import replace
from pathlib import Path

from motive_pipeline.bucket.address import address_of
from motive_pipeline.config import Clips, Queries
from motive_pipeline.errors import ConfigError
from motive_pipeline.sources.archive_source import ArchiveSource, archives_below
from motive_pipeline.sources.bucket_source import bucket_source
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.sources.layouts import LAYOUTS, Layout
from motive_pipeline.sources.protocol import ClipSource, require_folder
from motive_pipeline.sources.table_source import TableSource
from motive_pipeline.storage.clip_folders import local_folder, mirror_for
from motive_pipeline.storage.workspace import Workspace

GENERATED = {"demo": "motive_pipeline.demo.folder:demo_folder"}
"""Sources whose videos are generated: the name in the settings, and the function that writes them and returns their folder.

The function is resolved when the source is used: this package does not import the packages above it.
"""

_SHARD = re.compile(r".*-\d+-of-\d+\.parquet$")
"""One shard of a table, as Hugging Face names it: ``train-00000-of-00010.parquet``."""


def clip_source(ws: Workspace) -> ClipSource:
    """The training clips that the section ``clips`` names. Raises as :func:`build_source` does."""
    clips = ws.config.clips
    if clips.source in GENERATED:
        return _generated(ws, clips.source, "clips", key="clips.source", category="")
    return _source(ws, clips, clips.path, clips.table, key="clips.path")


def query_source(ws: Workspace) -> ClipSource:
    """The query clips that the section ``queries`` names. Raises as :func:`build_source` does."""
    queries = ws.config.queries
    if queries.source in GENERATED:
        return _generated(ws, queries.source, "queries", key="queries.source", category=queries.demo.motion)
    return _source(ws, queries, queries.path, queries.table, key="queries.path", without=queries.held_out_path)


def held_out_source(ws: Workspace) -> ClipSource | None:
    """The held-out query clips, or None if the settings name none. Raises as :func:`build_source` does."""
    queries = ws.config.queries
    if queries.source in GENERATED:
        if not queries.demo.num_held_out:
            return None
        return _generated(ws, queries.source, "held_out", key="queries.source", category=queries.demo.motion)
    if queries.held_out_path is None and queries.held_out_table is None:
        return None
    return _source(ws, queries, queries.held_out_path, queries.held_out_table, key="queries.held_out_path")


def _source(
    ws: Workspace, section: Clips | Queries, path: Path | None, table: Path | None, *, key: str, without: Path | None = None
) -> ClipSource:
    """:func:`build_source`, for a folder that may be a URL."""
    address = address_of(path)
    if address is None:
        return build_source(section, path=path, table=table, key=key, without=without)
    if section.source == "folder":
        return bucket_source(ws.config, address, key=key, without=without)
    inner = address_of(without)
    without = mirror_for(ws.config).path(inner) if inner else without
    return build_source(section, path=local_folder(ws.config, path, key), table=table, key=key, without=without)


def _generated(ws: Workspace, name: str, folder: str, *, key: str, category: str) -> FolderSource:
    write = pkgutil.resolve_name(GENERATED[name])
    return FolderSource(root=write(ws) / folder, key=f"{key}: {name}", name=name, category=category)


def build_source(section: Clips | Queries, *, path: Path | None, table: Path | None, key: str, without: Path | None = None) -> ClipSource:
    """The source that ``section`` names, for the folder ``path``; if that is None, for the folder of ``table``.

    Raises:
        ConfigError: the folder or the table does not exist, or several files could be the table.
    """
    if table is not None and not table.is_file():
        raise ConfigError(f"{key.replace('path', 'table')} = {table}: there is no such file. Make it, or correct the setting.")
    root = path or (table.parent if table else None)
    assert root is not None
    if section.source == "folder":
        return FolderSource(root=root, key=key, without=without)
    if section.source in ("zip", "webdataset") or (section.source == "video2dataset" and archives_below(root)):
        return ArchiveSource(root=root, key=key, name=section.source, key_ends_at="last" if section.source == "zip" else "first")
    layout = LAYOUTS[section.source]
    tables = (table,) if table else _tables(root, layout, key, without)
    if not tables and layout.sidecars:
        return FolderSource(root=root, key=key, name=section.source, without=without, sidecars=layout.sidecars)
    if not tables:
        raise ConfigError(
            f"{key} = {root}: source {section.source} needs a table, and none of {', '.join(layout.tables)} is there. Name it with "
            f"{key.replace('path', 'table')}."
        )
    return TableSource(root=root, key=key, name=section.source, layout=_with_columns(layout, section), tables=tables, without=without)


def _tables(root: Path, layout: Layout, key: str, without: Path | None) -> tuple[Path, ...]:
    """The tables that the first matching pattern of the layout finds.

    Raises:
        ConfigError: the folder is missing, or a pattern for one table finds several files.
    """
    require_folder(root, key)
    for pattern in layout.tables:
        found = sorted(file for file in root.glob(pattern) if file.is_file() and not (without and file.is_relative_to(without)))
        if len(found) > 1 and "/" not in pattern and "*" in pattern and not all(_SHARD.match(file.name) for file in found):
            raise ConfigError(
                f"{key} = {root}: which of {', '.join(file.name for file in found[:5])} is the table? Name it with {key.replace('path', 'table')}."
            )
        if found:
            return tuple(found)
    return ()


def _with_columns(layout: Layout, section: Clips | Queries) -> Layout:
    """The layout with the columns that the settings name."""
    paths = (section.path_column,) if section.path_column else layout.path_columns
    captions = (section.caption_column,) if section.caption_column else layout.caption_columns
    return replace(layout, path_columns=paths, caption_columns=captions)
