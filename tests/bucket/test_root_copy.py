"""Two machines, one root in a bucket: what one commits or publishes the other sees, whole; what a killed one left behind nobody sees."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from queue import Queue

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.borrowed_lease import BorrowedLease
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.bucket.lease import LeaseLost
from motive_pipeline.bucket.trouble import BucketError
from motive_pipeline.errors import MotiveError, NotPublished
from motive_pipeline.storage import root_copy
from motive_pipeline.storage.atomic import link_or_copy
from motive_pipeline.storage.garbage import Unused, remove_unused, unused
from motive_pipeline.storage.layout import mark_layout
from motive_pipeline.storage.lock import Locked
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.work_folders import finish_file, is_finished, keep_work, load_work, save_work
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.viewer import Viewer
from tests.bucket.projects import config_of, machine, objects, publish, rows
from tests.bucket.servers import on_s3_and_azure

STORE = "latents/0123456789abcdef"
STORE_FOLDER = f"rows/{STORE}"


@on_s3_and_azure
def test_another_machine_sees_what_was_published(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        version = publish(first, "hello")
    second = machine(tmp_path, address, "two")
    found = second.published("rejected_clips")
    assert found.data_version == version
    assert (found.path / "text.txt").read_text() == "hello"
    assert second.scores.query("SELECT count(*) FROM runs").fetchall() == [(1,)]


@on_s3_and_azure
def test_a_copy_fetches_nothing_that_it_wrote_or_has_fetched(address: Address, tmp_path: Path, monkeypatch):
    first = machine(tmp_path, address, "one")
    with first.lock:
        publish(first, "hello")
        first.store_at(STORE, {}).append(rows("a"))
    second = machine(tmp_path, address, "two")
    second.store_at(STORE)
    monkeypatch.setattr(Bucket, "download", lambda _, key, *rest: pytest.fail(f"{key} was fetched again"))
    first.follow()
    second.follow()
    assert list(first.store_at(STORE).keys()) == list(second.store_at(STORE).keys()) == ["a"]


def test_an_explorer_follows_another_machine_and_goes_on_without_the_bucket(address: Address, tmp_path: Path, monkeypatch, caplog):
    one = machine(tmp_path, address, "one")
    with one.lock.holding():
        publish(one, "first")
    viewer = Viewer(machine(tmp_path, address, "two"))
    with one.lock.holding():
        second = publish(one, "second")
    viewer.follow()
    assert viewer._follower is None, "it has just followed"
    monkeypatch.setattr("motive_pipeline.view.viewer.FOLLOW_EVERY_S", 0.0)
    viewer.follow()
    assert viewer._follower is not None
    viewer._follower.join()
    assert viewer.ws.data_version("rejected_clips") == second

    def silent(*_: object, **__: object) -> None:
        raise BucketError("no server answers")

    monkeypatch.setattr(viewer.ws.copy, "follow", silent)
    viewer.follow()
    viewer._follower.join()
    assert "the viewer shows what it had: no server answers" in caplog.text
    assert viewer.current().version


def test_the_bucket_has_the_layout_of_a_local_root(address: Address, tmp_path: Path):
    ws = machine(tmp_path, address, "one")
    with ws.lock:
        publish(ws, "hello")
        ws.store_at(STORE, {}).append(rows("a"))
    here = {file.relative_to(ws.root).as_posix(): file.stat().st_size for file in ws.root.rglob("*") if file.is_file()}
    there = objects(address)
    lacking = {name for name in here if name not in there and not name.split("/")[-1].startswith(".")}
    assert lacking == {"run.lock"}
    assert {name for name in there if name not in here} == {"run.lease.json"}
    assert all(there[name] == here[name] for name in here.keys() & there.keys())


@on_s3_and_azure
def test_rows_come_with_their_segment_only_when_they_are_read(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        first.store_at(STORE, {}).append(rows("a", "b"))
        first.store_at(STORE, {}).append(rows("c"))
    store = machine(tmp_path, address, "two").store_at(STORE)
    assert sorted(store.keys()) == ["a", "b", "c"]
    assert store.column([store.find(key) for key in "abc"], "norm").tolist() == [1, 1, 1]
    assert not list(store.segments.glob("*.safetensors"))
    assert store.read(store.find("c"), "value").tolist() == rows("c")[0].arrays["value"].tolist()
    assert len(list(store.segments.glob("*.safetensors"))) == 1


@on_s3_and_azure
def test_merged_commits_leave_the_bucket(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    keys = [f"k{number}" for number in range(9)]
    with first.lock:
        store = first.store_at(STORE, {})
        for key in keys:
            store.append(rows(key))
        assert merge(store) == 9
    assert sum(name.startswith("rows/") for name in objects(address)) == 3, "one record, one segment, store.json"
    other = machine(tmp_path, address, "two").store_at(STORE)
    assert sorted(other.keys()) == keys
    assert [float(other.read(other.find(key), "value")[0]) for key in keys] == [float(rows(key)[0].arrays["value"][0]) for key in keys]


@on_s3_and_azure
def test_a_damaged_copy_of_a_segment_is_fetched_again(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        first.store_at(STORE, {}).append(rows("a"))
    segment = next((first.root / "rows").rglob("*.safetensors"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    store = machine(tmp_path, address, "one").store_at(STORE)
    assert store.read(store.find("a"), "value").tolist() == rows("a")[0].arrays["value"].tolist()


def test_a_damaged_copy_of_a_publication_is_fetched_again(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        publish(first, "hello")
    file = first.published("rejected_clips").data_folder / "text.txt"
    file.write_text("HELLO")
    second = machine(tmp_path, address, "one")
    assert (second.published("rejected_clips").path / "text.txt").read_text() == "hello"


def test_what_a_killed_driver_left_in_its_copy_only_does_not_count(address: Address, tmp_path: Path, monkeypatch):
    ws = machine(tmp_path, address, "one")
    with ws.lock:
        publish(ws, "first")
        ws.store_at(STORE, {}).append(rows("a"))

    def killed(*_, **__):
        raise KeyboardInterrupt

    with ws.lock:
        monkeypatch.setattr(root_copy.RootCopy, "push", killed)
        with pytest.raises(KeyboardInterrupt):
            ws.store_at(STORE, {}).append(rows("b"))
        with pytest.raises(KeyboardInterrupt):
            publish(ws, "second")
        monkeypatch.undo()
    again = machine(tmp_path, address, "one")
    with again.lock:
        assert sorted(again.store_at(STORE, {}).keys()) == ["a"]
        assert (again.published("rejected_clips").path / "text.txt").read_text() == "first"
        assert [path.name for path in again.root.glob("published/rejected_clips/*/data/text.txt")] == ["text.txt"]
        again.store_at(STORE, {}).append(rows("b"))
    assert sorted(machine(tmp_path, address, "two").store_at(STORE).keys()) == ["a", "b"]


def test_a_commit_that_could_not_be_written_does_not_count_here_either(address: Address, tmp_path: Path, monkeypatch):
    ws = machine(tmp_path, address, "one")
    with ws.lock:
        store = ws.store_at(STORE, {})
        store.append(rows("a"))
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, "create", lambda *_: (_ for _ in ()).throw(MotiveError("no network")))
            with pytest.raises(MotiveError, match="no network"):
                store.append(rows("b"))
        assert ws.store_at(STORE, {}).find("b") is None
        store.append(rows("b"))
    assert sorted(machine(tmp_path, address, "two").store_at(STORE).keys()) == ["a", "b"]


@on_s3_and_azure
def test_a_newer_publication_is_not_overwritten(address: Address, tmp_path: Path):
    ws = machine(tmp_path, address, "one")
    with ws.lock:
        publish(ws, "first")
        key = "published/rejected_clips/current.json"
        Bucket(address).put(key, b"another driver, which this one did not notice")
        with pytest.raises(MotiveError, match=r"another driver has published rejected_clips meanwhile.*Run again"):
            publish(ws, "second")
        assert Bucket(address).get(key)[0].startswith(b"another driver")
        assert json.loads((ws.root / key).read_text())["version"].startswith(ws.published("rejected_clips").data_version[:16])


@on_s3_and_azure
def test_the_second_driver_is_refused_by_the_name_of_the_first(address: Address, tmp_path: Path):
    first, second = machine(tmp_path, address, "one"), machine(tmp_path, address, "two")
    with (
        first.lock.holding(who="motive run"),
        pytest.raises(Locked, match=r"(s3|az)://.* is in use by motive run, process \d+ on .*, since 20.*is free in \d+ s"),
    ):
        second.lock.acquire()
    with second.lock:
        publish(second, "mine now")
    assert second.copy.lease.generation == 2


@on_s3_and_azure
def test_a_driver_whose_lease_was_taken_over_writes_nothing(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    first.lock.acquire(who="sleeper")
    first.copy.lease._stop.set()
    first.copy.lease._renewed -= 1000
    first.copy.lease._body["lease_s"] = -1.0  # renewed for the last time, and run out at once
    first.copy.lease._renew()
    first.copy.lease._renewed -= 1000
    second = machine(tmp_path, address, "two")
    with second.lock.holding(who="heir"):
        publish(second, "the heir's")
        with pytest.raises(MotiveError, match="taken over by heir, process"):
            publish(first, "the sleeper's")
    first.lock.release()
    assert (machine(tmp_path, address, "three").published("rejected_clips").path / "text.txt").read_text() == "the heir's"


def fail(error: LeaseLost) -> None:
    raise AssertionError(error)


@on_s3_and_azure
@pytest.mark.parametrize("job_is_at", ["two", "one"])
def test_a_job_publishes_in_the_stead_of_a_driver_that_waits_for_it(address: Address, tmp_path: Path, job_is_at: str):
    driver = machine(tmp_path, address, "one")
    with driver.lock.holding(who="motive run"):
        publish(driver, "the driver's", "clip_catalog")
        driver.store_at(STORE, {}).append(rows("a"))
        with driver.lock.lent() as owner:
            job = machine(tmp_path, address, job_is_at)
            job.begin_run(driver.run_id)
            with job.lock.borrowed(owner, fail, who="a job"):
                store = job.store_at(STORE, {})
                assert store.find("a") is not None
                store.append(rows("b"))
                publish(job, "the job's")
            with pytest.raises(LeaseLost, match="does not hold the lease"):
                store.append(rows("d"))
        assert driver.published("rejected_clips").data_version == job.published("rejected_clips").data_version
        assert sorted(driver.store_at(STORE).keys()) == ["a", "b"]
        driver.store_at(STORE).append(rows("c"))
        publish(driver, "the driver's again", "clip_catalog")
        assert driver.scores.query("SELECT asset, run_id FROM runs ORDER BY started_at").fetchall() == [
            ("clip_catalog", driver.run_id),
            ("rejected_clips", driver.run_id),
            ("clip_catalog", driver.run_id),
        ]
    with job.lock:  # its machine may be a driver, too
        publish(job, "a run of its own")
    later = machine(tmp_path, address, "three")
    assert sorted(later.store_at(STORE).keys()) == ["a", "b", "c"]
    assert later.scores.query("SELECT count(*) FROM runs").fetchall() == [(4,)]


def test_a_job_on_the_driver_s_machine_works_on_the_driver_s_copy(address: Address, tmp_path: Path):
    driver = machine(tmp_path, address, "one")
    code = (
        "import sys; from pathlib import Path; from motive_pipeline.bucket.address import address_of; from tests.bucket.projects import machine, publish\n"
        "ws = machine(Path(sys.argv[1]), address_of(sys.argv[2]), 'one')\n"
        "with ws.lock.borrowed(sys.argv[3], print):\n    publish(ws, 'the job\\'s')"
    )
    with driver.lock.holding(who="motive run"):
        with driver.lock.lent() as owner:
            command = [sys.executable, "-c", code, str(tmp_path), address.url, owner]
            subprocess.run(command, check=True, timeout=120, cwd=Path(__file__).parents[2])
        assert (driver.published("rejected_clips").path / "text.txt").read_text() == "the job's"


def test_a_lease_is_borrowed_from_the_driver_that_has_it_and_from_nobody_else(address: Address, tmp_path: Path):
    driver, job = machine(tmp_path, address, "one"), machine(tmp_path, address, "two")
    with driver.lock.holding(who="motive run"):
        with pytest.raises(LeaseLost, match=r"has lost it: motive run, process \d+ on .* has it now"), job.lock.borrowed("nobody", fail):
            pass
        with driver.lock.lent() as owner:
            pass
        with pytest.raises(LeaseLost, match="has taken the lease back"), job.lock.borrowed(owner, fail):
            pass
        owner = driver.copy.own_lease.owner
    with pytest.raises(LeaseLost, match="nobody has it now"), job.lock.borrowed(owner, fail):
        pass
    with job.lock:  # what was refused left nothing behind
        publish(job, "mine now")


def test_a_job_whose_lease_was_taken_back_writes_nothing(address: Address, tmp_path: Path):
    driver, job = machine(tmp_path, address, "one"), machine(tmp_path, address, "two")
    with driver.lock.holding(who="motive run"), driver.lock.lent() as owner, job.lock.borrowed(owner, fail):
        store = job.store_at(STORE, {})
        store.append(rows("a"))
        driver.copy.own_lease.take_back()
        with pytest.raises(LeaseLost, match="has taken the lease back"):
            store.append(rows("b"))
        with pytest.raises(LeaseLost, match="has taken the lease back"):
            publish(job, "too late")
    assert sorted(machine(tmp_path, address, "three").store_at(STORE).keys()) == ["a"]


@on_s3_and_azure
def test_a_job_ends_when_the_driver_no_longer_renews(address: Address, tmp_path: Path):
    driver = machine(tmp_path, address, "one")
    driver.copy.own_lease.lease_s = 3.0
    lost: Queue[LeaseLost] = Queue()
    with driver.lock.holding(who="motive run"):
        lease = BorrowedLease(driver.copy.bucket, driver.copy.own_lease.owner, lost.put)
        time.sleep(4.0)
        lease.check()
        assert lost.empty(), "it is renewed"
        driver.copy.own_lease._stop.set()
        assert "motive run, process" in str(lost.get(timeout=5))
        with pytest.raises(LeaseLost, match=r"did not renew its lease for \d s"):
            lease.check()


def test_a_lease_that_was_renewed_long_ago_is_not_borrowed(address: Address, tmp_path: Path):
    driver = machine(tmp_path, address, "one")
    driver.copy.own_lease.lease_s = 1.2
    with driver.lock.holding(who="killed"):
        driver.copy.own_lease._stop.set()
        time.sleep(2.5)  # the server's clock has whole seconds
        with pytest.raises(LeaseLost, match="did not renew its lease"):
            BorrowedLease(driver.copy.bucket, driver.copy.own_lease.owner, fail)


def test_the_next_run_of_the_same_copy_need_not_wait_for_the_lease_of_a_killed_one(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    first.lock.acquire(who="killed")
    first.copy.lease._stop.set()
    super(type(first.lock), first.lock).release()  # the end of the process gives the copy's own lock back, and nothing else
    with machine(tmp_path, address, "one").lock:
        pass


def test_a_reader_sees_a_publication_that_was_made_while_it_listed(address: Address, tmp_path: Path, monkeypatch):
    first = machine(tmp_path, address, "one")
    with first.lock:
        publish(first, "first")
    real, done = Bucket.pages, []

    def lagging(self: Bucket, prefix: str = ""):
        yield from real(self, prefix)
        if prefix == "published" and not done:
            done.append(True)
            monkeypatch.undo()
            first.copy._followed_at = 0
            with first.lock:
                publish(first, "second")

    monkeypatch.setattr(Bucket, "pages", lagging)
    second = machine(tmp_path, address, "two")
    assert (second.published("rejected_clips").path / "text.txt").read_text() in ("first", "second")


def test_an_object_that_a_listing_lacks_is_not_taken_for_deleted(address: Address, tmp_path: Path, monkeypatch):
    first = machine(tmp_path, address, "one")
    with first.lock:
        publish(first, "first")
        first.store_at(STORE, {}).append(rows("a"))
    monkeypatch.setattr(Bucket, "pages", lambda self, prefix="": iter(()))
    again = machine(tmp_path, address, "one")
    with again.lock:
        assert (again.published("rejected_clips").path / "text.txt").read_text() == "first"
        assert again.store_at(STORE, {}).find("a") is not None


def make_work(ws: Workspace) -> None:
    """A finished training, and a finished video."""
    folder, video = ws.root / "work/finetune/base/key", ws.root / "work/videos/x/0.mp4"
    for each in (folder, video.parent):
        each.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 2000)
    save_work(folder, "training.json", {"steps": 3})
    keep_work(folder)
    (video.parent / "unfinished").write_bytes(b"video")
    finish_file(video.parent / "unfinished", video)


@on_s3_and_azure
@pytest.mark.parametrize("by_the_driver", [True, False])
def test_finished_work_is_found_by_another_machine(address: Address, tmp_path: Path, by_the_driver: bool):
    first = machine(tmp_path, address, "one")
    if not by_the_driver:  # the process of a device: the driver, which has the lease, is another one
        make_work(first)
    with first.lock:
        if by_the_driver:
            make_work(first)
        publish(first, "hello")
    second = machine(tmp_path, address, "two")
    assert load_work(second.root / "work/finetune/base/key", "training.json") == {"steps": 3}
    assert (second.root / "work/finetune/base/key/weights").stat().st_size == 2000
    assert is_finished(second.root / "work/videos/x/0.mp4")
    assert not is_finished(second.root / "work/videos/x/1.mp4")


@on_s3_and_azure
def test_gc_deletes_in_the_bucket_too(address: Address, tmp_path: Path):
    ws = machine(tmp_path, address, "one")
    with ws.lock:
        publish(ws, "first")
        old = ws.published("rejected_clips").folder
        publish(ws, "second")
        remove_unused([Unused(path=old, num_bytes=1, why="")])
    assert not [name for name in objects(address) if old.name in name]
    assert not (machine(tmp_path, address, "two").root / old.relative_to(ws.root)).exists()


@on_s3_and_azure
def test_gc_sees_what_only_another_machine_has(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        make_work(first)
        publish(first, "hello")
        first.store_at(STORE, {}).append(rows("a"))
    here = machine(tmp_path, address, "two")
    with here.lock:
        found = unused(here, assets=["rejected_clips"], stale=())
        listed = {each.path.relative_to(here.root).as_posix(): each.num_bytes for each in found}
        assert listed.keys() == {STORE_FOLDER, "work/finetune/base/key", "work/videos/x/0.mp4", "work/videos/x/0.json"}
        assert listed["work/videos/x/0.mp4"] == 5
        assert listed["work/finetune/base/key"] > 2000
        assert unused(here, assets=["rejected_clips"], stale=("finetuned_checkpoint/base", "generated_videos/base")) == [
            each for each in found if each.path == here.root / STORE_FOLDER
        ]
        remove_unused(found)
        assert unused(here, assets=["rejected_clips"], stale=()) == []
    assert not [key for key in objects(address) if key.startswith(("work/", "rows/"))]


@on_s3_and_azure
def test_gc_keeps_work_that_a_publication_holds(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        make_work(first)
        video = first.root / "work/videos/x/0.mp4"
        mark_layout(first.root)
        first.publish("generated_videos/base", content="x", write=lambda folder: link_or_copy(video, folder / "0.mp4"), started=time.time())
    for where in (first, machine(tmp_path, address, "two")):
        with where.lock:
            found = {each.path.relative_to(where.root).as_posix() for each in unused(where, assets=["generated_videos/base"], stale=())}
        assert found == {"work/finetune/base/key"}


def test_a_state_that_has_the_copy_of_another_bucket_is_refused(address: Address, tmp_path: Path):
    machine(tmp_path, address, "one")
    other = config_of(tmp_path, "s3://other/x", "one")
    with pytest.raises(MotiveError, match=r"has the working copy of s3://.*, and storage.root is s3://other/x. Set storage.state"):
        root_copy.open_copy(other.storage.address, other.storage.root, other.storage.state)


@on_s3_and_azure
def test_without_its_index_a_copy_is_fetched_anew(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        publish(first, "hello")
    for file in (tmp_path / "one").glob("bucket.sqlite*"):
        file.unlink()
    assert (machine(tmp_path, address, "one").published("rejected_clips").path / "text.txt").read_text() == "hello"


def test_large_published_files_are_fetched_when_the_data_are_read(address: Address, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(root_copy, "LARGE_BYTES", 3)
    first = machine(tmp_path, address, "one")
    with first.lock:
        publish(first, "hello")
    second = machine(tmp_path, address, "two")
    found = second.published("rejected_clips")
    assert not (found.data_folder / "text.txt").exists()
    assert (found.path / "text.txt").read_text() == "hello"


def test_a_root_whose_copy_was_deleted_is_made_again(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        version = publish(first, "hello")
    shutil.rmtree(first.root)
    assert machine(tmp_path, address, "one").data_version("rejected_clips") == version


def test_a_state_that_was_deleted_while_a_process_lives_is_made_again(address: Address, tmp_path: Path):
    first = machine(tmp_path, address, "one")
    with first.lock:
        version = publish(first, "hello")
    shutil.rmtree(tmp_path / "one")
    assert Workspace(first.config).data_version("rejected_clips") == version


def test_nothing_is_published_in_an_empty_bucket(address: Address, tmp_path: Path):
    with pytest.raises(NotPublished, match="not been materialized"):
        machine(tmp_path, address, "one").published("rejected_clips")


def test_segments_above_the_limit_leave_the_copy_and_come_back_when_they_are_read(address: Address, tmp_path: Path):
    ws = machine(tmp_path, address, "one")
    ws.copy.max_bytes = 1000
    with ws.lock:
        store = ws.store_at(STORE, {})
        for key in "abcdef":
            store.append(rows(key))
        here = list(store.segments.glob("*.safetensors"))
        assert sum(file.stat().st_size for file in here) <= 1000
        assert len(here) < 6
        for key in "abcdef":
            assert store.read(store.find(key), "value").tolist() == rows(key)[0].arrays["value"].tolist()


def test_other_tools_read_the_objects(address: Address, tmp_path: Path):
    import duckdb
    from obstore.fsspec import FsspecStore

    ws = machine(tmp_path, address, "one")
    with ws.lock:
        publish(ws, "hello")
    key = next(name for name in objects(address) if name.endswith("rejects.parquet") and name.startswith("published"))
    with duckdb.connect() as db:
        db.register_filesystem(FsspecStore("s3", client_options={"allow_http": True}))
        assert db.execute(f"SELECT count(*) FROM read_parquet(['{address.url}/{key}'])").fetchall() == [(0,)]
