"""Paths with characters that globs, SQL, URLs and file systems read in their own way: they work, or are refused before any work."""

import csv
import zipfile
from pathlib import Path

import duckdb
import pytest
import yaml

from assets.instance import instance_folder, open_instance
from motive_pipeline import api
from motive_pipeline.catalog.scan import observe_clip_files
from motive_pipeline.config import parse_config
from motive_pipeline.config.folders import MAX_ROOT_BYTES, MAX_STATE_BYTES
from motive_pipeline.errors import ConfigError
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.configured import clip_source
from motive_pipeline.sources.protocol import SourceEntry
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import read_clip
from tests.clip_fixtures import RULE, catalogued, moving_square, project, write_project, write_video
from tests.storage.test_integrity import publish

USABLE = ("exp[12]", "a[!b]", "[[]", "st*r", "**", "50% off", "100%", "{a,b}", "it's", 'a "b"', " blank ", "a;b", "$HOME", "#1", "s3:x", "línea🎬",
          "new\nline", "~", "x.zip!", "x#t=1,2")  # fmt: skip
REFUSED = {"what?": r"\?", "back\\slash": r"\\", "pct%20x": "%20"}


def config_at(root: Path, **storage):
    sections = {"storage": {"root": str(root)} | storage, "clips": {"source": "demo"}, "queries": {"source": "demo"}}
    return parse_config(yaml.safe_dump(sections, allow_unicode=True), root.parent / "motive.yaml")


def shown(file: Path) -> list[tuple]:
    with duckdb.connect(str(file), read_only=True) as shell:
        return shell.execute("SELECT clip_id FROM subsets").fetchall()


@pytest.mark.parametrize("name", USABLE)
def test_a_root_with_any_of_these_characters_holds_and_shows_its_own_scores(tmp_path, name):
    """``exp[12]`` as a glob is ``exp1``, its neighbour."""
    for neighbour in {"exp[12]": ("exp1",), "a[!b]": ("ab", "ac"), "st*r": ("star",), "**": ("a",)}.get(name, ()):
        publish(Workspace(config_at(tmp_path / neighbour)), "a neighbour's")
    ws = Workspace(config_at(tmp_path / name))
    publish(ws, "its own")
    assert ws.scores.query("SELECT clip_id FROM subsets").fetchall() == [("its own",)]
    assert shown(ws.scores.duckdb_file) == [("its own",)]
    assert api.open_root(tmp_path / name).sql("SELECT clip_id FROM subsets")["clip_id"].tolist() == ["its own"]


@pytest.mark.parametrize("name", ["exp[12]", "it's 50% *off* #1", "línea🎬 "])
def test_dagster_keeps_its_history_below_such_a_root_and_nowhere_else(tmp_path, name):
    config = config_at(tmp_path / name)
    for _ in range(2):  # the second time, the folder is known to belong to the root
        with open_instance(config) as instance:
            assert instance.get_runs() == []
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert list((tmp_path / name / "state" / "dagster_home" / "history").rglob("*.db"))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("key", ["root", "state"])
def test_a_root_or_state_that_a_library_would_look_for_elsewhere_is_refused_before_any_work(tmp_path, name, key):
    with pytest.raises(ConfigError, match=rf"storage\.{key} = .*: {REFUSED[name]} is not possible.*Rename the folder, or choose another"):
        config_at(**{"root": tmp_path / "root"} | {key: str(tmp_path / name) if key == "state" else tmp_path / name})
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_is_opened_by_its_folder_is_refused_for_the_same_reason(tmp_path):
    (tmp_path / "what?" / "published").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"storage\.root.*\? is not possible"):
        api.open_root(tmp_path / "what?")


