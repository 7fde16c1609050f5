"""Clips, queries and their captions in a bucket: the same catalog as from a folder, through a cache that is never too large."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import boto3
import pytest

from assets.plan import Planned
from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.bucket.trouble import BucketError
from motive_pipeline.catalog.scan import observe_clip_files, observe_query_files
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.catalog.watch import still_being_written
from motive_pipeline.commands.planning import traffic_lines
from motive_pipeline.config import parse_config
from motive_pipeline.errors import ConfigError, MotiveError, RejectRow
from motive_pipeline.files.file_stat import regular_file_stat
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.graph import Graph
from motive_pipeline.sources.bucket_source import bytes_to_read
from motive_pipeline.sources.configured import clip_source
from motive_pipeline.sources.protocol import SourceEntry
from motive_pipeline.storage import mirror as mirrors
from motive_pipeline.storage.clip_folders import bring_archives, mirror_for
from motive_pipeline.storage.mirror import BucketMirror, held, open_mirror
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.pictures import NoPicture, PictureMaker, Subject
from tests.bucket.servers import Server, on_s3_and_azure
from tests.clip_fixtures import write_project

SETTINGS = """
storage: {{root: {root}, cache_gb: {cache_gb}}}
clips: {{source: {source}, path: "{base}/clips", num_frames: 5, width: 32, height: 32, max_reject_share: 1.0}}
queries: {{source: folder, path: "{base}/queries", held_out_path: "{base}/queries/held_out"}}
model: {{path: tiny, dtype: float32, max_prompt_tokens: 32}}
engine: {{decode_workers: 1}}
"""


def upload(folder: Path, address: Address) -> Bucket:
    bucket = Bucket(address)
    for file in folder.rglob("*"):
        if file.is_file():
            bucket.put(file.relative_to(folder).as_posix(), file)
    return bucket


def opened(folder: Path, base: str, name: str, *, cache_gb: float = 1.0, source: str = "folder") -> Workspace:
    text = SETTINGS.format(root=name, base=base, cache_gb=cache_gb, source=source)
    return Workspace(parse_config(text, folder / f"{name}.yaml"))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Local clips, queries and held-out queries below the queries."""
    folder = tmp_path / "videos"
    folder.mkdir()
    write_project(folder)
    shutil.move(folder / "held_out", folder / "queries" / "held_out")
    return folder


@pytest.fixture(autouse=True)
def _no_wait_between_listings(monkeypatch) -> Iterator[None]:
    monkeypatch.setattr(mirrors, "_FRESH_FOR_S", 0.0)
    yield
    mirrors._mirror.cache_clear()


@on_s3_and_azure
def test_the_catalogs_are_those_of_a_local_folder(address: Address, clips: Path, tmp_path: Path):
    upload(clips, address)
    here, there = opened(tmp_path, str(clips), "here"), opened(tmp_path, address.url, "there")
    assert observe_clip_files(there)[0] == observe_clip_files(here)[0]
    assert observe_query_files(there)[0] == observe_query_files(here)[0]
    for publish in (publish_clip_catalog, publish_query_catalog):
        publish(here)
        publish(there)
    for table, key in (("catalog", "clip_id"), ("queries", "query_id")):
        local, far = (ws.scores.query(f"SELECT * FROM {table} ORDER BY {key}").df() for ws in (here, there))
        assert far.drop(columns="path").equals(local.drop(columns="path"))
        assert [Path(path).name for path in far["path"]] == [Path(path).name for path in local["path"]]
    assert still_being_written(there, settle_s=60.0) == []


@on_s3_and_azure
def test_a_clip_that_changed_or_has_gone_is_noticed(address: Address, clips: Path, tmp_path: Path):
    bucket = upload(clips, address)
    ws = opened(tmp_path, address.url, "there")
    before = observe_clip_files(ws)[0]
    files = sorted(path.name for path in (clips / "clips").glob("*.mp4"))
    listed = [entry.file for entry in clip_source(ws).entries()]

    bucket.put(f"clips/{files[0]}", (clips / "clips" / files[1]).read_bytes())
    assert observe_clip_files(ws)[0] != before
    bucket.put(f"clips/{files[0]}", (clips / "clips" / files[0]).read_bytes())
    assert observe_clip_files(ws)[0] == before
    bucket.delete([f"clips/{files[0]}"])
    after = observe_clip_files(ws)[0]
    assert after != before
    with pytest.raises(RejectRow, match="missing_file"), listed[0].open():
        pass
    with pytest.raises(FileNotFoundError):
        listed[0].current_stat()


