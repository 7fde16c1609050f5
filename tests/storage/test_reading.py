"""``motive sql``: it reads and nothing else, within limits, and says in one line what is wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from motive_pipeline.cli import main
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.reading import Limits
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.workspace import Workspace
from tests.conftest import SMALL_DEMO

ENDLESS = "SELECT count(*) FROM range(1000000000) a, range(1000000) b WHERE hash(a.range + b.range) = 0"
HUGE = "SELECT * FROM range(10000000000)"


@pytest.fixture
def workspace(make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A root whose scores have one subset, in whose captions there is a word that ASCII does not have."""
    workspace = Workspace(make_config())
    subset = pd.DataFrame({"arm": ["motive"], "clip_id": ["a"], "rank": [1]})
    query = pd.DataFrame({"query_id": ["q"], "path": ["q.mp4"], "caption": ["ein Fluß"], "category": [""], "role": ["target"]})
    workspace.scores.publish({("subsets", "motive"): subset, ("queries", "query_catalog"): query})
    (tmp_path / "motive.yaml").write_text(SMALL_DEMO, encoding="utf-8")
    monkeypatch.setenv("MOTIVE_CONFIG", str(tmp_path / "motive.yaml"))
    monkeypatch.chdir(tmp_path)
    return workspace


def everything(folder: Path) -> dict[Path, bytes | None]:
    """Every file below ``folder`` with its bytes, and every folder."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


HOSTILE = [
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{new}'",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{scores}' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY subsets TO '{database}'",
    "EXPLAIN (ANALYZE, FORMAT json) COPY (SELECT 1) TO '{new}'",
    "EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1",
    "EXPLAIN ANALYZE DELETE FROM subsets",
    "COPY subsets TO '{new}'",
    "COPY (SELECT 1) TO '{outside}'",
    "SELECT 1; COPY subsets TO '{new}'",
    "EXPORT DATABASE '{new}'",
    "ATTACH '{database}' AS views; DROP VIEW views.ranking",
    "ATTACH '{new}' AS made",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SET enable_external_access=true",
    "SET temp_directory='{new}'",
    "RESET lock_configuration",
    "PRAGMA enable_profiling='json'",
    "PRAGMA profiling_output='{new}'",
    "CALL enable_logging(storage='file', storage_path='{new}')",
    "SELECT * FROM enable_logging(storage := 'file', storage_config := {{'path': '{new}'}})",
    "CREATE MACRO write_it() AS TABLE SELECT 1",
    "CREATE TABLE made AS SELECT 1",
    "CREATE OR REPLACE VIEW subsets AS SELECT 1",
    "DROP VIEW subsets",
    "DELETE FROM subsets",
    "INSERT INTO subsets VALUES ('motive', 'b', 2)",
    "WITH more AS (INSERT INTO subsets VALUES ('motive', 'b', 2) RETURNING *) SELECT * FROM more",
    "SELECT * FROM query('COPY subsets TO ''{new}''')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_text('{config}')",
    "SELECT * FROM '{scores}'",
    "SELECT * FROM glob('{root}/*')",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "PREPARE later AS COPY subsets TO '{new}'",
    "EXECUTE later",
    "BEGIN",
    "USE memory",
    "SELEC 1",
    "",
]


def test_no_statement_changes_a_byte_or_reads_another_file(workspace, tmp_path, capfd):
    version = workspace.scores.version()
    places = {
        "new": version / "new.csv",
        "scores": version / "subsets" / "motive.parquet",
        "database": workspace.scores.duckdb_file,
        "outside": tmp_path / "outside.csv",
        "config": tmp_path / "motive.yaml",
        "root": workspace.root,
    }
    before = everything(tmp_path)
    accepted = []
    for statement in HOSTILE:
        code = main(["sql", statement.format(**places)])
        told = capfd.readouterr()
        if code == 0:
            accepted.append(statement)
        else:
            assert told.out == ""
            assert told.err.startswith("motive: ")
            assert told.err.count("\n") == 1, f"{statement}: more than one line: {told.err}"
    assert accepted == ["EXPLAIN ANALYZE CREATE TABLE made AS SELECT 1"], "in the memory of its own process"
    assert everything(tmp_path) == before
    assert workspace.scores.query("SELECT * FROM subsets").fetchall() == [("motive", "a", 1)]


def test_a_large_sort_spills_nothing_to_disk(workspace, tmp_path):
    before = everything(tmp_path)
    with pytest.raises(MotiveError, match=r"more memory than 0\.1 GB.*--memory-gb"):
        workspace.scores.read("SELECT * FROM range(100000000) ORDER BY hash(range)", lambda rows: rows.df(), Limits(memory_gb=0.1))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("fetch", ["df", "show", "fetchall"])
def test_a_query_that_takes_too_long_is_stopped(workspace, fetch):
    started = time.monotonic()
    with pytest.raises(MotiveError, match=r"longer than 0\.5 s and was stopped.*--timeout"):
        workspace.scores.read(ENDLESS, lambda rows: getattr(rows, fetch)(), Limits(timeout_s=0.5))
    assert time.monotonic() - started < 10.0


def test_an_error_while_the_rows_are_fetched_is_one_line(workspace, capfd):
    assert main(["sql", "SELECT CAST(arm || chr(65) AS INTEGER) FROM subsets"]) == 1
    told = capfd.readouterr().err
    assert told.startswith("motive: SQL: Conversion Error: Could not convert string 'motiveA'")
    assert told.count("\n") == 1


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "soon"])
def test_a_limit_is_a_number_above_0(workspace, value, capfd):
    with pytest.raises(SystemExit):
        main(["sql", "SELECT 1", "--timeout", value])
    assert "--timeout" in capfd.readouterr().err


def command(*arguments: str, **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "motive_pipeline.cli", "sql", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    )


def test_a_result_that_does_not_fit_is_one_line(workspace):
    out, told = command(HUGE, "--format", "json", "--memory-gb", "0.2").communicate(timeout=120)
    assert (out, told.count(b"\n")) == (b"", 1), told[-2000:]
    assert b"needs more memory than 0.2 GB" in told


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_stop_the_query_at_once(workspace, number, code):
    running = command(ENDLESS)
    time.sleep(6.0)
    assert running.poll() is None
    asked = time.monotonic()
    running.send_signal(number)
    _, told = running.communicate(timeout=60)
    assert running.returncode == code
    assert time.monotonic() - asked < 10.0
    assert told.startswith(b"motive: stopped")
    assert b"Traceback" not in told


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_terminal_without_utf8_gets_its_table_all_the_same(workspace, form):
    out, told = command("SELECT caption FROM queries", "--format", form, PYTHONIOENCODING="ascii", PYTHONUTF8="0").communicate(timeout=120)
    assert told == b""
    assert b"ein Flu" in out
    assert out.isascii()


def test_the_tables_look_the_same_as_in_the_file_that_a_shell_opens(workspace):
    with duckdb.connect(str(workspace.scores.duckdb_file), read_only=True) as shell:
        for table in (*TABLES, "clips"):
            described = shell.execute(f"DESCRIBE {table}").fetchall()
            assert workspace.scores.query(f"DESCRIBE {table}").fetchall() == described
            assert workspace.scores.query(f"FROM {table}").fetchall() == shell.execute(f"FROM {table}").fetchall()
