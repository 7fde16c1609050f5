"""Faults between this machine and the bucket: what was written counts, what was not does not, and nothing hangs."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket, Limits
from motive_pipeline.bucket.trouble import BucketError, Conflict
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import root_copy
from tests.bucket.faults import Fault, Proxy, proxy_before
from tests.bucket.projects import machine, objects, publish, rows
from tests.bucket.servers import READER, READER_SECRET, Server, used

QUICK = Limits(request_s=1.0, connect_s=1.0, retries=3, retry_for_s=5.0)
STORE = "latents/0123456789abcdef"


@pytest.fixture
def proxy(moto: Server, address: Address) -> Iterator[Proxy]:
    """Everything of this process goes through a proxy to the bucket of ``address``."""
    with proxy_before(moto.port) as proxy, used(Server(proxy.port)):
        yield proxy


@pytest.fixture
def quick(proxy: Proxy, address: Address) -> Bucket:
    return Bucket(address, QUICK)


def test_a_create_whose_reply_was_lost_counts(quick: Bucket, proxy: Proxy):
    proxy.faults.append(Fault("lost", "PUT", 1))
    tag = quick.create("one", b"content")
    assert proxy.num_injected == 1
    assert quick.get("one")[1].tag == tag
    with pytest.raises(Conflict):
        quick.create("one", b"other")


def test_a_replacement_whose_reply_was_lost_counts(quick: Bucket, proxy: Proxy):
    first = quick.create("pointer", b"1")
    proxy.faults.append(Fault("lost", "PUT", 1))
    second = quick.replace("pointer", b"2", first)
    assert quick.replace("pointer", b"3", second) == quick.head("pointer").tag


@pytest.mark.parametrize("kind", ["503", "cut"])
def test_a_fault_that_heals_costs_a_moment(quick: Bucket, proxy: Proxy, kind: str):
    proxy.faults.append(Fault(kind, "PUT", 2))
    quick.create("one", b"content" * 1000)
    assert proxy.num_injected == 2
    assert quick.get("one")[0] == b"content" * 1000


@pytest.mark.parametrize(("kind", "words"), [("503", "asks to slow down"), ("cut", "cannot write one"), ("hang", "did not answer in time")])
def test_a_fault_that_stays_ends_in_an_error_within_bounds_and_stores_nothing(quick: Bucket, proxy: Proxy, kind: str, words: str):
    proxy.faults.append(Fault(kind, "PUT"))
    started = time.monotonic()
    with pytest.raises(BucketError, match=words):
        quick.put("one", b"content" * 1000)
    assert time.monotonic() - started < 8
    assert quick.get("one") is None


def test_reads_and_listings_that_fail_are_asked_again(quick: Bucket, proxy: Proxy, tmp_path: Path):
    quick.put("folder/one", b"content")
    proxy.faults.extend([Fault("503", "GET", 2), Fault("lost", "GET", 1)])
    assert quick.get("folder/one")[0] == b"content"
    proxy.faults.append(Fault("lost", "list-type", 2))
    assert [each.key for page in quick.pages("folder") for each in page] == ["folder/one"]
    assert proxy.num_injected == 5


@pytest.mark.parametrize("kind", ["lost", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("503", "cut"))])
@pytest.mark.parametrize("what", [".safetensors", "segments/0", "current.json", "publication.json", "run.lease.json"])
def test_commits_and_publications_survive_a_fault_anywhere(proxy: Proxy, address: Address, tmp_path: Path, kind: str, what: str):
    ws = machine(tmp_path, address, "one")
    proxy.faults.append(Fault(kind, what, 1))
    with ws.lock:
        ws.store_at(STORE, {}).append(rows("a"))
        version = publish(ws, "hello")
        ws.store_at(STORE, {}).append(rows("b"))
    assert proxy.num_injected == 1
    proxy.faults.clear()
    other = machine(tmp_path, address, "two")
    assert other.data_version("rejected_clips") == version
    assert sorted(other.store_at(STORE).keys()) == ["a", "b"]


def test_a_network_that_goes_away_costs_the_batch_and_the_next_run_goes_on(proxy: Proxy, address: Address, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(root_copy, "Bucket", lambda address: Bucket(address, QUICK))
    ws = machine(tmp_path, address, "one")
    with ws.lock:
        ws.store_at(STORE, {}).append(rows("a"))
        proxy.faults.append(Fault("cut", "rows/"))
        with pytest.raises(MotiveError, match=r"cannot write rows/"):
            ws.store_at(STORE, {}).append(rows("b"))
        proxy.faults.clear()
    again = machine(tmp_path, address, "one")
    with again.lock:
        assert sorted(again.store_at(STORE, {}).keys()) == ["a"]
        again.store_at(STORE, {}).append(rows("b"))
    assert len([name for name in objects(address) if name.endswith(".safetensors")]) == 2


@pytest.mark.slow
def test_a_key_that_may_only_read_is_refused_before_anything_is_computed(weed: Server, tmp_path: Path):
    address = Address("s3", "weed", "permissions")
    with used(weed):
        ws = machine(tmp_path, address, "one")
        with ws.lock:
            publish(ws, "hello")
    with used(Server(weed.port, READER, READER_SECRET)):
        reader = machine(tmp_path, address, "two")
        assert (reader.published("rejected_clips").path / "text.txt").read_text() == "hello"
        started = time.monotonic()
        with pytest.raises(BucketError, match=r"s3://weed/permissions: no permission to write run\.lease\.json\..*AccessDenied"):
            reader.lock.acquire()
        assert time.monotonic() - started < 5


@pytest.mark.slow
def test_keys_that_are_lost_in_the_middle_stop_the_run_and_nothing_half_is_published(weed: Server, tmp_path: Path):
    address = Address("s3", "weed", "lost")
    with used(weed):
        ws = machine(tmp_path, address, "one")
        ws.lock.acquire()
        publish(ws, "first")
        with used(Server(weed.port, READER, READER_SECRET)):
            ws.copy.bucket = Bucket(address)
            with pytest.raises(BucketError, match="no permission to write"):
                publish(ws, "second")
        ws.lock.release()
        assert (machine(tmp_path, address, "two").published("rejected_clips").path / "text.txt").read_text() == "first"


@pytest.mark.slow
@pytest.mark.parametrize("server", [("TESTKEY", "wrong"), ("NOSUCHKEY", "x")])
def test_wrong_keys_are_named(weed: Server, tmp_path: Path, server: tuple[str, str]):
    with used(Server(weed.port, *server)), pytest.raises(BucketError, match=r"the keys are not accepted\..*AWS_PROFILE") as error:
        machine(tmp_path, Address("s3", "weed", "keys"), "one")
    assert server[1] not in str(error.value) or server[1] == "x"
