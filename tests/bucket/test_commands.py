"""The commands with a root in a bucket that cannot be used: one sentence, within seconds, before anything costly."""

import time
from pathlib import Path

import pytest

from motive_pipeline import cli
from motive_pipeline.config import load_config
from tests.bucket.projects import SETTINGS
from tests.bucket.servers import Server, free_port, used


def config_file(folder: Path, url: str) -> Path:
    file = folder / "motive.yaml"
    file.write_text(SETTINGS.format(url=url, state="state"))
    return file


@pytest.fixture
def nowhere():
    """An endpoint where nothing listens."""
    with used(Server(free_port())):
        yield


def test_no_server_is_told_in_one_line(nowhere, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    started = time.monotonic()
    assert cli.main(["sql", "SELECT 1", "--config", str(config_file(tmp_path, "s3://bucket/x"))]) == 1
    assert time.monotonic() - started < 15
    error = capsys.readouterr().err
    assert "motive: s3://bucket/x: no server answers at http://127.0.0.1:" in error
    assert error.count("\n") == 1


def test_a_missing_bucket_ends_a_run_before_anything_is_made(moto: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with used(moto):
        assert cli.main(["run", "--config", str(config_file(tmp_path, "s3://there-is-no-such-bucket/x"))]) == 1
    assert "motive: s3://there-is-no-such-bucket: there is no such bucket. Create it" in capsys.readouterr().err
    assert not list((tmp_path / "state").rglob("*.mp4"))


def test_a_run_of_another_driver_is_named(address, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tests.bucket.projects import machine

    with machine(tmp_path, address, "elsewhere").lock.holding(who="motive run"):
        assert cli.main(["run", "--config", str(config_file(tmp_path, address.url))]) == 1
    assert f"motive: {address} is in use by motive run, process" in capsys.readouterr().err
    assert not list((tmp_path / "state").rglob("*.mp4"))


def test_the_code_location_loads_without_a_network(nowhere, tmp_path: Path):
    from assets.definitions import build_definitions

    assert build_definitions(load_config(config_file(tmp_path, "s3://bucket/x"))).resolve_job_def("everything")
