"""A project with published catalogs, and the same one with three finished shards that are not merged yet."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import yaml

from motive_pipeline.config import load_config
from motive_pipeline.files.hash_memory import clip_id_of
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


def shard(ws: Workspace, number: int, num_shards: int = 3) -> ShardRecord:
    """Run one shard of the project, in this process."""
    share = Share(count=num_shards, number=number)
    return run_shard(ws.config, share, share.folder(shards_folder(ws.config, None)))


THIRDS = [Share(count=3, number=number) for number in (1, 2, 3)]
FIRST_HALF = Share(count=2, number=1)


def write_videos(folder: Path) -> Path:
    """Six clips, of which one cannot be decoded, two queries, a held-out query, and a model. Each third has a clip that moves, the first half and the last
    third have a query, too; encoders write other bytes on other processors, so that is arranged."""
    write_project(folder)
    lacking = [third for third in THIRDS if not any(map(third.has, map(id_of, (folder / "clips").glob("clip_[01].mp4"))))]
    first, *others = lacking or THIRDS
    _write_square(folder / "clips" / "clip_3.mp4", 1.5, [first])
    _write_square(folder / "clips" / "clip_4.mp4", 1.5, [*others[:1], FIRST_HALF])
    _write_square(folder / "queries" / "slide" / "query_0.mp4", 3.0, [FIRST_HALF])
    _write_square(folder / "queries" / "slide" / "query_1.mp4", 3.0, THIRDS[2:])
    damage(write_video(folder / "clips" / "bad.mp4", noise(12)), 0.3, 20_000)
    save_tiny_wan(folder / "wan")
    return folder


def id_of(file: Path) -> str:
    """The id of the clip that ``file`` is."""
    return clip_id_of(hashlib.sha256(file.read_bytes()).hexdigest(), None)


def _write_square(file: Path, step_px: float, shares: list[Share]) -> None:
    """Write the first moving square that belongs to all of ``shares``."""
    for seed in count(100):
        if all(share.has(id_of(write_video(file, moving_square(step_px=step_px, seed=seed)))) for share in shares):
            return


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
