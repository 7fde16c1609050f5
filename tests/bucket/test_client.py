"""The client against a real server: conditions hold, a lost reply costs nothing, and every trouble is named."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import PART_BYTES, Bucket, Limits
from motive_pipeline.bucket.trouble import BucketError, Conflict, explained
from tests.bucket.servers import Server, on_s3_and_azure, used
from tests.ports import free_port

FAST = Limits(request_s=2.0, connect_s=1.0, retries=2, retry_for_s=4.0)


@on_s3_and_azure
def test_an_object_is_what_was_put_and_absent_ones_are_none(bucket: Bucket):
    assert bucket.get("a/b") is None
    assert bucket.head("a/b") is None
    bucket.put("a/b c%ü.txt", b"one")
    data, listed = bucket.get("a/b c%ü.txt")
    assert (data, listed.size) == (b"one", 3)
    bucket.delete(["a/b c%ü.txt", "never was"])
    assert bucket.get("a/b c%ü.txt") is None


@on_s3_and_azure
def test_only_one_of_many_creates_wins(bucket: Bucket):
    def create(number: int) -> bool:
        try:
            bucket.create("one", b"%d" % number)
            return True
        except Conflict:
            return False

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(create, range(16)))
    assert sum(won) == 1
    assert bucket.get("one")[0] == b"%d" % won.index(True)


@on_s3_and_azure
def test_a_create_with_the_content_that_is_there_has_succeeded(bucket: Bucket):
    first = bucket.create("one", b"same")
    assert bucket.create("one", b"same") == first
    with pytest.raises(Conflict):
        bucket.create("one", b"other")


@on_s3_and_azure
def test_a_newer_version_is_not_replaced(bucket: Bucket):
    first = bucket.create("pointer", b"1")
    second = bucket.replace("pointer", b"2", first)
    assert bucket.replace("pointer", b"2", first) == second, "the reply was lost: the content tells that it was written"
    with pytest.raises(Conflict, match="not overwritten"):
        bucket.replace("pointer", b"3", first)
    assert bucket.get("pointer")[0] == b"2"


@on_s3_and_azure
def test_an_object_that_has_gone_is_not_replaced(bucket: Bucket):
    tag = bucket.create("pointer", b"1")
    bucket.delete(["pointer"])
    with pytest.raises(Conflict):
        bucket.replace("pointer", b"2", tag)


@on_s3_and_azure
def test_listing_comes_in_pages_and_only_from_the_prefix(bucket: Bucket):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: bucket.put(f"in/{number:04d}", b"x" * (number % 3)), range(150)))
    bucket.put("inside", b"")
    found = [each for page in bucket.pages("in") for each in page]
    assert [each.key for each in found] == [f"in/{number:04d}" for number in range(150)]
    assert [each.size for each in found] == [number % 3 for number in range(150)]


@on_s3_and_azure
def test_large_objects_travel_in_parts(bucket: Bucket, tmp_path):
    content = bytes(range(256)) * ((2 * PART_BYTES + 512) // 256)
    (tmp_path / "large").write_bytes(content)
    bucket.put("large", tmp_path / "large")
    assert bucket.download("large", tmp_path / "back", len(content)).size == len(content)
    assert (tmp_path / "back").read_bytes() == content


def test_what_is_not_known_is_told_without_what_an_address_has_behind_its_question_mark():
    error = ValueError(
        "Generic MicrosoftAzure error: Error performing GET https://a.blob.core.windows.net/c/x?sv=2024&sig=Secret%3D in 1s - odd"
    )
    told = str(explained(error, Address("az", "c", "x"), "read x"))
    assert "https://a.blob.core.windows.net/c/x?... in 1s - odd" in told
    assert "Secret" not in told


def test_no_such_bucket_is_named(moto: Server):
    with used(moto):
        missing = Bucket(Address("s3", "no-such-bucket-here", "x"), FAST)
        for ask in (lambda: missing.create("a", b""), lambda: list(missing.pages()), lambda: missing.get("a")):
            with pytest.raises(BucketError, match=r"s3://no-such-bucket-here: there is no such bucket\. Create it"):
                ask()


def test_nothing_at_the_endpoint_is_named_within_seconds():
    with used(Server(free_port())):
        started = time.monotonic()
        with pytest.raises(BucketError, match=r"no server answers at http://127\.0\.0\.1:\d+: cannot write a"):
            Bucket(Address("s3", "b", "")).create("a", b"")
        assert time.monotonic() - started < 10


def test_a_server_that_never_answers_is_given_up():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with used(Server(listener.getsockname()[1])):
            quick = Bucket(Address("s3", "b", ""), Limits(request_s=0.3, connect_s=0.3, retries=1, retry_for_s=1.0))
            with pytest.raises(BucketError, match="did not answer in time: cannot read a"):
                quick.get("a")


@on_s3_and_azure
def test_calls_from_many_threads_do_not_disturb_each_other(bucket: Bucket):
    errors = []

    def work(number: int) -> None:
        for turn in range(5):
            bucket.put(f"t/{number}", b"%d" % turn)
            if bucket.get(f"t/{number}")[0] != b"%d" % turn:
                errors.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors
