"""A Ray cluster of one node with a job server, started as a user starts one, which this process is no part of."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_ports

RAY_START = (str(Path(sys.executable).with_name("ray")), "start", "--block")


@dataclass(frozen=True)
class Head:
    """Where the cluster and its job server answer."""

    address: str
    job_server: str


@contextmanager
def ray_head(auth_mode: str = "token", *, num_cpus: int = 2, **variables: str) -> Iterator[Head]:
    """The cluster, which ends with the block. ``auth_mode`` is its ``RAY_AUTH_MODE``; ``variables`` are more of its environment.

    It is not ended by `ray stop`, which would end every cluster of the machine, those of other tests too.
    """
    port, dashboard, agent = free_ports(3)
    ports = [
        f"--port={port}",
        f"--dashboard-port={dashboard}",
        f"--dashboard-agent-listen-port={agent}",
    ]  # the last is one for all by default
    command = [*RAY_START, "--head", f"--num-cpus={num_cpus}", "--dashboard-host=127.0.0.1", *ports]
    environment = _environment() | {"RAY_AUTH_MODE": auth_mode} | variables
    head = Head(address=f"127.0.0.1:{port}", job_server=f"http://127.0.0.1:{dashboard}")
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            _wait_for(f"{head.job_server}/api/version", process)
            yield head
        finally:
            process.terminate()


@contextmanager
def node_with_another_disk(head: Head, folder: Path, own: Path) -> Iterator[None]:
    """A second node of the cluster, with one core, that sees ``own`` where this machine has ``folder``; it ends with the block."""
    script = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
    start = [*RAY_START, f"--address={head.address}", "--num-cpus=1"]
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(own), str(folder), *start]
    with subprocess.Popen(command, env=_environment(), stdout=subprocess.DEVNULL) as process:
        try:
            yield
            assert process.poll() is None, "the second node has ended"
        finally:
            process.terminate()


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | {"PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}


def _wait_for(url: str, process: subprocess.Popen[bytes], within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start has ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:  # it asks for the token
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(url)
