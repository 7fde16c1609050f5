"""Dagster's history in a real Postgres server."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import pytest

from assets import postgres
from assets.instance import TEMPLATE, instance_folder, open_instance
from motive_pipeline.errors import ConfigError, MotiveError
from tests.assets.test_automation import make_project
from tests.graph_project import Project

NAME = "MOTIVE_TEST_DATABASE"
BINARIES = sorted(glob("/usr/lib/postgresql/*/bin"))


@pytest.fixture(scope="module")
def server() -> Iterator[Path]:
    """The folder of the server's socket. The server runs as the user postgres, as it refuses to run as root."""
    if not BINARIES:
        assert not os.environ.get("CI"), "install postgresql"
        pytest.skip("no Postgres server here (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="motive-postgres-"))  # pytest's own folders are closed to other users
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "postgres", "--"]
        os.chown(folder, pwd.getpwnam("postgres").pw_uid, -1)
    data, binaries = folder / "data", Path(BINARIES[-1])
    subprocess.run([*as_user, binaries / "initdb", "-D", data, "-U", "motive", "--auth=trust"], check=True, capture_output=True, cwd="/")
    options = f"-k {folder} -c listen_addresses='' -c fsync=off"
    start = [*as_user, binaries / "pg_ctl", "-D", data, "-w", "-o", options, "-l", folder / "log", "start"]
    subprocess.run(start, check=True, cwd="/", stdout=subprocess.DEVNULL)
    yield folder
    subprocess.run([*as_user, binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=True, capture_output=True, cwd="/")
    shutil.rmtree(folder)


@pytest.fixture
def database(server, request, monkeypatch) -> str:
    """The URL of an empty database, which the variable holds."""
    name = f"d{abs(hash(request.node.name))}"
    subprocess.run([Path(BINARIES[-1]) / "createdb", "-h", server, "-U", "motive", name], check=True, cwd="/")
    url = f"{postgres.SCHEME}motive@/{name}?host={server}"
    monkeypatch.setenv(NAME, url)
    monkeypatch.setenv("DAGSTER_HOME", "")
    return url


def project_in(folder: Path) -> Project:
    folder.mkdir()
    project = make_project(folder)
    project.set("storage", {"root": str(folder / "root"), "postgres": NAME})
    return project


@pytest.mark.slow
def test_runs_materializations_and_staleness_live_in_the_database(tmp_path, database):
    project = project_in(tmp_path / "one")
    first = project.run("--select", "key:clip_catalog or key:query_catalog")
    assert first.assets["clip_catalog"]["status"] == "computed"
    assert project.materializations()["clip_catalog"] == 1
    again = project.run("--select", "key:clip_catalog or key:query_catalog")
    assert again.assets["clip_catalog"]["status"] == "unchanged"
    assert project.materializations()["clip_catalog"] == 1
    folder = instance_folder(project.config)
    assert not list(folder.rglob("*.db"))
    assert "motive@" not in (folder / "dagster.yaml").read_text()


@pytest.mark.slow
def test_a_database_is_that_of_one_project(tmp_path, database):
    one, two = project_in(tmp_path / "one"), project_in(tmp_path / "two")
    open_instance(one.config).dispose()
    with pytest.raises(MotiveError, match="has the history of another project"):
        open_instance(two.config)
    open_instance(one.config).dispose()


@pytest.mark.slow
def test_a_database_that_does_not_answer_is_named(tmp_path, database, monkeypatch):
    monkeypatch.setenv(NAME, f"{database}-absent")
    with pytest.raises(MotiveError, match=r"storage\.postgres: the database cannot be used: .*does not exist|No such file"):
        open_instance(project_in(tmp_path / "one").config)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "it is not set"),
        ("postgresql://me:word@host/db", "it is set, but does not begin so"),
        ("postgresql+psycopg2://me:word@host:port/db", "the URL cannot be read.*write %40 for @"),
        ("postgresql+psycopg2://me:p@word@host/db", "the URL cannot be read"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_refused_without_its_content(tmp_path, monkeypatch, value, said):
    monkeypatch.delenv(NAME, raising=False)
    if value is not None:
        monkeypatch.setenv(NAME, value)
    with pytest.raises(MotiveError, match=said) as refused:
        instance_folder(project_in(tmp_path / "one").config)
    assert "word@" not in str(refused.value)
    assert ":word" not in str(refused.value)


def test_a_password_with_signs_of_a_url_is_read_as_dagster_reads_it(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, f"{postgres.SCHEME}me:p%40ss@127.0.0.1:1/db")
    config = project_in(tmp_path / "one").config
    with pytest.raises(MotiveError, match=r"the database cannot be used: connection to server at .127\.0\.0\.1., port 1 failed") as refused:
        postgres.open_database(config, tmp_path)
    assert "ss@" not in str(refused.value)


def test_a_url_is_no_name_of_a_variable(tmp_path):
    project = project_in(tmp_path / "one")
    project.set("storage.postgres", "postgresql://me:word@host/db")
    with pytest.raises(ConfigError, match=r"storage\.postgres"):
        _ = project.config


def test_the_instance_follows_the_setting_and_keeps_what_a_person_changed(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, f"{postgres.SCHEME}me@host/db")
    template, file = TEMPLATE.read_text(), tmp_path / "dagster.yaml"
    project = project_in(tmp_path / "one")
    with_database = project.config
    project.set("storage.postgres", None)
    without = project.config

    postgres.write_settings(without, file, template)
    assert file.read_text() == template
    postgres.write_settings(with_database, file, template)
    assert file.read_text().endswith(f"postgres_url:\n      env: {NAME}\n")
    file.write_text(file.read_text().replace("max_retries: 2", "max_retries: 5"))
    with pytest.raises(MotiveError, match="take its section `storage:` out of it"):
        postgres.write_settings(without, file, template)
    postgres.write_settings(with_database, file, template)
    assert "max_retries: 5" in file.read_text()

    file.write_text(template.replace("max_retries: 2", "max_retries: 5"))
    postgres.write_settings(without, file, template)
    with pytest.raises(MotiveError, match=rf"(?s)add this section to it:.*env: {NAME}"):
        postgres.write_settings(with_database, file, template)
    file.write_text(file.read_text() + "\nstorage:\n  postgres: {}\n")
    postgres.write_settings(with_database, file, template)
    postgres.write_settings(without, file, template)
    assert file.read_text().endswith("postgres: {}\n")
