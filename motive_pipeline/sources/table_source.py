"""Clips that a table names: each row finds its file, and what does not match on either side is annotation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from motive_pipeline.errors import ConfigError, MotiveError, RejectRow
from motive_pipeline.files.file_stat import printable, regular_file_stat
from motive_pipeline.files.media_file import MEMBER_MARK, MediaFile
from motive_pipeline.sources.archive_source import ArchiveSource, archives_below
from motive_pipeline.sources.captions import annotation_of_row
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.sources.layouts import HELD_COLUMNS, Layout
from motive_pipeline.sources.protocol import VIDEO_SUFFIXES, BadEntry, CaptionError, SourceEntry, require_folder
from motive_pipeline.sources.table_reader import BadRow, TableRow, read_json_values, read_table

_NUMBERED_TABLE = "_with_caption_upload"


@dataclass(frozen=True, kw_only=True)
class TableSource:
    """Rows of tables joined with the videos below ``root``: plain files, and members of archives.

    A row whose file is not there is ``missing_file``; a video that no row names is ``orphan_file``, and one whose name stands for another
    already ``duplicate_name``: neither counts for the gate. A file that several rows name is one clip, the first row's caption its caption.
    A row that holds its video as bytes needs no file.
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
        """Every row and every video without one, in the order of ``relative``.

        Raises:
            ConfigError: the folder is missing, or no column names the files.
            MotiveError: a table cannot be read.
        """
        require_folder(self.root, self.key)
        videos = _Videos(self.layout.join, self._listed())
        found: list[SourceEntry | BadEntry] = []
        for table in self.tables:
            found.extend(self._entry(table, row, videos) for row in self._rows(table))
        found.extend(videos.left_over(", ".join(table.name for table in self.tables[:3])))
        yield from sorted(found, key=lambda entry: entry.relative)

    def _listed(self) -> Iterator[SourceEntry | BadEntry]:
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

    def _entry(self, table: Path, row: TableRow | BadRow, videos: _Videos) -> SourceEntry | BadEntry:
        where = f"{row.where} of {table.name}"
        if isinstance(row, BadRow):
            return BadEntry(
                path=f"{table}: {row.where}", relative=f"{table.name}: {row.where}", reason="bad_row", detail=f"{where}: {row.detail}"
            )
        column = next((name for name in self.layout.path_columns if _named(row, name)), None)
        held = self._held(table, row)
        if column is None and held is None:
            self._require_column(table, row)
            return BadEntry(
                path=f"{table}: {row.where}", relative=f"{table.name}: {row.where}", reason="bad_row", detail=f"{where}: it names no file"
            )
        found = held if column is None else self._found(table, _named(row, column), videos)
        if isinstance(found, BadEntry) and held is not None:
            found = held
        assert found is not None
        if isinstance(found, BadEntry):
            return replace(found, detail=f"{where}: {found.detail}")
        if row.values.get("type", "video") != "video":
            return replace(
                _bad(found.file.location, found.relative, "not_a_video", ""), detail=f"{where}: its type is {row.values['type']!r}"
            )
        try:
            annotation = annotation_of_row(
                row.values, caption_columns=self.layout.caption_columns, without=(*row.held, column or "", "type", "category")
            )
        except CaptionError as error:
            return _bad(found.file.location, found.relative, "bad_caption", f"{where}: {error}")
        if annotation.problem:
            return _bad(found.file.location, found.relative, annotation.problem[0], f"{where}: {annotation.problem[1]}")
        category = self.category if self.category is not None else annotation.category or found.extra.get("category", "")
        return replace(
            found,
            caption=annotation.caption,
            further_captions=(annotation.captions or ())[1:],
            extra={"category": category},
            metadata=annotation.metadata,
            caption_file=str(table),
        )

    def _require_column(self, table: Path, row: TableRow) -> None:
        if not any(name in row.values for name in self.layout.path_columns):
            raise ConfigError(
                f"{self.key}: no column of {table} names the videos. It has {', '.join(map(str, {**row.values, **row.held})) or 'none'}; looked for "
                f"{', '.join(self.layout.path_columns)}. Name it with path_column."
            )

    def _held(self, table: Path, row: TableRow) -> SourceEntry | None:
        """The video that lies in the row itself, as bytes."""
        column = next((name for name in (*self.layout.path_columns, *HELD_COLUMNS) if name in row.held), None)
        if column is None:
            return None
        beside = table.relative_to(self.root).as_posix() if table.is_relative_to(self.root) else table.name
        file = MediaFile(path=table, member=row.held[column])
        return SourceEntry(file=file, relative=f"{beside}{MEMBER_MARK}{file.member}", caption=None, extra={"category": ""})

    def _found(self, table: Path, named: str, videos: _Videos) -> SourceEntry | BadEntry:
        shown = printable(named)
        if "\0" in named or len(named) > 4096:
            cut = shown.replace("\0", " ")[:300]
            return _bad(Path(cut), cut, "bad_file_name", "no file can have this name")
        if self.layout.join != "path":
            key = f"{_subset(table)}/{named}" if self.layout.join == "number" else named
            found = videos.take(key)
            return found or _bad(self.root / shown, shown, "missing_file", f"no video {shown} below {self.root}")
        bases = [table.parent / self.layout.below, table.parent, self.root]
        candidates = [Path(os.path.normpath(base / named)) for base in bases]
        if not any(path.is_relative_to(folder) for path in candidates for folder in (table.parent, self.root)):
            return _bad(candidates[0], shown, "outside_folder", f"{shown} leads out of {self.root}, and only what lies in there is read")
        for path in candidates:
            if found := videos.take_path(path):
                return found
        inside = next(path for path in candidates if any(path.is_relative_to(folder) for folder in (table.parent, self.root)))
        return self._unlisted(inside, shown) or videos.take(shown) or _bad(inside, shown, "missing_file", f"no file {shown}")

    def _unlisted(self, path: Path, shown: str) -> SourceEntry | BadEntry | None:
        """A file that is there, but that the list of videos has not: one of another suffix, or outside ``root``."""
        try:
            file = MediaFile(path=path, stat=regular_file_stat(path))
        except RejectRow as rejection:
            return None if rejection.reason == "missing_file" else _bad(path, shown, rejection.reason, rejection.detail)
        return SourceEntry(file=file, relative=shown, caption=None, extra={"category": ""})


