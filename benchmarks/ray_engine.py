"""The gradient pass on Ray workers beside the run's own process, what Ray costs for each row, and whether the driver's memory stays flat. CPU, one thread each.

    python -m benchmarks.ray_engine [--clips 24] [--rounds 3] [--rows 10000] [--json]

The project and the rounds are those of ``benchmarks.devices``: this process, one worker, two workers, again and again, all warm. The cost of Ray is the
processor time of the driver and of the worker for rows that compute nothing and return 8 KB.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.devices import VARIANT, project
from motive_pipeline.attribution.stage import gradient_row_function
from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.devices.ray_crew import Crew, Worker
from motive_pipeline.devices.ray_spread import RaySpread
from motive_pipeline.devices.work import answers
from motive_pipeline.storage.workspace import Workspace

TWO_AT_LEAST, ONE_WITHIN, CPU_MS_AT_MOST, GROWTH_MB_AT_MOST = 1.85, 0.05, 5.0, 16.0


class _PartOfCrew(Crew):
    """A crew of which only the first ``limit`` workers are given work."""

    limit = 2

    @property
    def ready(self) -> list[Worker]:
        return super().ready[: self.limit]


class _Nothing:
    """A row that takes no time; aside, the processor time of its process."""

    def __init__(self, ws: Workspace) -> None:
        self._row = np.zeros(2048, np.float32)

    def __call__(self, item: int) -> tuple[np.ndarray, float]:
        return self._row, time.process_time()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), num_clips=arguments.clips, rounds=arguments.rounds, num_rows=arguments.rows)
    if arguments.json:
        print(json.dumps(found))
        return
    two, one = found["two_workers"], found["one_worker"]
    print(f"two workers {two:.2f} times one, aim {TWO_AT_LEAST}: {'met' if two >= TWO_AT_LEAST else 'MISSED'} ({found['two_rounds']})")
    print(
        f"one worker {one:.2f} times this process, aim {1 - ONE_WITHIN:.2f}: {'met' if one >= 1 - ONE_WITHIN else 'MISSED'} ({found['one_rounds']})"
    )
    cost = found["driver_ms"] + found["worker_ms"]
    print(f"processor time of Ray {cost:.2f} ms a row (driver {found['driver_ms']:.2f}, worker {found['worker_ms']:.2f}), aim {CPU_MS_AT_MOST}: {'met' if cost <= CPU_MS_AT_MOST else 'MISSED'}")  # fmt: skip
    grown = found["grown_mb"]
    print(
        f"driver's memory over {arguments.rows} rows: {grown:+.1f} MB, aim {GROWTH_MB_AT_MOST}: {'met' if grown <= GROWTH_MB_AT_MOST else 'MISSED'}"
    )


def measure(folder: Path, *, num_clips: int, rounds: int, num_rows: int) -> dict[str, Any]:
    """The ratios of rates (of each round, and their medians), milliseconds of processor time a row, and megabytes."""
    ws = project(folder, num_clips, engine="kind: ray, address: local")
    clips = list(catalog_clips(ws, "clip"))
    build = partial(gradient_row_function, variant=VARIANT, role="clip")
    crew = _PartOfCrew(ws)
    spread, here = RaySpread(crew, ws.config, build, at_once=2), build(ws)
    spent: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for _ in range(rounds + 1):
        for workers, times in spent.items():
            crew.limit = workers
            begun = time.perf_counter()
            for _ in answers(spread if workers else here, clips):
                pass
            times.append(time.perf_counter() - begun)
    warm = {workers: times[1:] for workers, times in spent.items()}
    two = [first / second for first, second in zip(warm[1], warm[2], strict=True)]
    one = [first / second for first, second in zip(warm[0], warm[1], strict=True)]
    crew.limit = 1
    cost = _cost(RaySpread(crew, ws.config, _Nothing, at_once=2), num_rows)
    crew.kill()
    shown = {name: [round(value, 2) for value in values] for name, values in (("two_rounds", two), ("one_rounds", one))}
    return {"two_workers": median(two), "one_worker": median(one), **shown, **cost}


def _cost(spread: RaySpread, num_rows: int) -> dict[str, float]:
    list(spread.answers(range(200)))
    before, rss = time.process_time(), _rss_mb()
    clock = [answer[1] for _, answer in spread.answers(range(num_rows))]
    driver = time.process_time() - before
    return {"driver_ms": driver / num_rows * 1e3, "worker_ms": (max(clock) - min(clock)) / num_rows * 1e3, "grown_mb": _rss_mb() - rss}


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
