"""Score tables: Parquet files in ``scores/v<N>/``, a manifest replaced last, and DuckDB views over one version.

The manifest has size and SHA-256 of each file. Tables that are not whole count as missing. They are made again from the publications, each of
which keeps its own pieces (:func:`store_pieces`).

A version is a folder ``<table>/<piece>.parquet``; a new version links the files it does not replace. Each asset owns its pieces
(``influence/motive.parquet``), so that two assets never write the same file. A shell that has opened ``scores.duckdb`` keeps a complete view of
the version that it opened.
"""

from __future__ import annotations

import fcntl
import filecmp
import logging
import os
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.integrity import Files, altered, file_hash, files_of, missing_or_cut
from motive_pipeline.storage.reading import Limits, Result, fetched, open_tables, select
from motive_pipeline.storage.score_views import folders_of, views_over
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed
from motive_pipeline.storage.tables import TABLES, in_present_form, table_from_frame
from motive_pipeline.storage.views import ViewsFile, only_at

log = logging.getLogger(__name__)

KEEP_VERSIONS = 5
_EMPTY = "_empty"
"""The piece that every table has: no rows, and the table's columns."""
_ATTEMPTS = 10
"""How often to try again if a version is pruned while it is opened."""

Pieces = dict[tuple[str, str], pd.DataFrame | Path]
"""(table, piece) -> its rows, or a Parquet file with them, which nobody writes to afterwards."""


class ScoreTables:
    """The score tables below ``root/scores`` and the views in ``state/scores.duckdb``."""

    def __init__(self, root: Path, state: Path) -> None:
        self.folder = root / "scores"
        self.history = root / "history"
        self.duckdb_file = state / "scores.duckdb"
        self._views_file = ViewsFile(self.duckdb_file)
        self.manifest = self.folder / "manifest.json"
        self._damage: str | None = None

    def version(self) -> Path | None:
        """The folder of the current version; None if nothing was published, or a file is missing or cut (the log says which)."""
        try:
            saved = read_sealed(self.manifest)
        except FileNotFoundError:
            return None
        except Damaged as error:
            return self._not_whole(str(error))
        version = self.folder / saved["version"]
        wrong = missing_or_cut(version, saved["files"])
        return self._not_whole(f"{version}: {wrong}") if wrong else version

    def damages(self) -> Iterator[str]:
        """What is wrong with the files of the current version, their content included. Damaged tables count as none from now on."""
        if self.version() is None:
            yield from [self._damage] if self._damage else []
            return
        saved = read_sealed(self.manifest)
        wrong = list(altered(self.folder / saved["version"], saved["files"]))
        if wrong and atomic.is_writable(self.folder):
            self.manifest.unlink()
        yield from (f"{self.folder / saved['version']}: {each}" for each in wrong)

    def piece(self, table: str, piece: str) -> pd.DataFrame | None:
        """The rows of one piece, None when there is none or it cannot be read."""
        version = self.version()
        file = version / piece_file(table, piece) if version else None
        try:
            return None if file is None else pd.read_parquet(file)
        except (FileNotFoundError, pa.ArrowException) as error:
            log.debug("%s: %s", file, error)
            return None

    def _files(self, version: Path | None) -> Files:
        return {} if version is None else read_sealed(self.manifest)["files"]

    def _not_whole(self, what: str) -> None:
        if what != self._damage:
            log.warning("the score tables are not whole: %s. `motive run` makes them again; all results are kept.", what)
        self._damage = what

    def publish(self, pieces: Pieces) -> None:
        """Publish a new version in which each ``(table, piece)`` is replaced by the frame, or by the Parquet file at the path.

        Such a file is linked, not copied: nobody may write to it afterwards.
        Nothing happens if every piece equals the current one. The caller holds the root's lock.
        """
        atomic.make_folder(self.folder)
        atomic.remove_leftovers(self.folder)
        current = self.version()
        number = 1 + max((int(p.name[1:]) for p in self.folder.glob("v*") if p.name[1:].isdecimal()), default=0)
        target = self.folder / f"v{number}"
        with atomic.new_folder(target, links_are_flushed=True) as temp:
            changed = self._fill(temp, current, pieces)
            if not changed and current is not None:
                shutil.rmtree(temp)
                temp.mkdir()
        if not changed and current is not None:
            shutil.rmtree(target)
            self.refresh_views()
            return
        linked = {name: mark for name, mark in self._files(current).items() if current and _same_file(current / name, target / name)}
        write_sealed(self.manifest, {"version": target.name, "files": files_of(target, known=linked)})
        self._damage = None
        self.refresh_views()
        self._prune()

    def query(self, sql: str) -> duckdb.DuckDBPyRelation:
        """One read-only statement on the current version; it runs when its rows are fetched.

        Raises:
            MotiveError: nothing was published yet, or the statement is not one that DuckDB accepts.
        """
        return select(self._tables(Limits()), sql)

    def read(self, sql: str, fetch: Callable[[duckdb.DuckDBPyRelation], Result], limits: Limits | None = None) -> Result:
        """What ``fetch`` makes of the rows of one read-only statement on the current version.

        Raises:
            MotiveError: as :meth:`query`; or the statement fails while it runs, or exceeds ``limits``.
        """
        limits = limits or Limits()
        connection = self._tables(limits)
        relation = select(connection, sql)
        return fetched(connection, lambda: fetch(relation), limits)

    def _tables(self, limits: Limits) -> duckdb.DuckDBPyConnection:
        version = self._held_version()
        return open_tables(folders_of(version, self.history), views_over(version, self.history), limits)

    def refresh_views(self) -> None:
        """Make ``scores.duckdb`` show the current version at the root's present path (see :meth:`ViewsFile.show`)."""
        version = self.version()
        if version is not None:
            self._views_file.show(version, views_over(version, self.history, where=f" WHERE {only_at(self.duckdb_file)}"))

    def is_elsewhere(self) -> bool:
        """Whether ``scores.duckdb`` was copied or moved, with the root or alone, since it was written."""
        return self.duckdb_file.exists() and self._views_file.is_elsewhere()

    def _fill(self, temp: Path, current: Path | None, pieces: Pieces) -> bool:
        """Write the version's files into ``temp``; returns whether any differs from ``current``."""
        changed = current is None
        for file in current.rglob("*.parquet") if current is not None else ():
            name = file.relative_to(current or file).as_posix()
            if _is_of_older_version(file):
                changed = _put_file(file.parent.name, file, temp / name) or changed
            else:
                atomic.link_or_copy(file, temp / name)
        for table, schema in TABLES.items():
            (temp / table).mkdir(exist_ok=True)
            empty = temp / table / f"{_EMPTY}.parquet"
            if not empty.exists() or pq.read_schema(empty) != schema:  # an older version of the software had other columns
                empty.unlink(missing_ok=True)
                pq.write_table(schema.empty_table(), empty)
                changed = True
        for (table, piece), content in pieces.items():
            file = temp / piece_file(table, piece)
            old = current / file.relative_to(temp) if current is not None and file.exists() else None
            file.unlink(missing_ok=True)
            _put_piece(table, content, file)
            changed = changed or old is None or not filecmp.cmp(old, file, shallow=False)
        return changed

    def _held_version(self) -> Path:
        """The current version, kept from being pruned as long as this object lives.

        Raises:
            MotiveError: nothing was published yet.
        """
        for _ in range(_ATTEMPTS):
            version = self.version()
            if version is None:
                break
            try:
                descriptor = os.open(version, os.O_RDONLY)
            except FileNotFoundError:  # pruned since the manifest was read: there is a newer one
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if version.exists():
                weakref.finalize(self, os.close, descriptor)
                return version
            os.close(descriptor)
        if self._damage:
            raise MotiveError(f"the score tables are not whole: {self._damage}. `motive run` makes them again; all results are kept.")
        raise MotiveError(f"no scores below {self.folder} yet. Run `motive run` first.")

    def _prune(self) -> None:
        """Remove old versions that nobody reads."""
        versions = sorted((p for p in self.folder.glob("v*") if p.name[1:].isdecimal()), key=lambda p: int(p.name[1:]))
        used = self._views_file.versions_in_use()
        for old in versions[:-KEEP_VERSIONS]:
            if old.name not in used and not _is_read(old):
                shutil.rmtree(old, ignore_errors=True)


