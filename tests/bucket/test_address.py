"""URLs in the settings: what is taken, and what is refused without showing its secret."""

from pathlib import Path

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.config import Config
from motive_pipeline.errors import ConfigError

SETTINGS = """
storage: {{root: "{url}"}}
clips: {{source: demo, num_frames: 17, width: 64, height: 64}}
queries: {{source: demo}}
model: {{path: tiny}}
"""


def of_root(make_config, url: str) -> Config:
    return make_config(SETTINGS.format(url=url))


def test_a_root_in_a_bucket_has_a_working_copy_below_the_state(make_config, tmp_path: Path):
    storage = of_root(make_config, "s3://my-bucket/a/b/").storage
    assert storage.address == Address("s3", "my-bucket", "a/b")
    assert storage.address.url == "s3://my-bucket/a/b"
    assert storage.state == tmp_path / "motive_state"
    assert storage.root == tmp_path / "motive_state" / "root"


@pytest.mark.parametrize("url", ["gs://bucket", "az://container/x"])
def test_other_clouds_are_taken(make_config, url: str):
    assert of_root(make_config, url).storage.address.url == url


def test_a_file_url_is_a_local_folder(make_config, tmp_path: Path):
    storage = of_root(make_config, f"file://{tmp_path}/my%20root").storage
    assert storage.address is None
    assert storage.root == tmp_path / "my root"


def test_a_local_root_stays_as_it_was(make_config, tmp_path: Path):
    storage = of_root(make_config, "some/folder").storage
    assert (storage.address, storage.root, storage.state) == (None, tmp_path / "some/folder", tmp_path / "some/folder/state")


def test_keep_curations_survives_the_resolving_of_paths(make_config):
    assert make_config(SETTINGS.format(url="x").replace("root:", "keep_curations: 7, root:")).storage.keep_curations == 7


@pytest.mark.parametrize("key", ["storage.root", "clips.path", "queries.path", "queries.held_out_path", "model.path"])
def test_credentials_in_a_url_are_refused_and_not_shown(make_config, key: str):
    section, name = key.split(".")
    text = f'{section}: {{{name}: "s3://AKIAX:very-secret@bucket/x"}}\n'
    others = {"clips": "clips: {source: folder, path: c}", "queries": "queries: {source: folder, path: q}", "model": "model: {path: tiny}"}
    others.pop(section, None)
    with pytest.raises(ConfigError, match=rf"{key} = 's3://\*\*\*@bucket/x': has credentials in it.*AWS_PROFILE") as error:
        make_config(text + "\n".join(others.values()))
    assert "very-secret" not in str(error.value)
    assert "AKIAX" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://bucket/x", "begins with s3://, gs://, az://"),
        ("s3:///x", "names no bucket"),
        ("s3://b/x?region=1", "nothing behind"),
        ("s3://b/a/../x", r"\.\."),
        ("file://host/x", "absolute path"),
    ],
)
def test_a_url_that_cannot_be_used_is_named(make_config, url: str, words: str):
    with pytest.raises(ConfigError, match=f"storage.root = .*{words}"):
        of_root(make_config, url)


def test_a_missing_client_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    import sys

    from motive_pipeline.bucket.client import Bucket

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'motive-pipeline\[s3\]'"):
        Bucket(Address("s3", "b", ""))
