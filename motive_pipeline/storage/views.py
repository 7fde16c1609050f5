"""``scores.duckdb``: a file of views over one version of the score tables, which users may open at any time while runs publish.

Each version gets a file of its own, so an open shell keeps the version it opened. DuckDB writes a shell's changes beside the *name* of the file
(``.wal``). So a file that somebody writes to, or keeps objects of their own in, is never replaced.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import duckdb

from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest

log = logging.getLogger(__name__)

STORAGE_VERSION = "v1.2.0"
"""DuckDB's storage format of the file: every DuckDB from this version on opens it, whatever version writes it."""


class ViewsFile:
    """The file at ``path``. ``<state>/views/`` holds a second name of each version's file, which shows whether it is still open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names = path.parent / "views"
        self._shown_at = self._names / "shown_at.txt"
        self._warned: str | None = None
        self._written: tuple[int, ...] | None = None

    def show(self, version: Path, views: Mapping[str, str]) -> None:
        """Make the file show ``views`` (name -> SELECT) of the folder ``version``, unless the user is writing to it or has objects in it."""
        second_name = self._names / f"{version.name}-{digest(STORAGE_VERSION, sorted(views.items()))[:8]}.duckdb"
        if _same_file(self.path, second_name) and _is_database(self.path) and not self.is_elsewhere():
            return
        if reason := self._reason_to_keep(set(views)):
            self._warn_once(reason)
            return
        old = self._temp("old")
        with self._new_file(views) as new:
            second_name.parent.mkdir(exist_ok=True)
            second_name.unlink(missing_ok=True)
            _link(new, second_name)
            _link(self.path, old)
            written = _identity(new)
            os.replace(new, self.path)
            if _is_locked(old, fcntl.LOCK_SH) or self._wal.exists():
                os.replace(old, self.path)
                self._warn_once("a shell has just opened it for writing")
            else:
                self._written = written
                atomic.write_text(self._shown_at, f"{self.path}\n")
            old.unlink(missing_ok=True)

    def is_elsewhere(self) -> bool:
        """Whether the file was copied or moved since it was written: its views name folders that were copied or moved with it."""
        try:
            return self._shown_at.read_text(encoding="utf-8") != f"{self.path}\n"
        except (OSError, UnicodeDecodeError):
            return True

    def versions_in_use(self) -> set[str]:
        """Names of the versions that ``path`` or an open shell shows. The second names of all others are removed."""
        used = set()
        for file in self._names.glob("*.duckdb"):
            if _same_file(self.path, file) or _is_locked(file, fcntl.LOCK_EX):
                used.add(file.name.split("-")[0])
            else:
                file.unlink()
        return used

    @property
    def _wal(self) -> Path:
        return self.path.with_name(self.path.name + ".wal")

    def _reason_to_keep(self, ours: set[str]) -> str | None:
        """Why the file must not be replaced, or None. Opens a copy, since opening the file would lock out a shell."""
        if not self.path.exists() or not _is_database(self.path):  # cut or zeroed: it holds nothing of the user's
            return None
        if self._wal.exists():
            return "a shell has unsaved work in it (.wal)"
        if _is_locked(self.path, fcntl.LOCK_SH):
            return "a shell has it open for writing"
        if _identity(self.path) == self._written:
            return None
        copy = self._temp("copy")
        try:
            shutil.copyfile(self.path, copy)
            with duckdb.connect(str(copy), read_only=True) as connection:
                tables = connection.execute("SELECT table_name FROM duckdb_tables() WHERE NOT internal").fetchall()
                views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
                macros = connection.execute("SELECT function_name FROM duckdb_functions() WHERE NOT internal").fetchall()
        except duckdb.Error as error:
            return f"it cannot be looked into ({str(error).splitlines()[0]})"
        finally:
            copy.unlink(missing_ok=True)
        own = {name for (name,) in (*tables, *views, *macros)} - ours
        return f"it holds objects of your own ({', '.join(sorted(own))})" if own else None

    @contextmanager
    def _new_file(self, views: Mapping[str, str]) -> Iterator[Path]:
        atomic.make_folder(self.path.parent)
        temp = self._temp("new")
        try:
            with duckdb.connect(str(temp), config={"storage_compatibility_version": STORAGE_VERSION}) as connection:
                create_views(connection, views)
            yield temp
        finally:
            for leftover in (temp, temp.with_name(temp.name + ".wal")):
                leftover.unlink(missing_ok=True)

    def _warn_once(self, reason: str) -> None:
        """Log the reason once, not for every asset of a run."""
        if reason != self._warned:
            log.warning("%s: %s; left alone. `motive sql` shows the newest scores.", self.path, reason)
        self._warned = reason

    def _temp(self, what: str) -> Path:
        """A file beside ``path``, the same each time. Only the holder of the root's lock writes, so a leftover of a killed run is deleted."""
        temp = self.path.with_name(f"{atomic.TEMP_PREFIX}{what}.duckdb")
        temp.unlink(missing_ok=True)
        return temp


def only_at(file: Path) -> str:
    """A condition of a view in ``file`` that fails with a message where DuckDB has opened the view in another file: a copy would show the scores of
    the root that it was copied from. DuckDB may know a file by the relative path it was opened with."""
    message = (
        f"the views of this file show the scores of {file}, and it was opened at another path. If the root was copied or moved, `motive sql` or "
        "`motive run` writes the file anew; else open it as named here"
    )
    is_here = f"ends_with({quoted(str(file))}, regexp_replace(path, '^([.]{{1,2}}/)+', ''))"
    return f"(SELECT CASE WHEN count(*) > 0 THEN true ELSE error({quoted(message)}) END FROM duckdb_databases() WHERE {is_here})"


def quoted(text: str) -> str:
    """``text`` as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def create_views(connection: duckdb.DuckDBPyConnection, views: Mapping[str, str]) -> None:
    """``CREATE VIEW`` for each of ``views``, in order, in one transaction."""
    connection.begin()
    for name, select in views.items():
        connection.execute(f"CREATE VIEW {name} AS {select}")
    connection.commit()


def _is_database(file: Path) -> bool:
    """Whether the file begins as DuckDB's files do."""
    with file.open("rb") as opened:
        return opened.read(12)[8:] == b"DUCK"


def _identity(file: Path) -> tuple[int, ...]:
    """Changes when anybody writes to the file."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _is_locked(file: Path, how: int) -> bool:
    """Whether another process holds a lock (of DuckDB's kind) that forbids ``how``. The lock is not kept. False if there is no file."""
    try:
        with file.open("r+b") as opened:
            fcntl.lockf(opened, how | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and os.path.samefile(one, other)


def _link(source: Path, target: Path) -> None:
    """Hard-link the file if it exists and the file system can. Without the link, nobody knows which old version a shell still shows."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        return
    except OSError as error:
        log.debug("%s: no hard links (%s)", target, error.strerror)