def _named(row: TableRow, column: str) -> str:
    """The file that ``column`` names: a text, or the ``path`` of a struct."""
    value = row.values.get(column)
    value = value.get("path") if isinstance(value, dict) else value
    return "" if value is None else str(value)


@dataclass
class _Videos:
    """The videos below a folder by what a row may call them, and which of them rows have taken."""

    join: str
    listed: Iterable[SourceEntry | BadEntry]
    _by_path: dict[Path, SourceEntry | BadEntry] = field(default_factory=dict)
    _by_key: dict[str, SourceEntry | BadEntry] = field(default_factory=dict)
    _twice: dict[Path, str] = field(default_factory=dict)
    _taken: set[Path] = field(default_factory=set)

    def __post_init__(self) -> None:
        key_of: Callable[[str], str] = {"name": _name, "stem": _stem, "number": _number, "path": lambda name: name}[self.join]
        for entry in self.listed:
            path = _location(entry)
            self._by_path[path] = entry
            key = key_of(entry.relative.replace(MEMBER_MARK, "/") if self.join == "number" else entry.relative.rpartition(MEMBER_MARK)[2])
            first = self._by_key.setdefault(key, entry)
            if first is not entry and self.join != "path":
                self._twice[path] = first.relative

    def take(self, key: str) -> SourceEntry | BadEntry | None:
        """The video that a row calls ``key``."""
        wanted = {"name": _name, "stem": _stem, "number": _whole_number, "path": lambda name: name}[self.join](key)
        return self._take(self._by_key.get(wanted))

    def take_path(self, path: Path) -> SourceEntry | BadEntry | None:
        """The video at ``path``."""
        return self._take(self._by_path.get(path))

    def _take(self, found: SourceEntry | BadEntry | None) -> SourceEntry | BadEntry | None:
        if found is not None:
            self._taken.add(_location(found))
        return found

    def left_over(self, tables: str) -> Iterator[BadEntry]:
        """What no row has taken."""
        for path, entry in self._by_path.items():
            if path in self._taken:
                continue
            if isinstance(entry, BadEntry):
                yield replace(entry, counts=entry.reason.endswith("_archive"))
            elif path in self._twice:
                detail = f"has the name of {self._twice[path]}, which the row was given to"
                yield _bad(path, entry.relative, "duplicate_name", detail, counts=False)
            else:
                yield _bad(path, entry.relative, "orphan_file", f"no row of {tables} names it", counts=False)


def _location(entry: SourceEntry | BadEntry) -> Path:
    return Path(entry.path if isinstance(entry, BadEntry) else entry.file.location)


def _bad(path: Path | str, relative: str, reason: str, detail: str, *, counts: bool = True) -> BadEntry:
    return BadEntry(path=printable(str(path)), relative=relative, reason=reason, detail=detail, counts=counts)


def _name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name


def _stem(text: str) -> str:
    """The file's name without the ending of a video; other dots belong to it."""
    name = _name(text)
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _number(relative: str) -> str:
    """4DNeX: ``<subset>/<number>``. The number is the file's stem or, in ``static_1``, the folder below the subset's."""
    folders, name = relative.split("/")[:-1], _stem(relative)
    if folders and name.isdecimal():
        return f"{folders[-1]}/{int(name)}"
    if len(folders) > 1 and folders[-1].isdecimal():
        return f"{folders[-2]}/{int(folders[-1])}"
    return relative


def _whole_number(key: str) -> str:
    subset, _, number = key.rpartition("/")
    return f"{subset}/{int(number)}" if number.strip().isdecimal() else key


def _subset(table: Path) -> str:
    return table.stem.removesuffix(_NUMBERED_TABLE)


def _whole_file(file: Path) -> TableRow | BadRow:
    """cosmos-curate: one JSON file a clip."""
    try:
        return TableRow(where="the object", values=read_json_values(file))
    except (ValueError, OSError) as error:
        return BadRow(where="the file", detail=f"no JSON object: {error}")


def _paired_lines(videos: Path) -> Iterator[TableRow]:
    """finetrainers: ``videos.txt`` and ``prompts.txt`` (or prompt, caption, captions), line by line.

    Raises:
        MotiveError: they are not equally long: a caption with a line end in it would shift all that follow.
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
