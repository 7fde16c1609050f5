"""Real servers on loopback. S3: moto's for quick tests, SeaweedFS, which has keys and rights, for slow ones. Azure: Azurite."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.ports import free_port, free_ports

AZURITE = Path(__file__).parents[2] / "build/azurite/node_modules/.bin/azurite-blob"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's, which everybody knows."""

KEY, SECRET = "TESTKEY", "the-secret-of-the-tests-7c1f"
READER, READER_SECRET = "READERKEY", "the-readers-secret-20ab"


on_s3_and_azure = pytest.mark.parametrize("address", ["s3", "az"], indirect=True)
"""For tests of what a root in a bucket rests on: e-tags, conditions and listings differ between the two."""


@dataclass(frozen=True)
class Server:
    """A running server; :attr:`environment` lets a process use it."""

    port: int
    key: str = KEY
    secret: str = SECRET

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> None:
        """A new bucket, by a plain request: moto asks for no signature."""
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/{name}", method="PUT"), timeout=10).close()


class AzureServer(Server):
    """A running Azurite; its buckets are containers."""

    @property
    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": self.endpoint}

    def make_bucket(self, name: str) -> None:
        """A new container, by a request that is signed as Azure's "Authorize with Shared Key" says."""
        headers = {"x-ms-date": datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT"), "x-ms-version": "2021-08-06"}
        lines = [f"{key}:{value}" for key, value in headers.items()]
        signed = "\n".join(["PUT", *[""] * 11, *lines, f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}", "restype:container"])
        signature = base64.b64encode(hmac.digest(base64.b64decode(AZURE_KEY), signed.encode(), hashlib.sha256)).decode()
        headers |= {"Authorization": f"SharedKey {AZURE_ACCOUNT}:{signature}", "Content-Length": "0"}
        url = f"{self.endpoint}/{AZURE_ACCOUNT}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=10).close()


@contextmanager
def moto_server() -> Iterator[Server]:
    """moto's server in a process of its own."""
    server = Server(free_port())
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(server.port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(server.endpoint, process)
            yield server
        finally:
            process.kill()


@contextmanager
def weed_server(folder: Path, bucket: str) -> Iterator[Server]:
    """SeaweedFS with ``bucket``; :data:`KEY` may do everything, :data:`READER` only read."""
    weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
    port, grpc, *others = free_ports(8)
    server, master, volume, filer = Server(port), others[:2], others[2:4], others[4:]
    names = folder / "ids.json"
    folder.mkdir(parents=True, exist_ok=True)
    names.write_text(
        json.dumps(
            {
                "identities": [
                    {
                        "name": "tests",
                        "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                        "actions": ["Admin", "Read", "Write", "List"],
                    },
                    {"name": "reader", "credentials": [{"accessKey": READER, "secretKey": READER_SECRET}], "actions": ["Read", "List"]},
                ]
            }
        )
    )
    data = folder / "data"
    data.mkdir(exist_ok=True)
    command = [
        weed, "server", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=50", "-master.volumeSizeLimitMB=64",
        f"-master.port={master[0]}", f"-master.port.grpc={master[1]}", f"-volume.port={volume[0]}", f"-volume.port.grpc={volume[1]}",
        f"-filer.port={filer[0]}", f"-filer.port.grpc={filer[1]}", "-s3", f"-s3.port={server.port}", f"-s3.port.grpc={grpc}",
        f"-s3.config={names}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
    ]  # fmt: skip
    with (folder / "weed.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder) as process:
        try:
            _wait_for(server.endpoint, process)
            _make_weed_bucket(server, bucket)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def azure_server(folder: Path) -> Iterator[AzureServer]:
    """Azurite, which must be installed at :data:`AZURITE`."""
    server = AzureServer(free_port())
    options = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location", str(folder), "--blobPort", str(server.port)]
    with subprocess.Popen([AZURITE, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(server.endpoint, process)
            yield server
        finally:
            process.kill()


def _make_weed_bucket(server: Server, bucket: str) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=server.key, aws_secret_access_key=server.secret, region_name="us-east-1",
        config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=5),
    )  # fmt: skip
    deadline = time.monotonic() + 40
    while True:
        try:
            client.create_bucket(Bucket=bucket)
            client.put_object(Bucket=bucket, Key="ready", Body=b"1")
            client.delete_object(Bucket=bucket, Key="ready")
            return
        except (BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def _wait_for(url: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"no server at {url}")


@contextmanager
def used(server: Server) -> Iterator[None]:
    """The environment of this process names ``server`` and its keys."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "AZUR"))]:
        del os.environ[name]
    os.environ.update(server.environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
