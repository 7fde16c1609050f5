"""Reading videos in other processes: ahead of whoever needs them, and so that a decoder's crash or hang costs one clip.

Results come in the order in which they were asked for and are the same bits as in this process, whatever the number of workers.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from motive_pipeline.config import Engine
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.video.appearance import Appearance, appearance_of
from motive_pipeline.video.decode import DecodedClip, FrameRule, frame_near, read_clip
from motive_pipeline.video.probe import VideoFacts, probe
from motive_pipeline.video.worker_channel import WorkerChannel

Result = TypeVar("Result")

PROBES_AT_ONCE = 32
"""Probing takes a millisecond; one message for each would cost more."""

MAX_TASKS = 20_000
"""After so many tasks a worker is replaced, should a decoder leak memory."""

_FRAMES_AHEAD = 2
_PACKAGES = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One video to read; ``task`` is a name of ``decode_worker.TASKS``."""

    task: str
    file: MediaFile
    arguments: dict[str, Any]


Reply = tuple[dict[str, Any], np.ndarray | None] | RejectRow


class _Worker:
    """One process and the socket to it. Started when the first task comes, and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: WorkerChannel | None = None
        self._num_tasks = 0

    def run(self, tasks: Sequence[Task], timeout_s: float) -> list[Reply]:
        """The reply to each task. One in which the process dies is rejected, and those behind it go to the next process."""
        replies: list[Reply] = []
        while len(replies) < len(tasks):
            channel = self._started()
            try:
                for task in tasks[len(replies) :]:
                    place = {"path": str(task.file.path), "member": task.file.member}
                    channel.send({"task": task.task, **place, "arguments": task.arguments, "timeout_s": timeout_s})
                while len(replies) < len(tasks):
                    replies.append(_reply(*channel.receive()))
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
                # The worker must run this very code, wherever it was imported from.
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
        """The exit code of the process, which has died or is about to."""
        assert self._process is not None
        assert self._channel is not None
        self._channel.close()
        self._channel = None
        try:
            return self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def _reply(header: dict[str, Any], array: np.ndarray | None) -> Reply:
    if "reject" in header:
        reason, detail, transient = header["reject"]
        return RejectRow(reason, detail, transient=transient)
    return header, array


def _death(code: int, timeout_s: float) -> RejectRow:
    """Neither is remembered: a busy machine or a full memory may have been the cause."""
    if code == -signal.SIGALRM:
        return RejectRow("decode_timeout", f"reading took more than {timeout_s:g} s (engine.decode_timeout_s)", transient=True)
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return RejectRow("decoder_crash", f"the process that read it died ({how})", transient=True)


class DecodePool:
    """``num_workers`` processes, each driven by a thread of its own."""

    def __init__(self, num_workers: int, timeout_s: float) -> None:
        self.num_workers = num_workers
        self._timeout_s = timeout_s
        self._local = threading.local()
        self._workers: list[_Worker] = []
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="decode")

    def submit(self, tasks: Sequence[Task]) -> Future[list[Reply]]:
        """Replies to ``tasks``, by one worker, in order."""
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
    """The processes of this run; they are started when they are first needed, and end with it."""
    pool = DecodePool(num_workers, timeout_s)
    atexit.register(pool.close)
    return pool


class Prefetcher(Generic[Result]):
    """A function of a video's path, run in the workers, some calls ahead of the caller.

    Say with :meth:`prefetch` what will be asked for, in order; a path that was not expected is read when it is asked for. Said at once, a few
    results are held; said bit by bit, all that are ready, which suits small ones.
    """

    def __init__(
        self,
        engine: Engine,
        here: Callable[[MediaFile], Result],
        task: Callable[[MediaFile], Task],
        result: Callable[..., Result],
        at_once: int = 1,
    ) -> None:
        self._here, self._task, self._result, self._at_once = here, task, result, at_once
        self._pool = decode_pool(engine.num_decode_workers, engine.decode_timeout_s) if engine.num_decode_workers else None
        self._wanted: deque[MediaFile] = deque()
        self._asked: deque[tuple[list[MediaFile], Future[list[Reply]]]] = deque()
        self._ready: deque[tuple[MediaFile, Reply]] = deque()

    def prefetch(self, sources: Iterable[MediaFile | Path]) -> None:
        """``paths`` will be asked for, in this order, after those expected before. What has been answered meanwhile is taken in, so that the
        workers go on while the caller is still finding out what it will ask for."""
        if self._pool is not None:
            self._wanted.extend(map(media_file, sources))
            while self._asked and self._asked[0][1].done():
                self._take()
            self._ask(whole=True)

    def __call__(self, source: MediaFile | Path) -> Result:
        """The result for ``path``.

        Raises:
            RejectRow: what the function rejects; ``decode_timeout``, ``decoder_crash``.
        """
        file = media_file(source)
        if self._pool is None:
            return self._here(file)
        reply = self._next(file)
        if isinstance(reply, RejectRow):
            raise reply
        return self._result(*reply)

    def _next(self, file: MediaFile) -> Reply:
        assert self._pool is not None
        if not self._ready:
            self._ask()
            if self._asked:
                self._take()
                self._ask()
        if self._ready and self._ready[0][0] == file:
            return self._ready.popleft()[1]
        return self._pool.submit([self._task(file)]).result()[0]

    def _take(self) -> None:
        files, future = self._asked.popleft()
        self._ready.extend(zip(files, future.result(), strict=True))

    def _ask(self, *, whole: bool = False) -> None:
        """Give the workers what is expected, as far ahead as they go; ``whole``: only as many at once as one message holds."""
        assert self._pool is not None
        while len(self._wanted) >= (self._at_once if whole else 1) and len(self._asked) < self._pool.num_workers + _FRAMES_AHEAD:
            files = [self._wanted.popleft() for _ in range(min(self._at_once, len(self._wanted)))]
            self._asked.append((files, self._pool.submit([self._task(file) for file in files])))


class ClipReader(Prefetcher[DecodedClip]):
    """:func:`~.decode.read_clip` with a fixed rule, in the workers; with ``look``, what :func:`~.look.look_at` sees comes with it."""

    def __init__(self, rule: FrameRule, engine: Engine, *, appearance: bool = False) -> None:
        def here(file: MediaFile) -> DecodedClip:
            clip = read_clip(file, rule)
            return replace(clip, appearance=appearance_of(clip.frames_THWC)) if appearance else clip

        super().__init__(
            engine,
            here=here,
            task=lambda file: Task(task="read", file=file, arguments={"rule": asdict(rule), "appearance": appearance}),
            result=_decoded,
        )


class Prober(Prefetcher[VideoFacts]):
    """:func:`~.probe.probe`, in the workers."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(
            engine,
            here=probe,
            task=lambda file: Task(task="facts", file=file, arguments={}),
            result=lambda header, _: VideoFacts(**header | {"flags": tuple(header["flags"])}),
            at_once=PROBES_AT_ONCE,
        )


class FrameReader(Prefetcher[np.ndarray]):
    """:func:`~.decode.frame_near` at a fixed size and place, in the workers."""

    def __init__(self, engine: Engine, share: float, *, width: int, height: int) -> None:
        place = {"share": share, "width": width, "height": height}
        super().__init__(
            engine,
            here=lambda file: frame_near(file, share, width=width, height=height),
            task=lambda file: Task(task="picture", file=file, arguments=place),
            result=lambda _, array: array,
        )


def _decoded(header: dict[str, Any], frames_THWC: np.ndarray) -> DecodedClip:
    return DecodedClip(
        frames_THWC=frames_THWC,
        times_s=np.array(header["times_s"], dtype=np.float64),
        flags=tuple(header["flags"]),
        appearance=Appearance(**header["appearance"]) if header["appearance"] else None,
    )
