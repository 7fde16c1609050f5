"""Measures what ``benchmarks.cluster_sim`` takes as constants: commits of the row store, and what the driver of a Ray run spends for each row.

    python -m benchmarks.cluster_constants commits [--folder DIR]     # local disk: gradients, latents of Wan 2.1, and a store with many commits
    python -m benchmarks.cluster_constants driver [--rows 1000]       # starts a Ray cluster of its own

``driver`` runs the engine's own loop with one worker that computes nothing and k - 1 workers that never answer, which the loop looks after just the same. Its
figure is the driver's processor time for a row where each answer comes alone, so that every wake of the loop answers one row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from motive_pipeline.storage.rows import Row, RowStore

GRADIENT, LATENTS = (2048,), (16, 21, 60, 104)
"""A row of gradients as it is stored, and latents of 81 frames of 480 x 832 in Wan's VAE (8.4 MB)."""
COMMIT_ROWS = 32


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("commits", "driver"))
    parser.add_argument("--folder", type=Path, help="a folder on the disk to measure")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--filled", type=int, nargs="*", default=[2000, 8000], help="commits that a store has before it is measured")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.what == "commits":
            measure_commits(Path(folder), options.filled)
        else:
            measure_driver(Path(folder), options.rows)


def measure_commits(folder: Path, filled: list[int]) -> None:
    """Print the median seconds of a commit."""
    for name, shape, times in (("gradients", GRADIENT, 40), ("latents", LATENTS, 4)):
        wall, cpu = appended(RowStore(folder / name), shape, times)
        print(f"a commit of {COMMIT_ROWS} rows of {name} {shape}: {wall * 1e3:.1f} ms, {cpu * 1e3:.1f} ms of processor time", flush=True)
    store = RowStore(folder / "many")
    store.append(rows_of(GRADIENT))
    for count in filled:
        fill(store, count)
        wall, cpu = appended(store, GRADIENT, 20)
        print(f"the same, gradients, behind {count} commits: {wall * 1e3:.1f} ms, {cpu * 1e3:.1f} ms of processor time", flush=True)


def appended(store: RowStore, shape: tuple[int, ...], times: int) -> tuple[float, float]:
    """Median wall and processor seconds of :meth:`RowStore.append`."""
    walls, cpus = [], []
    for _ in range(times):
        rows = rows_of(shape)
        wall, cpu = time.perf_counter(), time.process_time()
        store.append(rows)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return median(walls), median(cpus)


def rows_of(shape: tuple[int, ...], count: int = COMMIT_ROWS) -> list[Row]:
    """Rows that no store has yet."""
    random = np.random.default_rng()
    block = random.standard_normal(shape, dtype=np.float32)
    return [Row(key=random.bytes(16).hex(), arrays={"gradient": block + np.float32(number)}) for number in range(count)]


def fill(store: RowStore, count: int) -> None:
    """Let ``store`` have ``count`` commits, the further ones of one small row each, written without looking at the others."""
    while len(store.commits()) < count:
        store.adopt(store._write(rows_of((8,), 1), []))


class _Nothing:
    """A row that takes no time and is 8 KB large."""

    def __init__(self, ws: Any) -> None:
        self._row = np.zeros(GRADIENT, np.float32)

    def __call__(self, item: int) -> np.ndarray:
        return self._row


class _Large(_Nothing):
    """A row that takes no time and has the size of latents."""

    def __init__(self, ws: Any) -> None:
        self._row = np.zeros(LATENTS, np.float32)


def measure_driver(folder: Path, num_rows: int) -> None:
    """Print the driver's processor time for a row, by the number of workers it looks after."""
    from motive_pipeline.config import parse_config
    from motive_pipeline.devices.ray_crew import Crew
    from motive_pipeline.devices.ray_spread import RaySpread
    from motive_pipeline.storage.workspace import Workspace

    text = "clips: {source: demo}\nqueries: {source: demo}\nmodel: {path: tiny, device: cpu}\n"
    engine = "engine: {kind: ray, address: local, threads: 1, workers: {most: 1}}\n"
    ws = Workspace(parse_config(text + engine, folder / "motive.yaml"))
    crew = Crew(ws)
    rows = RaySpread(crew, ws.config, _Nothing, at_once=1)
    list(rows.answers(range(200)))
    real = crew.workers[0]
    for workers in (1, 64, 256, 1000):
        crew.workers[:] = [real, *_never_answering(crew, workers - 1)]
        wall, cpu = spent(rows, num_rows if workers < 256 else num_rows // 4)
        print(f"{workers} workers: {cpu * 1e3:.2f} ms of the driver's processor time a row ({wall * 1e3:.2f} ms of wall time)", flush=True)
    crew.workers[:] = [real]
    wall, cpu = spent(RaySpread(crew, ws.config, _Large, at_once=2), 100)
    print(f"rows of {LATENTS}: {cpu * 1e3:.2f} ms of the driver's processor time a row ({wall * 1e3:.2f} ms of wall time)")
    crew.kill()


def spent(rows: Any, num_rows: int) -> tuple[float, float]:
    """Wall seconds, and processor seconds of this process, for a row. The answers are touched, as a commit does."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _, answer in rows.answers(range(num_rows)):
        answer.sum()
    return (time.perf_counter() - wall) / num_rows, (time.process_time() - cpu) / num_rows


def _never_answering(crew: Any, count: int) -> list[Any]:
    """Workers that are ready and busy for ever: each waits for a function, a row, a second one and its beat."""
    from motive_pipeline.devices.ray_crew import Worker

    ray = crew.ray

    @ray.remote(num_cpus=0, max_concurrency=10_000)
    class Silent:
        async def build(self, *_: Any) -> None:
            import asyncio

            await asyncio.Event().wait()

    actor = Silent.remote()
    found = []
    for number in range(count):
        worker = Worker(actor=actor, number=number + 2, is_ready=True, heard=float("inf"))
        worker.asked = {actor.build.remote(): ("beat",) for _ in range(2)}
        found.append(worker)
    return found


if __name__ == "__main__":
    main()
