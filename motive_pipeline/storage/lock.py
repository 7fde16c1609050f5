"""One writer at a time: an advisory lock on a file that names who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic

log = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.2
_FORBIDDEN = errno.EACCES, errno.EPERM, errno.EROFS


class Locked(MotiveError):
    """Somebody else is writing here."""


class FileLock:
    """An exclusive lock on ``path``, released when the process that holds it ends (``kill -9`` included).

    It is reentrant within a process, through any instance for the same path.
    """

    _held: ClassVar[dict[Path, tuple[IO[str], int]]] = {}

    def __init__(self, path: Path, what: str) -> None:
        self.path = path.absolute()
        self.what = what

    def acquire(self, *, wait_s: float = 0.0, who: str = "", to_read: bool = False) -> None:
        """Take the lock, waiting at most ``wait_s`` seconds; the log says for whom. ``who`` tells others what holds it.

        With ``to_read``, the caller changes nothing, and needs no right to write: the lock is then taken without a note on who holds it.

        Raises:
            Locked: another process holds it; the message names that process.
        """
        if self.path in self._held:
            file, count = self._held[self.path]
            self._held[self.path] = (file, count + 1)
            return
        file = self._opened(to_read)
        deadline = time.monotonic() + wait_s
        logged = False
        while not _taken(file):
            if time.monotonic() >= deadline:
                file.close()
                raise Locked(f"{self.what} is in use by {self.holder()} (lock: {self.path}). Wait for it to end, or stop it.")
            if not logged:
                log.info("%s is in use by %s; waiting for it to end", self.what, self.holder())
                logged = True
            time.sleep(_LOOK_EVERY_S)
        note = {"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "who": who}
        try:
            if file.writable():
                file.truncate(0)
                os.write(file.fileno(), json.dumps(note).encode())  # unbuffered: on a full disk, nothing is left to write on close
        except OSError:
            file.close()
            raise
        self._held[self.path] = (file, 1)

    def _opened(self, to_read: bool) -> IO[str]:
        try:
            atomic.make_folder(self.path.parent)
            return self.path.open("a+", encoding="utf-8")
        except OSError as error:
            if not to_read or error.errno not in _FORBIDDEN:
                raise
        try:
            return self.path.open(encoding="utf-8")
        except FileNotFoundError:  # nobody has ever written here
            return tempfile.TemporaryFile("w+", encoding="utf-8")

    def release(self) -> None:
        """Give the lock back once for each time it was taken."""
        file, count = self._held[self.path]
        if count > 1:
            self._held[self.path] = (file, count - 1)
            return
        del self._held[self.path]
        file.close()

    def is_held(self) -> bool:
        """Whether any process, this one included, holds the lock now.

        The check takes a free lock for an instant, so give :meth:`acquire` a ``wait_s`` of a second.
        """
        if not self.path.exists():
            return False
        with self.path.open("a+", encoding="utf-8") as file:
            return not _taken(file)

    def holder(self) -> str:
        """The process that last took the lock, in words."""
        try:
            noted = json.loads(self.path.read_text(encoding="utf-8"))
            who = f"{noted['who']}, " if noted.get("who") else ""
            return f"{who}process {noted['pid']}, since {noted['since']}"
        except (OSError, ValueError, KeyError):  # the holder has the lock and has not written its note yet
            return "another process"

    @contextmanager
    def holding(self, *, wait_s: float = 0.0, who: str = "", to_read: bool = False) -> Iterator[None]:
        """Hold the lock over a block; see :meth:`acquire`."""
        self.acquire(wait_s=wait_s, who=who, to_read=to_read)
        try:
            yield
        finally:
            self.release()

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def _taken(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
