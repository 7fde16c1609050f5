"""Ctrl-C and SIGTERM: a command stops at once, says so in one line, and ends with the exit code that shells expect, 128 + the signal's number."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stoppable() -> Iterator[Callable[[], int]]:
    """Inside the block, SIGTERM raises KeyboardInterrupt as Ctrl-C does. Gives a function that returns the exit code for what was received.

    A library may put its own handlers in place meanwhile (Dagster does, inside a step): the number of each signal is noted before any handler
    runs. Outside the main thread, which gets no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 128 + signal.SIGINT
        return
    noted, note = socket.socketpair()
    noted.setblocking(False)
    note.setblocking(False)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    descriptor = signal.set_wakeup_fd(note.fileno(), warn_on_full_buffer=False)
    try:
        yield lambda: 128 + _first(noted)
    finally:
        signal.set_wakeup_fd(descriptor)
        signal.signal(signal.SIGTERM, before)
        noted.close()
        note.close()


def _first(noted: socket.socket) -> int:
    """The first of the signals noted that ends a command."""
    try:
        numbers = noted.recv(4096)
    except BlockingIOError:
        numbers = b""
    return next((number for number in numbers if number in (signal.SIGINT, signal.SIGTERM)), signal.SIGINT)
