"""Ports for servers that tests start."""

import socket
from contextlib import ExitStack


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on now."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """As :func:`free_port`, so many different ones."""
    with ExitStack() as opened:
        unused = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in unused:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in unused]
