"""What others wrote does nothing in a terminal: captions, file names, settings."""

import logging
import sys

import pandas as pd
import pytest

from motive_pipeline import cli
from motive_pipeline.errors import MotiveError
from motive_pipeline.report.lookup import find_clip, load_known_clips
from motive_pipeline.report.tables import Table, escaped_markdown, plain_text
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.visible_text import LAYOUT, VisibleFormatter, tell, visible_text
from tests.clip_fixtures import catalogued, project, write_project

HOSTILE = "a\x1b[2J\x1b]0;title\x07b\x9b31m\r\u202ec\u2028d"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("", ""),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("a\rb\nc", "a\\x0db\\x0ac"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\ud800 \udcff", "\\ud800 \\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("schr\u00e4g \u65e5\u672c \U0001f408\u200d\u2b1b \u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 a\u00a0b", None),
    ],
)
def test_what_acts_is_escaped_and_what_is_shown_stays(text, shown):
    assert visible_text(text) == (text if shown is None else shown)


def test_lines_and_tabs_of_a_message_stay_and_a_name_has_none(capsys):
    assert visible_text("a\tb\nc\x1b", keep=LAYOUT) == "a\tb\nc\\x1b"
    tell("a\nb\x1b[2J")
    tell("\x07", file=sys.stderr)
    assert capsys.readouterr() == ("a\nb\\x1b[2J\n", "\\x07\n")


def test_log_lines_and_tracebacks_are_escaped():
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        record = logging.LogRecord("x", logging.WARNING, "f", 1, "read %s", (HOSTILE,), sys.exc_info())
    line = VisibleFormatter("%(message)s").format(record)
    assert all(each.isprintable() for each in line.split("\n"))
    assert "Traceback" in line


def test_tables_for_the_terminal_and_for_markdown_are_escaped():
    table = Table(key="t", title="", columns=["name"], rows=[[HOSTILE], ["b"]], caption="")
    assert all(line.isprintable() for line in plain_text(table).split("\n"))
    assert len(plain_text(table).split("\n")) == 3
    assert escaped_markdown(HOSTILE).isprintable()


def test_a_hostile_name_among_the_similar_ones_is_escaped(tmp_path):
    write_project(tmp_path)
    (tmp_path / "clips" / "evil\x1b[2J.mp4").write_bytes(b"no video")
    ws = catalogued(project(tmp_path, clips={"max_reject_share": 0.9}))
    with pytest.raises(MotiveError, match=r"Similar names: evil\\x1b\[2J\.mp4"):
        find_clip(load_known_clips(ws), "evil[2J.mp4")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_query_of_the_scores_prints_no_control_characters_but_a_pipe_gets_the_exact_csv(tmp_path, capsys, monkeypatch, form):
    write_project(tmp_path)
    ws = project(tmp_path)
    catalog = pd.DataFrame({"clip_id": ["a"], "caption": [HOSTILE]}).reindex(columns=TABLES["catalog"].names)
    ws.scores.publish({("catalog", "catalog"): catalog})
    (tmp_path / "motive.yaml").write_text(f"storage: {{root: {ws.root}}}\nclips: {{path: clips}}\nqueries: {{path: queries}}\n")
    query = ["sql", "--config", str(tmp_path / "motive.yaml"), "SELECT caption FROM clips", "--format", form]
    assert cli.main(query) == 0
    out = capsys.readouterr().out
    if form == "csv":
        assert HOSTILE in out
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert cli.main(query) == 0
        out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.split("\n"))


def test_an_error_that_names_a_hostile_setting_is_escaped(tmp_path, capsys):
    (tmp_path / "motive.yaml").write_text('clips: {source: demo}\nqueries: {source: demo}\n"\\e[2J": 1\n')
    assert cli.main(["plan", "--config", str(tmp_path / "motive.yaml")]) == 1
    told = capsys.readouterr().err
    assert r"\x1b[2J: unknown key" in told
    assert all(line.isprintable() for line in told.split("\n"))
