"""Shards of a root in a bucket: each writes below a lease of its own, from any machine, and the merge takes their rows as from a folder."""

import shutil
from pathlib import Path

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.catalog.catalog_clips import CatalogClip
from motive_pipeline.errors import MotiveError
from motive_pipeline.shards import run as running
from motive_pipeline.shards.merge import Merged, merge_shards
from motive_pipeline.shards.share import RECORD, Share, shards_folder
from motive_pipeline.storage import mirror, root_copy
from motive_pipeline.storage.adopting import Adopted
from motive_pipeline.storage.garbage import remove_unused, unused
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.shard_folders import shard_lock
from motive_pipeline.storage.workspace import Workspace
from tests.bucket.projects import objects
from tests.clip_fixtures import catalogued
from tests.shards.conftest import open_project, publish_rows, shard, write_videos

ONE_VARIANT = ["random", "motive"]


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    return write_videos(tmp_path_factory.mktemp("videos"))


class Site:
    """The project at one address, as machines see it that have only clips and model in common."""

    def __init__(self, videos: Path, folder: Path, address: Address) -> None:
        self.videos, self.folder, self.address = videos, folder, address
        ws = self.machine("first")
        with ws.lock.holding():
            catalogued(ws)

    def machine(self, name: str) -> Workspace:
        """The project on machine ``name`` now, by a process that remembers nothing."""
        for root in [root for root in root_copy._copies if root.is_relative_to(self.folder / name)]:
            del root_copy._copies[root]
        return open_project(self.videos, self.folder, arms=ONE_VARIANT, storage={"root": self.address.url, "state": name})

    def merge(self, name: str = "first", count: int | None = None) -> Merged:
        ws = self.machine(name)
        return merge_shards(ws.config, shards_folder(ws.config, None), count)

    def versions(self, name: str) -> dict[str, tuple[str, int]]:
        ws = self.machine(name)
        with ws.lock.holding():
            return publish_rows(ws)


@pytest.fixture
def site(videos: Path, address: Address, tmp_path: Path) -> Site:
    return Site(videos, tmp_path, address)


def unsharded(videos: Path, folder: Path) -> dict[str, tuple[str, int]]:
    folder.mkdir()
    return publish_rows(catalogued(open_project(videos, folder, arms=ONE_VARIANT)))


def test_shards_of_two_machines_merged_by_a_third_publish_the_bits_of_a_run_on_disk(site: Site, videos: Path, tmp_path: Path):
    records = [shard(site.machine("first"), 1), shard(site.machine("second"), 2), shard(site.machine("second"), 3)]
    assert sum(record.num_clips for record in records) == 6
    there = objects(site.address)
    assert {f"shards/3/{number}/{RECORD}" for number in (1, 2, 3)} <= there.keys()
    assert not any(key.startswith("rows/latents/") for key in there), "a shard writes into its own folder alone"
    assert not any("/state/" in key for key in there)

    merged = site.merge("third")
    assert {name.split("/")[0]: taken for name, taken in merged.taken.items()}["latents"] == Adopted(rows=8, rejects=1)
    copies = site.machine("third").root
    assert list((copies / "shards").rglob("*.safetensors")) == [], "the copies of shards are given up"
    assert set(site.merge("fourth").taken.values()) == {Adopted()}

    expected, found = unsharded(videos, tmp_path / "local"), site.versions("first")
    assert {key: version for key, (version, _) in found.items()} == {key: version for key, (version, _) in expected.items()}
    assert sum(computed for _, computed in found.values()) == 0 < sum(computed for _, computed in expected.values())


