"""The SHA-256 of files, and a memory of it: a file that has not changed is not read again.

A hash is remembered by (location, size, mtime_ns, ctime_ns, inode). For a member, all but the location are those of its archive. The windows
of a file share its hash.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files.file_stat import disk_errors_as_rejects
from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.files.window import Window
from motive_pipeline.storage import atomic

log = logging.getLogger(__name__)

ID_DIGITS = 16
"""A clip's id is this many hex digits of the hash of its bytes (and of its window, if it has one)."""

SETTLED_AFTER_NS = 2_000_000_000
"""A file younger than this when it is hashed may change again within the same time stamp. Its hash is not used next time."""

_ATTEMPTS = 3
_BLOCK_BYTES = 2**20
_COMMIT_EVERY = 256


@dataclass(frozen=True, kw_only=True)
class FileHash:
    """The hash of a file that was read now; ``file`` has the stat that holds for it.

    ``is_settled``: the file was old enough for its time stamps to show any later change.
    """

    file: MediaFile
    sha256: str
    num_bytes: int
    is_settled: bool


def clip_id_of(sha256: str, window: Window | None) -> str:
    """The id of the clip that is ``window`` (or all) of the file with the hash ``sha256``."""
    return (sha256 if window is None else hashlib.sha256(f"{sha256}{window.suffix}".encode()).hexdigest())[:ID_DIGITS]


def hash_file(file: MediaFile) -> FileHash:
    """Read ``file`` and hash it. Can run in any thread.

    Raises:
        RejectRow: ``changed_while_reading``.
        OSError: the file cannot be read.
    """
    before = file.with_stat()
    for _ in range(_ATTEMPTS):
        started_ns = time.time_ns()
        with before.open(check=True) as opened:
            sha = hashlib.sha256()
            num_bytes = 0
            while block := opened.read(_BLOCK_BYTES):
                sha.update(block)
                num_bytes += len(block)
        after = replace(file, stat=file.current_stat())
        assert before.stat is not None
        assert after.stat is not None
        if before.stat.identity == after.stat.identity:
            is_settled = started_ns - before.stat.ctime_ns >= SETTLED_AFTER_NS
            return FileHash(file=before, sha256=sha.hexdigest(), num_bytes=num_bytes, is_settled=is_settled)
        before = after
    raise RejectRow(
        "changed_while_reading", "the file was being written while it was read; it is tried again in the next run", transient=True
    )


class HashMemory:
    """Remembered hashes, in ``hashes.sqlite``. Losing that file costs time only."""

    def __init__(self, state: Path) -> None:
        """Opens the memory in the folder ``state``. Where that cannot be written, new hashes are remembered as long as this object lives.

        Raises:
            MotiveError: the file is not a usable database.
        """
        self.file = state / "hashes.sqlite"
        if atomic.is_writable(state):
            atomic.make_folder(state)  # beside a local root it lies in it
            try:
                self._db = self._open()
            except sqlite3.DatabaseError as error:
                self._forget(error)
        else:
            self._db = self._copy()
        self._unsaved: dict[str, tuple[Any, ...]] = {}
        self.num_hashed = 0

    def _open(self) -> sqlite3.Connection:
        return self._with_table(sqlite3.connect(self.file, timeout=60))

    def _copy(self) -> sqlite3.Connection:
        """The file's content in main memory; nothing if it does not exist or cannot be read."""
        db = sqlite3.connect(":memory:")
        if self.file.exists():
            try:
                with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True)) as stored:
                    stored.backup(db)
            except sqlite3.DatabaseError as error:
                log.warning("%s cannot be read (%s); it only remembers hashes, so files are hashed again", self.file, error)
                db = sqlite3.connect(":memory:")
        return self._with_table(db)

    def _with_table(self, db: sqlite3.Connection) -> sqlite3.Connection:
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

    def clip_id(self, source: MediaFile | Path) -> str:
        """The clip's id as the file is now. Raises as :meth:`sha256` does."""
        file = media_file(source)
        return clip_id_of(self.sha256(file)[0], file.window)

    def sha256(self, source: MediaFile | Path) -> tuple[str, int]:
        """(hash of the bytes, their number) as the file is now: remembered, or read.

        Raises:
            RejectRow: ``missing_file``, ``unreadable`` or ``changed_while_reading``; all are tried again in the next run.
        """
        place = media_file(source)
        with disk_errors_as_rejects():
            file = replace(place, stat=place.current_stat())
            return self.remembered(file) or self.remember(hash_file(file))

    def remembered(self, file: MediaFile) -> tuple[str, int] | None:
        """(hash, number of bytes) of a file that was hashed before with the stat that ``file`` has."""
        assert file.stat is not None
        place = file.whole.location
        unsaved = self._unsaved.get(place)
        if unsaved is not None and unsaved[1:5] == file.stat.identity:
            return (unsaved[5], unsaved[7]) if unsaved[6] else None
        try:
            found = self._db.execute(
                "SELECT sha256, num_bytes FROM hashes WHERE path=? AND size=? AND mtime_ns=? AND ctime_ns=? AND inode=? AND settled=1",
                (place, *file.stat.identity),
            ).fetchone()
        except sqlite3.DatabaseError as error:
            self._forget(error)
            return None
        if found is None:
            return None
        return found[0], file.num_bytes() if found[1] is None else found[1]

    def remember(self, found: FileHash) -> tuple[str, int]:
        """Take in a new hash; returns (hash, number of bytes)."""
        assert found.file.stat is not None
        place = found.file.whole.location
        row = (place, *found.file.stat.identity, found.sha256, int(found.is_settled), found.num_bytes)
        self._unsaved[place] = row
        self.num_hashed += 1
        if len(self._unsaved) >= _COMMIT_EVERY:
            self.save()
        return found.sha256, found.num_bytes

    def save(self) -> None:
        """Write the hashes that were found since the last call."""
        try:
            self._save()
        except sqlite3.DatabaseError as error:
            self._forget(error)
            self._save()
        self._unsaved.clear()

    def _save(self) -> None:
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._unsaved.values())
