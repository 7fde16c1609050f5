"""Spreads pieces of work over the workers of a Ray cluster. Whatever becomes of a worker, a piece of work is answered once, or rejected by name."""

from __future__ import annotations

import atexit
import itertools
import logging
import statistics
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from motive_pipeline.config import Config
from motive_pipeline.devices.ray_crew import Crew, Worker
from motive_pipeline.devices.ray_worker import Told
from motive_pipeline.devices.server import Build, take_log
from motive_pipeline.devices.work import Spread
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger(__name__)

Item = TypeVar("Item")

REPORT_EVERY_S = 15.0
"""Seconds between two lines on the nodes."""

SLOW_FACTOR, SLOW_S = 5.0, 30.0
"""A piece of work is slow if it takes this many times the median, and this many seconds at least."""

_HOPELESS = 2
"""A stage ends when more workers have died than so many pieces of work may kill (``engine.workers.attempts`` each), before any was done."""

_WAIT_S = 1.0
_rounds = itertools.count()


_crew: Crew | None = None


def crew_of(ws: Workspace) -> Crew:
    """The workers of a run, for as long as this process lives. They end when another project asks for workers."""
    global _crew
    if _crew is None or _crew.project is not ws:
        if _crew is None:
            atexit.register(_end_crew)
        _end_crew()
        _crew = Crew(ws)
    return _crew


def _end_crew() -> None:
    if _crew is not None:
        _crew.kill()