def _is_read(version: Path) -> bool:
    """Whether a `motive sql` process reads it."""
    descriptor = os.open(version, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _same_file(one: Path, other: Path) -> bool:
    return other.exists() and os.path.samefile(one, other)


def piece_file(table: str, piece: str) -> str:
    """Where a piece lies in a version, or in the scores of a publication."""
    return f"{table}/{re.sub(r'[^A-Za-z0-9_.-]', '_', piece)}.parquet"


def store_pieces(folder: Path, pieces: Mapping[tuple[str, str], pd.DataFrame | Path], name: str) -> dict[str, Sequence[Any]]:
    """Keep ``pieces`` in ``folder`` (called ``name`` in the result); returns size and hash of each file. Equal files are not written."""
    marks: dict[str, Sequence[Any]] = {}
    for (table, piece), content in pieces.items():
        file = folder / piece_file(table, piece)
        atomic.make_folder(file.parent)
        temp = atomic.temp_beside(file)
        try:
            _put_piece(table, content, temp)
            if not file.exists() or not filecmp.cmp(temp, file, shallow=False):
                atomic.replace(temp, file)
        finally:
            temp.unlink(missing_ok=True)
        marks[f"{name}/{piece_file(table, piece)}"] = [file.stat().st_size, file_hash(file)]
    return marks


def stored_pieces(folder: Path) -> Pieces:
    """The pieces that :func:`store_pieces` kept in ``folder``."""
    return {(file.parent.name, file.stem): file for file in folder.glob("*/*.parquet") if file.parent.name in TABLES}


def _put_piece(table: str, content: pd.DataFrame | Path, file: Path) -> None:
    if isinstance(content, Path):
        _put_file(table, content, file)
    else:
        pq.write_table(table_from_frame(table, content), file)


def _is_of_older_version(file: Path) -> bool:
    """Whether ``file``, in a version of the tables, may have another form than its table has now."""
    table, empty = file.parent.name, file.with_name(f"{_EMPTY}.parquet")
    return table in TABLES and (table == "eval_scores" or not empty.exists() or pq.read_schema(empty) != TABLES[table])


def _put_file(table: str, source: Path, file: Path) -> bool:
    """Link ``source`` to ``file``; if an older version of the software wrote it in another form, write it in the present one, and return True."""
    try:
        present = None if source.stem == _EMPTY else in_present_form(table, source)
    except pa.ArrowInvalid as error:  # damaged, which its hash shows
        log.debug("%s: %s", source, error)
        present = None
    if present is not None:
        atomic.make_folder(file.parent)
        pq.write_table(present, file)
        return True
    atomic.link_or_copy(source, file)
    return False
