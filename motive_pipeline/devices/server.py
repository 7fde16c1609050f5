"""What computes pieces of work for a run, in a process of its own: it builds a stage's function, and answers what is sent to it, in order.

Messages to it are ``("build", config, build)``, ``("work", number, item)`` and ``("rest",)``; from it ``("log", record)``,
``("done", number, result)``, ``("rejected", number, reason, detail, transient)``, ``("refused", kind of error, text)`` and ``("broken", text)``.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, runtime_checkable

from motive_pipeline import errors
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.storage.clip_folders import bring_archives
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


@runtime_checkable
class Channel(Protocol):
    """The way to the process that gives out the work. Messages may be sent from any thread."""

    def poll(self) -> bool:
        """Whether a message has come."""
        ...

    def receive(self) -> Any:
        """The next message, as soon as there is one. Raises EOFError if there will be none."""

    def send(self, *message: Any) -> None:
        """Send a message."""


class Server:
    """Answers the messages of one channel, on one device. It reads ahead what has been sent while it computes."""

    def __init__(self, driver: Channel, device: str) -> None:
        self._driver = driver
        self._device = device
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._function: Callable[[Any], Any] | None = None

    def run(self) -> None:
        """Answer until the channel ends. Raises what a function raised that no user can mend, after telling it."""
        while True:
            while not self._waiting or self._driver.poll():
                self._receive(*self._driver.receive())
            number, item = self._waiting.popleft()
            assert self._function is not None
            with self._telling():
                try:
                    result = self._function(item)
                except RejectRow as rejection:
                    self._driver.send("rejected", number, rejection.reason, rejection.detail, rejection.transient)
                else:
                    self._driver.send("done", number, result)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Tell the run of an error. One that a user can mend is told in its own words; any other ends this process."""
        try:
            yield
        except MotiveError as error:
            kind = type(error) if type(error).__module__ == errors.__name__ else MotiveError
            self._driver.send("refused", kind, str(error))
        except Exception as error:
            self._driver.send("broken", "".join(traceback.format_exception(error)))
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
            self._waiting.clear()
            self._rest()

    def _built(self, config: Config, build: Build) -> Callable[[Any], Any]:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.set_device(self._device)
        ws = Workspace(config)
        ws.follow()
        bring_archives(config)
        return build(ws)

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
    """Sends each record to the process that gives out the work."""

    def __init__(self, driver: Channel, name: str) -> None:
        super().__init__()
        self._driver = driver
        self._name = name

    def emit(self, record: logging.LogRecord) -> None:
        told = logging.makeLogRecord({**record.__dict__, "msg": f"{self._name}: {record.getMessage()}", "args": None, "exc_info": None})
        self._driver.send("log", told)


def take_log(record: logging.LogRecord) -> None:
    """Log here, in the run's own process, what another one has sent."""
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def send_log(driver: Channel, name: str) -> None:
    """Send what this process logs to the process that gives out the work, each line with ``name`` before it."""
    logger = logging.getLogger("motive_pipeline")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(_Sender(driver, name))