def test_a_caption_that_changes_is_noticed(address: Address, clips: Path, tmp_path: Path):
    bucket = upload(clips, address)
    ws = opened(tmp_path, address.url, "there")
    before = observe_clip_files(ws)[0]
    name = next((clips / "clips").glob("*.mp4")).stem
    bucket.put(f"clips/{name}.txt", b"another caption")
    assert observe_clip_files(ws)[0] != before
    assert "another caption" in [entry.caption for entry in clip_source(ws).entries()]


def test_the_explorer_shows_clips_that_no_copy_is_here_of(address: Address, clips: Path, tmp_path: Path):
    bucket = upload(clips, address)
    ws = opened(tmp_path, address.url, "there")
    entry = next(entry for entry in clip_source(ws).entries() if isinstance(entry, SourceEntry))
    assert not entry.file.path.exists()
    clip = Subject(clip_id=HashMemory(ws.state).clip_id(entry.file), location=str(entry.file.path), role="clip")
    entry.file.path.unlink()
    maker = PictureMaker(ws, tmp_path / "view")
    assert maker.tile(clip, "still").is_file()
    entry.file.path.unlink()
    original = maker.original(clip)
    assert original is not None
    assert original[0].is_file()
    bucket.delete([entry.file.path.relative_to(clip_source(ws).root.parent).as_posix()])
    list(clip_source(ws).entries())
    with pytest.raises(NoPicture, match="missing file"):
        maker.tile(clip, "still")


@on_s3_and_azure
def test_a_machine_that_has_never_listed_the_bucket_reads_its_clips(address: Address, clips: Path, tmp_path: Path):
    bucket = upload(clips, address)
    ws = opened(tmp_path, address.url, "there")
    listed = [entry.file for entry in clip_source(ws).entries()]
    before = [file.current_stat() for file in listed]
    shutil.rmtree(ws.config.model.cache)
    mirrors._mirror.cache_clear()
    another = Workspace(ws.config)
    assert not another.config.model.cache.exists(), "nothing is made before it is needed"
    assert [file.current_stat() for file in listed] == before
    with listed[0].open() as data:
        assert data.read() == (clips / "clips" / listed[0].name).read_bytes()
    assert len(observe_clip_files(another)[0]) > 0

    bucket.delete([f"clips/{listed[1].name}"])
    shutil.rmtree(ws.config.model.cache)
    mirrors._mirror.cache_clear()
    with pytest.raises(FileNotFoundError):
        listed[1].current_stat()
    with pytest.raises(RejectRow, match="missing_file"), listed[1].open():
        pass


def test_a_machine_with_another_state_folder_reads_the_clips_of_the_catalog(address: Address, clips: Path, tmp_path: Path):
    upload(clips, address)
    ws = opened(tmp_path, address.url, "there")
    location = next(iter(clip_source(ws).entries())).file.location
    shutil.rmtree(ws.config.model.cache)
    mirrors._expected.clear()  # as in the process of another machine
    mirrors._mirror.cache_clear()
    here = opened(tmp_path, address.url, "here")
    for suffix in ("", "#t=0,0.25"):
        file = MediaFile.parse(location + suffix)
        assert file.path.is_relative_to(here.config.model.cache)
        with file.open() as data:
            assert data.read() == (clips / "clips" / file.path.name).read_bytes()
    assert not ws.config.model.cache.exists()
    assert MediaFile.parse("/clips/a.mp4").path == Path("/clips/a.mp4")

    there = opened(tmp_path, address.url, "there")
    assert MediaFile.parse(location).path.is_relative_to(there.config.model.cache), "and the first machine reads its own"


