"""Videos in a folder, with captions in text files beside them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.file_stat import disk_errors_as_rejects, printable, regular_file_stat, unlisted
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.captions import Annotation, CaptionError, NoAnnotation, read_sidecar
from motive_pipeline.sources.endings import HEAD_BYTES, VIDEO_SUFFIXES, is_video, needs_head
from motive_pipeline.sources.protocol import BadEntry, SourceEntry, require_folder


@dataclass(frozen=True, kw_only=True, slots=True)
class _ListedVideo:
    """A file with the name of a video, not opened yet, and the file with its caption."""

    path: Path
    relative: str
    category: str
    sidecar: str | None


@dataclass(frozen=True, kw_only=True)
class FolderSource:
    """Videos below ``root``, with captions in files of the same stem (or name: ``x.mp4.txt``) that end as ``sidecars`` says.

    A ``.json`` sidecar is an object with the caption and what else is known of the video; other JSON is not a sidecar. Names that begin with a dot are skipped, and so
    is ``without``, a folder that belongs to another source. Links are followed; a folder that is reached twice is listed once. ``category``
    overrides the names of the sub-folders.
    """

    root: Path
    key: str
    name: str = "folder"
    without: Path | None = None
    category: str | None = None
    sidecars: tuple[str, ...] = (".txt", ".caption", ".json")
    expects: str = f"{', '.join(VIDEO_SUFFIXES)}; a caption in a .txt, .caption or .json file of the same name"

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        return f"{self.key} = {self.root}"

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every video below the folder, in the order of ``relative``. A caption is read when its entry is asked for.

        Raises:
            ConfigError: the folder is missing or is not a folder.
        """
        listed: list[_ListedVideo | BadEntry] = []
        for folder, names in self._folders(lambda folder, why: listed.append(self._bad(folder, "unreadable", why))):
            listed.extend(self._videos(folder, names))
        for each in sorted(listed, key=lambda each: each.relative):
            yield self._entry(each) if isinstance(each, _ListedVideo) else each

    def entry_of(self, name: str) -> SourceEntry | BadEntry | None:
        """The video ``name`` directly in ``root``, as :meth:`entries` gives it; None if there is no such video."""
        return next((self._entry(video) for video in self._videos(self.root, os.listdir(self.root)) if video.path.name == name), None)

    def _folders(self, unlistable: Callable[[Path, str], None]) -> Iterator[tuple[Path, Collection[str]]]:
        """Each folder and the names in it; see :func:`folders_below`."""
        require_folder(self.root, self.key)
        yield from ((folder, os.listdir(folder)) for folder in folders_below(self.root, self.without, unlistable))

    def _videos(self, folder: Path, in_folder: Collection[str]) -> Iterator[_ListedVideo]:
        names = {name for name in in_folder if not name.startswith(".")}
        below = folder.relative_to(self.root).parts
        at, prefix = os.path.join(folder, ""), "".join(f"{part}/" for part in below)
        category = self.category if self.category is not None else below[0] if below else ""
        spelled = {_spelled(name): name for name in sorted(names, reverse=True)}
        for name in names:
            head = _head(at + name) if needs_head(name) else b""
            if head is None or is_video(name, head):
                stem = os.path.splitext(name)[0]
                beside = (base + ending for ending in self.sidecars for base in (stem, name))
                sidecar = next(
                    (at + (each if each in names else spelled[_spelled(each)]) for each in beside if _spelled(each) in spelled), None
                )
                yield _ListedVideo(path=folder / name, relative=printable(prefix + name), category=category, sidecar=sidecar)

    def _entry(self, video: _ListedVideo) -> SourceEntry | BadEntry:
        path, caption_file = video.path, video.sidecar
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return self._bad(path, "bad_file_name", "the name is not valid UTF-8; rename the file")
        try:
            file = MediaFile(path=path, stat=regular_file_stat(path))
            if caption_file:
                _require_caption_file(caption_file)
            with disk_errors_as_rejects():
                annotation = read_sidecar(caption_file) if caption_file else Annotation()
        except NoAnnotation:
            annotation, caption_file = Annotation(), None
        except CaptionError as error:
            return self._bad(path, "bad_caption", str(error))
        except RejectRow as rejection:
            return self._bad(path, rejection.reason, rejection.detail)
        if annotation.problem:
            return self._bad(path, *annotation.problem)
        return SourceEntry(
            file=file,
            relative=video.relative,
            caption=annotation.caption,
            extra={"category": video.category},
            metadata=annotation.metadata,
            caption_file=caption_file,
        )

    def _bad(self, path: Path, reason: str, detail: str) -> BadEntry:
        return BadEntry(path=printable(str(path)), relative=printable(path.relative_to(self.root).as_posix()), reason=reason, detail=detail)


def folders_below(root: Path, without: Path | None, unlistable: Callable[[Path, str], None] = lambda folder, why: None) -> Iterator[Path]:
    """``root`` and every folder below it, real ones before those behind links, but no hidden ones and not ``without``. ``unlistable`` is called
    with each folder that cannot be listed, and why."""
    seen: set[tuple[int, int]] = set()
    waiting, links = [root], list[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop(0)
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen or folder == without:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as listing:
                below = sorted((entry for entry in listing if not entry.name.startswith(".") and _is_folder(entry)), key=lambda e: e.name)
        except OSError as error:
            unlistable(folder, unlisted(error))
            continue
        yield folder
        links.extend(Path(entry.path) for entry in below if entry.is_symlink())
        waiting.extend(Path(entry.path) for entry in reversed(below) if not entry.is_symlink())


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a broken link: it is listed with the files, and rejected there if it has the name of a video


def _spelled(name: str) -> str:
    """A name as caption files are compared by: composed letters, since macOS writes others, and an ending in lower case."""
    stem, ending = os.path.splitext(name)
    return unicodedata.normalize("NFC", stem) + ending.lower()


def _head(path: str) -> bytes | None:
    """The first bytes of a file; none of what is no file, None of a file that cannot be read."""
    try:
        regular_file_stat(path)
        with MediaFile(path=Path(path)).open() as opened:
            return opened.read(HEAD_BYTES)
    except RejectRow as rejection:
        return None if rejection.reason == "unreadable" else b""
    except OSError:
        return None


def _require_caption_file(path: str) -> None:
    try:
        regular_file_stat(path)
    except RejectRow as rejection:
        raise CaptionError(f"the caption file {printable(os.path.basename(path))}: {rejection.detail}") from rejection
