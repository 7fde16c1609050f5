"""Members of zips and tars, read in place: nothing is unpacked.

A member whose name would lead out of its folder when unpacked is still rejected. An archive that was split is read as a whole
(split_archive.py).
"""

from __future__ import annotations

import errno
import io
import lzma
import re
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.byte_streams import ByteRange, JoinedFiles
from motive_pipeline.files.file_stat import FileStat, printable
from motive_pipeline.files.split_archive import archive_parts, archive_stat
from motive_pipeline.files.unread_archive import spanned_problem, unread_kind
from motive_pipeline.files.zip_inflate import MAX_INFLATED_BYTES, MAX_INFLATION, open_in_zip
from motive_pipeline.files.zip_names import name_of, open_zip

ARCHIVE_SUFFIXES = (".zip", ".tar")

_IN_MEMORY_BYTES = 64 * 2**20
_BUFFER_BYTES = 2**17
_DEFLATED_SLACK_BYTES = 2**20
_ARCHIVES_REMEMBERED = 256
_TAR_BLOCK_BYTES = 512
_MAGIC_BYTES = 8

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHOD_NAMES = {9: "Deflate64", 93: "zstd", 94: "mp3", 95: "xz", 96: "jpeg", 97: "wavpack", 98: "ppmd"}

_READER_ERRORS = (
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error,
    EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, LookupError,
)  # fmt: skip
"""What the standard library's readers raise for a file that is damaged, or of a kind that they do not know."""


@dataclass(frozen=True, slots=True)
class ArchiveMember:
    """A file inside an archive. ``start`` is the position of its first byte; None when the member is compressed.

    ``problem`` is (reason, detail) when the member cannot be used. ``is_rest`` marks what follows the last readable member of a damaged tar.
    """

    name: str
    num_bytes: int
    start: int | None
    problem: tuple[str, str] | None = None
    is_rest: bool = False

    @property
    def path(self) -> str:
        """The name without ``./`` and doubled slashes, as a location shows it."""
        return "/".join(part for part in self.name.split("/") if part not in ("", "."))


def list_archive(archive: Path) -> tuple[FileStat, list[ArchiveMember]]:
    """The stat of ``archive``, and every file in it, in the archive's order, unusable ones included.

    Raises:
        RejectRow: ``damaged_archive``, ``incomplete_archive``, ``unsupported_archive``, ``unreadable``, ``not_a_file``.
    """
    stat, index = _index(archive)
    return stat, list(index.values())


def member_size(archive: Path, name: str) -> int:
    """The size of the member ``name``, unpacked. Raises as :func:`open_member` does."""
    return _usable_member(archive, name).num_bytes


def read_small_members(archive: Path, wanted: Sequence[ArchiveMember], max_bytes: int) -> Iterator[tuple[ArchiveMember, bytes | RejectRow]]:
    """The first ``max_bytes`` of each of ``wanted``, or why it cannot be read. The archive is opened once.

    Raises:
        RejectRow: the archive cannot be read.
    """
    if not wanted:
        return
    with ExitStack() as opened_here:
        with _archive_errors_as_rejects(archive):
            file = opened_here.enter_context(_opened(archive))
            zipped = opened_here.enter_context(open_zip(file)) if _is_zip(file) else None
        for member in wanted:
            try:
                yield member, _head(archive, file, zipped, member, max_bytes)
            except RejectRow as rejection:
                yield member, rejection


def _head(archive: Path, file: BufferedIOBase, zipped: zipfile.ZipFile | None, member: ArchiveMember, max_bytes: int) -> bytes:
    if member.problem is not None:
        raise RejectRow(*member.problem)
    with _archive_errors_as_rejects(archive, member.name):
        if zipped is not None:
            with open_in_zip(zipped, member.name) as stream:
                return stream.read(max_bytes)
        assert member.start is not None
        file.seek(member.start)
        return file.read(min(max_bytes, member.num_bytes))


@contextmanager
def open_member(archive: Path, name: str, *, check: bool = False) -> Iterator[io.BufferedReader]:
    """The bytes of a member. With ``check``, reading a zip's member compares its checksum, from start to end.

    Raises:
        RejectRow: ``missing_file``, the problem of the member, or ``damaged_archive`` (also while reading).
    """
    member = _usable_member(archive, name)
    with ExitStack() as opened_here:
        with _archive_errors_as_rejects(archive, name):
            file = opened_here.enter_context(_opened(archive))
            if member.start is not None and not (check and _is_zip(file)):
                inside = ByteRange(file, member.start, member.num_bytes)
                stream: io.BufferedReader = io.BufferedReader(inside, buffer_size=_BUFFER_BYTES)  # type: ignore[assignment]
            else:
                zipped = opened_here.enter_context(open_zip(file))
                stream = opened_here.enter_context(_checked(archive, zipped, member) if check else _inflated(zipped, member))
        yield stream


