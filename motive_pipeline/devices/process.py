"""What runs in the process of one device: it builds a stage's function, and answers the pieces of work that are sent to it, in order.

Messages to it are ``("build", config, build)``, ``("work", number, item)`` and ``("rest",)``; from it ``("log", record)``,
``("done", number, result)``, ``("rejected", number, reason, detail, transient)``, ``("refused", kind of error, text)`` and ``("broken", text)``.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar, runtime_checkable

from motive_pipeline import errors
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.storage.workspace import Workspace

Item = TypeVar("Item", contravariant=True)

Build = Callable[[Workspace], Callable[[Any], Any]]
"""Makes a stage's function, which computes one piece of work, in the process it is called in. It travels by pickle: a class or a function of a module, with
``functools.partial`` for further arguments."""


@runtime_checkable
class Prefetches(Protocol[Item]):
    """A stage's function that can read ahead what the next pieces of work need."""

    def prefetch(self, items: Sequence[Item]) -> None:
        """These are asked for next, in this order."""


@runtime_checkable
class Releases(Protocol):
    """A stage's function that can give the device's memory back."""

    def release(self) -> None:
        """Nothing is asked for until further notice."""


def serve(connection: Connection, device: str) -> None:
    """Answer what comes through ``connection`` until its other end closes or the parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides what becomes of this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parent = _Parent(connection)
    _send_log(parent, device)
    try:
        _Server(parent, device).run()
    except (EOFError, BrokenPipeError):
        return


def _end_with_parent() -> None:
    """A training takes hours: without its parent it would go on while the next run does the same."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


class _Parent:
    """The connection to the parent process. Log records come from any thread, so one message is sent at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self.poll, self.receive = connection.poll, connection.recv

    def send(self, *message: Any) -> None:
        with self._sending:
            self._connection.send(message)


class _Server:
    def __init__(self, parent: _Parent, device: str) -> None:
        self._parent = parent
        self._device = device
        self._waiting: deque[tuple[int, Any]] = deque()
        self._function: Callable[[Any], Any] | None = None

    def run(self) -> None:
        while True:
            while not self._waiting or self._parent.poll():
                self._receive(*self._parent.receive())
            number, item = self._waiting.popleft()
            assert self._function is not None
            with self._telling():
                try:
                    result = self._function(item)
                except RejectRow as rejection:
                    self._parent.send("rejected", number, rejection.reason, rejection.detail, rejection.transient)
                else:
                    self._parent.send("done", number, result)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the parent process of an error. One that a user can mend is told in its own words; any other ends this process."""
        try:
            yield
        except MotiveError as error:
            kind = type(error) if type(error).__module__ == errors.__name__ else MotiveError
            self._parent.send("refused", kind, str(error))
        except Exception as error:
            self._parent.send("broken", "".join(traceback.format_exception(error)))
            raise

    def _receive(self, kind: str, *content: Any) -> None:
        if kind == "build":
            self._waiting.clear()
            with self._telling():
                self._function = self._built(*content)
        elif kind == "work":
            number, item = content
            if isinstance(self._function, Prefetches):
                self._function.prefetch([item])
            self._waiting.append((number, item))
        elif kind == "rest":
            self._rest()

    def _built(self, config: Config, build: Build) -> Callable[[Any], Any]:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.set_device(self._device)
        return build(Workspace(config))

    def _rest(self) -> None:
        """Give the device's memory back: until the next stage this process needs none, and the run's own process may."""
        if isinstance(self._function, Releases):
            self._function.release()
        self._function = None
        if self._device.startswith("cuda"):
            import torch

            from motive_pipeline.models.placement import vacate

            vacate(torch.device(self._device))
            torch.cuda.empty_cache()


class _Sender(logging.Handler):
    """Sends each record to the parent process."""

    def __init__(self, parent: _Parent, device: str) -> None:
        super().__init__()
        self._parent = parent
        self._device = device

    def emit(self, record: logging.LogRecord) -> None:
        told = logging.makeLogRecord({**record.__dict__, "msg": f"{self._device}: {record.getMessage()}", "args": None, "exc_info": None})
        self._parent.send("log", told)


def _send_log(parent: _Parent, device: str) -> None:
    logger = logging.getLogger("motive_pipeline")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Sender(parent, device))