def test_a_bucket_that_a_new_machine_cannot_ask_is_a_file_that_cannot_be_read(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ws = opened(tmp_path, address.url, "there")
    unknown = mirrors.open_mirror(ws.config.model.cache, 10**9).path(address.below("clips/a.mp4"))

    def cannot(*_: object) -> None:
        raise BucketError("no answer")

    monkeypatch.setattr(Bucket, "head", cannot)
    with pytest.raises(RejectRow, match="cannot be read: no answer") as rejection:
        regular_file_stat(unknown)
    assert rejection.value.transient


def mirror_with(address: Address, tmp_path: Path, num_files: int, max_bytes: int) -> tuple[BucketMirror, list[Path]]:
    bucket = Bucket(address)
    for number in range(num_files):
        bucket.put(f"f{number}.bin", bytes([number]) * 1000)
    mirror = open_mirror(tmp_path, max_bytes)
    mirror.refresh(address)
    return mirror, list(mirror.files(mirror.path(address)))


def copies(files: list[Path]) -> list[int]:
    return [number for number, file in enumerate(files) if file.exists()]


def test_the_cache_keeps_what_was_used_last_and_never_more_than_it_may(address: Address, tmp_path: Path):
    _, files = mirror_with(address, tmp_path, 5, 3000)
    for number in (0, 1, 2, 0, 3):
        with MediaFile(path=files[number]).open() as data:
            assert data.read() == bytes([number]) * 1000
    assert copies(files) == [0, 2, 3]


def test_the_plan_counts_what_would_be_read_from_the_bucket(address: Address, tmp_path: Path):
    bucket = Bucket(address)
    for number in range(4):
        bucket.put(f"clips/{number}.mp4", bytes(1000))
    text = f"clips: {{source: folder, path: {address.url}/clips}}\nqueries: {{source: demo}}\nstorage: {{state: state}}\nmodel: {{path: tiny}}\n"
    config = parse_config(text, tmp_path / "motive.yaml")
    mirror = mirror_for(config)
    mirror.refresh(address.below("clips"))
    setting = f"clips.path = {address.url}/clips"
    assert list(bytes_to_read(config, {"clip": 3})) == [(setting, 4000, 4000)]
    (first, *_) = mirror.files(mirror.path(address.below("clips")))
    with mirror.held(first):
        pass
    assert list(bytes_to_read(config, {"clip": 3})) == [(setting, 3000, 4000)]
    small = parse_config(text.replace("state: state", "state: state, cache_gb: 2.0e-6"), tmp_path / "motive.yaml")
    assert list(bytes_to_read(small, {"clip": 3})) == [(setting, 12000, 4000)]
    planned = [
        Planned(asset=name, reasons=[], certain=True, rows=None, seconds=None, device_hours=None, disk_mb=None)
        for name in ("clip_catalog", "latents", "eval_report")
    ]
    assert list(traffic_lines(small, planned, Graph(small))) == [f"{setting}: about 0.00 GB are read from there, of 0.00 GB of clips"]
    assert list(traffic_lines(small, planned[2:], Graph(small))) == []
    queries = [replace(each, asset=each.asset.replace("clip", "query").replace("latents", "query_latents")) for each in planned]
    assert list(traffic_lines(small, queries, Graph(small))) == [], "what reads queries reads no clips"


def test_a_file_in_use_is_never_removed(address: Address, tmp_path: Path):
    _, files = mirror_with(address, tmp_path, 4, 2000)
    with held(files[0]):
        for number in (1, 2, 3):
            with held(files[number]):
                assert files[0].read_bytes() == bytes(1000)
        assert copies(files) == [0, 3]


def test_a_file_in_use_keeps_its_place_when_a_second_reader_has_fetched_it_too(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _, files = mirror_with(address, tmp_path, 3, 2000)
    download = Bucket.download
    with ExitStack() as faster_reader:

        def slow_download(bucket: Bucket, key: str, target: Path, expected: int) -> object:
            found = download(bucket, key, target, expected)
            monkeypatch.setattr(Bucket, "download", download)
            faster_reader.enter_context(held(files[0]))
            return found

        monkeypatch.setattr(Bucket, "download", slow_download)
        for number in (0, 1, 2):
            with held(files[number]):
                pass
        assert files[0].read_bytes() == bytes(1000)
        assert copies(files) == [0, 2]


@on_s3_and_azure
def test_many_threads_read_through_a_small_cache(address: Address, tmp_path: Path):
    _, files = mirror_with(address, tmp_path, 6, 2000)
    wrong: list[object] = []

    def read(start: int) -> None:
        try:
            for turn in range(12):
                number = (start + turn) % 6
                with MediaFile(path=files[number]).open() as data:
                    if data.read() != bytes([number]) * 1000:
                        wrong.append(number)
        except Exception as error:  # noqa: BLE001
            wrong.append(error)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []


def test_archives_and_tables_are_copied_whole_or_refused(address: Address, tmp_path: Path, clips: Path):
    shutil.make_archive(str(tmp_path / "zips" / "clips" / "all"), "zip", clips / "clips")
    upload(tmp_path / "zips", address)
    assert len(list(clip_source(opened(tmp_path, address.url, "there", source="zip")).entries())) == len(
        list((clips / "clips").glob("*.mp4"))
    )
    with pytest.raises(MotiveError, match=r"storage.cache_gb = 1e-06.*those of clips.path.*Set storage.cache_gb higher"):
        clip_source(opened(tmp_path, address.url, "small", source="zip", cache_gb=1e-6))


def test_a_machine_that_has_made_no_catalog_brings_the_archives(address: Address, tmp_path: Path, clips: Path):
    shutil.make_archive(str(tmp_path / "zips" / "clips" / "all"), "zip", clips / "clips")
    upload(tmp_path / "zips", address)
    upload(clips / "queries", Address(address.scheme, address.bucket, f"{address.prefix}/queries"))
    ws = opened(tmp_path, address.url, "there", source="zip")
    (entry, *_) = clip_source(ws).entries()
    location = entry.file.location
    shutil.rmtree(ws.config.model.cache)
    mirrors._mirror.cache_clear()
    bring_archives(Workspace(ws.config).config)
    with MediaFile.parse(location).open() as data:
        assert data.read() == (clips / "clips" / entry.file.name).read_bytes()


def test_objects_that_stand_for_folders_are_no_files(address: Address, moto: Server, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=moto.endpoint)
    for name in ("model/", "model/v1.0/", "model/v1.0/vae.json", "model/empty/", "model/LICENSE", "only/"):
        client.put_object(Bucket=address.bucket, Key=f"{address.prefix}/{name}", Body=b"")
    mirror = open_mirror(tmp_path, 10**9)
    model = address.below("model")
    assert mirror.refresh(model) == 2
    mirror.fetch_all(mirror.path(model), "model.path")
    assert [file.relative_to(mirror.path(model)).as_posix() for file in mirror.files(mirror.path(model)) if file.is_file()] == [
        "LICENSE",
        "v1.0/vae.json",
    ]
    assert mirror.refresh(address.below("only")) == 0


def test_nothing_below_the_url_and_no_bucket_are_named(address: Address, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"clips.path = s3://.*/clips: there is nothing below this URL"):
        list(clip_source(opened(tmp_path, address.url, "there")).entries())
    with pytest.raises(BucketError, match="there is no such bucket"):
        list(clip_source(opened(tmp_path, "s3://no-such-bucket-at-all/x", "there")).entries())


@pytest.mark.slow
def test_a_folder_of_100_000_files_lists_in_bounded_memory(address: Address, tmp_path: Path):
    import tracemalloc
    from datetime import UTC, datetime

    from motive_pipeline.bucket.client import Listed, Tag

    def pages(self: Bucket, prefix: str = "") -> Iterator[list[Listed]]:
        now = datetime.now(UTC)
        for page in range(100):
            yield [Listed(f"{prefix}/{page:03d}/{n:04d}.mp4", 10, Tag(f'"{n}"', None), now) for n in range(1000)]

    mirror = open_mirror(tmp_path, 10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bucket, "pages", pages)
        tracemalloc.start()
        started = time.monotonic()
        assert mirror.refresh(address) == 100_000
        assert sum(1 for _ in mirror.files(mirror.path(address))) == 100_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 30e6, f"{peak / 1e6:.1f} MB, in which other threads of the process have their part; all of them at once are above 60"
    assert time.monotonic() - started < 120


def test_a_model_in_a_bucket_is_the_same_model(address: Address, tiny_model: Path, tmp_path: Path, monkeypatch):
    from motive_pipeline.models import bucket_folder
    from motive_pipeline.models.load import model_folder, model_hash

    monkeypatch.setattr(bucket_folder, "LOOK_EVERY_S", 0.0)
    bucket = upload(tiny_model, address.below("wan"))
    settings = "storage: {{root: root}}\nclips: {{source: demo}}\nqueries: {{source: demo}}\nmodel: {{path: '{path}', dtype: float32}}\n"
    far, here = (
        Workspace(parse_config(settings.format(path=path), tmp_path / name / "motive.yaml"))
        for path, name in ((f"{address.url}/wan", "far"), (tiny_model, "here"))
    )
    assert far.config.setting("model.path") == f"{address.url}/wan"
    assert model_hash(far) == model_hash(here)
    folder = model_folder(far.config.model)
    weights = next(folder.rglob("transformer/*.safetensors"))
    before = weights.stat().st_ino
    assert model_folder(far.config.model) == folder
    assert weights.stat().st_ino == before, "copied once"
    bucket.put(f"transformer/{weights.name}", weights.read_bytes()[:-4] + b"\x00\x00\x00\x40")
    assert model_folder(far.config.model) == folder
    assert weights.read_bytes()[-1] == 0x40
    with pytest.raises(MotiveError, match=r"model.path = s3://.*: there is nothing below this URL"):
        model_folder(far.config.model.model_copy(update={"path": f"{address.url}/nothing"}))
