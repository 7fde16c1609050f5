"""Simulates the engine on 1 to 1,000 workers: the rows in flight, the one driver that answers them, and its commits.

    python -m benchmarks.cluster_sim [--stage gradients latents ...] [--workers 1 8 64 256 1000] [--deaths-per-hour 0] [--json]

The driver is the loop of ``devices/ray_spread.py``: fill every worker up to two rows, wait for an answer, take all that have come, one after the other, and
commit (``engine.py``) whenever 32 rows or 60 s have gathered. While it commits, nobody is given a row. A worker computes its rows in turn, so it stands idle
once it has none. Nothing here computes anything: what is simulated are queues, with the constants of :class:`Constants`, each with its source.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, NamedTuple

WORKERS = (1, 8, 64, 256, 1000)
ROWS_A_WORKER, LEAST_ROWS = 30, 4000
WARM_UP, TAIL = 0.2, 0.1
"""Shares of the rows that do not count: while the workers start in step, and while the last rows run out."""
ENOUGH = 0.9
"""The share of k workers' own rate below which k are too many."""


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What a row and the driver take, in seconds. ``row_spread`` is the standard deviation of the logarithm of a row's time, whose mean is ``row_s``: clips of
    one size differ little (assumed; the passes of docs/performance.md differ by less).
    """

    row_s: float
    """Of a worker. :data:`STAGES` says what measured it."""
    row_spread: float = 0.1
    driver_row_s: float = 0.61e-3
    """Processor time a row of 8 KB, with one worker. ``benchmarks.cluster_constants driver`` (``benchmarks.ray_engine``: 0.66)."""
    driver_wake_worker_s: float = 5.4e-6
    """For each worker at each wake of the loop: (5.98 - 0.61) ms at 1,000 workers. The same command."""
    commit_s: float = 0.0164
    """A commit to a local disk, but for its rows: 19 ms for 32 gradients (a busy machine; 10 ms on an idle one), with 8,000 commits in the store as with none.
    ``benchmarks.cluster_constants commits``."""
    commit_row_s: float = 0.08e-3
    """For each row of a commit: 2.6 ms of processor time for 32. The same command."""
    rows_in_flight: int = 2
    """``devices/spread.py``."""
    commit_rows: int = 32
    commit_every_s: float = 60.0
    """``engine.commit_rows`` and ``engine.commit_s``."""
    deaths_per_hour: float = 0.0
    """Of a worker. Not measured: a choice."""
    notice_s: float = 2.5
    """From a node that is killed to Ray's error, with health checks of 1 s (two raylets on one machine); 12 s with Ray's own, 0.03 s where a process dies."""
    restart_s: float = 60.0
    """Until another worker has loaded its model. Not measured: a choice."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What the middle of a simulated run looks like. Shares are of time; ``waiting`` are answers that lie there when the driver wakes."""

    workers: int
    rate: float
    """Rows a second."""
    utilisation: float
    """The share of the workers' time in which they compute rows that count. Rows count when they are answered, so a window that ends behind a wave has up to 2 % too many."""
    driver_share: float
    writer_share: float
    """The part of ``driver_share`` that commits take."""
    waiting_mean: float
    waiting_most: int


@dataclass
class _Worker:
    free_at: float = 0.0
    dies_at: float = math.inf
    has: int = 0


class _Event(NamedTuple):
    """Something that the driver learns. Events of one time come in the order of the workers."""

    at: float
    worker: int
    what: Literal["answer", "dead", "ready"]
    useful_s: float = 0.0


class _Sums(NamedTuple):
    """Seconds so far."""

    now: float = 0.0
    useful: float = 0.0
    driver: float = 0.0
    writer: float = 0.0


