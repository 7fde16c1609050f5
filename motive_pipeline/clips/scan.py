"""Which files there are, and which content each has: the identity of clips.

A clip's id is the first 16 hex digits of the SHA-256 of its file's bytes, so a renamed file is the same clip and a changed one is new.
Hashes are remembered in ``hashes.sqlite`` by (path, size, mtime_ns, ctime_ns, inode); for a member of an archive all but the path are the
archive's, so that one which has not changed is not read again.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motive_pipeline.clips import archive
from motive_pipeline.clips.entries import BadEntry, ClipSource, SourceEntry
from motive_pipeline.clips.parquet_videos import is_parquet
from motive_pipeline.clips.sources import clip_source, held_out_source, query_source
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger(__name__)

ID_DIGITS = 16
SETTLED_AFTER_NS = 2_000_000_000
"""A file younger than this when it is hashed may change again within the same time stamp, so its hash is not trusted next time."""

DIFFERENCES = {
    "missing_file": "rows without file",
    "orphan_file": "files without row",
    "duplicate_name": "files of a name that stands for another",
    "bad_row": "rows that cannot be read",
}
"""What a table and the files beside it disagree in, by reason code."""

_ATTEMPTS = 3
_BLOCK_BYTES = 2**20
_COMMIT_EVERY = 256
_LARGE_BYTES = 2**18
"""Hashing less takes about as long as handing it to another thread. A member of an archive is taken to be large."""

_HASHED_AHEAD = 4
"""Large files that are begun before the one that is waited for, for each thread."""
_REPORT_EVERY_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """A file of a source, with the identity of its content."""

    entry: SourceEntry
    clip_id: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a source holds now, in its order. ``num_hashed`` files were read for it, the others' hashes were remembered."""

    files: list[SourceFile]
    bad: list[BadEntry]
    num_hashed: int

    def facts(self) -> dict[str, Any]:
        """What a person wants to know of it."""
        return {
            "files": len(self.files),
            "different contents": len({file.clip_id for file in self.files}),
            "gigabytes": round(sum(file.num_bytes for file in self.files) / 1e9, 3),
            "without caption": sum(not file.entry.caption for file in self.files),
            "unusable entries": len(self.bad),
            "hashed now": self.num_hashed,
        } | self.differences()

    def differences(self) -> dict[str, int]:
        """What a table and the files beside it disagree in, where they do."""
        reasons = Counter(bad.reason for bad in self.bad)
        told = {words: reasons[reason] for reason, words in DIFFERENCES.items()}
        told["rows that name a file again"] = len(self.files) - len({file.entry.path for file in self.files})
        return {words: number for words, number in told.items() if number}


class HashMemory:
    """Remembered hashes of files. Losing it costs time only."""

    def __init__(self, state: Path) -> None:
        atomic.make_folder(state)  # beside a local root it lies in it
        self.file = state / "hashes.sqlite"
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            self._forget(error)
        self._unsaved: list[tuple[Any, ...]] = []
        self.num_hashed = 0

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.file, timeout=60)
        with db:
            db.execute(
                "CREATE TABLE IF NOT EXISTS hashes (path TEXT PRIMARY KEY, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,"
                " inode INTEGER, sha256 TEXT, settled INTEGER, num_bytes INTEGER) WITHOUT ROWID"
            )
            if not any(column[1] == "num_bytes" for column in db.execute("PRAGMA table_info(hashes)")):
                db.execute("ALTER TABLE hashes ADD COLUMN num_bytes INTEGER")
        return db

    def _forget(self, error: sqlite3.DatabaseError) -> None:
        """Begin anew when the file is damaged.

        Raises:
            MotiveError: the error means something else.
        """
        if isinstance(error, sqlite3.OperationalError):
            raise MotiveError(f"{self.file} cannot be used ({error}). It only remembers hashes: delete it.") from error
        log.warning("%s is damaged (%s); it only remembers hashes, so files are hashed again", self.file, error)
        for file in self.file.parent.glob(f"{self.file.name}*"):
            file.unlink()
        self._db = self._open()

    def sha256(self, path: Path) -> tuple[str, int]:
        """(hash of the file's bytes, its size), from memory where the file is the one that was hashed.

        Raises:
            RejectRow: ``missing_file``, ``unreadable`` or ``changed_while_reading``; all may be well next time.
        """
        with naming_trouble():
            return self.known(path, archive.status(path)) or self.remember(hashed(path))

    def known(self, path: Path, status: os.stat_result) -> tuple[str, int] | None:
        """What :meth:`sha256` gives, if it is remembered of a file with this ``status``."""
        try:
            found = self._db.execute(
                "SELECT sha256, num_bytes FROM hashes WHERE path=? AND size=? AND mtime_ns=? AND ctime_ns=? AND inode=? AND settled=1",
                (str(path), *_identity(status)),
            ).fetchone()
        except sqlite3.DatabaseError as error:
            self._forget(error)
            return None
        if found is None:
            return None
        return found[0], archive.num_bytes(path) if found[1] is None else found[1]

    def remember(self, found: Hashed) -> tuple[str, int]:
        """Take in what was hashed now; its hash and size."""
        self._unsaved.append((str(found.path), *found.identity, found.sha256, int(found.settled), found.num_bytes))
        self.num_hashed += 1
        if len(self._unsaved) >= _COMMIT_EVERY:
            self.save()
        return found.sha256, found.num_bytes

    def clip_id(self, path: Path) -> str:
        """The clip's id; see :meth:`sha256`."""
        return self.sha256(path)[0][:ID_DIGITS]

    def save(self) -> None:
        """Write down the hashes found since the last call."""
        try:
            self._save()
        except sqlite3.DatabaseError as error:
            self._forget(error)
            self._save()
        self._unsaved.clear()

    def _save(self) -> None:
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._unsaved)


