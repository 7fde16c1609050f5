"""One writer at a time: an advisory lock on a file that names who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import IO, ClassVar

from motive_pipeline.errors import MotiveError


class Locked(MotiveError):
    """Somebody else is writing here."""


class FileLock:
    """An exclusive lock on ``path``, gone with the process that holds it (``kill -9`` included).

    Taking it again in the same process, through any instance for the same path, only counts.
    """

    _held: ClassVar[dict[Path, tuple[IO[str], int]]] = {}

    def __init__(self, path: Path, what: str) -> None:
        self.path = path.absolute()
        self.what = what

    def acquire(self, *, wait_s: float = 0.0) -> None:
        """Take the lock, waiting at most ``wait_s`` seconds.

        Raises:
            Locked: another process holds it; the message names that process.
        """
        if self.path in self._held:
            file, count = self._held[self.path]
            self._held[self.path] = (file, count + 1)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+", encoding="utf-8")
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().strip() or "an unknown process"
                    file.close()
                    raise Locked(f"{self.what} is in use by {holder} (lock: {self.path}). Wait for it to end, or stop it.") from None
                time.sleep(0.2)
        file.seek(0)
        file.truncate()
        file.write(json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}))
        file.flush()
        self._held[self.path] = (file, 1)

    def release(self) -> None:
        """Give the lock back once for each time it was taken."""
        file, count = self._held[self.path]
        if count > 1:
            self._held[self.path] = (file, count - 1)
            return
        del self._held[self.path]
        file.close()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
