"""OpenCV work on several items at once, with the same bits as one after the other."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import cv2

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


@contextmanager
def side_by_side(function: Callable[[Item], Result], items: Sequence[Item], *, threads: int) -> Iterator[Callable[[Item], Result]]:
    """A function that gives ``function(item)``, which ``threads`` workers compute ahead for all ``items``.

    Each worker has OpenCV on one thread: DIS cuts a frame into as many strips as OpenCV has threads, and its result depends on them.
    What ``function`` raises for an item is raised when that item is asked for.
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
