"""Videos inside zips, tars and Parquet files, read where they lie: nothing is unpacked.

A member is addressed as a path, ``/data/part12.zip!/inner/a.mp4``; every function here takes such a path as well as that of a plain file.
Names that would leave their folder when unpacked are refused, though nothing here ever unpacks. An archive that was split into ``..._partaa``,
``..._partab`` is read as a whole under the name of its first part. In a Parquet file a member is a row's bytes (parquet_videos.py).
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import tempfile
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.parquet_column import is_parquet, read_video

MARK = "!/"
ARCHIVE_SUFFIXES = (".zip", ".tar")
FIRST_PART = re.compile(r"^(?P<stem>.+?)(?P<mark>[._-](?:part)?)(?P<count>aa|00|001)$")
"""The first part of an archive cut by ``split``: OpenVid's ``OpenVid_part73_partaa``, Pexels' ``pexels_45k.tar.00``."""

_ANY_PART = re.compile(r"^(?P<head>.+[._-]part|.+\.(?:zip|tar)[._-])(?P<count>[a-z]{2}|[0-9]{2,3})$")
"""Any part, where the name leaves no doubt: other things end in ``_01``, too."""

MAX_INFLATION = 100
"""A compressed member that grows by more than this is no video, whose data hardly compress; it is refused unread."""

_IN_MEMORY_BYTES = 64 * 2**20
_BUFFER_BYTES = 2**17
_DEFLATED_SLACK_BYTES = 2**20
_ARCHIVES_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside an archive. ``start`` is where its bytes begin; None where they are compressed."""

    name: str
    num_bytes: int
    start: int | None
    trouble: tuple[str, str] | None = None
    """(reason, detail) where it cannot be used."""

    @property
    def address(self) -> str:
        """The name as a path would write it: without ``./`` and doubled slashes."""
        return "/".join(part for part in self.name.split("/") if part not in ("", "."))


def split_address(path: Path) -> tuple[Path, str] | None:
    """(archive, member's name) of an address; None where ``path`` is a plain file's."""
    text = str(path)
    position = text.find(MARK)
    while position >= 0:
        archive = Path(text[:position])
        if archive.is_file():
            return archive, text[position + len(MARK) :]
        position = text.find(MARK, position + 1)
    return None


def file_of(path: Path) -> Path:
    """The file on disk that holds ``path``: the archive of a member, else ``path`` itself."""
    address = split_address(path)
    return address[0] if address else path


def status(path: Path) -> os.stat_result:
    """``os.stat`` of the file on disk that holds ``path``; of a split archive the size of all parts and the time of the youngest.

    Raises:
        OSError: it is not there, or cannot be looked at.
        RejectRow: ``incomplete_archive``.
    """
    address = split_address(path)
    return _archive_status(address[0]) if address else os.stat(path)


def _archive_status(archive: Path) -> os.stat_result:
    found = [os.stat(part) for part in _parts(archive)]
    if len(found) == 1:
        return found[0]
    times = {name: max(getattr(each, name) for each in found) for name in ("st_mtime_ns", "st_ctime_ns")}
    fields = list(found[0])
    fields[stat.ST_SIZE] = sum(each.st_size for each in found)
    return os.stat_result(fields, times)


def members(archive: Path) -> list[Member]:
    """Every file in ``archive``, in its order; those that cannot be used carry their trouble.

    Raises:
        RejectRow: ``damaged_archive``, ``incomplete_archive``, ``unreadable``.
    """
    return list(_index(archive).values())


def num_bytes(path: Path) -> int:
    """How large ``path`` is.

    Raises:
        RejectRow: the member is not there, or the archive cannot be read.
        OSError: a plain file is not there.
    """
    address = split_address(path)
    if address is None:
        return os.stat(path).st_size
    return len(read_video(*address)) if is_parquet(address[0]) else _member(*address).num_bytes


