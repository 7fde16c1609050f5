"""A proxy before an S3 server that injects faults: it refuses, hangs, cuts a request in the middle, or loses the reply to one that was done."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

REFUSED = b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@dataclass
class Fault:
    """``kind`` (``503``, ``hang``, ``cut``, ``lost``) for the next ``times`` requests whose first line has ``what`` in it."""

    kind: str
    what: str
    times: int = 1_000_000


@dataclass
class Proxy:
    """The running proxy: its port, the faults to come, and how many were injected."""

    upstream: int
    port: int = 0
    faults: list[Fault] = field(default_factory=list)
    num_injected: int = 0

    def next_fault(self, first_line: str) -> str | None:
        """What happens to the request."""
        for fault in self.faults:
            if fault.times > 0 and fault.what in first_line:
                fault.times -= 1
                self.num_injected += 1
                return fault.kind
        return None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of a client; the connection is closed after it."""
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            num_bytes = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
            kind = self.next_fault(lines[0])
            body = await reader.readexactly(num_bytes // 2 if kind == "cut" else num_bytes)
            if kind == "503":
                writer.write(REFUSED % (len(SLOW_DOWN), SLOW_DOWN))
            elif kind == "hang":
                await asyncio.sleep(30)
            elif kind != "cut":
                reply = await self._forwarded(lines, body)
                if kind != "lost":
                    writer.write(reply)
            await writer.drain()
        writer.close()

    async def _forwarded(self, lines: list[str], body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        kept = [line for line in lines if line and not line.lower().startswith("connection:")]
        writer.write("\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1") + body)
        await writer.drain()
        reply = await reader.read(-1)
        writer.close()
        return reply


@contextmanager
def proxy_before(port: int) -> Iterator[Proxy]:
    """A proxy before the server at ``port``, in a thread."""
    proxy, started = Proxy(port), threading.Event()
    loop = asyncio.new_event_loop()

    async def start() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        started.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        starting = loop.create_task(start())
        loop.run_forever()
        starting.cancel()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
