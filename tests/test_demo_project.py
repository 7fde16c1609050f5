"""``motive demo``: settings of its own in a folder, the storage beside them, and nothing of the user's overwritten."""

from pathlib import Path

import pytest

from motive_pipeline import cli
from motive_pipeline.config import load_config
from motive_pipeline.demo.project import TEMPLATE, write_demo_config
from motive_pipeline.errors import MotiveError

REPOSITORY = Path(__file__).parents[1]


def test_the_demos_settings_are_the_repositorys():
    assert TEMPLATE.read_bytes() == (REPOSITORY / "motive.yaml").read_bytes()


def test_an_empty_or_new_folder_gets_the_settings_with_the_storage_beside_them(tmp_path: Path):
    for folder in (tmp_path, tmp_path / "new" / "folder"):
        file = write_demo_config(folder)
        assert file == folder / "motive.yaml"
        assert file.read_bytes() == TEMPLATE.read_bytes()
        assert load_config(file).storage.root == folder / "motive_data"


def test_the_demo_goes_on_where_it_was_stopped(tmp_path: Path):
    file = write_demo_config(tmp_path)
    (tmp_path / "motive_data").mkdir()
    before = file.stat()
    assert write_demo_config(tmp_path) == file
    assert file.stat() == before


def test_other_settings_are_left_alone(tmp_path: Path):
    file = tmp_path / "motive.yaml"
    file.write_text("clips: {path: mine}\n")
    with pytest.raises(MotiveError, match=r"not the demo's.*motive demo FOLDER"):
        write_demo_config(tmp_path)
    assert file.read_text() == "clips: {path: mine}\n"
    assert list(tmp_path.iterdir()) == [file]


def test_a_storage_folder_of_unknown_settings_is_left_alone(tmp_path: Path):
    (tmp_path / "motive_data").mkdir()
    with pytest.raises(MotiveError, match=r"is there already, without the motive\.yaml"):
        write_demo_config(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["motive_data"]


def test_the_command_refuses_with_one_line_and_runs_the_settings_that_it_wrote(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setenv("MOTIVE_CONFIG", "elsewhere.yaml")
    ran = []
    monkeypatch.setattr("assets.run_stale.run_stale", lambda config, selection: ran.append((config.file, selection)) or _Nothing())
    monkeypatch.setattr("motive_pipeline.report.summary.summary", lambda ws: f"Report below {ws.root}")
    assert cli.main(["demo", str(tmp_path / "demo")]) == 0
    assert ran == [(tmp_path / "demo" / "motive.yaml", None)]
    assert f"Report below {tmp_path / 'demo' / 'motive_data'}" in capsys.readouterr().out
    (tmp_path / "motive.yaml").write_text("mine")
    assert cli.main(["demo", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"motive: {tmp_path / 'motive.yaml'} holds settings")
    assert cli.main(["demo", str(tmp_path / "demo"), "--config", "other.yaml"]) == 1
    assert "motive run --config FILE" in capsys.readouterr().err
    assert len(ran) == 1


class _Nothing:
    """The report of a run in which nothing was stale."""

    def __init__(self) -> None:
        self.ok, self.assets = True, {}
