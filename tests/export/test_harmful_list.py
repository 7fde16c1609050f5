"""``motive export --harmful``: the view ``harmful`` as a list of paths or a table."""

import pandas as pd
import pytest

from motive_pipeline import cli
from motive_pipeline.errors import MotiveError
from motive_pipeline.export.harmful_list import export_harmful
from tests.eval_fixtures import copied, with_harmful_clips

ASKED = (
    "SELECT harmful.rank, clip_id, mean_influence, path, caption FROM harmful JOIN clips USING (clip_id) WHERE variant = '{}' ORDER BY 1"
)


@pytest.fixture(scope="module")
def ws(evaluated, tmp_path_factory, tiny_model):
    """A project of which two clips of nine are harmful, three being as many as may be."""
    ws = copied(evaluated, tmp_path_factory.mktemp("harmful"), tiny_model)
    with_harmful_clips(ws)
    return ws


@pytest.mark.parametrize("variant", ["motive", "no_mask"])
def test_a_table_and_a_list_of_paths_hold_the_view_worst_first(ws, tmp_path, variant):
    expected = ws.scores.query(ASKED.format(variant)).df()
    assert len(expected) == 2
    written = export_harmful(ws, variant, tmp_path / "a" / "harmful.csv")
    assert (written.num_clips, written.num_ranked) == (len(expected), 9)
    pd.testing.assert_frame_equal(pd.read_csv(written.file), expected, check_dtype=False)
    export_harmful(ws, variant, tmp_path / "harmful.txt")
    assert (tmp_path / "harmful.txt").read_text(encoding="utf-8").splitlines() == expected["path"].tolist()


def test_the_command_writes_the_list_and_refuses_what_does_not_belong_together(ws, tmp_path, monkeypatch, capsys):
    file = tmp_path / "harmful.txt"
    monkeypatch.setattr(cli, "load_config", lambda: ws.config)
    assert cli.main(["export", "--harmful", "--to", str(file)]) == 0
    assert f"2 harmful clips of 9 in {file}" in capsys.readouterr().out
    assert cli.main(["export", "--harmful", "--to", str(file)]) == 0, "again"
    assert cli.main(["export", "--harmful", "--to", str(file), "--variant", "no_mask"]) == 1
    assert "it is not changed" in capsys.readouterr().err
    assert cli.main(["export", "--harmful", "--to", str(file), "--for", "ltx"]) == 1
    assert "--for belongs to --arm" in capsys.readouterr().err
    assert cli.main(["export", "--arm", "motive", "--to", str(file)]) == 1
    assert "--arm needs --for" in capsys.readouterr().err
    assert cli.main(["export", "--harmful", "--to", str(file), "--variant", "motiv"]) == 1
    assert "no_mask" in capsys.readouterr().err, "the variants there are"


def test_other_endings_other_content_and_the_clips_own_folder_are_refused(ws, tmp_path):
    with pytest.raises(MotiveError, match=r"ends in \.txt or \.csv"):
        export_harmful(ws, "motive", tmp_path / "harmful.json")
    other = tmp_path / "mine.csv"
    other.write_text("my own\n")
    with pytest.raises(MotiveError, match="something else is there"):
        export_harmful(ws, "motive", other)
    assert other.read_text() == "my own\n"
    with pytest.raises(MotiveError, match="keeps its own files there"):
        export_harmful(ws, "motive", ws.root / "published" / "harmful.txt")


def test_a_path_with_a_line_break_does_not_fit_into_a_list_of_lines(ws, tmp_path):
    catalog = ws.scores.piece("catalog", "catalog")
    ws.scores.publish({("catalog", "catalog"): catalog.assign(path=catalog["path"] + "\nb")})
    with pytest.raises(MotiveError, match=r"holds a line break.*Use a \.csv"):
        export_harmful(ws, "motive", tmp_path / "harmful.txt")
    assert len(pd.read_csv(export_harmful(ws, "motive", tmp_path / "harmful.csv").file))


def test_a_pool_without_harmful_clips_gives_an_empty_list(evaluated, tmp_path):
    assert export_harmful(evaluated, "motive", tmp_path / "none.txt").num_clips == 0
    assert (tmp_path / "none.txt").read_bytes() == b""