def is_archive(path: Path) -> bool:
    """Whether the file begins like an archive, whatever its name says; perhaps like one that cannot be read in place."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _is_zip(file) or _is_tar(file) or unread_kind(_magic(file)) is not None
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
        if not found.is_regular:
            raise RejectRow("not_a_file", "a pipe, a socket or a device under the name of an archive")
        if problem := spanned_problem(archive):
            raise RejectRow(*problem)
        return found, _remembered_index(archive, found.identity)
    except OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error


@lru_cache(maxsize=_ARCHIVES_REMEMBERED)
def _remembered_index(archive: Path, _identity: tuple[int, ...]) -> dict[str, ArchiveMember]:
    with _opened(archive) as file, _archive_errors_as_rejects(archive):
        if unread := unread_kind(_magic(file)):
            raise RejectRow("unsupported_archive", unread)
        listed = _zip_members(file) if _is_zip(file) else _tar_members(file)
        index: dict[str, ArchiveMember] = {}
        for member in listed:
            if member.problem is None and (problem := _name_problem(member.name)):
                member = ArchiveMember(member.name, member.num_bytes, None, problem)
            index[member.path] = member  # of two members with one name the last one counts, as in unpacking
        return index


def _zip_members(file: io.BufferedReader) -> Iterator[ArchiveMember]:
    with open_zip(file) as opened:
        for info in opened.infolist():
            if not info.is_dir():
                start, problem = _usable_start(file, info)
                yield ArchiveMember(name_of(opened, info), info.file_size, start, problem)


def _usable_start(file: io.BufferedReader, info: zipfile.ZipInfo) -> tuple[int | None, tuple[str, str] | None]:
    """(position of a stored member's first byte, its problem): each None where there is none."""
    if info.flag_bits & 0x1:
        return None, ("encrypted_member", "the archive's member is encrypted; unpack it with its password")
    if info.compress_type not in _METHODS:
        method = _METHOD_NAMES.get(info.compress_type, f"method {info.compress_type}")
        return None, ("unsupported_compression", f"compressed with {method}, which is not read; unpack the archive, or zip its files again")
    if info.file_size > MAX_INFLATION * info.compress_size + _DEFLATED_SLACK_BYTES:
        return None, ("suspicious_archive", f"would grow from {info.compress_size} to {info.file_size} bytes, which no video does")
    if info.compress_type != zipfile.ZIP_STORED:
        if info.file_size > MAX_INFLATED_BYTES:
            allowed = f"{MAX_INFLATED_BYTES // 2**30} GiB is the limit for a compressed member; store it without compression (zip -0), or unpack it"
            return None, ("suspicious_archive", f"would be unpacked to {info.file_size} bytes: {allowed}")
        return None, None
    start = _data_start(file, info)
    return start, None if start is not None else ("damaged_archive", "the archive holds no member where this one should begin")


def _data_start(file: io.BufferedReader, info: zipfile.ZipInfo) -> int | None:
    """The position of a stored member's first byte. The lengths in the local header may differ from those in the central directory."""
    if info.header_offset < 0:
        return None
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04" or len(header) < 30:
        return None
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _tar_members(file: io.BufferedReader) -> Iterator[ArchiveMember]:
    """The members of a tar. Where a header is damaged, the rest of the archive is one member with that problem."""
    num_bytes = file.seek(0, io.SEEK_END)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as opened:
        while (info := _next_in_tar(opened)) is not None:
            if info.isreg() and not info.issparse():
                is_cut = info.offset_data + info.size > num_bytes
                problem = ("damaged_archive", "the archive ends inside this member; was it downloaded whole?") if is_cut else None
                yield ArchiveMember(info.name, info.size, info.offset_data, problem)
            elif not info.isdir():
                yield ArchiveMember(info.name, 0, None, ("not_a_file", "the archive's member is a link, a device or sparse"))
        end = opened.offset
    file.seek(end)
    if file.read(_TAR_BLOCK_BYTES).strip(b"\0"):
        detail = f"what follows byte {end} of {num_bytes} cannot be read, since the header of a member is damaged there"
        yield ArchiveMember(f"(from byte {end})", 0, None, ("damaged_archive", detail), is_rest=True)


def _next_in_tar(opened: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; None at the end, and where the rest cannot be read. Raises if there is no member at all."""
    at = opened.offset
    try:
        return opened.next()
    except _READER_ERRORS:
        if at == 0:
            raise
        return None


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


def _magic(file: BufferedIOBase) -> bytes:
    file.seek(0)
    head = file.read(_MAGIC_BYTES)
    file.seek(0)
    return head


@contextmanager
def _archive_errors_as_rejects(archive: Path, member: str = "") -> Iterator[None]:
    """Turn what the readers of zips and tars raise in the block into a rejection. Errors of the disk pass."""
    try:
        yield
    except _READER_ERRORS as error:
        raise _damaged(archive, member, error) from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # bzip2 has none for damaged data; a seek to nowhere is an invalid argument
            raise
        raise _damaged(archive, member, error) from error


def _damaged(archive: Path, member: str, error: Exception) -> RejectRow:
    name = printable(archive.name)
    what = f"{printable(member)} in {name} cannot be read" if member else f"{name} cannot be read as a zip or a tar"
    return RejectRow("damaged_archive", f"{what} ({str(error) or type(error).__name__}); was it downloaded whole?")


class _CheckedStream(io.RawIOBase):
    """A member of a zip, whose reader's errors are rejections."""

    def __init__(self, archive: Path, member: ArchiveMember, stream: BufferedIOBase) -> None:
        self._archive, self._member, self._stream = archive, member, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _archive_errors_as_rejects(self._archive, self._member.name):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _checked(archive: Path, opened: zipfile.ZipFile, member: ArchiveMember) -> Iterator[io.BufferedReader]:
    with open_in_zip(opened, member.name) as stream:
        yield io.BufferedReader(_CheckedStream(archive, member, cast(BufferedIOBase, stream)), buffer_size=_BUFFER_BYTES)


@contextmanager
def _inflated(opened: zipfile.ZipFile, member: ArchiveMember) -> Iterator[io.BufferedReader]:
    """The bytes of a compressed member: in memory, or in a temporary file when they are many."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as spool:
        with open_in_zip(opened, member.name) as stream:
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
