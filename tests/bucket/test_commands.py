"""The commands with a root in a bucket that cannot be used: one sentence, within seconds, before anything costly."""

import time
from pathlib import Path

import pytest

from motive_pipeline import cli
from motive_pipeline.config import load_config
from tests.bucket.projects import SETTINGS
from tests.bucket.servers import Server, used
from tests.ports import free_port


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


def test_doctor_asks_for_each_url_and_copies_nothing(address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from motive_pipeline.bucket.client import Bucket
    from motive_pipeline.doctor import _model, _object_storage

    Bucket(address).put("model/model_index.json", b"{}")
    text = SETTINGS.format(url=address.url, state="state").replace("path: tiny", f"path: '{address.url}/model'")
    text = text.replace("clips: {source: demo", "clips: {source: folder, path: 's3://no-such-bucket-here/clips'")
    (tmp_path / "motive.yaml").write_text(text)
    config = load_config(tmp_path / "motive.yaml")
    found = {each.about: each for each in _object_storage(config)}
    assert {key: each.status for key, each in found.items()} == {"storage.root": "ok", "clips.path": "fail", "model.path": "ok"}
    assert "there is no such bucket" in found["clips.path"].detail
    finding, model = _model(config)
    assert (finding.status, model) == ("warn", None)
    assert "the first run downloads it" in finding.detail
    assert not (tmp_path / "state").exists()
