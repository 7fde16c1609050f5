"""Clips that a table names. Each row finds its file; rows without file and files without row are reported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from motive_pipeline.errors import ConfigError, MotiveError, RejectRow
from motive_pipeline.files.file_stat import printable, regular_file_stat
from motive_pipeline.files.media_file import MEMBER_MARK, MediaFile
from motive_pipeline.files.window import join_location
from motive_pipeline.sources.archive_source import ArchiveSource, archives_below
from motive_pipeline.sources.captions import CaptionError, annotation_of_row
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.sources.layouts import BYTES_COLUMNS, Layout
from motive_pipeline.sources.near_names import spellings
from motive_pipeline.sources.protocol import BadEntry, SourceEntry, require_folder
from motive_pipeline.sources.table_reader import read_json_values, read_table
from motive_pipeline.sources.table_row import BadRow, TableRow
from motive_pipeline.sources.video_index import Listed, VideoIndex, bad_entry
from motive_pipeline.sources.window_columns import WindowError, pieces_of_row, window_of_row

_OTHER_TYPES = ("image", "images", "picture", "photo", "audio", "text")
"""Values of a column ``type`` for rows that are not videos, as in a table of a trainer that also reads pictures."""

_NUMBERED_TABLE = "_with_caption_upload"
_MAX_PATH_CHARACTERS = 4096


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Rows of tables joined with the videos below ``root``: plain files, and members of archives.

    A row whose file does not exist is ``missing_file``. A video that no row names is ``orphan_file``, and a second video of a name
    ``duplicate_name``; these two do not count for the gate. A file that several rows name is one clip with the caption of the first row, unless
    the rows name windows of it: each different window is a clip. A row that holds its video as bytes needs no file.
    """

    root: Path
    key: str
    name: str
    layout: Layout
    tables: tuple[Path, ...]
    without: Path | None = None
    category: str | None = None
    expects: str = "a table with a row for each video"

    def describe(self) -> str:
        """The settings and their values, for a message to a person."""
        return f"{self.key} = {self.root} with {', '.join(str(table) for table in self.tables[:3])}{' ...' * (len(self.tables) > 3)}"

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every row and every video without a row, in the order of ``relative``.

        Raises:
            ConfigError: the folder is missing, or no column names the files.
            MotiveError: a table cannot be read.
        """
        require_folder(self.root, self.key)
        videos = VideoIndex(self.layout.join, self._videos())
        found: list[Listed] = []
        without_file: list[tuple[Path, TableRow | BadRow]] = []
        for table in self.tables:
            for row in (piece for whole in self._rows(table) for piece in self._pieces(whole)):
                entry = self._entry(table, row, videos)
                if isinstance(entry, BadEntry) and entry.reason == "missing_file":
                    without_file.append((table, row))
                else:
                    found.append(entry)
        found.extend(self._entry(table, row, videos, any_spelling=True) for table, row in without_file)
        found.extend(videos.without_row(", ".join(table.name for table in self.tables[:3])))
        yield from sorted(found, key=lambda entry: entry.relative)

    def _videos(self) -> Iterator[Listed]:
        yield from FolderSource(root=self.root, key=self.key, without=self.without, sidecars=()).entries()
        if archives_below(self.root):
            yield from ArchiveSource(root=self.root, key=self.key, sidecars=()).entries()

    def _rows(self, table: Path) -> Iterator[TableRow | BadRow]:
        if self.name == "cosmos":
            yield _whole_file(table)
        elif table.suffix == ".txt":
            yield from _paired_lines(table)
        else:
            yield from read_table(table)

    def _pieces(self, row: TableRow | BadRow) -> list[TableRow | BadRow]:
        """The row, or one row for each of the windows that it lists (Panda-70M: all pieces of a video in one row, with a list of captions)."""
        if isinstance(row, BadRow):
            return [row]
        try:
            pieces = pieces_of_row(row.values, self.layout.windows)
        except WindowError as error:
            return [BadRow(where=row.where, detail=str(error))]
        if len(pieces) == 1:
            return [replace(row, values=pieces[0])]
        return [replace(row, where=f"{row.where}, window {number}", values=values) for number, values in enumerate(pieces, start=1)]

    def _entry(self, table: Path, row: TableRow | BadRow, videos: VideoIndex, *, any_spelling: bool = False) -> Listed:
        """The entry of one row: its file, then its annotation. With ``any_spelling``, the row's name may be that of one free video in another
        spelling."""
        where = f"{row.where} of {table.name}"
        if isinstance(row, BadRow):
            return _bad_row(table, row.where, f"{where}: {row.detail}")
        column = next((name for name in self.layout.path_columns if _file_named(row, name)), None)
        cell = self._cell(table, row)
        if column is None and cell is None:
            self._require_path_column(table, row)
            return _bad_row(table, row.where, f"{where}: it names no file")
        found = cell if column is None else self._file(table, _file_named(row, column), videos, any_spelling)
        if isinstance(found, BadEntry) and cell is not None:
            found = cell
        assert found is not None
        if str(row.values.get("type", "")).strip().lower() in _OTHER_TYPES:
            return _other_type(found, row, where)
        if isinstance(found, BadEntry):
            return replace(found, detail=f"{where}: {found.detail}")
        return self._annotated(found, table, row, column, where)

    def _annotated(self, found: SourceEntry, table: Path, row: TableRow, column: str | None, where: str) -> Listed:
        try:
            window = window_of_row(row.values, self.layout.windows)
        except WindowError as error:
            return _bad_row(table, row.where, f"{where}: {error}")
        if window is not None:
            found = replace(found, file=replace(found.file, window=window), relative=join_location(found.relative, window))
        without = (*row.cells, column or "", "type", "category")
        try:
            annotation = annotation_of_row(row.values, caption_columns=self.layout.caption_columns, without=without)
        except CaptionError as error:
            return bad_entry(found.file.location, found.relative, "bad_caption", f"{where}: {error}")
        if annotation.problem:
            reason, detail = annotation.problem
            return bad_entry(found.file.location, found.relative, reason, f"{where}: {detail}")
        category = self.category if self.category is not None else annotation.category or found.extra.get("category", "")
        return replace(
            found,
            caption=annotation.caption,
            further_captions=(annotation.captions or ())[1:],
            extra={"category": category},
            metadata=annotation.metadata,
            caption_file=str(table),
        )

    def _require_path_column(self, table: Path, row: TableRow) -> None:
        if not any(name in row.values for name in self.layout.path_columns):
            raise ConfigError(
                f"{self.key}: no column of {table} names the videos. It has {', '.join(map(str, {**row.values, **row.cells})) or 'none'}; looked for "
                f"{', '.join(self.layout.path_columns)}. Name it with path_column."
            )

    def _cell(self, table: Path, row: TableRow) -> SourceEntry | None:
        """The video that the row itself holds as bytes."""
        column = next((name for name in (*self.layout.path_columns, *BYTES_COLUMNS) if name in row.cells), None)
        if column is None:
            return None
        file = MediaFile(path=table, member=row.cells[column])
        beside = table.relative_to(self.root).as_posix() if table.is_relative_to(self.root) else table.name
        return _without_annotation(file, f"{beside}{MEMBER_MARK}{file.member}")

    def _file(self, table: Path, named: str, videos: VideoIndex, any_spelling: bool) -> Listed:
        """The file that a row calls ``named``."""
        shown = printable(named)
        if "\0" in named or len(named) > _MAX_PATH_CHARACTERS:
            shown = shown.replace("\0", " ")[:300]
            return bad_entry(Path(shown), shown, "bad_file_name", "no file can have this name")
        if self.layout.join != "path":
            key = f"{_subset(table)}/{named}" if self.layout.join == "number" else named
            found = videos.take(key) or (videos.take_near([key]) if any_spelling else None)
            missing = f"no video {shown} below {self.root}{_found(videos, key)}" if any_spelling else ""
            return found or bad_entry(self.root / shown, shown, "missing_file", missing)
        return self._file_at(table, named, shown, videos, any_spelling)

    def _file_at(self, table: Path, named: str, shown: str, videos: VideoIndex, any_spelling: bool) -> Listed:
        """The file at the path ``named``, tried from the layout's sub-folder, from the table's folder and from ``root``."""
        bases = [table.parent / self.layout.below, table.parent, self.root]
        candidates = [Path(os.path.normpath(base / named)) for base in bases]
        for take in (videos.take_path, videos.take_real):
            for path in candidates:
                if found := take(path):
                    return found
        inside = [path for path in candidates if any(path.is_relative_to(folder) for folder in (table.parent, self.root))]
        if not inside:
            detail = f"{shown} leads out of {self.root}, and only what lies in there is read{_found(videos, named)}"
            return bad_entry(candidates[0], shown, "outside_folder", detail)
        if found := _unlisted(inside[0], shown) or videos.take(shown):
            return found
        if not any_spelling:
            return bad_entry(inside[0], shown, "missing_file", "")
        spelled = [os.path.normpath(base / text) for base in bases for text in spellings(named)]
        return videos.take_near([*spelled, named]) or bad_entry(inside[0], shown, "missing_file", f"no file {shown}{_found(videos, named)}")


def _found(videos: VideoIndex, named: str) -> str:
    """What is there instead of ``named``, for a message."""
    similar = videos.similar(named)
    return f"; found {', '.join(similar)}" if similar else ""


def _other_type(found: Listed, row: TableRow, where: str) -> BadEntry:
    """A row of a picture or of sound: it is no broken video, so it does not count for the gate."""
    path = found.path if isinstance(found, BadEntry) else found.file.location
    return bad_entry(path, found.relative, "not_a_video", f"{where}: its type is {row.values['type']!r}", counts=False)


def _unlisted(path: Path, shown: str) -> Listed | None:
    """A file that exists, but is not among the listed videos: it has another suffix, or is outside ``root``."""
    try:
        file = MediaFile(path=path, stat=regular_file_stat(path))
    except RejectRow as rejection:
        return None if rejection.reason == "missing_file" else bad_entry(path, shown, rejection.reason, rejection.detail)
    return _without_annotation(file, shown)


def _without_annotation(file: MediaFile, relative: str) -> SourceEntry:
    return SourceEntry(file=file, relative=relative, caption=None, extra={"category": ""})


def _bad_row(table: Path, where: str, detail: str) -> BadEntry:
    return BadEntry(path=f"{table}: {where}", relative=f"{table.name}: {where}", reason="bad_row", detail=detail)


def _file_named(row: TableRow, column: str) -> str:
    """The file that ``column`` names: a text, or the ``path`` of a struct."""
    value = row.values.get(column)
    value = value.get("path") if isinstance(value, dict) else value
    return "" if value is None else str(value)


def _subset(table: Path) -> str:
    return table.stem.removesuffix(_NUMBERED_TABLE)


def _whole_file(file: Path) -> TableRow | BadRow:
    """cosmos-curate: one JSON file for each clip."""
    try:
        return TableRow(where="the object", values=read_json_values(file))
    except (ValueError, OSError) as error:
        return BadRow(where="the file", detail=f"no JSON object: {error}")


def _paired_lines(videos: Path) -> Iterator[TableRow]:
    """finetrainers: ``videos.txt`` and ``prompts.txt`` (or prompt, caption, captions), line by line.

    Raises:
        MotiveError: the files have different numbers of lines. A caption with a line end in it would shift all captions behind it.
    """
    beside = [videos.with_name(f"{name}.txt") for name in ("prompts", "prompt", "captions", "caption")]
    prompts = next((file for file in beside if file.is_file()), None)
    if prompts is None:
        raise MotiveError(f"{videos}: none of {', '.join(file.name for file in beside)} lies beside it")
    try:
        names, texts = (
            [line.strip("\r") for line in file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")] for file in (videos, prompts)
        )
    except UnicodeDecodeError as error:
        raise MotiveError(f"{videos.name} or {prompts.name} in {videos.parent} is not UTF-8 ({error}); save it as UTF-8") from error
    if len(names) != len(texts):
        raise MotiveError(f"{videos} has {len(names)} lines and {prompts.name} {len(texts)}: every video needs one line in both")
    for number, (name, text) in enumerate(zip(names, texts, strict=True), start=1):
        yield TableRow(where=f"line {number}", values={"path": name, "caption": text})
