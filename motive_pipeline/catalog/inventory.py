"""How many files of which kind lie below the folder of a source, and what happened to each kind.

The folder is walked again, apart from the source's own listing. So a file that the source passes over is counted here.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from motive_pipeline.catalog.scan import Scan
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.archive import ARCHIVE_SUFFIXES, list_archive
from motive_pipeline.files.file_stat import printable
from motive_pipeline.files.media_file import MEMBER_MARK
from motive_pipeline.files.split_archive import archive_parts
from motive_pipeline.files.unread_archive import has_unread_name
from motive_pipeline.sources.archive_source import ArchiveSource, archives_below, is_from_a_mac
from motive_pipeline.sources.bucket_source import BucketSource
from motive_pipeline.sources.endings import suffix
from motive_pipeline.sources.folder_source import folders_below
from motive_pipeline.sources.protocol import ClipSource, SourceEntry
from motive_pipeline.sources.table_source import TableSource

USED = ("captions", "tables", "archives")
"""Kinds of files that are read, but are not videos. All other kinds are passed over."""

_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout", "held_out")
_SHARD_OF_SPLIT = re.compile(rf"^({'|'.join(_SPLITS)})-\d+-of-\d+", re.IGNORECASE)
_KINDS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Inventory:
    """``num_files`` are the files, the members of archives, and the rows of tables that have no file of their own. ``not_videos`` counts those
    that are not videos, by kind. ``splits`` counts the videos of each split (train, test), if there are several in the tree.
    """

    num_files: int
    num_videos: int
    not_videos: Mapping[str, int] = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)

    def told(self) -> str:
        """The kinds with their numbers, in a line."""
        used = [f"{self.not_videos[kind]} {kind}" for kind in USED if self.not_videos.get(kind)]
        passed = Counter({kind: number for kind, number in self.not_videos.items() if kind not in USED}).most_common(_KINDS_SHOWN)
        over = f"; passed over: {', '.join(f'{number} {kind}' for kind, number in passed)}" if passed else ""
        return f"{', '.join([f'{self.num_videos} videos or rows', *used])}{over}"

    def told_splits(self) -> str:
        """The splits with their numbers, in a line; empty if there are none."""
        if not self.splits:
            return ""
        counted = ", ".join(f"{name or 'no split'}: {number}" for name, number in sorted(self.splits.items()))
        return f"{counted}; all of them are used. To use one, name its folder or table."


def take_inventory(source: ClipSource, found: Scan) -> Inventory:
    """Walk the folder of ``source`` and compare it with what the source listed. Folders that cannot be listed are passed by."""
    listed = {file.entry.file.location for file in found.files} | {bad.path for bad in found.bad}
    captions = {file.entry.caption_file for file in found.files if file.entry.caption_file}
    num_met, kinds = 0, Counter[str]()
    for path, kind in _things(source, captions):
        if path in listed:
            num_met += 1
        elif kind:
            kinds[kind] += 1
    num_entries = len(found.files) + len(found.bad)
    return Inventory(
        num_files=num_met + sum(kinds.values()) + (num_entries - num_met),
        num_videos=num_entries,
        not_videos=dict(kinds),
        splits=_splits(file.entry for file in found.files),
    )


def _things(source: ClipSource, captions: set[str]) -> Iterator[tuple[str, str]]:
    """(location, kind if it is not a video) of every file and member. The kind of a folder is empty: only one that is listed counts."""
    archives = archives_below(source.root) if isinstance(source, ArchiveSource | TableSource) else []
    parts = {str(part) for archive in archives for part in _parts(archive)}
    tables = {str(table) for table in source.tables} if isinstance(source, TableSource) else set[str]()
    far = ((str(path), False) for path in source.paths()) if isinstance(source, BucketSource) else None
    for path, is_folder in far or _paths(source.root, getattr(source, "without", None)):
        kind = "tables" if path in tables else "archives" if path in parts else "captions" if path in captions else _kind(path)
        yield printable(path), "" if is_folder else kind
    sidecars = source.sidecars if isinstance(source, ArchiveSource) else ()
    for archive in archives:
        yield from _members(archive, sidecars)


def _paths(root: Path, without: Path | None) -> Iterator[tuple[str, bool]]:
    """(path, whether it is a folder) of everything below ``root``."""
    if root.is_file():
        yield str(root), False
        return
    for folder in folders_below(root, without):
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            yield path, os.path.isdir(path)


def _members(archive: Path, sidecars: Iterable[str]) -> Iterator[tuple[str, str]]:
    try:
        members = list_archive(archive)[1]
    except RejectRow:
        return
    for member in members:
        is_caption = member.path.lower().endswith(tuple(sidecars)) and not is_from_a_mac(member.path)
        kind = "captions" if is_caption else "files of macOS" if is_from_a_mac(member.path) else _kind(member.path)
        yield printable(f"{archive}{MEMBER_MARK}{member.path}"), kind


def _parts(archive: Path) -> list[Path]:
    try:
        return archive_parts(archive)
    except (OSError, RejectRow):
        return [archive]


def _kind(path: str) -> str:
    """What a file that nothing reads is called in the summary."""
    name = os.path.basename(path)
    if name.startswith("."):
        return "hidden files"
    if name.lower().endswith(ARCHIVE_SUFFIXES) or has_unread_name(name):
        return f"archives ({suffix(name)}; source zip reads .zip and .tar)"
    return printable(suffix(name)) or "without an ending"


def _splits(entries: Iterable[SourceEntry]) -> dict[str, int]:
    counted = Counter(_split(entry) for entry in entries)
    return dict(counted) if len(counted) > 1 and any(counted) and any(name.lower() in _SPLITS for name in counted) else {}


def _split(entry: SourceEntry) -> str:
    """The split that a video belongs to, by the outermost folder or by the name of a shard; empty if neither is one."""
    parts = entry.relative.replace(MEMBER_MARK, "/").split("/")
    for part in parts[:-1]:
        if part.lower() in _SPLITS:
            return part
    shard = _SHARD_OF_SPLIT.match(os.path.basename(entry.caption_file or ""))
    return shard[1] if shard else ""