def read_small(archive: Path, wanted: Sequence[Member], most: int) -> Iterator[tuple[Member, bytes]]:
    """The first ``most`` bytes of each of ``wanted``, from an archive that is opened once.

    Raises:
        RejectRow: the archive cannot be read.
    """
    if not wanted:
        return
    with _open_archive(archive) as file, _damage_named(archive):
        zipped = zipfile.ZipFile(file) if _is_zip(file) else None
        for member in wanted:
            if member.start is not None:
                file.seek(member.start)
                yield member, file.read(min(most, member.num_bytes))
            elif zipped is not None:
                with zipped.open(member.name) as stream:
                    yield member, stream.read(most)


@contextmanager
def open_bytes(path: Path, *, check: bool = False) -> Iterator[io.BufferedReader]:
    """The bytes of a plain file or a member, to be read and sought in. With ``check``, reading a zip's member compares its checksum.

    Raises:
        RejectRow: the member is not there or cannot be used; ``damaged_archive`` also while reading.
        OSError: a plain file cannot be read.
    """
    address = split_address(path)
    if address is None:
        with path.open("rb") as file:
            yield file
        return
    archive, name = address
    if is_parquet(archive):
        yield io.BufferedReader(io.BytesIO(read_video(archive, name)))  # type: ignore[arg-type]
        return
    member = _member(archive, name)
    with _open_archive(archive) as file, _damage_named(archive):
        if member.start is not None and not (check and _is_zip(file)):
            yield io.BufferedReader(_Range(file, member.start, member.num_bytes), buffer_size=_BUFFER_BYTES)
        elif check:
            with zipfile.ZipFile(file) as opened, opened.open(member.name) as stream:
                yield io.BufferedReader(stream)  # type: ignore[arg-type]
        else:
            with zipfile.ZipFile(file) as opened, _inflated(opened, member) as stream:
                yield stream


def _member(archive: Path, name: str) -> Member:
    member = _index(archive).get(name)
    if member is None:
        raise RejectRow("missing_file", f"{archive.name} holds no {name} (any more)", transient=True)
    if member.trouble is not None:
        raise RejectRow(*member.trouble)
    return member


def _index(archive: Path) -> dict[str, Member]:
    """The members by the names that addresses use, remembered while the file stays as it is."""
    try:
        found = _archive_status(archive)
    except OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error
    if not stat.S_ISREG(found.st_mode):
        raise RejectRow("not_a_file", "a pipe, a socket or a device under the name of an archive")
    return _remembered_index(archive, (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))


@lru_cache(maxsize=_ARCHIVES_REMEMBERED)
def _remembered_index(archive: Path, _identity: tuple[int, ...]) -> dict[str, Member]:
    with _open_archive(archive) as file, _damage_named(archive):
        listed = _zip_members(file) if _is_zip(file) else _tar_members(file)
        index: dict[str, Member] = {}
        for member in listed:
            if member.trouble is None and (trouble := _unsafe(member.name)):
                member = Member(member.name, member.num_bytes, None, trouble)
            index[member.address] = member  # of two with one name the later counts, as it does when they are unpacked
        return index


def _zip_members(file: io.BufferedReader) -> Iterator[Member]:
    with zipfile.ZipFile(file) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            trouble = None
            if info.flag_bits & 0x1:
                trouble = ("encrypted_member", "the archive's member is encrypted; unpack it with its password")
            elif info.file_size > MAX_INFLATION * info.compress_size + _DEFLATED_SLACK_BYTES:
                trouble = ("suspicious_archive", f"would grow from {info.compress_size} to {info.file_size} bytes, which no video does")
            start = _data_start(file, info) if info.compress_type == zipfile.ZIP_STORED and trouble is None else None
            yield Member(info.filename, info.file_size, start, trouble)