def test_a_stopped_shard_goes_on_on_another_machine(site: Site, monkeypatch: pytest.MonkeyPatch):
    from motive_pipeline.motion import stage

    original = stage.mask_row

    def stops(clip, *arguments):
        if clip.part == "query":
            raise KeyboardInterrupt
        return original(clip, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(stage, "mask_row", stops)
        with pytest.raises(KeyboardInterrupt):
            shard(site.machine("first"), 1, 2)
    assert f"shards/2/1/{RECORD}" not in objects(site.address)
    record = shard(site.machine("second"), 1, 2)
    assert record.assets["latents"].computed == record.assets["motion_masks"].computed == 0
    assert record.assets["motion_masks"].reused > 0
    assert record.assets["query_masks"].computed == record.num_queries > 0


def test_the_server_copies_what_shards_have_written(site: Site, monkeypatch: pytest.MonkeyPatch):
    shard(site.machine("first"), 1, 1)
    copied: list[str] = []
    copy = Bucket.copy

    def counts(bucket: Bucket, source: str, target: str) -> object:
        copied.append(source)
        return copy(bucket, source, target)

    monkeypatch.setattr(Bucket, "copy", counts)
    monkeypatch.setattr(root_copy, "PART_BYTES", 0)
    monkeypatch.setattr(root_copy, "COPIED_BYTES", 0)
    site.merge("second")
    there = objects(site.address)
    assert sorted(copied) == sorted(key for key in there if key.startswith("shards/1/1/rows/") and key.endswith(".safetensors"))
    sizes = [
        sorted(size for key, size in there.items() if key.startswith(f"{folder}latents/") and key.endswith(".safetensors"))
        for folder in ("rows/", "shards/1/1/rows/")
    ]
    assert sizes[0] == sizes[1] != []


def test_a_shard_that_is_run_again_and_stopped_is_not_complete(site: Site, monkeypatch: pytest.MonkeyPatch):
    def stops(_: object) -> None:
        raise KeyboardInterrupt

    shard(site.machine("first"), 1, 1)
    assert f"shards/1/1/{RECORD}" in objects(site.address)
    monkeypatch.setattr(running, "sources_of_rows", stops)
    with pytest.raises(KeyboardInterrupt):
        shard(site.machine("second"), 1, 1)
    assert f"shards/1/1/{RECORD}" not in objects(site.address)


def test_a_machine_without_the_archives_brings_them(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shutil.make_archive(str(tmp_path / "zips" / "all"), "zip", site.videos / "clips")
    Bucket(site.address).put("clips/all.zip", tmp_path / "zips" / "all.zip")
    clips = {"source": "zip", "path": f"{site.address.url}/clips"}
    settings = {"arms": ONE_VARIANT, "clips": clips, "storage": {"root": f"{site.address.url}/zipped", "state": "zipped"}}
    ws = open_project(site.videos, site.folder, **settings)
    with ws.lock.holding():
        catalogued(ws)
    shutil.rmtree(ws.config.model.cache)
    mirror._mirror.cache_clear()
    needed: list[CatalogClip] = []

    def stops(found: list[CatalogClip]) -> None:
        needed.extend(found)
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_require_files", stops)
    with pytest.raises(KeyboardInterrupt):
        shard(open_project(site.videos, site.folder, **settings), 1, 1)
    members = [clip for clip in needed if clip.file.member]
    assert len(members) == 6
    assert all(clip.file.num_bytes() > 0 for clip in members)


def test_shards_that_are_missing_at_work_or_not_finished_are_named_and_nothing_is_taken(site: Site, monkeypatch: pytest.MonkeyPatch):
    shard(site.machine("first"), 1)
    shard(site.machine("first"), 3)
    ws = site.machine("second")
    place = Share(count=3, number=3).folder(shards_folder(ws.config, None))
    lock = shard_lock(place, "shard 3/3")
    with lock.holding(who="motive run --shard 3/3"), pytest.raises(MotiveError) as error:
        site.merge("third")
    url = f"{site.address.url}/shards"
    assert str(error.value).startswith(f"2 of 3 shards in {url} cannot be merged:")
    assert f"shard 2/3 has not finished, or has never run: there is no {url}/3/2/{RECORD}" in str(error.value)
    assert f"shard 3/3 is at work ({url}/3/3 is in use by motive run --shard 3/3, process" in str(error.value)
    monkeypatch.setattr(running, "LEASE_WAIT_S", 0.0)
    with (
        shard_lock(place, "shard 3/3").holding(who="motive run --shard 3/3"),
        pytest.raises(Locked, match="is in use by motive run --shard 3/3"),
    ):
        shard(site.machine("third"), 3)
    assert not any(key.startswith("rows/latents/") for key in objects(site.address))


@pytest.mark.slow
def test_rows_that_were_damaged_in_the_bucket_are_named_and_made_again(site: Site):
    shard(site.machine("first"), 1, 1)
    bucket = Bucket(site.address)
    (key, *_) = sorted(key for key in objects(site.address) if "/latents/" in key and key.endswith(".safetensors"))
    found = bucket.get(key)
    assert found is not None
    bucket.put(key, found[0][:-1] + bytes([found[0][-1] ^ 1]))
    with pytest.raises(MotiveError, match=r"1 of 1 shards .*\n.*shard 1/1 .*is cut or altered"):
        site.merge("second")
    with pytest.raises(MotiveError, match="shard 1/1 has lost rows of latents"):
        site.merge("third")
    assert shard(site.machine("fourth"), 1, 1).assets["latents"].computed > 0
    assert site.merge("third", 1).taken


def test_merged_shards_are_garbage_and_those_at_work_are_not(site: Site):
    def shards_to_go(name: str) -> list[tuple[str, int]]:
        ws = site.machine(name)
        with ws.lock.holding():
            found = unused(ws, assets=[*ws.graph.assets], stale=[])
            return [(each.path.relative_to(ws.root).as_posix(), each.num_bytes) for each in found if "shards" in each.path.parts]

    assert shards_to_go("first") == []
    shard(site.machine("second"), 1, 1)
    assert shards_to_go("first") == []
    site.merge("third")
    num_bytes = sum(size for key, size in objects(site.address).items() if key.startswith("shards/1/"))
    assert shards_to_go("first") == [("shards/1", num_bytes)]
    ws, lease = site.machine("second"), "shards/1/1/run.lease.json"
    with shard_lock(ws.root / "shards" / "1" / "1", "shard 1/1").holding():
        assert shards_to_go("first") == []
        held = Bucket(site.address).get(lease)
    assert held is not None
    given_back = Bucket(site.address).get(lease)
    Bucket(site.address).put(lease, held[0])  # as a kill leaves it
    assert shards_to_go("first") == []
    assert [name for name, _ in shards_to_go("second")] == ["shards/1"], "its own process is known to be dead"
    assert given_back is not None
    Bucket(site.address).put(lease, given_back[0])
    ws = site.machine("first")
    with ws.lock.holding():
        remove_unused([each for each in unused(ws, assets=[*ws.graph.assets], stale=[]) if "shards" in each.path.parts])
    assert not any(key.startswith("shards/") for key in objects(site.address))
    assert shards_to_go("second") == []


@pytest.mark.slow
def test_shards_in_a_folder_are_merged_into_a_root_in_a_bucket(site: Site, tmp_path: Path):
    ws = site.machine("first")
    share = Share(count=1, number=1)
    record = running.run_shard(ws.config, share, share.folder(tmp_path / "shared"))
    assert record.assets["latents"].computed > 0
    assert not any(key.startswith("shards/") for key in objects(site.address))
    shutil.rmtree(tmp_path / "first")
    ws = site.machine("second")
    assert merge_shards(ws.config, tmp_path / "shared").taken
    assert sum(computed for _, computed in site.versions("third").values()) == 0
