"""Processes that read videos for a run. A decoder that crashes or hangs costs one clip."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.video.worker_channel import WorkerChannel

MAX_TASKS = 20_000
"""A worker is replaced after this many tasks, in case a decoder leaks memory."""

UNANSWERED_S = 60.0
"""How long after its time limit a worker may take to say so. One that waits for a dead network disk cannot end itself."""

_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video to read. ``task`` is a name in ``worker.TASKS``, ``arguments`` are those of the function behind it."""

    task: str
    file: MediaFile
    arguments: dict[str, Any]


Reply = tuple[dict[str, Any], np.ndarray | None] | RejectRow


class _Worker:
    """One process and the channel to it. It starts with the first task, and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: WorkerChannel | None = None
        self._num_tasks = 0

    def run(self, tasks: Sequence[Task], timeout_s: float) -> list[Reply]:
        """The reply to each task, in order. A task in which the process dies is rejected; those behind it go to the next process."""
        replies: list[Reply] = []
        while len(replies) < len(tasks):
            channel = self._started()
            channel.give_up_after(timeout_s + UNANSWERED_S)
            try:
                for task in tasks[len(replies) :]:
                    window = task.file.window.fields() if task.file.window else None
                    place = {"path": str(task.file.path), "member": task.file.member, "window": window}
                    channel.send({"task": task.task, **place, "arguments": task.arguments, "timeout_s": timeout_s})
                while len(replies) < len(tasks):
                    replies.append(_reply(*channel.receive()))
            except TimeoutError:
                self._abandon()
                replies.append(_too_long(timeout_s))
            except (EOFError, OSError):
                replies.append(_death(self._ended(), timeout_s))
        self._num_tasks += len(tasks)
        if self._num_tasks >= MAX_TASKS:
            self.close()
        return replies

    def close(self) -> None:
        """End the process."""
        if self._channel is not None:
            self._channel.close()
            self._ended()

    def _started(self) -> WorkerChannel:
        if self._channel is None:
            ours, theirs = socket.socketpair()
            with theirs:
                # The worker must run the same code as this process, wherever that was imported from.
                paths = os.pathsep.join([str(_PACKAGES), *filter(None, [os.environ.get("PYTHONPATH")])])
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "motive_pipeline.video.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | {"PYTHONPATH": paths},
                )
            self._channel, self._num_tasks = WorkerChannel(ours), 0
        return self._channel

    def _ended(self) -> int:
        """Wait for the process, which is dead or ends now; returns its exit code."""
        assert self._process is not None
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _abandon(self) -> None:
        """Kill the process without waiting for its end: one that waits for a disk ends only when the disk answers."""
        assert self._process is not None
        assert self._channel is not None
        self._process.kill()
        self._channel.close()
        self._channel = None


def _reply(header: dict[str, Any], array: np.ndarray | None) -> Reply:
    if "reject" in header:
        reason, detail, transient = header["reject"]
        return RejectRow(reason, detail, transient=transient)
    return header, array


def _death(code: int, timeout_s: float) -> RejectRow:
    """The rejection of the task in which a process died. It is transient: a busy machine or a full memory may have been the cause."""
    if code == -signal.SIGALRM:
        return _too_long(timeout_s)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return RejectRow("decoder_crash", f"the process that read it died ({how})", transient=True)


def _too_long(timeout_s: float) -> RejectRow:
    return RejectRow("decode_timeout", f"reading took more than {timeout_s:g} s (engine.decode_timeout_s)", transient=True)


class DecodePool:
    """``num_workers`` processes. Each is driven by a thread of its own."""

    def __init__(self, num_workers: int, timeout_s: float) -> None:
        self.num_workers = num_workers
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._workers: list[_Worker] = []
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def submit(self, tasks: Sequence[Task]) -> Future[list[Reply]]:
        """The replies to ``tasks``, in order, all from one worker."""
        return self._threads.submit(self._run, tasks)

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.close()

    def _run(self, tasks: Sequence[Task]) -> list[Reply]:
        if not hasattr(self._local, "worker"):
            self._local.worker = _Worker()
            self._workers.append(self._local.worker)
        return self._local.worker.run(tasks, self._timeout_s)


@cache
def decode_pool(num_workers: int, timeout_s: float) -> DecodePool:
    """The pool of this run. Its processes start when they are first needed, and end with the run."""
    pool = DecodePool(num_workers, timeout_s)
    atexit.register(pool.close)
    return pool
