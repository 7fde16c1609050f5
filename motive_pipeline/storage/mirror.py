"""Copies of clips that are in object storage, in a cache of bounded size on this machine.

A clip at ``s3://bucket/a/b.mp4`` is the path ``<cache>/bucket_clips/s3/bucket/a/b.mp4``, whether a copy is there or not; the path tells everything, so
any process can open it, also on a machine that has never listed the bucket. Size, e-tag and time of the object stand for the file's own. A copy is made when the clip is opened (:func:`held`); those used
longest ago make room for it. A file in use is never removed: it is locked, also against other processes.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import sqlite3
import stat
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket, Listed
from motive_pipeline.bucket.trouble import Absent, BucketError, Conflict
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.storage import atomic

FOLDER = "bucket_clips"
"""The name of the cache's folder; no other folder on the way to a clip may have it."""

SIDECARS = (".txt", ".caption", ".json")
"""Captions, which are copied with every listing and stay."""

_SIDECAR_BYTES = 2**20
_AT_ONCE = 16
_ATTEMPTS = 3
_FRESH_FOR_S = 2.0
_TABLE = """CREATE TABLE IF NOT EXISTS objects (
    name TEXT PRIMARY KEY, size INTEGER NOT NULL, e_tag TEXT, version TEXT, modified_ns INTEGER NOT NULL,
    seen INTEGER NOT NULL, used_ns INTEGER, stays INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID"""
"""``name`` is the path below the folder; ``used_ns`` is NULL where there is no copy."""


def held(path: Path) -> Any:
    """A context in which the file ``path`` can be opened: that of a clip in object storage is copied first, and kept until the end. Other files: nothing.

    Raises:
        RejectRow: ``missing_file``, ``unreadable``; both are tried again in the next run.
    """
    mirror = mirror_of(path)
    return nullcontext() if mirror is None else mirror.held(path)


def mirror_of(path: str | Path) -> BucketMirror | None:
    """The mirror that ``path`` belongs to; None for other paths."""
    text = str(path)
    place = text.find(f"/{FOLDER}/")
    return _mirror(text[: place + 1 + len(FOLDER)]) if place >= 0 else None


def on_this_machine(place: str) -> str:
    """``place``, which begins with a path, as it is on this machine: of a clip in object storage that another machine has listed, or one with another
    ``storage.state``, the path below the cache of the workspace that was opened last."""
    _, mark, name = place.partition(f"/{FOLDER}/")
    if not mark or not _expected or mirror_of(place) is not None:
        return place
    return f"{next(reversed(_expected))}/{name}"


def expect(cache: Path, max_bytes: int) -> None:
    """Let :func:`mirror_of` make the mirror below ``cache`` when a path in it is first used: another machine may have listed the bucket."""
    folder = str(cache / FOLDER)
    if _expected.pop(folder, None) != max_bytes:
        _mirror.cache_clear()
    _expected[folder] = max_bytes


_expected: dict[str, int] = {}
"""The most bytes of each cache that a workspace of this process may use; that of the last workspace stands last."""


@lru_cache(maxsize=8)
def _mirror(folder: str) -> BucketMirror | None:
    if Path(folder, ".index.sqlite").exists():
        return BucketMirror(Path(folder))
    return _made(Path(folder), _expected[folder]) if folder in _expected else None


def open_mirror(cache: Path, max_bytes: int) -> BucketMirror:
    """The mirror below the folder ``cache``, which keeps at most ``max_bytes`` of clips."""
    mirror = _made(cache / FOLDER, max_bytes)
    _mirror.cache_clear()
    return mirror


def _made(folder: Path, max_bytes: int) -> BucketMirror:
    atomic.make_folder(folder)
    mirror = BucketMirror(folder)
    mirror.limit(max_bytes)
    return mirror