class Simulation:
    """One stage of ``num_rows`` rows on ``num_workers`` workers."""

    def __init__(self, constants: Constants, num_workers: int, num_rows: int, *, seed: int = 0) -> None:
        self._is = constants
        self._random = random.Random(seed)
        self._workers = [_Worker() for _ in range(num_workers)]
        self._wanting = deque(range(num_workers))
        self._events: list[_Event] = []
        self._num_rows = self._to_come = num_rows
        self._answered = self._uncommitted = 0
        self._committed_at = 0.0
        self._sums = _Sums()
        self._waiting: list[int] = []
        for number in range(num_workers):
            self._begin_life(number, 0.0)

    def run(self) -> Found:
        """Simulate until every row has been answered; what is found holds between the first 20 % and the last 10 % of the rows."""
        first, last = int(self._num_rows * WARM_UP), int(self._num_rows * (1 - TAIL))
        begun = ended = self._sums
        while self._answered < self._num_rows:
            self._give()
            self._wait()
            for event in self._come():
                self._learn(event)
                if event.what == "answer" and self._answered == first:
                    begun, self._waiting = self._sums, []
                if event.what == "answer" and self._answered == last:
                    ended, waiting = self._sums, self._waiting or [1]
        seconds = ended.now - begun.now
        return Found(
            workers=len(self._workers),
            rate=(last - first) / seconds,
            utilisation=(ended.useful - begun.useful) / seconds / len(self._workers),
            driver_share=(ended.driver - begun.driver) / seconds,
            writer_share=(ended.writer - begun.writer) / seconds,
            waiting_mean=sum(waiting) / len(waiting),
            waiting_most=max(waiting),
        )

    def _give(self) -> None:
        """Fill the workers that have room. What a dead one is given before its death is noticed is lost with it."""
        while self._to_come and self._wanting:
            number = self._wanting[0]
            worker = self._workers[number]
            seconds = self._row_seconds()
            worker.free_at = max(worker.free_at, self._sums.now) + seconds
            worker.has += 1
            self._to_come -= 1
            if worker.free_at <= worker.dies_at:
                heapq.heappush(self._events, _Event(worker.free_at, number, "answer", seconds))
            if worker.has == self._is.rows_in_flight:
                self._wanting.popleft()

    def _wait(self) -> None:
        """Sleep until there is something to learn, then wake."""
        self._sums = self._sums._replace(now=max(self._sums.now, self._events[0].at))

    def _come(self) -> list[_Event]:
        """All that has come until now, with what the wake itself costs."""
        found = []
        while self._events and self._events[0].at <= self._sums.now:
            found.append(heapq.heappop(self._events))
        self._waiting.append(sum(event.what == "answer" for event in found))
        self._work(self._is.driver_wake_worker_s * len(self._workers))
        return found

    def _learn(self, event: _Event) -> None:
        worker = self._workers[event.worker]
        if event.what == "dead":
            self._to_come += worker.has
            worker.has = 0
            if event.worker in self._wanting:
                self._wanting.remove(event.worker)
            heapq.heappush(self._events, _Event(event.at + self._is.restart_s, event.worker, "ready"))
        elif event.what == "ready":
            self._begin_life(event.worker, event.at)
            self._wanting.append(event.worker)
        else:
            if worker.has == self._is.rows_in_flight:
                self._wanting.append(event.worker)
            worker.has -= 1
            self._answered += 1
            self._work(self._is.driver_row_s)
            self._sums = self._sums._replace(useful=self._sums.useful + event.useful_s)
            self._commit_if_due()

    def _commit_if_due(self) -> None:
        self._uncommitted += 1
        if self._uncommitted < self._is.commit_rows and self._sums.now - self._committed_at < self._is.commit_every_s:
            return
        seconds = self._is.commit_s + self._is.commit_row_s * self._uncommitted
        self._work(seconds)
        self._sums = self._sums._replace(writer=self._sums.writer + seconds)
        self._committed_at = self._sums.now
        self._uncommitted = 0

    def _work(self, seconds: float) -> None:
        """The driver's own time."""
        self._sums = self._sums._replace(now=self._sums.now + seconds, driver=self._sums.driver + seconds)

    def _row_seconds(self) -> float:
        spread = self._is.row_spread
        return self._is.row_s * math.exp(spread * self._random.gauss(0, 1) - spread**2 / 2)

    def _begin_life(self, number: int, now: float) -> None:
        worker = self._workers[number]
        worker.free_at = now
        if not self._is.deaths_per_hour:
            return
        worker.dies_at = now + self._random.expovariate(self._is.deaths_per_hour / 3600)
        heapq.heappush(self._events, _Event(worker.dies_at + self._is.notice_s, number, "dead"))


