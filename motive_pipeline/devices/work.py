"""Work that is spread over several processes, whatever they are: what a stage sees of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from motive_pipeline.errors import RejectRow

Item = TypeVar("Item")


class Spread(ABC, Generic[Item]):
    """The processes that compute pieces of work of one stage."""

    def prefetch(self, items: Sequence[Item]) -> None:
        """Nothing to do: each process reads ahead what it is given."""

    @abstractmethod
    def answers(self, items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
        """(position in ``items``, what the stage's function returned, or the RejectRow it raised), in the order in which they are ready.

        Raises:
            MotiveError: a process cannot work, or died and is not replaced.
            Exception: whatever else the function raised.
        """


def answers(function: Callable[[Item], Any] | Spread[Item], items: Sequence[Item]) -> Iterator[tuple[int, Any]]:
    """(position, result or rejection) of each item: from the processes of several devices as they are ready, or from this process, in order.

    Raises:
        Exception: what ``function`` raises, other than RejectRow; MotiveError if a process died.
    """
    if isinstance(function, Spread):
        yield from function.answers(items)
        return
    for number, item in enumerate(items):
        try:
            result = function(item)
        except RejectRow as rejection:
            result = rejection
        yield number, result
