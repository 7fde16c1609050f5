"""Fixtures of the tests with object storage."""

import uuid
from collections.abc import Iterator

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from tests.bucket.servers import Server, moto_server, used, weed_server


@pytest.fixture(scope="session")
def moto() -> Iterator[Server]:
    """One moto server for the session."""
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def weed(tmp_path_factory) -> Iterator[Server]:
    """One SeaweedFS for the session, with the bucket ``weed``."""
    with weed_server(tmp_path_factory.mktemp("weed"), "weed") as server:
        yield server


@pytest.fixture
def address(moto: Server) -> Iterator[Address]:
    """A new bucket on moto, whose keys are in the environment."""
    name = f"b{uuid.uuid4().hex[:12]}"
    moto.make_bucket(name)
    with used(moto):
        yield Address("s3", name, "some/folder")


@pytest.fixture
def bucket(address: Address) -> Bucket:
    """The client of :func:`address`."""
    return Bucket(address)
