"""Several histories of runs on one root: the second is told what to do, and what another one published is stale, whatever Dagster remembers."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import dagster as dg
import pytest

from assets import instance
from assets.instance import claim_root, instance_folder
from assets.plan import plan
from assets.run_stale import Report, run_stale
from motive_pipeline import cli
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.published_settings import note_on_other_settings
from motive_pipeline.storage.run_history import IN_HISTORY, ON_ROOT, RunHistory, claim
from motive_pipeline.storage.workspace import Workspace
from tests.assets.test_automation import CATALOGS, clip_file, make_project
from tests.graph_project import Project

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def home(monkeypatch):
    """``open_instance`` sets the variable for this process; it is put back."""
    monkeypatch.setenv("DAGSTER_HOME", "")


@pytest.fixture
def project(tmp_path) -> Project:
    """Six clips and two queries, not run yet."""
    (tmp_path / "first").mkdir()
    project = make_project(tmp_path / "first")
    project.set("storage", {"root": str(tmp_path / "root")})
    return project


@pytest.fixture
def second(project, tmp_path) -> Project:
    """Another checkout: the same root, four of the clips, a state of its own."""
    other = Project(tmp_path, project.settings)
    (tmp_path / "some").mkdir()
    for seed in range(4):
        clip_file(tmp_path / "some", seed)
    other.settings["clips"] = project.settings["clips"] | {"path": str(tmp_path / "some")}
    other.settings["queries"] = {"path": str(tmp_path / "first" / "queries")}
    other.settings["storage"] = {"root": str(tmp_path / "root"), "state": str(tmp_path / "state")}
    other.save()
    return other


def statuses(report: Report) -> dict[str, str]:
    return {name: run.status for name, run in report.assets.items()}


def num_clips(config: Config) -> int:
    """How many clips the score tables have."""
    return Workspace(config).scores.query("SELECT count(*) FROM clips").fetchall()[0][0]


def reasons(config: Config) -> dict[str, list[str]]:
    """Why the catalogs would run."""
    return {each.asset: each.reasons for each in plan(config) if each.asset.endswith("catalog")}


def test_another_history_is_refused_and_says_what_to_do(project, second):
    run_stale(project.config, CATALOGS)
    home, other_home = instance_folder(project.config), second.config.storage.state / "dagster_home"
    for command in (lambda: run_stale(second.config, CATALOGS), lambda: plan(second.config)):
        with pytest.raises(MotiveError) as error:
            command()
        assert f"belongs to the run history in {home}, not to the one in {other_home}" in str(error.value)
        assert f"delete {project.config.storage.root / ON_ROOT}" in str(error.value)
    assert num_clips(project.config) == 6


def test_results_of_another_history_are_stale_and_made_again(project, second, capsys):
    run_stale(project.config, CATALOGS)
    mark = project.config.storage.root / ON_ROOT
    mark.unlink()
    run_stale(second.config, CATALOGS)
    assert num_clips(second.config) == 4
    with pytest.raises(MotiveError, match="belongs to the run history in"):
        run_stale(project.config, CATALOGS)
    mark.unlink()

    # the first history remembers an up-to-date catalog; what lies there is the other's
    assert any(reason.startswith("clips.path") for reason in reasons(project.config)["clip_catalog"])
    assert cli.main(["sql", "--config", str(project.file), "SELECT count(*) FROM clips"]) == 0
    assert "made with other settings" in (told := capsys.readouterr().err)
    assert "clips.path" in told
    assert statuses(run_stale(project.config, CATALOGS)) == {"clip_catalog": "computed", "query_catalog": "unchanged"}
    assert num_clips(project.config) == 6
    assert statuses(run_stale(project.config, CATALOGS)) == {"clip_catalog": "unchanged", "query_catalog": "unchanged"}
    assert cli.main(["sql", "--config", str(project.file), "SELECT count(*) FROM clips"]) == 0
    assert "made with other settings" not in capsys.readouterr().err


def test_the_note_rests_on_the_records_alone(project, monkeypatch):
    run_stale(project.config, CATALOGS)
    assert note_on_other_settings(project.workspace) is None
    project.set("clips.max_reject_share", 0.5)
    monkeypatch.setattr(Workspace, "published", lambda *_: pytest.fail("it looks whether every row is there"))
    assert "clips.max_reject_share 0.25 -> 0.5" in (note_on_other_settings(project.workspace) or "")


def test_a_root_that_was_put_back_from_a_backup_is_brought_up_to_date(project, tmp_path):
    run_stale(project.config, CATALOGS)
    root = project.config.storage.root
    shutil.copytree(root, tmp_path / "backup", ignore=shutil.ignore_patterns("state"))
    clip_file(project.folder / "clips", 7)
    run_stale(project.config, CATALOGS)
    assert num_clips(project.config) == 7
    for folder in ("published", "scores"):
        shutil.rmtree(root / folder)
        shutil.copytree(tmp_path / "backup" / folder, root / folder)
    assert num_clips(project.config) == 6
    assert reasons(project.config)["clip_catalog"] == ["another history of runs published it, or a backup was put back"]
    assert statuses(run_stale(project.config, CATALOGS))["clip_catalog"] == "computed"
    assert num_clips(project.config) == 7


def test_a_run_whose_history_would_be_forgotten_is_refused(project):
    run_stale(project.config, CATALOGS)
    before = Workspace(project.config).published("clip_catalog").folder
    clip_file(project.folder / "clips", 7)
    environment = {**os.environ, "MOTIVE_CONFIG": str(project.file)}
    del environment["DAGSTER_HOME"]
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "assets.definitions", "--select", "clip_catalog"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DAGSTER_HOME is not set" in done.stdout + done.stderr
    assert Workspace(project.config).published("clip_catalog").folder == before


@pytest.fixture
def root(tmp_path) -> Path:
    """A root that belongs to the history in ``old``."""
    for name in ("root", "old", "new"):
        (tmp_path / name).mkdir()
    claim(tmp_path / "root", RunHistory.at(tmp_path / "old"))
    return tmp_path / "root"


def test_a_history_that_has_gone_gives_the_root_to_the_next_one(root, tmp_path, caplog):
    old, new = RunHistory.at(tmp_path / "old"), RunHistory.at(tmp_path / "new")
    with pytest.raises(MotiveError, match="belongs to the run history in"):
        claim(root, new)
    shutil.rmtree(old.folder)
    claim(root, new)
    assert f"was in {old.folder} and has gone from there" in caplog.text
    (tmp_path / "old").mkdir()
    with pytest.raises(MotiveError, match="belongs to the run history in"):
        claim(root, RunHistory.at(tmp_path / "old"))


def test_a_history_that_was_moved_is_known_by_its_id(root, tmp_path, caplog):
    (tmp_path / "old").rename(tmp_path / "moved")
    claim(root, RunHistory.at(tmp_path / "moved"))
    assert json.loads((root / ON_ROOT).read_text())["folder"] == str(tmp_path / "moved")
    assert not caplog.text


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        *((f"root/{ON_ROOT}", content) for content in (b"", b"\0" * 40, b'{"history": 1}', b"\xff")),
        *((f"old/{IN_HISTORY}", content) for content in (b"", b"\0" * 40, b"\xff")),
    ],
)
def test_a_damaged_mark_belongs_to_nobody(root, tmp_path, damaged, content):
    (tmp_path / damaged).write_bytes(content)
    new = RunHistory.at(tmp_path / "new")
    claim(root, new)
    claim(root, new)
    assert json.loads((root / ON_ROOT).read_text()) == {"history": new.id, "folder": str(new.folder)}


@pytest.mark.parametrize("content", [b"", b"\0" * 33])
def test_an_id_that_a_power_cut_emptied_is_made_anew(tmp_path, content):
    first = RunHistory.at(tmp_path)
    assert RunHistory.at(tmp_path) == first
    (tmp_path / IN_HISTORY).write_bytes(content)
    assert len(RunHistory.at(tmp_path).id.strip("\0")) == 32
    assert RunHistory.at(tmp_path) != first


def test_the_mark_is_written_once(root, tmp_path):
    before = (root / ON_ROOT).stat().st_ino
    claim(root, RunHistory.at(tmp_path / "old"))
    assert (root / ON_ROOT).stat().st_ino == before


def test_an_instance_that_forgets_is_refused_and_any_other_is_its_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "old"))
    with dg.DagsterInstance.from_config(str(tmp_path / "old")) as instance:
        claim_root(instance, root)
    with dg.DagsterInstance.ephemeral() as forgetful, pytest.raises(MotiveError, match="DAGSTER_HOME is not set"):
        claim_root(forgetful, root)
    with (
        dg.DagsterInstance.from_config(str(tmp_path / "new")) as instance,
        pytest.raises(MotiveError, match="belongs to the run history in"),
    ):
        claim_root(instance, root)


def database(folder: Path) -> Path:
    """A whole database in a history of runs."""
    file = folder / "history" / "runs.db"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as db, db:
        db.execute("CREATE TABLE runs (id INTEGER)")
    return file


@pytest.mark.parametrize(
    ("spoil", "why"), [(lambda file: file.write_bytes(b""), "holds nothing"), (lambda file: file.write_text("x" * 4096), "not a database")]
)
def test_a_damaged_history_is_named_with_what_to_do(tmp_path, monkeypatch, spoil, why):
    monkeypatch.setattr(instance, "EMPTY_FOR_S", 0.3)
    file = database(tmp_path)
    instance._require_whole_databases(tmp_path)
    spoil(file)
    with pytest.raises(MotiveError, match=why) as caught:
        instance._require_whole_databases(tmp_path)
    assert f"move the folder {file.parent} away" in str(caught.value)


def test_a_database_that_another_process_is_just_creating_is_not_damaged(tmp_path):
    file = database(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(b"")
    threading.Timer(0.4, file.write_bytes, [whole]).start()
    instance._require_whole_databases(tmp_path)
    assert file.read_bytes() == whole, "it was waited for"
