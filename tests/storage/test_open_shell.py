"""A DuckDB shell of the user's own, in another process and another folder, while runs publish: neither blocks or harms the other."""

import json
import subprocess
import sys

import duckdb
import pandas as pd
import pytest

from motive_pipeline.storage.scores import KEEP_VERSIONS, ScoreTables
from motive_pipeline.storage.views import ViewsFile

SHELL = """
import json, sys
import duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "ro")
print("open", flush=True)
for line in sys.stdin:
    try:
        print(json.dumps(connection.execute(line).fetchall()), flush=True)
    except duckdb.Error as error:
        print(json.dumps(str(error)), flush=True)
"""


class Shell:
    """A process with the file open, that answers one statement at a time."""

    def __init__(self, file, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SHELL, str(file), mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        assert self._line() == "open\n"

    def __call__(self, sql: str):
        """The rows of the answer, or the error as a text."""
        assert self.process.stdin is not None
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def close(self, *, kill: bool = False) -> None:
        """End it, well or by ``kill -9``."""
        assert self.process.stdin is not None
        if kill:
            self.process.kill()
        else:
            self.process.stdin.close()
        self.process.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@pytest.fixture
def scores(tmp_path) -> ScoreTables:
    scores = ScoreTables(tmp_path / "root", tmp_path / "state")
    publish(scores, 0)
    return scores


@pytest.fixture
def open_shell(scores):
    shells = []

    def make(mode: str) -> Shell:
        shells.append(Shell(scores.duckdb_file, mode))
        return shells[-1]

    yield make
    for shell in shells:
        shell.close(kill=True)


def publish(scores: ScoreTables, number: int) -> None:
    """One version in which every table says ``number``."""
    scores.publish(
        {
            ("subsets", "motive"): pd.DataFrame({"arm": ["motive"], "clip_id": [str(number)], "rank": [1]}),
            ("motion", "motion"): pd.DataFrame({"clip_id": [str(number)], "motion_magnitude_px": [1.0]}),
        }
    )


SEEN = "SELECT (SELECT clip_id FROM subsets), (SELECT clip_id FROM motion)"


def seen(scores: ScoreTables) -> list[tuple]:
    """What a new shell sees."""
    with duckdb.connect(str(scores.duckdb_file), read_only=True) as connection:
        return connection.execute(SEEN).fetchall()


@pytest.mark.parametrize("mode", ["rw", "ro"])
def test_an_open_shell_sees_its_own_version_whole_however_many_follow(scores, open_shell, mode):
    shell = open_shell(mode)
    for number in range(1, KEEP_VERSIONS + 5):
        publish(scores, number)
        assert shell(SEEN) == [["0", "0"]]
    assert scores.query(SEEN).fetchall() == [(str(number), str(number))]


def test_a_writing_shell_loses_nothing(scores, open_shell, caplog):
    shell = open_shell("rw")
    shell("CREATE TABLE mine AS SELECT 42 AS x")
    assert scores.duckdb_file.with_name("scores.duckdb.wal").exists()
    for number in range(1, KEEP_VERSIONS + 3):
        publish(scores, number)
    shell("INSERT INTO mine VALUES (43)")
    assert shell("SELECT x FROM mine ORDER BY x") == [[42], [43]]
    shell.close()
    with duckdb.connect(str(scores.duckdb_file)) as connection:
        assert connection.execute("SELECT x FROM mine ORDER BY x").fetchall() == [(42,), (43,)]
        assert connection.execute(SEEN).fetchall() == [("0", "0")], "its views still work"
    notices = [record for record in caplog.records if "left alone" in record.message]
    assert len(notices) == 1, "one notice, not one for each asset"


def test_a_shell_that_was_killed_loses_nothing_either(scores, open_shell):
    shell = open_shell("rw")
    shell("CREATE TABLE mine AS SELECT 42 AS x")
    shell.close(kill=True)
    publish(scores, 1)
    with duckdb.connect(str(scores.duckdb_file)) as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(42,)]


def test_when_the_shell_is_closed_the_next_version_shows_and_old_ones_go(scores, open_shell):
    shell = open_shell("rw")
    for number in range(1, KEEP_VERSIONS + 3):
        publish(scores, number)
    assert seen_while_closed(shell, scores) == [("0", "0")]
    publish(scores, 99)
    assert seen(scores) == [("99", "99")]
    publish(scores, 100)
    assert len(list(scores.folder.glob("v*"))) == KEEP_VERSIONS


def seen_while_closed(shell: Shell, scores: ScoreTables) -> list[tuple]:
    shell.close()
    return seen(scores)


def test_a_reading_shell_does_not_keep_new_shells_from_new_versions(scores, open_shell):
    open_shell("ro")
    publish(scores, 1)
    assert seen(scores) == [("1", "1")]


def test_publishing_never_locks_the_file_a_shell_may_want(scores, open_shell, monkeypatch):
    """A shell opens for writing between any two steps of a publication, and keeps what it writes."""
    opened = []
    create = ViewsFile._new_file

    def and_a_shell_opens(self, views):
        shell = open_shell("rw")
        opened.append(shell)
        return create(self, views)

    monkeypatch.setattr(ViewsFile, "_new_file", and_a_shell_opens)
    publish(scores, 1)
    monkeypatch.undo()
    shell = opened[0]
    shell("CREATE TABLE mine AS SELECT 42 AS x")
    publish(scores, 2)
    shell.close()
    with duckdb.connect(str(scores.duckdb_file)) as connection:
        assert connection.execute("SELECT x FROM mine").fetchall() == [(42,)]


def test_views_follow_a_root_that_was_moved(tmp_path):
    old = ScoreTables(tmp_path / "a", tmp_path / "a" / "state")
    publish(old, 1)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = ScoreTables(tmp_path / "b", tmp_path / "b" / "state")
    moved.refresh_views()
    assert seen(moved) == [("1", "1")]


def test_a_version_that_motive_sql_reads_stays(scores):
    reader = ScoreTables(scores.folder.parent, scores.duckdb_file.parent)
    relation = reader.query("SELECT clip_id FROM subsets")
    for number in range(1, KEEP_VERSIONS + 3):
        publish(scores, number)
    assert relation.fetchall() == [("0",)]
