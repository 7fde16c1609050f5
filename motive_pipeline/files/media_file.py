"""One value for the bytes of a clip, wherever they are: a file, a member of an archive, or a cell of a Parquet file; all of it, or a window.

In tables a member is written ``/data/part12.zip!/inner/a.mp4`` and a cell ``/data/train.parquet!/video/00000003``. Nothing is unpacked. A
window follows behind: ``/data/film.mp4#t=1.0625,2.125`` (files/window.py).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from motive_pipeline.files.archive import member_size, open_member
from motive_pipeline.files.file_stat import FileStat, file_stat
from motive_pipeline.files.parquet_column import is_parquet, read_cell
from motive_pipeline.files.split_archive import archive_stat
from motive_pipeline.files.window import Window, join_location, split_location
from motive_pipeline.storage.mirror import held, on_this_machine

MEMBER_MARK = "!/"
"""Separates the file on disk from the member in it, in the text that tables show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaFile:
    """The bytes of one clip.

    ``path`` is the file on disk (of a split archive, its first part). ``member`` is the name inside it: of an archive's member, or
    ``<column>/<row>`` in a Parquet file; empty when the bytes are the file's own. ``window`` is the part of the video that the clip is, or
    None for all of it; the bytes are those of the whole video. ``stat`` is that of the file on disk at the time when it was listed, or None.
    Two values are equal when they name the same place and window, whatever their stats.
    """

    path: Path
    member: str = ""
    window: Window | None = None
    stat: FileStat | None = field(default=None, compare=False, repr=False)

    @classmethod
    def parse(cls, location: str | Path) -> MediaFile:
        """The value for what a table shows, on any machine where the clip is in object storage. If the text as it is names an existing file, and without
        its window it names none, it is that file."""
        text = on_this_machine(str(location))
        place, window = split_location(text)
        found = _in_archive(place) or cls(path=Path(place))
        if window is not None and not found.path.is_file() and Path(text).is_file():
            return cls(path=Path(text))
        return replace(found, window=window)

    @property
    def location(self) -> str:
        """The text that tables show, and that :meth:`parse` reads."""
        return join_location(self._place, self.window)

    @property
    def whole(self) -> MediaFile:
        """The video that the clip is a window of; without a window, this value."""
        return self if self.window is None else replace(self, window=None)

    @property
    def name(self) -> str:
        """The last part of the location, for people to read."""
        name = PurePosixPath(self.member).name if self.member else self.path.name
        return name if self.window is None else name + self.window.suffix

    @property
    def _place(self) -> str:
        return f"{self.path}{MEMBER_MARK}{self.member}" if self.member else str(self.path)

    def current_stat(self) -> FileStat:
        """The stat of the file on disk now. A member has the one of its archive, so an unchanged archive means unchanged members.

        Raises:
            OSError: the file does not exist, or cannot be looked at.
            RejectRow: ``incomplete_archive``.
        """
        return archive_stat(self.path) if self.member else file_stat(self.path)

    def with_stat(self) -> MediaFile:
        """This value with a stat: the one it has, or the current one. Raises as :meth:`current_stat` does."""
        return self if self.stat is not None else replace(self, stat=self.current_stat())

    def is_cell(self) -> bool:
        """Whether the bytes are a cell of a Parquet file."""
        return bool(self.member) and is_parquet(self.path)

    def num_bytes(self) -> int:
        """The size of the whole video. That of a cell is known only by reading it.

        Raises:
            RejectRow: the member does not exist, or the archive cannot be read.
            OSError: the file does not exist.
        """
        if not self.member:
            return file_stat(self.path).size
        return len(read_cell(self.path, self.member)) if self.is_cell() else member_size(self.path, self.member)

    @contextmanager
    def open(self, *, check: bool = False) -> Iterator[io.BufferedReader]:
        """The bytes of the whole video as a stream that can be read and sought in.

        With ``check``, reading a member of a zip compares its checksum; such a stream can only be read from start to end.

        Raises:
            RejectRow: the member does not exist or cannot be used; ``damaged_archive`` also while reading.
            OSError: the file cannot be read.
        """
        if not self.member:
            with held(self.path), self.path.open("rb") as file:
                yield file
        elif self.is_cell():
            yield io.BufferedReader(io.BytesIO(read_cell(self.path, self.member)))  # type: ignore[arg-type]
        else:
            with open_member(self.path, self.member, check=check) as stream:
                yield stream


def _in_archive(place: str) -> MediaFile | None:
    """The member that ``place`` names. ``!/`` counts only behind the name of an existing file: folders may be called ``x.zip!``."""
    position = place.find(MEMBER_MARK)
    while position >= 0:
        path, member = Path(place[:position]), place[position + len(MEMBER_MARK) :]
        if member and path.is_file():
            return MediaFile(path=path, member=member)
        position = place.find(MEMBER_MARK, position + 1)
    return None


def media_file(source: MediaFile | Path) -> MediaFile:
    """``source`` as a :class:`MediaFile`. Functions that read clips also accept the path of a plain file."""
    return source if isinstance(source, MediaFile) else MediaFile.parse(source)