def _data_start(file: io.BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where a stored member's bytes begin: behind its local header, whose two lengths need not be the central directory's."""
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04" or len(header) < 30:
        raise zipfile.BadZipFile(f"no member where {info.filename} should begin")
    return info.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _tar_members(file: io.BufferedReader) -> Iterator[Member]:
    with tarfile.open(fileobj=file, mode="r:") as opened:
        for info in opened:
            if info.isreg() and not info.issparse():
                yield Member(info.name, info.size, info.offset_data)
            elif not info.isdir():
                yield Member(info.name, 0, None, ("not_a_file", "the archive's member is a link, a device or sparse"))


def _unsafe(name: str) -> tuple[str, str] | None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith("/") or ".." in parts or re.match(r"^[A-Za-z]:", name):
        return "unsafe_member_name", "the member's name leads out of the archive's folder"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "bad_file_name", "the member's name is not valid UTF-8"
    return None


def is_archive(path: Path) -> bool:
    """Whether the file begins as a zip or a tar does, whatever its name says."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return _is_zip(file) or _is_tar(file)
    except OSError:
        return False


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
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
        raise RejectRow(
            "damaged_archive", f"{archive.name} cannot be read as a zip or a tar ({error}); was it downloaded whole?"
        ) from error


@contextmanager
def _inflated(opened: zipfile.ZipFile, member: Member) -> Iterator[io.BufferedReader]:
    """A compressed member's bytes, in memory or, where they are many, in a file without a name."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY_BYTES) as spool, opened.open(member.name) as stream:
        while block := stream.read(2**20):
            spool.write(block)
        spool.seek(0)
        yield io.BufferedReader(spool)  # type: ignore[arg-type]


@contextmanager
def _open_archive(archive: Path) -> Iterator[io.BufferedReader]:
    parts = _parts(archive)
    if len(parts) == 1:
        with archive.open("rb") as file:
            yield file
        return
    with io.BufferedReader(_Joined(parts), buffer_size=_BUFFER_BYTES) as file:
        yield file  # type: ignore[misc]


def _parts(archive: Path) -> list[Path]:
    """The files that make up ``archive``: itself, or all parts of one that was split.

    Raises:
        RejectRow: ``incomplete_archive``: the first part, or one between two others, is missing.
    """
    found = FIRST_PART.match(archive.name)
    if found is None:
        first = _first_part(archive.name)
        if first is not None and not (archive.parent / first).exists():
            raise RejectRow("incomplete_archive", f"a part of a split archive whose first part, {first}, is missing")
        return [archive]
    head, width = found["stem"] + found["mark"], len(found["count"])
    count = re.compile(rf"^{re.escape(head)}(?P<count>{'[a-z]' if found['count'] == 'aa' else '[0-9]'}{{{width}}})$")
    numbered = {_number(match["count"]): archive.parent / name for name in os.listdir(archive.parent) if (match := count.match(name))}
    missing = [number for number in range(_number(found["count"]), max(numbered, default=0)) if number not in numbered]
    if missing:
        raise RejectRow("incomplete_archive", f"{len(missing)} of the parts {head}* are missing; the first is number {missing[0] + 1}")
    return [numbered[number] for number in sorted(numbered)] if len(numbered) > 1 else [archive]


def parts_without_first(names: Collection[str]) -> list[str]:
    """Of each split archive whose first part is not among ``names``, the lowest part that is."""
    lowest: dict[str, str] = {}
    for name in sorted(names):
        first = _first_part(name)
        if first is not None and first not in names:
            lowest.setdefault(first, name)
    return list(lowest.values())


def _first_part(name: str) -> str | None:
    """What the first part is called, where ``name`` is a later one's."""
    found = _ANY_PART.match(name)
    if found is None:
        return None
    first = "aa" if found["count"].isalpha() else "001" if len(found["count"]) == 3 else "00"
    return found["head"] + first if found["count"] != first else None


def _number(count: str) -> int:
    return int(count) if count.isdigit() else 26 * (ord(count[0]) - ord("a")) + ord(count[1]) - ord("a")


class _Range(io.RawIOBase):
    """Bytes ``start`` to ``start + size`` of a file, as a file."""

    def __init__(self, file: io.BufferedReader, start: int, size: int) -> None:
        self._file, self._start, self._size, self._position = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Joined(io.RawIOBase):
    """Several files one after the other, as one file."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self._files = [part.open("rb") for part in parts]
        self._ends = list(accumulate(os.fstat(file.fileno()).st_size for file in self._files))
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._ends[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        number = bisect_right(self._ends, self._position)
        if number == len(self._files):
            return 0
        start = self._ends[number - 1] if number else 0
        self._files[number].seek(self._position - start)
        read = self._files[number].readinto(buffer)  # type: ignore[attr-defined]
        self._position += read
        return read

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()