def simulate(constants: Constants, num_workers: int, *, seed: int = 0, num_rows: int | None = None) -> Found:
    """A run long enough that its middle is steady."""
    return Simulation(constants, num_workers, num_rows or max(LEAST_ROWS, ROWS_A_WORKER * num_workers), seed=seed).run()


def driver_seconds(constants: Constants) -> float:
    """What a row takes of the driver where it never waits and many answers come at a wake; its inverse is the most rows a second that there can be."""
    return constants.driver_row_s + constants.commit_row_s + constants.commit_s / constants.commit_rows


def too_many(constants: Constants, *, most: int = 16_384) -> int | None:
    """The least number of workers, within a few per cent, that are kept busy for less than 90 % of their time; None: not up to ``most``."""

    def is_too_many(workers: int) -> bool:
        return simulate(constants, workers, num_rows=max(500, 12 * workers)).utilisation < ENOUGH

    high = 1
    while not is_too_many(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > max(1, low // 32):
        middle = (low + high) // 2
        low, high = (low, middle) if is_too_many(middle) else (middle, high)
    return high


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", nargs="*", choices=list(STAGES), default=list(STAGES))
    parser.add_argument("--workers", type=int, nargs="*", default=WORKERS)
    parser.add_argument("--deaths-per-hour", type=float, default=0.0, help="of each worker")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    options = parser.parse_args()
    for stage in options.stage:
        constants = replace(STAGES[stage], deaths_per_hour=options.deaths_per_hour)
        found = [simulate(constants, workers, seed=options.seed) for workers in options.workers]
        limit = too_many(constants)
        if options.json:
            print(json.dumps({"stage": stage, "too_many": limit, "found": [asdict(each) for each in found]}))
        else:
            print("\n".join(lines_of(stage, constants, found, limit)), flush=True)


def lines_of(stage: str, constants: Constants, found: Sequence[Found], limit: int | None) -> list[str]:
    """The findings as a table for a person."""
    most = 1 / driver_seconds(constants)
    lines = [
        f"{stage}: {constants.row_s:g} s a row; the driver can answer {most:,.0f} rows/s; "
        + (f"workers are busy for less than {ENOUGH:.0%} from {limit:,} on" if limit else "no number of workers tried is too many"),
        f"{'workers':>8} {'rows/s':>9} {'utilisation':>12} {'driver busy':>12} {'of it writes':>13} {'waiting':>16}",
    ]
    for each in found:
        waiting = f"{each.waiting_mean:.1f} (most {each.waiting_most})"
        lines.append(
            f"{each.workers:8} {each.rate:9.2f} {each.utilisation:12.1%} {each.driver_share:12.1%} {each.writer_share:13.1%} {waiting:>16}"
        )
    return lines


LATENTS = Constants(row_s=1.68, driver_row_s=2.61e-3, commit_row_s=2.32 / 32)
"""Of 81 frames of 480 x 832: 9.4 MB a row. The row's time is reckoned (``motive plan --gpu H200``), not measured. The commit was (268 MB, without
prompt embeddings), on a busy virtual disk that wrote 116 MB/s."""

STAGES = {
    "gradients 1.3B": Constants(row_s=3.32),
    "gradients 1.3B, not deterministic": Constants(row_s=2.25),
    "gradients 5B": Constants(row_s=7.36),
    "gradients 1.3B, 512 rows a commit": Constants(row_s=3.32, commit_rows=512),
    "gradients 1.3B, puts of 50 ms": Constants(row_s=3.32, commit_s=0.1),
    "latents 1.3B": LATENTS,
    "latents 1.3B, processor time": replace(LATENTS, commit_row_s=1.41 / 32),
    "latents 1.3B, not kept": replace(LATENTS, driver_row_s=LATENTS.driver_row_s + 4.7e-3, commit_row_s=0.0),
}
"""Rows of each stage. Gradients: one NVIDIA H200, docs/performance.md, "On a GPU". Two puts of 50 ms for a commit are an assumption; a loopback S3 server takes
3 ms. Latents with the processor time of a commit alone are those of a disk that takes no time; those that are not kept (``engine.keep_latents: false``) are hashed
once, in 4.7 ms."""


if __name__ == "__main__":
    main()
