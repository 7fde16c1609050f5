"""From a setting that names a model to its folder: folders, hub ids, what lies in the cache, and what is told when there is none."""

from pathlib import Path

import pytest

from motive_pipeline.errors import MotiveError
from motive_pipeline.models.hub import Named, resolve


def named(name: str | Path, **changed) -> Named:
    def require(folder: Path) -> None:
        if not (folder / "weights").is_file():
            raise MotiveError(f"{folder} has no weights")

    settings = {"key": "model.path", "revision": None, "allowed": "a folder or a hub id", "files": ("weights",), "require": require}
    return Named(name=str(name), **settings | changed)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty hub cache; returns the folder of one snapshot of ``someone/model``, which holds no weights yet."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--model"
    for folder in ("snapshots/abc", "refs"):
        (repository / folder).mkdir(parents=True)
    for name in ("main", "v1"):
        (repository / "refs" / name).write_text("abc")
    return repository / "snapshots" / "abc"


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "weights").touch()
    assert resolve(named(tmp_path)) == tmp_path


def test_a_folder_that_is_no_model_is_refused_by_the_callers_check(tmp_path):
    with pytest.raises(MotiveError, match="has no weights"):
        resolve(named(tmp_path))


@pytest.mark.parametrize("name", ["/no/such/folder", "one-word", "a/b/c", "../up"])
def test_what_is_neither_folder_nor_hub_id_is_told_what_is_allowed(name):
    with pytest.raises(MotiveError, match=rf"model\.path = '{name}': no such folder\. Name a folder or a hub id\."):
        resolve(named(name))


@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_whole_snapshot_in_the_cache_needs_no_network(cache, monkeypatch, revision):
    (cache / "weights").touch()
    monkeypatch.setattr("motive_pipeline.models.hub._downloaded", lambda _, __: pytest.fail("the network was asked"))
    assert resolve(named("someone/model", revision=revision)).samefile(cache)


def test_a_snapshot_that_is_not_whole_is_downloaded(cache, monkeypatch):
    (cache / "index").touch()

    def download(wanted: Named, flaw: MotiveError | None) -> Path:
        assert str(flaw).endswith("snapshots/abc has no weights")
        (cache / "weights").touch()
        return cache

    monkeypatch.setattr("motive_pipeline.models.hub._downloaded", download)
    assert resolve(named("someone/model", files=("index", "weights"))).samefile(cache)
    assert (cache / "weights").exists()


def test_what_was_downloaded_and_is_no_model_is_refused(cache, monkeypatch):
    monkeypatch.setattr("motive_pipeline.models.hub._downloaded", lambda _, __: cache)
    with pytest.raises(MotiveError, match="has no weights"):
        resolve(named("someone/model"))


def test_only_the_files_that_are_needed_are_downloaded_and_a_failure_names_the_revision(cache, monkeypatch):
    asked = {}

    def refuse(name, *, revision, local_files_only=False, allow_patterns=None):
        from huggingface_hub.errors import LocalEntryNotFoundError

        if local_files_only:
            raise LocalEntryNotFoundError("not there")
        asked.update(name=name, revision=revision, files=allow_patterns)
        raise OSError("no network\nsecond line")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(
        MotiveError, match=r"model\.path = 'someone/model'.*cannot be downloaded from the hub at revision v2 \(no network\)\."
    ):
        resolve(named("someone/model", revision="v2"))
    assert asked == {"name": "someone/model", "revision": "v2", "files": ["weights"]}
