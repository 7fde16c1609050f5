"""The workers of a run on a Ray cluster: started as there is work and room, replaced when they die, ended with the run."""

from __future__ import annotations

import itertools
import logging
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motive_pipeline.devices.ray_cluster import connected
from motive_pipeline.devices.ray_worker import Hello, RayWorker, versions
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.layout import source_folders
from motive_pipeline.storage.mirror import mirror_of
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger(__name__)

_MARK = ".cluster-"
_START_ATTEMPTS = 3
_GROW_EVERY_S = 5.0


@dataclass(eq=False, kw_only=True)
class Worker:
    """One actor, and what is under way on it."""

    actor: Any
    number: int
    place: str = "a node that is not known yet"
    is_ready: bool = False
    round: int = -1
    """The round whose function it has made."""
    has: dict[int, float] = field(default_factory=dict)
    """The pieces of work it has, by position, with the time at which it got each; it computes the first one."""
    asked: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    """What it has not answered yet: Ray's reference -> ("hello" | "build" | "beat") or ("work", position)."""
    heard: float = field(default_factory=time.monotonic)
    last_words: str = ""

    @property
    def name(self) -> str:
        """As the log names it."""
        return f"worker {self.number} on {self.place}"


class Crew:
    """All workers of this process's run."""

    def __init__(self, ws: Workspace) -> None:
        """``ws`` is the run's project. Nothing is started before there is work."""
        self.project = ws
        self._config = ws.config
        self.workers: list[Worker] = []
        self._numbers = itertools.count(1)
        self._failed_starts = 0
        self._since = self._grown = 0.0
        self._mark: Path | None = None
        self.silent_s, self.attempts = self._config.engine.workers.silent_s, self._config.engine.workers.attempts
        self._devices: set[str] = set()

    @property
    def ray(self) -> Any:
        """The module ``ray``, connected."""
        return connected(self._config.engine, f"motive-{self.project.run_id}")

    @property
    def ready(self) -> list[Worker]:
        """The workers that can work."""
        return [worker for worker in self.workers if worker.is_ready]

    def needs(self) -> dict[str, float]:
        """What a worker takes of a node, by Ray's names: CPU, GPU, memory (bytes)."""
        engine = self._config.engine
        wanted = engine.workers
        gpus = wanted.gpus if wanted.gpus is not None else float(self._config.model.device.startswith("cuda"))
        needs = {"CPU": float(wanted.cpus or engine.threads), "GPU": gpus, "memory": (wanted.memory_gb or 0.0) * 1e9}
        return {name: amount for name, amount in needs.items() if amount}

    def most(self) -> int:
        """How many workers may work at a time: as many as there is room for, at most ``engine.workers.most`` and at least ``engine.workers.least``."""
        wanted, room = self._config.engine.workers, self.room()
        return max(wanted.least, min(room, wanted.most or room))

    def room(self) -> int:
        """How many workers the nodes have room for, if nobody else uses them."""
        needs = self.needs()
        return sum(
            min(int(node["Resources"].get(name, 0.0) // amount) for name, amount in needs.items())
            for node in self.ray.nodes()
            if node["Alive"]
        )

    def keep_up(self, num_items: int) -> None:
        """Start the workers that are missing for ``num_items`` pieces of work.

        Raises:
            MotiveError: too few are ready after ``engine.workers.wait_s``.
        """
        now = time.monotonic()
        if not self.workers:
            self._since = now
        if now - self._grown >= _GROW_EVERY_S or not self.workers:
            self._grown = now
            for _ in range(min(self.most(), num_items) - len(self.workers)):
                self._start()
        wanted = self._config.engine.workers
        if len(self.ready) >= min(wanted.least, num_items):
            self._since = now
        elif now - self._since > wanted.wait_s:
            raise MotiveError(
                f"engine.workers: {len(self.ready)} of at least {wanted.least} workers were ready after {wanted.wait_s:g} s. A worker needs "
                f"{told_needs(self.needs())}; the cluster has {told_needs(self.ray.cluster_resources())}, of which {told_needs(self.ray.available_resources())} is free."
            )

    def _start(self) -> None:
        needs, number = self.needs(), next(self._numbers)
        kind = self.ray.remote(RayWorker).options(
            num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), memory=needs.get("memory"), max_restarts=0, max_task_retries=0, max_concurrency=16
        )  # fmt: skip
        worker = Worker(actor=kind.remote(f"worker {number}"), number=number)
        self.workers.append(worker)
        worker.asked[worker.actor.hello.remote(self._paths(), self._config.model.device)] = ("hello",)

    def _paths(self) -> list[Path]:
        """What every node must have under the same path: the root (shown by a mark of this run), the clips and the model, as far as they are no URLs."""
        model = Path(self._config.model.path)
        folders = [folder for _, folder in source_folders(self._config) if mirror_of(folder) is None]
        found = [*folders, *([model.resolve()] if model.exists() else [])]
        return found if self.project.copy is not None else [self._mark_in_root(), *found]

    def _mark_in_root(self) -> Path:
        if self._mark is None or not self._mark.exists():
            root = self.project.root
            for old in root.glob(f"{_MARK}*"):
                old.unlink(missing_ok=True)
            self._mark = root / f"{_MARK}{uuid.uuid4().hex}"
            atomic.write_text(self._mark, "It shows the workers of a cluster that they see the root of the run.\n")
        return self._mark

    def took_hello(self, worker: Worker, hello: Hello) -> None:
        """A worker has started.

        Raises:
            MotiveError: its node lacks a folder or has other versions.
        """
        node = worker.place = hello.node
        root = str(self._mark)
        absent = [f"the root {self.project.root}" if path == root else path for path in hello.absent]
        if absent:
            raise MotiveError(
                f"node {node} lacks {', '.join(absent)}. Clips, model and storage.root must lie in a folder that all nodes of the cluster share, under the same "
                "path (docs/cluster.md)."
            )
        ours = versions()
        others = [f"{name} {found} (here {ours[name]})" for name, found in hello.versions.items() if ours.get(name, found) != found]
        if others:
            raise MotiveError(
                f"node {node} has other versions than this machine, and other versions may give other results: {', '.join(others)}. Install the same."
            )
        self._devices.add(hello.device)
        if len(self._devices) > 1:
            log.warning("ray: the workers' devices differ (%s); the last bits of results may, too", ", ".join(sorted(self._devices)))
        self._failed_starts = 0
        worker.is_ready = True
        log.info("ray: %s is ready (%s, process %d)", worker.name, hello.device, hello.pid)
        self.listen(worker)

    def listen(self, worker: Worker) -> None:
        """Ask for what it logs."""
        worker.heard = time.monotonic()
        worker.asked[worker.actor.heartbeat.remote()] = ("beat",)

    def remove(self, worker: Worker, why: str) -> None:
        """A worker is dead, or as good as dead.

        Raises:
            MotiveError: no worker gets as far as to start.
        """
        self.workers.remove(worker)
        self._end(worker)
        if worker.is_ready:
            return
        self._failed_starts += 1
        if self._failed_starts >= _START_ATTEMPTS:
            raise MotiveError(
                f"engine.kind: ray: no worker can start; {self._failed_starts} died before they could say what they are. The last one: {why}"
            )

    def state(self) -> Path:
        """The folder in which a worker keeps on its node what only it needs."""
        return Path(tempfile.gettempdir()) / f"motive-{digest(str(self.project.root.resolve()))[:16]}"

    def wait(self, seconds: float) -> Iterator[tuple[Worker, Any, tuple[Any, ...]]]:
        """(worker, Ray's reference, what was asked) of what has been answered, or has failed; it waits for the first one."""
        asked = {reference: (worker, what) for worker in self.workers for reference, what in worker.asked.items()}
        if not asked:
            time.sleep(min(seconds, 0.2))
            return
        done, _ = self.ray.wait(list(asked), num_returns=1, timeout=seconds)
        if done and len(asked) > 1:
            done, _ = self.ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for reference in done:
            worker, what = asked[reference]
            if worker.asked.pop(reference, None) is not None:
                yield worker, reference, what

    def rest(self) -> None:
        """The stage is over: give the memory of GPUs back. The workers stay, for the next stage."""
        for worker in self.ready:
            worker.actor.rest.remote()
            worker.asked = {reference: what for reference, what in worker.asked.items() if what[0] == "beat"}

    def kill(self) -> None:
        """End all workers at once, whatever they do. A later stage starts new ones. They end with this process in any case."""
        if self.workers and sys.modules["ray"].is_initialized():
            for worker in self.workers:
                self._end(worker)
        self.workers.clear()
        if self._mark is not None:
            self._mark.unlink(missing_ok=True)

    def _end(self, worker: Worker) -> None:
        self.ray.kill(worker.actor, no_restart=True)


def told_needs(resources: dict[str, float]) -> str:
    """Resources in words, for instance 2 CPU, 1 GPU, 4.0 GB memory."""
    found = [f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    if resources.get("memory"):
        found.append(f"{resources['memory'] / 1e9:.1f} GB memory")
    return ", ".join(found) or "nothing"
