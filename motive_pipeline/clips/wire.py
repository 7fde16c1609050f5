"""What the run and its decoding workers say to each other: a JSON header and perhaps one array of bytes, over a socket. Nothing is pickled."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")


def send(channel: socket.socket, header: dict[str, Any], array: np.ndarray | None = None) -> None:
    """Send ``header`` and, where there is one, a ``uint8`` array.

    Raises:
        OSError: the other side has gone.
    """
    if array is not None:
        header = header | {"shape": list(array.shape)}
    text = json.dumps(header).encode()
    channel.sendall(_LENGTH.pack(len(text)) + text)
    if array is not None:
        channel.sendall(np.ascontiguousarray(array).data.cast("B"))


def receive(channel: socket.socket) -> tuple[dict[str, Any], np.ndarray | None]:
    """The next header, and the array that belongs to it.

    Raises:
        EOFError: the other side has gone.
    """
    text = bytearray(_LENGTH.unpack(_filled(channel, bytearray(_LENGTH.size)))[0])
    header = json.loads(bytes(_filled(channel, text)))
    if "shape" not in header:
        return header, None
    array = np.empty(header["shape"], dtype=np.uint8)
    _filled(channel, array.data.cast("B"))
    return header, array


def _filled(channel: socket.socket, buffer: Any) -> Any:
    view, done = memoryview(buffer), 0
    while done < len(view):
        try:
            read = channel.recv_into(view[done:])
        except ConnectionError as error:
            raise EOFError from error
        if not read:
            raise EOFError
        done += read
    return buffer
