"""Where clips come from: a source lists entries, each a video's path and its caption.

An adapter knows one way in which data sets are laid out. It lists what is there and reads captions; it opens no video and hashes nothing
(scan.py), and it never leaves anything out silently: what cannot be an entry is a :class:`BadEntry`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from motive_pipeline.clips.demo import VERSION as DEMO_VERSION
from motive_pipeline.clips.demo import write_demo
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.storage.workspace import Workspace

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MAX_CAPTION_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One video of a source. ``relative`` names it within the source; ``caption`` is None where there is none.

    ``extra`` is what the source knows beside; ``category`` is the name of the sub-folder.
    """

    path: Path
    relative: str
    caption: str | None
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BadEntry:
    """Something that looks like a video and cannot be one: a row of ``rejects``."""

    path: str
    relative: str
    reason: str
    detail: str


@runtime_checkable
class ClipSource(Protocol):
    """A list of videos with captions, the same in the same order as long as nothing changes."""

    @property
    def key(self) -> str:
        """The setting that names it (``clips.path``)."""
        ...

    @property
    def name(self) -> str:
        """What the column ``source`` says of its clips."""
        ...

    @property
    def expects(self) -> str:
        """What it looks for, for a message to a person."""
        ...

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every video, in the order of ``relative``."""
        ...

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        ...


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Videos below ``root``, with captions in ``.txt`` files of the same stem.

    Names that begin with a dot are left alone, as is ``without``, a folder that belongs to another source. Links are followed; a folder
    that is reached twice is listed once. ``category`` overrides what the sub-folders say.
    """

    root: Path
    key: str
    name: str = "folder"
    without: Path | None = None
    category: str | None = None
    expects: str = f"{', '.join(VIDEO_SUFFIXES)}; a caption in a .txt file of the same name"

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        return f"{self.key} = {self.root}"

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every video below the folder, in the order of ``relative``.

        Raises:
            ConfigError: the folder is missing or is no folder.
        """
        require_folder(self.root, self.key)
        found: list[SourceEntry | BadEntry] = []
        for folder in self._folders(found):
            found.extend(self._videos(folder))
        if self.category is not None:
            found = [replace(entry, extra={"category": self.category}) if isinstance(entry, SourceEntry) else entry for entry in found]
        yield from sorted(found, key=lambda entry: entry.relative)

    def _folders(self, bad: list[SourceEntry | BadEntry]) -> Iterator[Path]:
        """Every folder below the root, real ones before those behind links; those that cannot be listed go to ``bad``."""
        seen: set[tuple[int, int]] = set()
        waiting, links = [self.root], list[Path]()
        while waiting or links:
            folder = waiting.pop() if waiting else links.pop(0)
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in seen or folder == self.without:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as listing:
                    below = sorted(
                        (entry for entry in listing if not entry.name.startswith(".") and _is_folder(entry)), key=lambda e: e.name
                    )
            except OSError as error:
                bad.append(self._bad(folder, "unreadable", f"the folder cannot be listed: {error.strerror}"))
                continue
            yield folder
            links.extend(Path(entry.path) for entry in below if entry.is_symlink())
            waiting.extend(Path(entry.path) for entry in reversed(below) if not entry.is_symlink())

    def _videos(self, folder: Path) -> Iterator[SourceEntry | BadEntry]:
        names = {name for name in os.listdir(folder) if not name.startswith(".")}
        below = folder.relative_to(self.root).parts
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in VIDEO_SUFFIXES:
                sidecar = next((stem + text for text in (".txt", ".TXT") if stem + text in names), None)
                yield self._entry(folder / name, below, folder / sidecar if sidecar else None)

    def _entry(self, path: Path, below: tuple[str, ...], sidecar: Path | None) -> SourceEntry | BadEntry:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return self._bad(path, "bad_file_name", "the name is not valid UTF-8; rename the file")
        try:
            _require_regular(path)
            caption = read_caption(sidecar) if sidecar else None
        except CaptionError as error:
            return self._bad(path, "bad_caption", str(error))
        except OSError as error:
            return self._bad(path, *_explain(path, error))
        category = below[0] if below else ""
        return SourceEntry(path=path, relative="/".join((*below, path.name)), caption=caption, extra={"category": category})

    def _bad(self, path: Path, reason: str, detail: str) -> BadEntry:
        return BadEntry(
            path=_printable(str(path)), relative=_printable(path.relative_to(self.root).as_posix()), reason=reason, detail=detail
        )


class CaptionError(ValueError):
    """A caption file that cannot be used."""


def read_caption(sidecar: Path) -> str:
    """The caption in a text file: UTF-8 (or UTF-16 with its mark), every run of white space and line ends one space.

    Raises:
        CaptionError: the file is no such text, or far too long for a caption.
        OSError: it cannot be read.
    """
    with sidecar.open("rb") as file:
        data = file.read(MAX_CAPTION_BYTES + 1)
    if len(data) > MAX_CAPTION_BYTES:
        raise CaptionError(f"the caption file {sidecar.name} has more than {MAX_CAPTION_BYTES} bytes")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CaptionError(
            f"the caption file {sidecar.name} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    return " ".join(text.replace("\0", " ").split())


def require_folder(path: Path, key: str) -> None:
    """``path`` is a folder that can be listed.

    Raises:
        ConfigError: it is not; the message names ``key``.
    """
    if not path.exists():
        raise ConfigError(f"{key} = {path}: there is no such folder. Make it, or correct {key} in motive.yaml.")
    if not path.is_dir():
        raise ConfigError(f"{key} = {path}: this is a file; {key} must name the folder that holds the videos.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{key} = {path}: the folder cannot be read. Give yourself the right to, or name another folder.")


def clip_source(ws: Workspace) -> ClipSource:
    """The training clips, by the section ``clips``."""
    clips = ws.config.clips
    if clips.source == "demo":
        return FolderSource(root=demo_folder(ws) / "clips", key="clips.source: demo", name="demo", category="")
    assert clips.path is not None
    return FolderSource(root=clips.path, key="clips.path")


def query_source(ws: Workspace) -> ClipSource:
    """The query clips, by the section ``queries``."""
    queries = ws.config.queries
    if queries.source == "demo":
        return FolderSource(root=demo_folder(ws) / "queries", key="queries.source: demo", name="demo", category=queries.demo.motion)
    assert queries.path is not None
    return FolderSource(root=queries.path, key="queries.path", without=queries.held_out_path)


def held_out_source(ws: Workspace) -> ClipSource | None:
    """The held-out query clips, or None where the settings name none."""
    queries = ws.config.queries
    if queries.source == "demo":
        if not queries.demo.num_held_out:
            return None
        return FolderSource(root=demo_folder(ws) / "held_out", key="queries.source: demo", name="demo", category=queries.demo.motion)
    return FolderSource(root=queries.held_out_path, key="queries.held_out_path") if queries.held_out_path else None


def demo_folder(ws: Workspace) -> Path:
    """The demo data of the current settings below ``<root>/demo``, written when it is not there.

    Raises:
        MotiveError: the folder is there, but not whole.
    """
    clips, queries = ws.config.clips.demo, ws.config.queries.demo
    name = f"v{DEMO_VERSION}-{clips.split}-seed{clips.seed}-{clips.num_clips}-{queries.motion}-{queries.num_queries}-{queries.num_held_out}"
    try:
        return write_demo(
            ws.root / "demo" / name,
            seed=clips.seed,
            split=clips.split,
            num_clips=clips.num_clips,
            num_queries=queries.num_queries,
            num_held_out=queries.num_held_out,
            query_motion=queries.motion,
        )
    except FileExistsError as error:
        raise MotiveError(f"demo data: {error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads nowhere: listed with the files, where it is rejected by name if it looks like a video


def _require_regular(path: Path) -> None:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        raise OSError("not a file")


def _explain(path: Path, error: OSError) -> tuple[str, str]:
    """(reason, detail) for a directory entry that is no readable file."""
    if isinstance(error, IsADirectoryError):
        return "is_a_directory", "a folder with the name of a video (what it holds is listed by itself)"
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return "broken_symlink", f"a link to {_printable(os.readlink(path))}, which is not there"
    if isinstance(error, FileNotFoundError):
        return "missing_file", "the file has gone since it was listed"
    return ("unreadable", f"cannot be read: {error.strerror}") if error.strerror else ("not_a_file", "a pipe, a socket or a device")


def _printable(text: str) -> str:
    """``text`` with bytes that are no UTF-8 written as escapes, so that it can stand in a table."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
