"""Videos in zips and tars, with captions in members of the same name."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.archive import ARCHIVE_SUFFIXES, ArchiveMember, is_archive, list_archive, read_small_members
from motive_pipeline.files.file_stat import printable, unlisted
from motive_pipeline.files.media_file import MEMBER_MARK, MediaFile
from motive_pipeline.files.split_archive import FIRST_PART, parts_without_first
from motive_pipeline.files.unread_archive import has_unread_name, parts_without_last
from motive_pipeline.sources.captions import MAX_SIDECAR_BYTES, Annotation, CaptionError, NoAnnotation, parse_sidecar
from motive_pipeline.sources.endings import HEAD_BYTES, VIDEO_SUFFIXES, is_video, needs_head, suffix
from motive_pipeline.sources.protocol import BadEntry, SourceEntry, require_folder


@dataclass(frozen=True, kw_only=True)
class ArchiveSource:
    """Videos in the archives below ``root``, or in the one archive that ``root`` is. They are read in place.

    A video and its captions share a key. The key ends at the ``last`` dot of a member's name or, as WebDataset has it, at the ``first``:
    ``key_ends_at``.
    """

    root: Path
    key: str
    name: str = "zip"
    category: str | None = None
    key_ends_at: str = "last"
    sidecars: tuple[str, ...] = (".txt", ".caption", ".json")
    expects: str = "zip or tar archives with videos in them; captions in members of the same name that end in .txt, .caption or .json"

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        return f"{self.key} = {self.root}"

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every video of every archive, and every folder that cannot be listed, in the order of ``relative``.

        Raises:
            ConfigError: there is no such folder or archive.
        """
        if not self.root.is_file():
            require_folder(self.root, self.key)
        found: list[SourceEntry | BadEntry] = []
        for archive in archives_below(self.root, lambda folder, why: found.append(self._bad(folder, "unreadable", why))):
            found.extend(self._listed(archive))
        yield from sorted(found, key=lambda entry: entry.relative)

    def _listed(self, archive: Path) -> Iterator[SourceEntry | BadEntry]:
        relative = self._relative(archive)
        try:
            stat, members = list_archive(archive)
            annotations = self._annotations(archive, members)
            videos = _videos(archive, members)
        except RejectRow as rejection:
            yield self._bad(archive, rejection.reason, rejection.detail)
            return
        for member in members:
            if member.is_rest or member.path in videos:
                file = MediaFile(path=Path(printable(str(archive))), member=printable(member.path), stat=stat)
                name = f"{printable(relative)}{MEMBER_MARK}{file.member}"
                yield self._entry(file, name, member, self._annotation_of(member, annotations))

    def _relative(self, path: Path) -> str:
        return path.name if path == self.root else path.relative_to(self.root).as_posix()

    def _bad(self, path: Path, reason: str, detail: str) -> BadEntry:
        return BadEntry(path=printable(str(path)), relative=printable(self._relative(path)), reason=reason, detail=printable(detail))

    def _entry(self, file: MediaFile, relative: str, member: ArchiveMember, annotation: Annotation) -> SourceEntry | BadEntry:
        problem = member.problem or annotation.problem
        if problem is not None:
            return BadEntry(path=file.location, relative=relative, reason=problem[0], detail=problem[1])
        folder = member.path.split("/")[0] if "/" in member.path else ""
        category = self.category if self.category is not None else annotation.category or folder
        return SourceEntry(
            file=file,
            relative=relative,
            caption=annotation.caption,
            extra={"category": category},
            metadata=annotation.metadata,
            caption_file=str(file.path) if annotation.captions is not None else None,
        )

    def _annotations(self, archive: Path, members: list[ArchiveMember]) -> dict[str, Annotation]:
        """The annotations in the members beside the videos, by key. Of several captions, the first ending in ``sidecars`` counts."""
        found: dict[str, Annotation] = {}
        for ending in self.sidecars:
            beside = [member for member in members if member.name.lower().endswith(ending) and not is_from_a_mac(member.path)]
            for member, data in read_small_members(archive, beside, MAX_SIDECAR_BYTES + 1):
                key = self._key_of(member)
                found[key] = _joined(found.get(key), _parsed(data, member))
        return found

    def _annotation_of(self, member: ArchiveMember, annotations: Mapping[str, Annotation]) -> Annotation:
        """What is beside a video ``x.mp4``: in ``x.txt``, else in ``x.mp4.txt``."""
        beside = [annotations[key] for key in (self._key_of(member), _composed(f"/{member.path}")) if key in annotations]
        return functools.reduce(_joined, beside, Annotation())

    def _key_of(self, member: ArchiveMember) -> str:
        folder, _, name = member.path.rpartition("/")
        stem = name.partition(".")[0] if self.key_ends_at == "first" else name.rpartition(".")[0]
        return _composed(f"/{folder}/{stem}" if folder else f"/{stem}")


