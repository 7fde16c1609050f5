"""The process of one device: it answers what comes through its connection until the run ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection, wait
from typing import Any

from motive_pipeline.devices.server import Server, send_log


def serve(connection: Connection, device: str) -> None:
    """Answer what comes through ``connection`` until its other end closes or the parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the parent decides what becomes of this one
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parent = _Parent(connection)
    send_log(parent, device)
    try:
        Server(parent, device).run()
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