class BucketMirror:
    """The copies below ``folder``, with what is known of their objects in ``.index.sqlite``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._connections = threading.local()
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._listed_at: dict[str, float] = {}
        with self._db() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(_TABLE)
            db.execute("CREATE TABLE IF NOT EXISTS settings (max_bytes INTEGER)")

    @contextmanager
    def _db(self) -> Iterator[sqlite3.Connection]:
        """A transaction on this thread's connection."""
        if not hasattr(self._connections, "db"):
            self._connections.db = sqlite3.connect(self.folder / ".index.sqlite", timeout=60)
            self._connections.db.execute("PRAGMA synchronous=OFF")
        with self._connections.db as db:
            yield db

    def limit(self, max_bytes: int) -> None:
        """Keep at most this many bytes from now on."""
        with self._db() as db:
            db.execute("DELETE FROM settings")
            db.execute("INSERT INTO settings VALUES (?)", (max_bytes,))

    def path(self, address: Address) -> Path:
        """The folder, or file, that stands for ``address``."""
        return self.folder / address.scheme / address.bucket / address.prefix

    def _bucket(self, name: str) -> tuple[Bucket, str]:
        scheme, bucket, key = name.split("/", 2)
        if (scheme, bucket) not in self._buckets:
            self._buckets[scheme, bucket] = Bucket(Address(scheme, bucket, ""))
        return self._buckets[scheme, bucket], key

    # -- listing -------------------------------------------------------------------------------------------------------------------

    def refresh(self, address: Address) -> int:
        """List what is below ``address`` and copy the captions; how many objects there are. Only one page is in memory.

        Raises:
            BucketError: it cannot be listed.
        """
        prefix = f"{address.scheme}/{address.bucket}/{address.prefix}".rstrip("/")
        if time.monotonic() - self._listed_at.get(prefix, -_FRESH_FOR_S) >= _FRESH_FOR_S:
            bucket, _ = self._bucket(f"{prefix}/")
            with self._db() as db:
                listing = 1 + (db.execute("SELECT max(seen) FROM objects").fetchone()[0] or 0)
            for page in bucket.pages(address.prefix):
                self._take_in([(f"{address.scheme}/{address.bucket}/{each.key}", each) for each in page], listing)
            self._forget_absent(prefix, listing)
            self._listed_at[prefix] = time.monotonic()
        with self._db() as db:
            return db.execute("SELECT count(*) FROM objects WHERE name >= ? AND name < ?", _range(prefix)).fetchone()[0]

    def _take_in(self, page: Sequence[tuple[str, Listed]], listing: int) -> None:
        """Note a page; copies of other versions go, and captions that are not here come."""
        with self._db() as db:
            for name, each in page:
                old = db.execute("SELECT e_tag, version, used_ns FROM objects WHERE name = ?", (name,)).fetchone()
                if old is not None and old[:2] != tuple(each.tag):
                    self._path(name).unlink(missing_ok=True)
                self._note(db, name, each, listing, is_here=old is not None and old[2] is not None and old[:2] == tuple(each.tag))
            names = [name for name, each in page if name.lower().endswith(SIDECARS) and each.size <= _SIDECAR_BYTES]
            wanted = [name for name in names if db.execute("SELECT used_ns FROM objects WHERE name = ?", (name,)).fetchone()[0] is None]
        self._fetch_all(wanted)

    def _note(self, db: sqlite3.Connection, name: str, each: Listed, listing: int, *, is_here: bool) -> None:
        row = (name, each.size, each.tag.e_tag, each.tag.version, int(each.modified.timestamp() * 1e9), listing, is_here)
        db.execute(
            "INSERT INTO objects (name, size, e_tag, version, modified_ns, seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO UPDATE SET "
            "size = ?2, e_tag = ?3, version = ?4, modified_ns = ?5, seen = ?6, used_ns = CASE WHEN ?7 THEN used_ns END",
            row,
        )

    def _forget_absent(self, prefix: str, listing: int) -> None:
        """Forget objects that the listing did not show and that are really gone: listings may lag."""
        with self._db() as db:
            rows = db.execute("SELECT name FROM objects WHERE name >= ? AND name < ? AND seen < ?", (*_range(prefix), listing)).fetchall()
        names = [name for (name,) in rows]
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            gone = [name for name, is_there in zip(names, workers.map(self._is_there, names), strict=True) if not is_there]
        for name in gone:
            self._path(name).unlink(missing_ok=True)
        with self._db() as db:
            db.executemany("DELETE FROM objects WHERE name = ?", [(name,) for name in gone])

    def _is_there(self, name: str) -> bool:
        bucket, key = self._bucket(name)
        return bucket.head(key) is not None

    def files(self, folder: Path) -> Iterator[Path]:
        """Every known file below ``folder``, in the order of names."""
        first, end = _range(self._name(folder))
        while True:
            with self._db() as db:
                rows = db.execute("SELECT name FROM objects WHERE name >= ? AND name < ? ORDER BY name LIMIT 1000", (first, end)).fetchall()
            if not rows:
                return
            yield from (self._path(name) for (name,) in rows)
            first = f"{rows[-1][0]}\0"

    def stat_fields(self, path: Path) -> tuple[int, int, int, int, int, int]:
        """What :class:`~.file_stat.FileStat` has, of the object: its e-tag stands for the inode, so a new version is another file.

        Raises:
            FileNotFoundError: there is no such object.
            OSError: this machine has not listed it, and the bucket cannot be asked.
        """
        try:
            size, e_tag, version, modified_ns = self._known(self._name(path))
        except BucketError as error:
            raise OSError(errno.EIO, str(error), str(path)) from error
        identity = int.from_bytes(hashlib.sha256(f"{e_tag} {version}".encode()).digest()[:7], "big")
        return size, modified_ns, modified_ns, identity, 0, stat.S_IFREG | 0o644

    def _known(self, name: str) -> tuple[int, str | None, str | None, int]:
        """Size, e-tag, version and time of the object; the bucket is asked if this machine has not listed it.

        Raises:
            FileNotFoundError: there is no such object.
            BucketError: the bucket cannot be asked.
        """
        select = "SELECT size, e_tag, version, modified_ns FROM objects WHERE name = ?"
        with self._db() as db:
            row = db.execute(select, (name,)).fetchone()
        if row is None:
            bucket, key = self._bucket(name)
            if (found := bucket.head(key)) is None:
                raise FileNotFoundError(errno.ENOENT, "No such object", name)
            with self._db() as db:
                self._note(db, name, found, 0, is_here=False)
                row = db.execute(select, (name,)).fetchone()
        return row

    def num_bytes(self, folder: Path) -> tuple[int, int]:
        """(all that is known below ``folder``, what of it has no copy here), in bytes."""
        select = (
            "SELECT coalesce(sum(size), 0), coalesce(sum(size) FILTER (WHERE used_ns IS NULL), 0) FROM objects WHERE name >= ? AND name < ?"
        )
        with self._db() as db:
            return db.execute(select, _range(self._name(folder))).fetchone()

    # -- copying -------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """As :func:`held`."""
        try:
            descriptor = self._locked(path)
        except (Absent, FileNotFoundError) as error:
            raise RejectRow("missing_file", "the object has gone since it was listed", transient=True) from error
        except BucketError as error:
            raise RejectRow("unreadable", f"cannot be read: {error}", transient=True) from error
        try:
            yield
        finally:
            os.close(descriptor)

    def _locked(self, path: Path) -> int:
        """A descriptor of the copy of ``path`` with a shared lock; the copy is made if need be."""
        name = self._name(path)
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                self._fetch(name)
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if _is_at(path, descriptor):
                with self._db() as db:
                    db.execute("UPDATE objects SET used_ns = ? WHERE name = ?", (time.time_ns(), name))
                return descriptor
            os.close(descriptor)

    def fetch_all(self, folder: Path, key: str) -> None:
        """Copy everything below ``folder``, to stay: for layouts whose tables and archives are read as files. ``key`` names the setting.

        Raises:
            MotiveError: that is more than the cache may hold.
        """
        bounds = _range(self._name(folder))
        with self._db() as db:
            db.execute("UPDATE objects SET stays = 1 WHERE name >= ? AND name < ?", bounds)
            num_bytes = db.execute("SELECT sum(size) FROM objects WHERE stays").fetchone()[0] or 0
            rows = db.execute("SELECT name FROM objects WHERE used_ns IS NULL AND name >= ? AND name < ?", bounds).fetchall()
            max_bytes = self._max_bytes(db)
        if num_bytes > max_bytes:
            raise MotiveError(
                f"storage.cache_gb = {max_bytes / 1e9:g}: archives and tables are copied whole, and those of {key} (with what else stays in the cache) "
                f"have {num_bytes / 1e9:.1f} GB. Set storage.cache_gb higher, or keep the clips as single files (source: folder), which come and go."
            )
        self._fetch_all([name for (name,) in rows])

    def _fetch_all(self, names: Sequence[str]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            list(workers.map(self._fetch, names))

    def _fetch(self, name: str) -> None:
        """Copy an object. If it has changed since it was listed, the new version is noted."""
        bucket, key = self._bucket(name)
        num_bytes = self._known(name)[0]
        self._make_room(num_bytes)
        for attempt in range(_ATTEMPTS):
            temp = self.folder / f"{atomic.TEMP_PREFIX}{uuid.uuid4().hex}"
            try:
                found = bucket.download(key, temp, num_bytes)
                modified = found.modified.timestamp()
                os.utime(temp, (modified, modified))
                self._put(temp, name, found)
                return
            except Conflict:
                if attempt + 1 == _ATTEMPTS:
                    raise
            finally:
                temp.unlink(missing_ok=True)

    def _put(self, temp: Path, name: str, found: Listed) -> None:
        """Make ``temp`` the copy of ``name``, unless somebody else was faster: a lock is of the file, not of its name, so one in use must keep its place."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_sidecar = name.lower().endswith(SIDECARS) and found.size <= _SIDECAR_BYTES
        with self._db() as db:
            db.execute("BEGIN IMMEDIATE")
            if not path.exists():
                os.replace(temp, path)
                seen = db.execute("SELECT seen FROM objects WHERE name = ?", (name,)).fetchone() or (0,)
                self._note(db, name, found, *seen, is_here=False)
            db.execute("UPDATE objects SET used_ns = ?, stays = stays OR ? WHERE name = ?", (time.time_ns(), is_sidecar, name))

    def _max_bytes(self, db: sqlite3.Connection) -> int:
        row = db.execute("SELECT max_bytes FROM settings").fetchone()
        return row[0] if row else 100 * 10**9

    def _make_room(self, num_bytes: int) -> None:
        """Remove the copies used longest ago until ``num_bytes`` more fit; those in use stay, even if the cache is then too large for a while."""
        with self._db() as db:
            db.execute("BEGIN IMMEDIATE")
            over = (
                num_bytes - self._max_bytes(db) + (db.execute("SELECT sum(size) FROM objects WHERE used_ns IS NOT NULL").fetchone()[0] or 0)
            )
            if over <= 0:
                return
            for name, size in db.execute(
                "SELECT name, size FROM objects WHERE used_ns IS NOT NULL AND NOT stays ORDER BY used_ns"
            ).fetchall():
                if over <= 0:
                    return
                if _removed(self._path(name)):
                    db.execute("UPDATE objects SET used_ns = NULL WHERE name = ?", (name,))
                    over -= size

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether ``path`` is still the file that was opened."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _removed(path: Path) -> bool:
    """Remove ``path`` unless somebody uses it; whether it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _range(prefix: str) -> tuple[str, str]:
    """The least name in the folder ``prefix``, and the least one behind it. '0' follows '/'."""
    return f"{prefix}/", f"{prefix}0"