@dataclass(frozen=True, kw_only=True)
class Hashed:
    """A file that was hashed now. ``settled``: it was old enough then for its time stamps to tell whether it changes."""

    path: Path
    sha256: str
    num_bytes: int
    identity: tuple[int, int, int, int]
    settled: bool


def hashed(path: Path) -> Hashed:
    """Read ``path`` and hash it; may run in any thread.

    Raises:
        RejectRow: ``changed_while_reading``.
        OSError: it cannot be read.
    """
    for _ in range(_ATTEMPTS):
        now_ns = time.time_ns()
        before = archive.status(path)
        with archive.open_bytes(path, check=True) as file:
            sha = hashlib.sha256()
            size = 0
            while block := file.read(_BLOCK_BYTES):
                sha.update(block)
                size += len(block)
        if _identity(before) == _identity(archive.status(path)):
            settled = now_ns - before.st_ctime_ns >= SETTLED_AFTER_NS
            return Hashed(path=path, sha256=sha.hexdigest(), num_bytes=size, identity=_identity(before), settled=settled)
    raise RejectRow(
        "changed_while_reading", "the file was being written while it was read; it is tried again in the next run", transient=True
    )


@contextmanager
def naming_trouble() -> Iterator[None]:
    """Turns what the file system says into a rejection."""
    try:
        yield
    except FileNotFoundError as error:
        raise RejectRow("missing_file", "the file has gone since it was listed", transient=True) from error
    except OSError as error:
        raise RejectRow("unreadable", f"cannot be read: {error.strerror}", transient=True) from error


def scan(source: ClipSource, memory: HashMemory, *, threads: int = 1, seen: Callable[[SourceFile], None] | None = None) -> Scan:
    """Every file of ``source`` with the hash of its content; what cannot be read is in ``bad``. ``seen`` is told of each file as it is found,
    in order. Large files are hashed in ``threads`` threads.

    Raises:
        MotiveError: the source holds no video at all.
    """
    files: list[SourceFile] = []
    bad: list[BadEntry] = []
    hashed_before = memory.num_hashed
    progress = _HashProgress(source.key)
    for found in _identified(source.entries(), memory, threads):
        if isinstance(found, SourceFile):
            files.append(found)
            progress.report(found.num_bytes, memory.num_hashed - hashed_before)
            if seen is not None:
                seen(found)
        else:
            bad.append(found)
    memory.save()
    if not files and not bad:
        raise MotiveError(f"{source.describe()}: no video found. Put videos there ({source.expects}), or name another folder.")
    return Scan(files=files, bad=bad, num_hashed=memory.num_hashed - hashed_before)


def hash_threads(ws: Workspace) -> int:
    """As many as there are processes that read videos, at least one."""
    return max(1, ws.config.engine.num_decode_workers)


def data_version(*scans: Scan) -> str:
    """A hash of what the sources hold: relative paths, contents and captions, unusable entries; no time stamps, no absolute paths."""
    return digest(
        [
            [
                [_said(file) for file in found.files],
                [[bad.relative, bad.reason] for bad in found.bad],
            ]
            for found in scans
        ]
    )


