"""Members of zips and tars, read in place: nothing is unpacked.

A member whose name would lead out of its folder when unpacked is still rejected. An archive that was split is read as a whole
(split_archive.py).
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.byte_streams import ByteRange, JoinedFiles
from motive_pipeline.files.file_stat import FileStat
from motive_pipeline.files.split_archive import archive_parts, archive_stat

ARCHIVE_SUFFIXES = (".zip", ".tar")

MAX_INFLATION = 100
"""A compressed member that grows by more than this factor is refused unread: video data hardly compress."""

_IN_MEMORY_BYTES = 64 * 2**20
_BUFFER_BYTES = 2**17
_DEFLATED_SLACK_BYTES = 2**20
_ARCHIVES_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file inside an archive. ``start`` is the position of its first byte; None when the member is compressed.

    ``problem`` is (reason, detail) when the member cannot be used.
    """

    name: str
    num_bytes: int
    start: int | None
    problem: tuple[str, str] | None = None

    @property
    def path(self) -> str:
        """The name without ``./`` and doubled slashes, as a location shows it."""
        return "/".join(part for part in self.name.split("/") if part not in ("", "."))


def list_archive(archive: Path) -> tuple[FileStat, list[ArchiveMember]]:
    """The stat of ``archive``, and every file in it, in the archive's order, unusable ones included.

    Raises:
        RejectRow: ``damaged_archive``, ``incomplete_archive``, ``unreadable``, ``not_a_file``.
    """
    stat, index = _index(archive)
    return stat, list(index.values())


def member_size(archive: Path, name: str) -> int:
    """The size of the member ``name``, unpacked. Raises as :func:`open_member` does."""
    return _usable_member(archive, name).num_bytes


def read_small_members(archive: Path, wanted: Sequence[ArchiveMember], max_bytes: int) -> Iterator[tuple[ArchiveMember, bytes]]:
    """The first ``max_bytes`` of each of ``wanted``. The archive is opened once.

    Raises:
        RejectRow: the archive cannot be read.
    """
    if not wanted:
        return
    with _opened(archive) as file, _archive_errors_as_rejects(archive):
        zipped = zipfile.ZipFile(file) if _is_zip(file) else None
        for member in wanted:
            if member.start is not None:
                file.seek(member.start)
                yield member, file.read(min(max_bytes, member.num_bytes))
            elif zipped is not None:
                with zipped.open(member.name) as stream:
                    yield member, stream.read(max_bytes)


@contextmanager
def open_member(archive: Path, name: str, *, check: bool = False) -> Iterator[io.BufferedReader]:
    """The bytes of a member. With ``check``, reading a zip's member compares its checksum, from start to end.

    Raises:
        RejectRow: ``missing_file``, the problem of the member, or ``damaged_archive`` (also while reading).
    """
    member = _usable_member(archive, name)
    with _opened(archive) as file, _archive_errors_as_rejects(archive):
        if member.start is not None and not (check and _is_zip(file)):
            yield io.BufferedReader(ByteRange(file, member.start, member.num_bytes), buffer_size=_BUFFER_BYTES)
        elif check:
            with zipfile.ZipFile(file) as opened, opened.open(member.name) as stream:
                yield io.BufferedReader(stream)  # type: ignore[arg-type]
        else:
            with zipfile.ZipFile(file) as opened, _inflated(opened, member) as stream:
                yield stream