def archives_below(root: Path, unlistable: Callable[[Path, str], None] = lambda folder, why: None) -> list[Path]:
    """Every archive at or below ``root``, in the order of names. Of a split archive: its first part, or the lowest that is there. ``unlistable``
    is called with each folder that cannot be listed, and why."""
    if root.is_file():
        return [root]
    found = []
    for folder, below, names in os.walk(root, onerror=lambda error: unlistable(Path(error.filename or root), unlisted(error))):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(folder, name) for name in names if _looks_like_archive(Path(folder, name))]
        shown = {name for name in names if not name.startswith(".")}
        found += [Path(folder, name) for name in (*parts_without_first(shown), *parts_without_last(shown))]
    return sorted(found)


def _looks_like_archive(file: Path) -> bool:
    """By suffix. A first part of a split archive is known by its content, since other files end in ``_00`` too.

    Archives that cannot be read in place count, too: each becomes a reject that says what to do.
    """
    if file.name.startswith("."):
        return False
    is_named_so = file.suffix.lower() in ARCHIVE_SUFFIXES or has_unread_name(file.name)
    return is_named_so or (FIRST_PART.match(file.name) is not None and is_archive(file))


def is_from_a_mac(path: str) -> bool:
    """Whether a member only keeps what macOS knows of another one: ``__MACOSX/`` and ``._x.mp4`` (AppleDouble)."""
    folders, _, name = path.rpartition("/")
    return name.startswith("._") or "__MACOSX" in folders.split("/")


def _videos(archive: Path, members: Sequence[ArchiveMember]) -> set[str]:
    """The paths of the members that are videos."""
    named = [member for member in members if suffix(member.name) in VIDEO_SUFFIXES and not is_from_a_mac(member.path)]
    unsure = [member for member in named if needs_head(member.name) and member.problem is None]
    heads = {member.path: head for member, head in read_small_members(archive, unsure, HEAD_BYTES)}
    sure = {member.path for member in named if member.path not in heads}
    return sure | {path for path, head in heads.items() if isinstance(head, RejectRow) or is_video(path, head)}


def _composed(key: str) -> str:
    """A key in which letters are composed: macOS writes names in the other form."""
    return unicodedata.normalize("NFC", key)


def _parsed(data: bytes | RejectRow, member: ArchiveMember) -> Annotation:
    if isinstance(data, RejectRow):
        return Annotation(problem=("bad_caption", f"the caption in {printable(member.name)} cannot be read: {data.detail}"))
    try:
        return parse_sidecar(data, member.name)
    except NoAnnotation:
        return Annotation()
    except CaptionError as error:
        return Annotation(problem=("bad_caption", str(error)))


def _joined(first: Annotation | None, second: Annotation) -> Annotation:
    if first is None:
        return second
    return Annotation(
        captions=second.captions if first.captions is None else first.captions,
        metadata={**second.metadata, **first.metadata},
        category=first.category or second.category,
        problem=first.problem or second.problem,
    )