class RaySpread(Spread[Item]):
    """Computes pieces of work in the workers of the cluster. They start, and make the function, when there is work."""

    def __init__(self, crew: Crew, config: Config, build: Build, *, at_once: int) -> None:
        self._crew = crew
        self._config = config
        self._build = build
        self._at_once = at_once

    def answers(self, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """See :meth:`Spread.answers`.

        A worker that dies, falls silent (``engine.workers.silent_s``) or loses its node gives its pieces of work back, and others do them. One in
        which workers died ``engine.workers.attempts`` times is rejected as ``worker_died``, and tried again in the next run.
        """
        if items:
            yield from _Round(self._crew, self._config, self._build, items, at_once=self._at_once).run()


class _Round:
    """The pieces of work of one stage, until each is answered."""

    def __init__(self, crew: Crew, config: Config, build: Build, items: Sequence[Any], *, at_once: int) -> None:
        self._crew = crew
        self._items = items
        self._at_once = at_once
        self._number = next(_rounds)
        self._function = crew.ray.put((config.on_worker(crew.state()), build))
        self._to_come = deque(range(len(items)))
        self._num_left = len(items)
        self._deaths: Counter[int] = Counter()
        self._has_answers = False
        self._deaths_before_any = 0
        self._report = _Report(items)

    def run(self) -> Iterator[tuple[int, Any]]:
        """The answers, as they come."""
        while self._num_left:
            self._crew.keep_up(self._num_left)
            self._prepare_all()
            for worker, reference, what in self._crew.wait(_WAIT_S):
                if worker in self._crew.workers:
                    yield from self._take(worker, reference, what)
            for worker in self._silent():
                yield from self._bury(worker, f"it did not answer for {self._crew.silent_s:g} s", is_own_fault=False)
            self._report.tell(self._crew.workers)

    def _prepare_all(self) -> None:
        """Give work to the workers; to no more than there are pieces left, as making the function may take minutes and a GPU's memory."""
        ready = self._crew.ready
        further = self._num_left - sum(worker.round == self._number for worker in ready)
        for worker in ready:
            if worker.round != self._number:
                if further <= 0:
                    continue
                further -= 1
            self._prepare(worker)

    def _prepare(self, worker: Worker) -> None:
        """Let the worker make the function, or give it work."""
        if worker.round != self._number:
            worker.round = self._number
            worker.heard = time.monotonic()  # nobody has listened since the last round
            worker.has.clear()
            worker.asked = {reference: what for reference, what in worker.asked.items() if what[0] != "work"}
            worker.asked[worker.actor.build.remote(self._function)] = ("build",)
            return
        if ("build",) in worker.asked.values():
            return
        while self._to_come and len(worker.has) < self._at_once:
            number = self._to_come.popleft()
            worker.has[number] = time.monotonic()
            worker.asked[worker.actor.work.remote((self._number, number), self._items[number])] = ("work", number)

    def _take(self, worker: Worker, reference: Any, what: tuple[Any, ...]) -> Iterator[tuple[int, Any]]:
        """What has become of something that was asked."""
        ray = self._crew.ray
        try:
            answer = ray.get(reference)
        except ray.exceptions.RayTaskError as error:  # a fault of ours, or one in what a worker was given
            raise error.as_instanceof_cause() from None
        except ray.exceptions.RayError as error:
            yield from self._bury(worker, _told(error), is_own_fault=not self._is_node_gone(worker, error))
            return
        worker.heard = time.monotonic()
        if what == ("hello",):
            self._crew.took_hello(worker, answer)
        elif what == ("beat",):
            self._log(worker, answer)
            self._crew.listen(worker)
        elif isinstance(answer, Told):
            self._log(worker, answer.logged)
            yield from self._answer(worker, *answer.message)

    def _answer(self, worker: Worker, kind: str, *content: Any) -> Iterator[tuple[int, Any]]:
        if kind == "refused":
            error, text = content
            raise error(f"{text} (on node {worker.place})")
        if kind == "broken":
            raise RuntimeError(f"an error of {worker.name}:\n{content[0]}")
        (of_round, number), *result = content
        if of_round != self._number:  # one that its caller no longer wanted
            return
        self._report.took(worker, number)
        self._has_answers = True
        del worker.has[number]
        self._num_left -= 1
        if kind == "rejected":
            reason, detail, transient = result
            yield number, RejectRow(reason, detail, transient=transient)
        else:
            yield number, result[0]

    def _bury(self, worker: Worker, why: str, *, is_own_fault: bool) -> Iterator[tuple[int, Any]]:
        """Take the work of a dead worker back. The piece that it was computing is to blame, unless its node has gone.

        Raises:
            MotiveError: worker after worker dies, and not one piece of work was done: then it is no single piece that kills them.
        """
        numbers = list(worker.has)
        self._crew.remove(worker, why)
        log.warning("ray: %s has died: %s. %d pieces of work are done again.", worker.name, why, len(numbers))
        blamed = numbers[0] if numbers and is_own_fault else None
        if blamed is not None:
            self._deaths[blamed] += 1
            attempts = self._crew.attempts
            self._deaths_before_any += not self._has_answers
            if self._deaths_before_any > _HOPELESS * attempts:
                raise MotiveError(
                    f"engine.kind: ray: {self._deaths_before_any} workers died, and not one piece of work of this stage was done. The last one: {worker.name}: {why}"
                    f"{_last_words(worker)}. Perhaps a worker has too little memory to load the model: see engine.workers.memory_gb, and the node's log."
                )
            if self._deaths[blamed] >= attempts:
                numbers.remove(blamed)
                self._num_left -= 1
                detail = f"{attempts} workers died while they computed it: {why}{_last_words(worker)}"
                yield blamed, RejectRow("worker_died", detail, transient=True)
        self._to_come.extendleft(reversed(numbers))

    def _is_node_gone(self, worker: Worker, error: Exception) -> bool:
        """Whether the node was lost or taken away, so that the work is not to blame."""
        alive = {node["NodeID"][:6] for node in self._crew.ray.nodes() if node["Alive"]}
        return getattr(error, "preempted", False) or not any(f"({node})" in worker.place for node in alive)

    def _silent(self) -> list[Worker]:
        now = time.monotonic()
        return [worker for worker in self._crew.ready if now - worker.heard > self._crew.silent_s]

    def _log(self, worker: Worker, records: Sequence[logging.LogRecord]) -> None:
        for record in records:
            worker.last_words = record.getMessage()
            take_log(record)


class _Report:
    """Lines on what the nodes do."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items
        self._by_node: Counter[str] = Counter()
        self._seconds: deque[float] = deque(maxlen=500)
        self._begun = self._told = time.monotonic()

    def took(self, worker: Worker, number: int) -> None:
        """A worker has done a piece of work."""
        self._by_node[worker.place] += 1
        self._seconds.append(time.monotonic() - worker.has[number])

    def tell(self, workers: Sequence[Worker]) -> None:
        """Log the rate of each node, and the pieces of work that take long, if it is time for it."""
        now = time.monotonic()
        if now - self._told < REPORT_EVERY_S:
            return
        self._told = now
        num_of = Counter(worker.place for worker in workers if worker.is_ready)
        nodes = [
            f"{node}: {num_of[node]} workers, {self._by_node[node] / (now - self._begun):.3g} rows/s"
            for node in sorted(num_of | self._by_node)
        ]
        starting = sum(not worker.is_ready for worker in workers)
        log.info(
            "ray: %s%s", "; ".join(nodes) or "no worker is ready yet", f"; {starting} starting, or waiting for room" if starting else ""
        )
        limit = max(SLOW_S, SLOW_FACTOR * statistics.median(self._seconds)) if self._seconds else float("inf")
        for worker in workers:
            for number, since in itertools.islice(worker.has.items(), 1):
                if now - since > limit:
                    log.warning("ray: %s has worked on %s for %.0f s", worker.name, str(self._items[number])[:200], now - since)


def _last_words(worker: Worker) -> str:
    return f"; its last words: {worker.last_words}" if worker.last_words else ""


def _told(error: Exception) -> str:
    """Why a worker is dead, in a line."""
    text = " ".join(str(error).split())
    if "connection error code" in text:
        return "its process ended without a word (it crashed, was killed, or the node ran out of memory)"
    _, _, cause = text.rpartition("The actor is dead because")
    return (cause.strip() or text)[:300].rstrip(".")
