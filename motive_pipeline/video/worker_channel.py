"""What the run and its decoding workers say to each other: a JSON header and perhaps one array of bytes, over a socket. Nothing is pickled."""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

import numpy as np

_LENGTH = struct.Struct("<Q")


class WorkerChannel:
    """One end of a socket, which it takes over. Messages that lie ready are read at once, however many they are."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._incoming = end.makefile("rb")

    def send(self, header: dict[str, Any], array: np.ndarray | None = None) -> None:
        """Send ``header`` and, where there is one, a ``uint8`` array.

        Raises:
            OSError: the other side has gone.
        """
        if array is not None:
            header = header | {"shape": list(array.shape)}
        text = json.dumps(header).encode()
        self._socket.sendall(_LENGTH.pack(len(text)) + text)
        if array is not None:
            self._socket.sendall(np.ascontiguousarray(array).data.cast("B"))

    def receive(self) -> tuple[dict[str, Any], np.ndarray | None]:
        """The next header, and the array that belongs to it.

        Raises:
            EOFError: the other side has gone.
        """
        (length,) = _LENGTH.unpack(self._filled(bytearray(_LENGTH.size)))
        header = json.loads(self._filled(bytearray(length)))
        if "shape" not in header:
            return header, None
        array = np.empty(header["shape"], dtype=np.uint8)
        self._filled(array.data.cast("B"))
        return header, array

    def close(self) -> None:
        """Let the other side know that nothing follows."""
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
