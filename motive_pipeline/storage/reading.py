"""Read-only SQL over one version of the score tables, within limits of time and memory.

DuckDB gets the rows from PyArrow and has no file system of its own: no statement can write a file, or read another one. It spills nothing to disk.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from motive_pipeline.errors import MotiveError

Result = TypeVar("Result")

READING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one query may take; None is no limit. ``memory_gb`` is DuckDB's, without the result."""

    timeout_s: float | None = None
    memory_gb: float | None = None


@contextlib.contextmanager
def memory_limited(limits: Limits) -> Iterator[None]:
    """Inside the block this process may take twice ``memory_gb`` more: once for DuckDB, which keeps to it, and once for the result, which it does not count."""
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if limits.memory_gb is None:
        yield
        return
    taken = next(int(line.split()[1]) * 1024 for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    allowed = [taken + int(2 * limits.memory_gb * 1e9), *(each for each in (before, hard) if each != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(allowed), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def open_tables(folders: Mapping[str, Path], views: Mapping[str, str], limits: Limits) -> duckdb.DuckDBPyConnection:
    """A connection with the tables in ``folders`` (by name), and those of ``views`` (name -> SELECT) that have no folder."""
    connection = duckdb.connect(":memory:")
    for name, select in views.items():
        if name in folders:
            files = sorted(map(str, folders[name].glob("*.parquet")))
            connection.register(name, ds.dataset(files, schema=pq.read_schema(files[0])))
        else:
            connection.execute(f"CREATE VIEW {name} AS {select}")
    connection.execute("SET temp_directory=''")
    if limits.memory_gb is not None:
        connection.execute(f"SET memory_limit='{limits.memory_gb * 1000:.0f}MB'")
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
    return connection


def select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    """The one statement of ``sql``, which runs when its rows are fetched (see :func:`fetched`).

    Raises:
        MotiveError: it is not one statement that reads, or DuckDB does not accept it.
    """
    try:
        statements = duckdb.extract_statements(sql)
        if len(statements) != 1 or statements[0].type not in READING:
            raise MotiveError("motive sql takes one SELECT statement (also SHOW, DESCRIBE, SUMMARIZE): the scores are read-only")
        relation = connection.sql(sql)
    except duckdb.Error as error:
        raise MotiveError(sql_error(error)) from error
    if relation is None:
        raise MotiveError("motive sql takes one SELECT statement that gives rows")
    return relation


def fetched(connection: duckdb.DuckDBPyConnection, fetch: Callable[[], Result], limits: Limits) -> Result:
    """``fetch()``, which reads rows from ``connection``.

    It runs in a thread of its own: DuckDB looks at signals only between long pieces of work, but can be interrupted from another thread at any time.

    Raises:
        MotiveError: the query failed, or took more time or memory than the limits allow.
        KeyboardInterrupt: it was stopped; so is the query.
    """
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(fetch)
        try:
            return running.result(limits.timeout_s)
        except TimeoutError:
            connection.interrupt()
            raise MotiveError(
                f"the query took longer than {limits.timeout_s:g} s and was stopped. Ask for less, or allow more with --timeout"
            ) from None
        except KeyboardInterrupt:
            connection.interrupt()
            with contextlib.suppress(duckdb.Error):
                running.result()
            raise
        except (duckdb.OutOfMemoryException, MemoryError) as error:
            allowed = "there is" if limits.memory_gb is None else f"{limits.memory_gb:g} GB"
            raise MotiveError(f"the query needs more memory than {allowed}. Ask for fewer rows, or allow more with --memory-gb") from error
        except duckdb.Error as error:
            raise MotiveError(sql_error(error)) from error


def sql_error(error: duckdb.Error) -> str:
    """What DuckDB says, in one line, without the copy of the statement."""
    return f"SQL: {' '.join(str(error).partition('LINE 1:')[0].split())}"
