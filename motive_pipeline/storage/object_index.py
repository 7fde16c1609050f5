"""What a bucket held when it was last listed, and which of it lies in the working copy: a SQLite file beside the copy.

Losing the file costs the time to fetch everything again. Several processes of one machine may use it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from motive_pipeline.bucket.client import Listed, Tag

_TABLE = """CREATE TABLE IF NOT EXISTS objects (
    key TEXT PRIMARY KEY, size INTEGER NOT NULL, e_tag TEXT, version TEXT, seen INTEGER NOT NULL, mtime_ns INTEGER
) WITHOUT ROWID"""
"""``seen`` numbers the listing that showed the object last; ``mtime_ns`` is that of its copy on this machine, NULL without one."""


class Known(NamedTuple):
    """An object as the index has it."""

    key: str
    size: int
    tag: Tag
    mtime_ns: int | None

    def is_at(self, path: Path) -> bool:
        """Whether ``path`` holds this version of the object, untouched since it was copied."""
        if self.mtime_ns is None:
            return False
        try:
            status = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_size, status.st_mtime_ns) == (self.size, self.mtime_ns)


class ObjectIndex:
    """The index in ``file``."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(_TABLE)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.file, timeout=60)) as db:
            db.execute("PRAGMA synchronous=OFF")
            with db:
                yield db

    def next_listing(self) -> int:
        """A number for a new listing."""
        with self._open() as db:
            return 1 + (db.execute("SELECT max(seen) FROM objects").fetchone()[0] or 0)

    def saw(self, page: Iterable[Listed], listing: int) -> list[Known]:
        """Take in a page of a listing; what is known of each object now. A copy of an older version counts as none."""
        rows = [(each.key, each.size, each.tag.e_tag, each.tag.version, listing) for each in page]
        with self._open() as db:
            db.executemany(
                "INSERT INTO objects (key, size, e_tag, version, seen) VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "mtime_ns = CASE WHEN e_tag IS excluded.e_tag AND version IS excluded.version THEN mtime_ns END, "
                "size = excluded.size, e_tag = excluded.e_tag, version = excluded.version, seen = excluded.seen",
                rows,
            )
            return [
                _known(db.execute("SELECT key, size, e_tag, version, mtime_ns FROM objects WHERE key = ?", row[:1]).fetchone())
                for row in rows
            ]

    def copied(self, objects: Iterable[tuple[str, int, Tag, int | None]]) -> None:
        """(key, size, tag, mtime of the copy) of objects that were just fetched or written."""
        rows = [(key, size, tag.e_tag, tag.version, mtime_ns) for key, size, tag, mtime_ns in objects]
        with self._open() as db:
            db.executemany(
                "INSERT INTO objects (key, size, e_tag, version, mtime_ns, seen) VALUES (?, ?, ?, ?, ?, 0) ON CONFLICT (key) DO UPDATE SET "
                "size = excluded.size, e_tag = excluded.e_tag, version = excluded.version, mtime_ns = excluded.mtime_ns",
                rows,
            )

    def get(self, key: str) -> Known | None:
        """The object ``key``; None if none is known."""
        with self._open() as db:
            row = db.execute("SELECT key, size, e_tag, version, mtime_ns FROM objects WHERE key = ?", (key,)).fetchone()
        return None if row is None else _known(row)

    def below(self, prefix: str) -> list[Known]:
        """Every known object in the folder ``prefix``, at any depth."""
        with self._open() as db:
            rows = db.execute(
                "SELECT key, size, e_tag, version, mtime_ns FROM objects WHERE key >= ? AND key < ? ORDER BY key", _range(prefix)
            ).fetchall()
        return [_known(row) for row in rows]

    def unseen(self, prefix: str, listing: int) -> list[str]:
        """The known objects in ``prefix`` that the listing did not show."""
        with self._open() as db:
            rows = db.execute("SELECT key FROM objects WHERE key >= ? AND key < ? AND seen < ?", (*_range(prefix), listing)).fetchall()
        return [key for (key,) in rows]

    def forget(self, keys: Iterable[str]) -> None:
        """The objects have gone from the bucket."""
        with self._open() as db:
            db.executemany("DELETE FROM objects WHERE key = ?", [(key,) for key in keys])

    def forget_copies(self, prefix: str) -> None:
        """The copies in ``prefix`` are not what the bucket has: they are fetched again with the next pull."""
        with self._open() as db:
            db.execute("UPDATE objects SET mtime_ns = NULL WHERE key = ? OR (key >= ? AND key < ?)", (prefix, *_range(prefix)))


def _range(prefix: str) -> tuple[str, str]:
    """The least key in the folder ``prefix``, and the least one behind it. '0' follows '/'."""
    return (f"{prefix}/", f"{prefix}0") if prefix else ("", "\U0010ffff")


def _known(row: tuple) -> Known:
    key, size, e_tag, version, mtime_ns = row
    return Known(key, size, Tag(e_tag, version), mtime_ns)
