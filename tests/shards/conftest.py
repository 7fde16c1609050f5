"""A project with published catalogs, and the same one with three finished shards that are not merged yet."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from motive_pipeline.config import load_config
from motive_pipeline.shards.record import ShardRecord
from motive_pipeline.shards.run import run_shard
from motive_pipeline.shards.share import Share, shards_folder
from motive_pipeline.storage.workspace import Workspace
from tests.clip_fixtures import catalogued, damage, moving_square, noise, write_project, write_video
from tests.tiny_wan import save_tiny_wan

SETTINGS = {
    "clips": {"num_frames": 9, "min_frames": 5, "fps": 8, "width": 64, "height": 48, "max_reject_share": 0.4},
    "model": {"dtype": "float32", "max_prompt_tokens": 8},
    "motion": {"min_side_px": 0},
    "gradient": {"store_dim": 1024},
    "influence": {"proj_dim": 256},
    "engine": {"threads": 1},
}
OpenProject = Callable[..., Workspace]


def open_project(videos: Path, folder: Path, **sections) -> Workspace:
    """The project with clips, queries and model of ``videos`` whose settings and results lie in ``folder``, with other settings in some sections."""
    given = {
        "clips": {"path": str(videos / "clips")},
        "queries": {"path": str(videos / "queries"), "held_out_path": str(videos / "held_out")},
        "model": {"path": str(videos / "wan")},
    }
    settings = {name: SETTINGS.get(name, {}) | given.get(name, {}) for name in {**SETTINGS, **given}}
    for name, values in sections.items():
        settings[name] = settings.get(name, {}) | values if isinstance(values, dict) else values
    (folder / "motive.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Workspace(load_config(folder / "motive.yaml"))


def shard(ws: Workspace, number: int, count: int = 3) -> ShardRecord:
    """Run one shard of the project, in this process."""
    share = Share(count=count, number=number)
    return run_shard(ws.config, share, share.folder(shards_folder(ws.config, None)))


def write_videos(folder: Path) -> Path:
    """Six clips, of which one cannot be decoded, two queries, a held-out query, and a model."""
    write_project(folder)
    for number in (3, 4):
        write_video(folder / "clips" / f"clip_{number}.mp4", moving_square(step_px=1.5, seed=number))
    damage(write_video(folder / "clips" / "bad.mp4", noise(12)), 0.3, 20_000)
    save_tiny_wan(folder / "wan")
    return folder


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def catalogued_project(tmp_path_factory: pytest.TempPathFactory, videos: Path) -> Path:
    """A folder with both catalogs published. Not to be changed."""
    folder = tmp_path_factory.mktemp("catalogued")
    catalogued(open_project(videos, folder))
    return folder


@pytest.fixture(scope="session")
def sharded_project(tmp_path_factory: pytest.TempPathFactory, videos: Path, catalogued_project: Path) -> Path:
    """The same with three finished shards. Not to be changed."""
    folder = shutil.copytree(catalogued_project, tmp_path_factory.mktemp("sharded") / "project")
    for number in (1, 2, 3):
        shard(open_project(videos, folder), number)
    return folder


@pytest.fixture
def catalogued_only(videos: Path, catalogued_project: Path, tmp_path: Path) -> OpenProject:
    """Opens a copy of ``catalogued_project`` of the test's own, with other settings if they are given."""
    return partial(open_project, videos, shutil.copytree(catalogued_project, tmp_path / "project"))


@pytest.fixture
def sharded(videos: Path, sharded_project: Path, tmp_path: Path) -> OpenProject:
    """Opens a copy of ``sharded_project`` of the test's own, with other settings if they are given."""
    return partial(open_project, videos, shutil.copytree(sharded_project, tmp_path / "project"))


@pytest.fixture
def own_videos(videos: Path, tmp_path: Path) -> Path:
    """A copy of the videos that a test may change."""
    return shutil.copytree(videos, tmp_path / "videos")


def publish_rows(ws: Workspace) -> dict[str, tuple[str, int]]:
    """Publish every asset that shards make rows for; gives its (data version, rows computed)."""
    keys = [asset.key for asset in ws.graph.assets.values() if asset.stage.rows is not None or asset.key == "second_moments"]
    published = {key: ws.graph.asset(key).publish(ws) for key in keys}
    return {key: (each.data_version, each.counts.computed) for key, each in published.items()}


@pytest.fixture
def held_by_another() -> Iterator[Callable[[Path], None]]:
    """Lets another process hold a lock until the test ends."""
    processes = []

    def hold(lock: Path) -> None:
        code = f"import fcntl, time; file = open({str(lock)!r}, 'a'); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); time.sleep(600)"
        process = subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()

    yield hold
    for process in processes:
        process.kill()
        process.communicate()
