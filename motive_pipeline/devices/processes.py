"""One process for each of ``engine.devices``, on this machine."""

from __future__ import annotations

import atexit
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from motive_pipeline.config import Config
from motive_pipeline.devices.process import serve
from motive_pipeline.devices.server import Build, take_log
from motive_pipeline.devices.work import Spread
from motive_pipeline.errors import MotiveError, RejectRow

Item = TypeVar("Item")


class DeviceProcess:
    """The process of one device. It starts with the first stage that needs it, and serves all later ones."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.has: dict[int, Any] = {}
        """The pieces of work it has, by position."""
        self._process: Any = None
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection to the process, which starts if it does not run."""
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(target=serve, args=(theirs, self.device), name=f"motive on {self.device}", daemon=True)
            self._process.start()
            theirs.close()
            self._connection = ours
        return self._connection

    @property
    def is_spoiled(self) -> bool:
        """Whether it has died since the last stage, or has work of a caller that left before the end: such answers must not be taken for those of the next."""
        return bool(self.has) or (self._connection is not None and not self._process.is_alive())

    def build(self, config: Config, build: Build) -> None:
        """Let it make the function of a stage. One that has died meanwhile starts again."""
        if self._process is not None and not self._process.is_alive():
            self.kill()
        self._send("build", config, build)

    def take_from(self, to_come: deque[tuple[int, Any]]) -> None:
        """Give it the first piece of work, if one is left."""
        if to_come:
            number, item = to_come.popleft()
            self.has[number] = item
            self._send("work", number, item)

    def receive(self) -> tuple[int, Any] | None:
        """An answer; None for a message that is none. Raises what :meth:`Spread.answers` raises."""
        try:
            kind, *content = self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if kind == "log":
            (record,) = content
            take_log(record)
            return None
        if kind == "refused":
            error, text = content
            raise error(text)
        if kind == "broken":
            raise RuntimeError(f"an error in the process of {self.device}:\n{content[0]}")
        number = content[0]
        del self.has[number]
        if kind == "rejected":
            _, reason, detail, transient = content
            return number, RejectRow(reason, detail, transient=transient)
        return number, content[1]

    def rest(self) -> None:
        """No more work until the next stage. A process that has died meanwhile has left nothing undone: the next stage starts a new one."""
        if self._connection is not None:
            try:
                self._connection.send(("rest",))
            except OSError:
                self.kill()

    def kill(self) -> None:
        """End the process at once, whatever it does. A later stage starts a new one."""
        if self._connection is not None:
            self._process.kill()
            self._process.join()
            self._connection.close()
            self._connection = None
        self.has.clear()

    def _send(self, *message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            raise self._death() from None

    def _death(self) -> MotiveError:
        self._process.join(timeout=5)
        code = self._process.exitcode
        had = next(iter(self.has.values()), None)
        at_work = "" if had is None else f" while it had {getattr(had, 'location', had)}"
        return MotiveError(
            f"the process of {self.device} (engine.devices) died{at_work}: "
            f"{f'signal {-code}' if code is not None and code < 0 else f'exit code {code}'}. What was committed is kept: run again. If it dies again, "
            "look into the system's log (`dmesg`) for a full memory, or take the device out of engine.devices."
        )


class ProcessSpread(Spread[Item]):
    """Computes pieces of work in the processes of several devices. They start, and make the function, when there is work."""

    def __init__(self, processes: Sequence[DeviceProcess], config: Config, build: Build, *, at_once: int) -> None:
        self._processes = processes
        self._config = config
        self._build = build
        self._at_once = at_once

    def answers(self, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """See :meth:`Spread.answers`."""
        to_come = deque(enumerate(items))
        processes = self._processes[: len(items)]
        for process in processes:
            if process.is_spoiled:
                process.kill()
            process.build(self._config.on_device(process.device), self._build)
        for _ in range(self._at_once):
            for process in processes:
                process.take_from(to_come)
        while busy := {process.connection: process for process in processes if process.has}:
            for connection in wait(list(busy)):
                process = busy[connection]  # type: ignore[index]
                answer = process.receive()
                if answer is not None:
                    process.take_from(to_come)
                    yield answer


@cache
def process_of(device: str, number: int) -> DeviceProcess:
    """The process of the ``number``-th mention of ``device``, for as long as this process lives."""
    process = DeviceProcess(device)
    atexit.register(process.kill)
    return process
