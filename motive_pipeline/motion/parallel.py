"""OpenCV work on several items in parallel, with the same bits as in sequence."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


@contextmanager
def in_parallel(function: Callable[[Item], Result], items: Sequence[Item], *, threads: int) -> Iterator[Callable[[Item], Result]]:
    """A function that returns ``function(item)``; ``threads`` workers compute it ahead for all ``items``.

    OpenCV runs on one thread in each worker: DIS cuts a frame into as many strips as OpenCV has threads, and its result depends on them.
    An exception of ``function`` for an item is raised when that item is requested.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    workers = ThreadPoolExecutor(threads)
    try:
        futures = {item: workers.submit(function, item) for item in items}
        yield lambda item: futures.pop(item).result()
    finally:
        workers.shutdown(cancel_futures=True)
        cv2.setNumThreads(before)