def _said(file: SourceFile) -> list[Any]:
    entry = file.entry
    said = [entry.relative, file.sha256, entry.caption, sorted(entry.extra.items())]
    beside = [sorted(entry.published.items()), list(entry.further_captions)] if entry.published or entry.further_captions else []
    return said + beside


def observe_clip_files(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """(data version, facts) of the clips' files as they are now.

    Raises:
        MotiveError: ``clips.path`` is missing, is no folder, or holds no video.
    """
    found = scan(clip_source(ws), HashMemory(ws.state), threads=hash_threads(ws))
    return data_version(found), found.facts()


def observe_query_files(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """(data version, facts) of the files of the queries and the held-out queries as they are now.

    Raises:
        MotiveError: as for the clips, with ``queries.path`` and ``queries.held_out_path``.
    """
    memory = HashMemory(ws.state)
    queries = scan(query_source(ws), memory, threads=hash_threads(ws))
    held_out = held_out_source(ws)
    if held_out is None:
        return data_version(queries), queries.facts()
    kept = scan(held_out, memory, threads=hash_threads(ws))
    facts = queries.facts() | {f"held out: {name}": value for name, value in kept.facts().items()}
    return data_version(queries, kept), facts


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _identified(entries: Iterable[SourceEntry | BadEntry], memory: HashMemory, threads: int) -> Iterator[SourceFile | BadEntry]:
    """The entries in their order, each with its hash."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hash")
    waiting: deque[SourceFile | BadEntry | tuple[SourceEntry, Future[Hashed]]] = deque()
    try:
        for entry in entries:
            waiting.append(entry if isinstance(entry, BadEntry) else _begun(entry, memory, pool))
            while waiting and (len(waiting) > threads * _HASHED_AHEAD or not isinstance(waiting[0], tuple) or waiting[0][1].done()):
                yield _ended(waiting.popleft(), memory)
        while waiting:
            yield _ended(waiting.popleft(), memory)
    finally:
        pool.shutdown(cancel_futures=True)


def _begun(entry: SourceEntry, memory: HashMemory, pool: ThreadPoolExecutor) -> SourceFile | BadEntry | tuple[SourceEntry, Future[Hashed]]:
    """The file with its hash, where that is remembered or soon made; else with the hash in the making."""
    try:
        with naming_trouble():
            status = archive.status(entry.path)
            found = memory.known(entry.path, status)
            if found is None and _is_worth_a_thread(entry.path, status):
                return entry, pool.submit(hashed, entry.path)
            return _file(entry, *(found or memory.remember(hashed(entry.path))))
    except RejectRow as rejection:
        return _bad(entry, rejection)


def _is_worth_a_thread(path: Path, status: os.stat_result) -> bool:
    """Not what lies in a Parquet file: threads would each decode the groups that one reader goes through once."""
    address = archive.split_address(path)
    return status.st_size >= _LARGE_BYTES and (address is None or not is_parquet(address[0]))


def _ended(begun: SourceFile | BadEntry | tuple[SourceEntry, Future[Hashed]], memory: HashMemory) -> SourceFile | BadEntry:
    if not isinstance(begun, tuple):
        return begun
    entry, future = begun
    try:
        with naming_trouble():
            return _file(entry, *memory.remember(future.result()))
    except RejectRow as rejection:
        return _bad(entry, rejection)


def _file(entry: SourceEntry, sha256: str, num_bytes: int) -> SourceFile:
    return SourceFile(entry=entry, clip_id=sha256[:ID_DIGITS], sha256=sha256, num_bytes=num_bytes)


def _bad(entry: SourceEntry, rejection: RejectRow) -> BadEntry:
    return BadEntry(path=str(entry.path), relative=entry.relative, reason=rejection.reason, detail=rejection.detail)


class _HashProgress:
    """A line in the log every few seconds while files are being read."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._files = self._bytes = 0
        self._start = self._last = time.monotonic()

    def report(self, num_bytes: int, num_hashed: int) -> None:
        self._files += 1
        self._bytes += num_bytes
        now = time.monotonic()
        if now - self._last >= _REPORT_EVERY_S:
            self._last = now
            log.info(
                "%s: %d files looked at, %d hashed, %.1f GB, %.0f s",
                self._key,
                self._files,
                num_hashed,
                self._bytes / 1e9,
                now - self._start,
            )