def is_archive(path: Path) -> bool:
    """Whether the file begins like a zip or a tar, whatever its name says."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _is_zip(file) or _is_tar(file)
    except OSError:
        return False


def _usable_member(archive: Path, name: str) -> ArchiveMember:
    member = _index(archive)[1].get(name)
    if member is None:
        raise RejectRow("missing_file", f"{archive.name} holds no {name} (any more)", transient=True)
    if member.problem is not None:
        raise RejectRow(*member.problem)
    return member


def _index(archive: Path) -> tuple[FileStat, dict[str, ArchiveMember]]:
    """The stat and the members by the names that locations use. The index is kept while the archive stays the same."""
    try:
        found = archive_stat(archive)
    except OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error
    if not found.is_regular:
        raise RejectRow("not_a_file", "a pipe, a socket or a device under the name of an archive")
    return found, _remembered_index(archive, found.identity)


@lru_cache(maxsize=_ARCHIVES_REMEMBERED)
def _remembered_index(archive: Path, _identity: tuple[int, ...]) -> dict[str, ArchiveMember]:
    with _opened(archive) as file, _archive_errors_as_rejects(archive):
        listed = _zip_members(file) if _is_zip(file) else _tar_members(file)
        index: dict[str, ArchiveMember] = {}
        for member in listed:
            if member.problem is None and (problem := _name_problem(member.name)):
                member = ArchiveMember(member.name, member.num_bytes, None, problem)
            index[member.path] = member  # of two members with one name the last one counts, as in unpacking
        return index


def _zip_members(file: io.BufferedReader) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            problem = None
            if info.flag_bits & 0x1:
                problem = ("encrypted_member", "the archive's member is encrypted; unpack it with its password")
            elif info.file_size > MAX_INFLATION * info.compress_size + _DEFLATED_SLACK_BYTES:
                problem = ("suspicious_archive", f"would grow from {info.compress_size} to {info.file_size} bytes, which no video does")
            start = _data_start(file, info) if info.compress_type == zipfile.ZIP_STORED and problem is None else None
            yield ArchiveMember(info.filename, info.file_size, start, problem)


def _data_start(file: io.BufferedReader, info: zipfile.ZipInfo) -> int:
    """The position of a stored member's first byte. The lengths in the local header may differ from those in the central directory."""
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04" or len(header) < 30:
        raise zipfile.BadZipFile(f"no member where {info.filename} should begin")
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _tar_members(file: io.BufferedReader) -> Iterator[ArchiveMember]:
    with tarfile.open(fileobj=file, mode="r:") as opened:
        for info in opened:
            if info.isreg() and not info.issparse():
                yield ArchiveMember(info.name, info.size, info.offset_data)
            elif not info.isdir():
                yield ArchiveMember(info.name, 0, None, ("not_a_file", "the archive's member is a link, a device or sparse"))


def _name_problem(name: str) -> tuple[str, str] | None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or ".." in parts or re.match(r"^[A-Za-z]:", name):
        return "unsafe_member_name", "the member's name leads out of the archive's folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "bad_file_name", "the member's name is not valid UTF-8"
    return None


def _is_zip(file: io.BufferedReader) -> bool:
    file.seek(0)
    head = file.read(4)
    file.seek(0)
    return head in (b"PK\x03\x04", b"PK\x05\x06")


def _is_tar(file: io.BufferedReader) -> bool:
    file.seek(257)
    magic = file.read(5)
    file.seek(0)
    return magic == b"ustar"


@contextmanager
def _archive_errors_as_rejects(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise RejectRow(
            "damaged_archive", f"{archive.name} cannot be read as a zip or a tar ({error}); was it downloaded whole?"
        ) from error


@contextmanager
def _inflated(opened: zipfile.ZipFile, member: ArchiveMember) -> Iterator[io.BufferedReader]:
    """The bytes of a compressed member: in memory, or in a temporary file when they are many."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as spool, opened.open(member.name) as stream:
        while block := stream.read(2**20):
            spool.write(block)
        spool.seek(0)
        yield io.BufferedReader(spool)  # type: ignore[arg-type]


@contextmanager
def _opened(archive: Path) -> Iterator[io.BufferedReader]:
    parts = archive_parts(archive)
    if len(parts) == 1:
        with archive.open("rb") as file:
            yield file
        return
    with io.BufferedReader(JoinedFiles(parts), buffer_size=_BUFFER_BYTES) as file:
        yield file  # type: ignore[misc]
