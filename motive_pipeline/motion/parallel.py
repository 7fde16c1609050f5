"""OpenCV work on several items in parallel, with the same bits as in sequence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import cv2

from motive_pipeline.devices.server import Build, Prefetches
from motive_pipeline.devices.spread import is_spread, on_devices
from motive_pipeline.storage.workspace import Workspace

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


@contextmanager
def here_or_spread(ws: Workspace, build: Build, missing: Sequence[Item]) -> Iterator[Any]:
    """What computes rows with OpenCV: ``build(ws)``, for ``engine.threads`` of the ``missing`` items at once in this process (:func:`in_parallel`), or in other
    processes (:func:`~motive_pipeline.devices.spread.on_devices`)."""
    if is_spread(ws):
        with on_devices(ws, one_at_a_time(build)) as spread:
            yield spread
    else:
        with in_parallel(build(ws), missing, threads=ws.config.engine.threads) as row:
            yield row


def one_at_a_time(build: Build) -> Build:
    """``build``, whose function then computes with OpenCV on one thread, as :func:`in_parallel` does."""
    return functools.partial(_OneAtATime, build=build)


class _OneAtATime:
    def __init__(self, ws: Workspace, *, build: Build) -> None:
        self._function = build(ws)

    def prefetch(self, items: Sequence[Any]) -> None:
        """These are asked for next, in this order."""
        if isinstance(self._function, Prefetches):
            self._function.prefetch(items)

    def __call__(self, item: Any) -> Any:
        with one_opencv_thread():
            return self._function(item)


@contextmanager
def in_parallel(function: Callable[[Item], Result], items: Sequence[Item], *, threads: int) -> Iterator[Callable[[Item], Result]]:
    """A function that returns ``function(item)``; ``threads`` workers compute it ahead for all ``items``.

    OpenCV runs on one thread in each worker: DIS cuts a frame into as many strips as OpenCV has threads, and its result depends on them.
    An exception of ``function`` for an item is raised when that item is requested.
    """
    with one_opencv_thread():
        workers = ThreadPoolExecutor(threads)
        try:
            futures = {item: workers.submit(function, item) for item in items}
            yield lambda item: futures.pop(item).result()
        finally:
            workers.shutdown(cancel_futures=True)


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV computes on one thread, as in each worker of :func:`in_parallel`."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
