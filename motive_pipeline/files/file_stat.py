"""What the file system says about a file, taken once, and the reject reason when the file cannot be read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from motive_pipeline.errors import RejectRow
from motive_pipeline.storage.mirror import mirror_of


class FileStat(NamedTuple):
    """The fields of ``os.stat`` that this pipeline uses."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    mode: int

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """(size, mtime_ns, ctime_ns, inode): while they stay the same, so does the content of the file."""
        return self.size, self.mtime_ns, self.ctime_ns, self.inode

    @property
    def is_regular(self) -> bool:
        """Whether this is a file, and no folder, pipe, socket or device."""
        return stat.S_ISREG(self.mode)


def file_stat(path: str | Path) -> FileStat:
    """The stat of ``path``; links are followed. That of a clip in object storage is what the bucket says of it.

    Raises:
        OSError: ``path`` does not exist, or its folder cannot be entered.
    """
    if (mirror := mirror_of(path)) is not None:
        return FileStat(*mirror.stat_fields(Path(path)))
    return from_os_stat(os.stat(path))


def from_os_stat(found: os.stat_result) -> FileStat:
    """The same fields of a stat that was taken elsewhere, such as that of an open file."""
    return FileStat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev, found.st_mode)


def regular_file_stat(path: str | Path) -> FileStat:
    """The stat of ``path``, which must be a file.

    Raises:
        RejectRow: ``missing_file``, ``broken_symlink``, ``is_a_directory``, ``not_a_file``, ``unreadable``.
    """
    try:
        found = file_stat(path)
    except FileNotFoundError as error:
        if os.path.islink(path):
            raise RejectRow("broken_symlink", f"a link to {printable(os.readlink(path))}, which is not there", transient=True) from error
        raise RejectRow("missing_file", "the file has gone since it was listed", transient=True) from error
    except OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error
    if stat.S_ISDIR(found.mode):
        raise RejectRow("is_a_directory", "a folder with the name of a video (what it holds is listed by itself)")
    if not found.is_regular:
        raise RejectRow("not_a_file", "a pipe, a socket or a device")
    return found


@contextmanager
def disk_errors_as_rejects() -> Iterator[None]:
    """Turn an ``OSError`` in the block into a rejection.

    Raises:
        RejectRow: ``missing_file`` or ``unreadable``; both are tried again in the next run.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise RejectRow("missing_file", "the file has gone since it was listed", transient=True) from error
    except OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error


def unlisted(error: OSError) -> str:
    """The sentence for a folder that cannot be listed."""
    return f"the folder cannot be listed, so nothing in it is used: {error.strerror}. Give yourself the right to read it, or move it away"


def printable(text: str) -> str:
    """``text`` with bytes that are not UTF-8 written as escapes, so that a table can hold it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