def test_a_checkout_whose_path_dagster_would_misread_is_refused(tmp_path):
    (tmp_path / "what?" / "dagster_home").mkdir(parents=True)
    (tmp_path / "what?" / "dagster_home" / "dagster.yaml").touch()
    text = f"storage: {{root: {tmp_path / 'root'}}}\nclips: {{source: demo}}\nqueries: {{source: demo}}"
    with pytest.raises(ConfigError, match=r"the Dagster instance = .*what\?/dagster_home: \? is not possible"):
        instance_folder(parse_config(text, tmp_path / "what?" / "motive.yaml"))


def deep(folder: Path, num_bytes: int) -> Path:
    """A path of this length below ``folder``."""
    while num_bytes - len(str(folder)) > 120:
        folder /= "d" * 98
    return folder / ("e" * (num_bytes - len(str(folder)) - 1))


def test_a_state_of_the_longest_path_works_and_a_longer_one_is_refused_with_the_length_that_fits(tmp_path):
    import dagster as dg

    @dg.op
    def nothing():
        pass

    config = config_at(tmp_path / "root", state=str(deep(tmp_path, MAX_STATE_BYTES)))
    HashMemory(config.storage.state).save()
    with open_instance(config) as instance:
        ended = dg.GraphDefinition("job", node_defs=[nothing]).to_job().execute_in_process(instance=instance)
        assert instance.all_logs(ended.run_id), "a run has a database of its own"
    with pytest.raises(ConfigError, match=rf"storage\.state = .* has {MAX_STATE_BYTES + 1} bytes, and {MAX_STATE_BYTES} is the most"):
        config_at(tmp_path / "root", state=str(deep(tmp_path, MAX_STATE_BYTES + 1)))


def test_a_root_of_the_longest_path_works_and_a_longer_one_is_refused(tmp_path):
    state = str(tmp_path / "state")
    ws = Workspace(config_at(deep(tmp_path, MAX_ROOT_BYTES), state=state))
    publish(ws, "deep down")
    assert shown(ws.scores.duckdb_file) == [("deep down",)]
    with pytest.raises(ConfigError, match=rf"storage\.root = .*{MAX_ROOT_BYTES} is the most"):
        config_at(deep(tmp_path, MAX_ROOT_BYTES + 1), state=state)
    with pytest.raises(ConfigError, match=r"more than the 255 bytes that file systems allow"):
        config_at(tmp_path / ("é" * 128))


def test_a_path_that_is_not_utf_8_or_holds_nul_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"storage\.root = .*NUL"):
        config_at(Path(f"{tmp_path}/a\0b"))
    with pytest.raises(ConfigError, match=r"storage\.root = .*not UTF-8"):
        config_at(Path(f"{tmp_path}/\udcff"))


@pytest.mark.parametrize("name", [*USABLE, *REFUSED])
def test_clips_are_read_from_a_folder_of_any_name(tmp_path, name):
    video = write_video(tmp_path / name / "csv" / "a.mp4", moving_square())
    with (video.parent / "metadata.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["video", "caption"], ["a.mp4", "a square"]])
    (tmp_path / name / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / name / "zip" / "videos.zip", "w") as archive:
        archive.write(video, "inner/b.mp4")
    for source, folder in (("folder", "csv"), ("csv", "csv"), ("zip", "zip")):
        ws = project(tmp_path, storage={"root": str(tmp_path / "root")}, clips={"path": str(tmp_path / name / folder), "source": source})
        (entry,) = clip_source(ws).entries()
        assert isinstance(entry, SourceEntry)
        assert read_clip(MediaFile.parse(entry.file.location), RULE).frames_THWC.shape == (9, 48, 64, 3)
        assert observe_clip_files(ws)


def test_a_project_in_a_folder_of_odd_name_publishes_its_catalogs(tmp_path):
    home = tmp_path / "it's exp[12] 50% *"
    write_project(home)
    ws = catalogued(project(home))
    assert ws.scores.query("SELECT count(*) FROM clips").fetchall() == [(3,)]
    assert ws.published("clip_catalog").rejects().empty
