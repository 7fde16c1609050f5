"""Fixtures of the tests with object storage."""

import uuid
from collections.abc import Iterator

import pytest

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.client import Bucket
from tests.bucket.servers import AZURITE, AzureServer, Server, azure_server, moto_server, used, weed_server


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


@pytest.fixture(scope="session")
def azurite(tmp_path_factory) -> Iterator[AzureServer]:
    """One Azurite for the session."""
    if not AZURITE.exists():
        pytest.skip("no Azurite here (npm install --prefix build/azurite azurite)")
    with azure_server(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[Address]:
    """A folder in a new bucket, whose keys are in the environment: on moto, or on both servers for tests marked ``on_s3_and_azure``."""
    scheme = getattr(request, "param", "s3")
    server: Server = request.getfixturevalue("moto" if scheme == "s3" else "azurite")
    name = f"b{uuid.uuid4().hex[:12]}"
    server.make_bucket(name)
    with used(server):
        yield Address(scheme, name, "some/folder")


@pytest.fixture
def bucket(address: Address) -> Bucket:
    """The client of :func:`address`."""
    return Bucket(address)
