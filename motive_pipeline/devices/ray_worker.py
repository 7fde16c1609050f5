"""A worker of a Ray cluster: an actor that builds a stage's function, computes the pieces of work sent to it, and tells what it logs.

Ray calls its methods in an event loop, so it answers at once, also while it computes: the work is done by a thread of its own (server.py).
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motive_pipeline.config import Config
from motive_pipeline.devices.server import Build, Server, send_log

COMPARED = ("motive-pipeline", "torch", "diffusers", "transformers", "numpy", "av", "opencv-python-headless", "zarr", "safetensors")
"""The libraries whose versions must be those of the run, besides Python: others may give other bits, or read another format."""

_BEAT_S = 2.0
_SOON_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a worker says of itself: its process, its node, versions by library, the device, and the paths that are not there."""

    pid: int
    node: str
    versions: dict[str, str]
    device: str
    absent: list[str]


@dataclass(frozen=True, kw_only=True)
class Told:
    """A message of a worker (server.py) about a piece of work, or about the stage's function, and what was logged until then."""

    message: tuple[Any, ...]
    logged: list[Any] = field(default_factory=list)


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries :data:`COMPARED` in this process."""
    found = {"Python": ".".join(platform.python_version_tuple()[:2])}
    for library in COMPARED:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:  # the code came with the run, by Ray's runtime_env
            continue
    return found


def device_name(device: str) -> str:
    """The device that work on ``device`` (``model.device``) is done with here: a GPU's name, or the processor's kind."""
    if device != "cpu":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name()
    return f"CPU ({platform.machine()})"


class RayWorker:
    """The actor. It is created once, and builds the function of one stage after the other."""

    def __init__(self, name: str) -> None:
        self._channel = _Channel(asyncio.get_event_loop())
        send_log(self._channel, name)

    async def hello(self, paths: Sequence[Path], device: str) -> Hello:
        """What this worker is, and which of ``paths`` its node lacks."""
        import ray

        absent = [str(path) for path in paths if not path.exists()]
        node = f"{ray.util.get_node_ip_address()} ({ray.get_runtime_context().get_node_id()[:6]})"
        return Hello(pid=os.getpid(), node=node, versions=versions(), device=device_name(device), absent=absent)

    async def build(self, function: tuple[Config, Build]) -> None:
        """Make the function of a stage. That it cannot be made is the answer to the next piece of work."""
        config, build = function
        self._channel.begin(config.model.device)
        self._channel.put("build", config, build)

    async def work(self, number: tuple[int, int], item: Any) -> Told:
        """The message about piece of work ``number`` (of a round, and its position there). Those that come meanwhile are read ahead, and computed in the order in which they came."""
        return await self._channel.answer(number, item)

    async def heartbeat(self) -> list[Any]:
        """What was logged since the last call: as soon as there is something, or nothing after two seconds. It shows that the worker is alive."""
        return await self._channel.logged_soon()

    async def rest(self) -> None:
        """No more work until the next stage: give the device's memory back."""
        self._channel.put("rest")


class _Channel:
    """Between the event loop, which Ray calls, and the thread that computes."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._to_do: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
        self._answers: dict[tuple[int, int], asyncio.Future[tuple[Any, ...]]] = {}
        self._failed: tuple[Any, ...] | None = None
        self._logged: list[Any] = []
        self._has_logged = asyncio.Event()
        self._thread: threading.Thread | None = None

    def begin(self, device: str) -> None:
        """A new stage begins on ``device``; what an earlier one has left is not wanted any more."""
        for number, future in self._answers.items():
            future.set_result(("done", number, None))
        self._answers.clear()
        self._failed = None
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=_compute, args=(self, device), daemon=True)
            self._thread.start()

    def put(self, *message: Any) -> None:
        """Give the thread a message."""
        self._to_do.put(message)

    async def answer(self, number: tuple[int, int], item: Any) -> Told:
        """Let the thread compute a piece of work, and wait for it."""
        if self._failed is not None:
            return self._told(self._failed)
        future = self._answers[number] = self._loop.create_future()
        self.put("work", number, item)
        return self._told(await future)

    def _told(self, message: tuple[Any, ...]) -> Told:
        return Told(message=message, logged=self._take_logged())

    async def logged_soon(self) -> list[Any]:
        """See :meth:`RayWorker.heartbeat`."""
        try:
            await asyncio.wait_for(self._has_logged.wait(), _BEAT_S)
            await asyncio.sleep(_SOON_S)  # more lines may follow: one message is enough for them
        except TimeoutError:
            pass
        return self._take_logged()

    def _take_logged(self) -> list[Any]:
        logged, self._logged = self._logged, []
        self._has_logged.clear()
        return logged

    def poll(self) -> bool:
        """In the thread: whether a message has come."""
        return not self._to_do.empty()

    def receive(self) -> tuple[Any, ...]:
        """In the thread: the next message."""
        return self._to_do.get()

    def send(self, *message: Any) -> None:
        """In the thread, or wherever something is logged: answer."""
        self._loop.call_soon_threadsafe(self._take_in, message)

    def _take_in(self, message: tuple[Any, ...]) -> None:
        if message[0] == "log":
            self._logged.append(message[1])
            self._has_logged.set()
        elif message[0] in ("done", "rejected"):
            future = self._answers.pop(message[1], None)
            if future is not None:
                future.set_result(message)
        else:  # nothing that was asked for can be answered any more
            self._failed = message
            for future in self._answers.values():
                future.set_result(message)
            self._answers.clear()


def _compute(channel: _Channel, device: str) -> None:
    """The thread. What it raises has been told: it ends it."""
    Server(channel, device).run()
