"""The channel between a run and its decoding workers: messages over a socket, each a JSON header and perhaps an array. No pickle."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")


class WorkerChannel:
    """One end of the channel. It owns its socket. Reads are buffered, so many small messages cost one system call."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._incoming = end.makefile("rb")

    def give_up_after(self, seconds: float) -> None:
        """From now on :meth:`send` and :meth:`receive` raise TimeoutError when the other end takes longer than this."""
        self._socket.settimeout(seconds)

    def send(self, header: dict[str, Any], array: np.ndarray | None = None) -> None:
        """Send ``header`` and, if given, a ``uint8`` array.

        Raises:
            OSError: the other end is closed.
        """
        if array is not None:
            header = header | {"shape": list(array.shape)}
        text = json.dumps(header).encode()
        self._socket.sendall(_LENGTH.pack(len(text)) + text)
        if array is not None:
            self._socket.sendall(np.ascontiguousarray(array).data.cast("B"))

    def receive(self) -> tuple[dict[str, Any], np.ndarray | None]:
        """Wait for the next header, and for its array if it has one.

        Raises:
            EOFError: the other end is closed.
        """
        (length,) = _LENGTH.unpack(self._filled(bytearray(_LENGTH.size)))
        header = json.loads(self._filled(bytearray(length)))
        if "shape" not in header:
            return header, None
        array = np.empty(header["shape"], dtype=np.uint8)
        self._filled(array.data.cast("B"))
        return header, array

    def close(self) -> None:
        """Close this end; the other end then reads an EOF."""
        self._incoming.close()
        self._socket.close()

    def _filled(self, buffer: Any) -> Any:
        try:
            read = self._incoming.readinto(buffer)
        except ConnectionError as error:
            raise EOFError from error
        if read < len(buffer):
            raise EOFError
        return buffer
