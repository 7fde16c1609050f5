"""Finds the videos below a folder by the names that rows of a table use, and tracks which ones rows have taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from motive_pipeline.files.file_stat import printable
from motive_pipeline.files.media_file import MEMBER_MARK
from motive_pipeline.sources.endings import VIDEO_SUFFIXES
from motive_pipeline.sources.layouts import Join
from motive_pipeline.sources.near_names import NearNames
from motive_pipeline.sources.protocol import BadEntry, SourceEntry

Listed = SourceEntry | BadEntry


class VideoIndex:
    """Videos by path and by the key that ``join`` names (see :class:`~.layouts.Layout`). Of two videos with one key, the first counts."""

    def __init__(self, join: Join, listed: Iterable[Listed]) -> None:
        self._row_key = _ROW_KEYS[join]
        self._by_path: dict[Path, Listed] = {}
        self._by_key: dict[str, Listed] = {}
        self._same_key_as: dict[Path, str] = {}
        self._taken: set[Path] = set()
        self._real_folders: dict[str, str] = {}
        self._file_key = _FILE_KEYS[join]
        self._join: Join = join
        for entry in listed:
            path = _path(entry)
            self._by_path[path] = entry
            first = self._by_key.setdefault(self._key(entry), entry)
            if first is not entry and join != "path":
                self._same_key_as[path] = first.relative

    def take(self, name: str) -> Listed | None:
        """The video that a row calls ``name``, marked as taken."""
        return self._take(self._by_key.get(self._row_key(name)))

    def take_path(self, path: Path) -> Listed | None:
        """The video at ``path``, marked as taken."""
        return self._take(self._by_path.get(path))

    def take_real(self, path: Path) -> Listed | None:
        """The video that ``path`` leads to through links to folders, marked as taken."""
        return self.take_path(self._real_paths.get(self._real(path), path))

    def take_near(self, named: Sequence[str]) -> Listed | None:
        """The one video that a row means by any of ``named`` in another spelling, marked as taken (see :mod:`~.near_names`).

        Videos that rows name exactly are not candidates. So this is asked for when all rows have been looked up; from the first call on, the
        candidates stay the same.
        """
        found = self._near.matches([*named, *(self._row_key(name) for name in named)])
        return self.take_path(Path(next(iter(found)))) if len(found) == 1 else None

    def similar(self, named: str) -> list[str]:
        """The names of some videos that are spelled nearly as ``named``, to be shown to a person."""
        return [self._by_path[Path(path)].relative for path in self._all_names.similar(named)]

    @cached_property
    def _real_paths(self) -> dict[Path, Path]:
        return {self._real(path): path for path in reversed(self._by_path)}

    def _real(self, path: Path) -> Path:
        """``path`` with the links in its folder followed; a link in the place of the file itself stays."""
        folder = str(path.parent)
        if folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        return Path(self._real_folders[folder], path.name)

    @cached_property
    def _near(self) -> NearNames:
        free = [path for path in self._by_path if path not in self._taken]
        names = ((name, str(path)) for path in free for name in (str(path), self._key(self._by_path[path])))
        return NearNames(names)

    @cached_property
    def _all_names(self) -> NearNames:
        return NearNames((self._key(entry), str(path)) for path, entry in self._by_path.items())

    def _key(self, entry: Listed) -> str:
        """What the layout's rows call the video. Members of archives are known by their path inside the archive."""
        relative = entry.relative.replace(MEMBER_MARK, "/") if self._join == "number" else entry.relative.rpartition(MEMBER_MARK)[2]
        return self._file_key(relative)

    def _take(self, found: Listed | None) -> Listed | None:
        if found is not None:
            self._taken.add(_path(found))
        return found

    def without_row(self, tables: str) -> Iterator[BadEntry]:
        """The videos that no row has taken; ``tables`` names the tables. Only damaged archives among them count for the gate."""
        for path, entry in self._by_path.items():
            if path in self._taken:
                continue
            if isinstance(entry, BadEntry):
                yield replace(entry, counts=entry.reason.endswith("_archive") and entry.reason != "unsupported_archive")
            elif path in self._same_key_as:
                detail = f"has the name of {self._same_key_as[path]}, which the row was given to"
                yield bad_entry(path, entry.relative, "duplicate_name", detail, counts=False)
            else:
                yield bad_entry(path, entry.relative, "orphan_file", f"no row of {tables} names it", counts=False)


def bad_entry(path: Path | str, relative: str, reason: str, detail: str, *, counts: bool = True) -> BadEntry:
    """A bad entry whose path a table can hold."""
    return BadEntry(path=printable(str(path)), relative=relative, reason=reason, detail=detail, counts=counts)


def _path(entry: Listed) -> Path:
    return Path(entry.path if isinstance(entry, BadEntry) else entry.file.location)


def _name(text: str) -> str:
    return PurePosixPath(text.replace("\\", "/")).name


def _stem(text: str) -> str:
    """The file name without the suffix of a video. Other dots belong to the stem."""
    name = _name(text)
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _number(relative: str) -> str:
    """4DNeX: ``<subset>/<number>``. The number is the file's stem or, in ``static_1``, the name of the folder below the subset's."""
    folders, name = relative.split("/")[:-1], _stem(relative)
    if folders and name.isdecimal():
        return f"{folders[-1]}/{int(name)}"
    if len(folders) > 1 and folders[-1].isdecimal():
        return f"{folders[-2]}/{int(folders[-1])}"
    return relative


def _number_in_row(key: str) -> str:
    subset, _, number = key.rpartition("/")
    return f"{subset}/{int(number)}" if number.strip().isdecimal() else key


def _unchanged(text: str) -> str:
    return text


_FILE_KEYS: dict[Join, Callable[[str], str]] = {"name": _name, "stem": _stem, "number": _number, "path": _unchanged}
_ROW_KEYS: dict[Join, Callable[[str], str]] = {"name": _name, "stem": _stem, "number": _number_in_row, "path": _unchanged}
