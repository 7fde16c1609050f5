"""Readers: functions of a video file that run in the workers, ahead of the caller.

Results come in the order in which they are asked for. They are the same bits as in this process, whatever the number of workers; with
``engine.decode_workers: 0`` the functions run in this process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import asdict, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from motive_pipeline.config import Engine
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile, media_file
from motive_pipeline.video.appearance import Appearance, appearance_of
from motive_pipeline.video.audio import Sound, read_sound
from motive_pipeline.video.decode import DecodedClip, FrameRule, frame_near, read_clip
from motive_pipeline.video.probe import VideoFacts, probe
from motive_pipeline.video.rejection import as_rejection
from motive_pipeline.video.worker_pool import Reply, Task, decode_pool

Result = TypeVar("Result")

PROBES_AT_ONCE = 32
"""Files in one message of the prober. Probing takes a millisecond, and a message for each file would cost more."""

_RESULTS_AHEAD = 2


class Prefetcher(Generic[Result]):
    """A function of a video file that runs in the workers, ahead of the caller.

    Queue the files with :meth:`prefetch`, in the order in which they will be asked for. A file that was not queued is read when it is asked
    for. Queue all files in one call to bound the number of results held in memory; queue them one by one to keep every finished result,
    which suits small results.
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
        self._queue: deque[MediaFile] = deque()
        self._sent: deque[tuple[list[MediaFile], Future[list[Reply]]]] = deque()
        self._ready: deque[tuple[MediaFile, Reply]] = deque()

    def prefetch(self, sources: Iterable[MediaFile | Path]) -> None:
        """Queue ``sources`` behind those queued before. Finished results are collected, so that the workers go on while the caller is still
        listing files."""
        if self._pool is not None:
            self._queue.extend(map(media_file, sources))
            while self._sent and self._sent[0][1].done():
                self._collect()
            self._send(whole=True)

    def __call__(self, source: MediaFile | Path) -> Result:
        """The result for one file.

        Raises:
            RejectRow: the function rejects the file; ``decode_timeout``, ``decoder_crash``, ``out_of_memory``, ``reader_error``.
        """
        file = media_file(source)
        if self._pool is None:
            try:
                return self._here(file)
            except Exception as error:
                raise as_rejection(error) from error
        reply = self._next(file)
        if isinstance(reply, RejectRow):
            raise reply
        return self._result(*reply)

    def _next(self, file: MediaFile) -> Reply:
        assert self._pool is not None
        if not self._ready:
            self._send()
            if self._sent:
                self._collect()
                self._send()
        if self._ready and self._ready[0][0] == file:
            return self._ready.popleft()[1]
        return self._pool.submit([self._task(file)]).result()[0]

    def _collect(self) -> None:
        files, future = self._sent.popleft()
        self._ready.extend(zip(files, future.result(), strict=True))

    def _send(self, *, whole: bool = False) -> None:
        """Send queued files to the workers, up to a few results ahead. ``whole``: only full messages."""
        assert self._pool is not None
        while len(self._queue) >= (self._at_once if whole else 1) and len(self._sent) < self._pool.num_workers + _RESULTS_AHEAD:
            files = [self._queue.popleft() for _ in range(min(self._at_once, len(self._queue)))]
            self._sent.append((files, self._pool.submit([self._task(file) for file in files])))


class ClipReader(Prefetcher[DecodedClip]):
    """:func:`~.decode.read_clip` with a fixed rule; with ``appearance``, the clips also carry :func:`~.appearance.appearance_of`."""

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
    """:func:`~.probe.probe`."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(
            engine,
            here=probe,
            task=lambda file: Task(task="facts", file=file, arguments={}),
            result=lambda header, _: VideoFacts(**header | {"flags": tuple(header["flags"])}),
            at_once=PROBES_AT_ONCE,
        )


class FrameReader(Prefetcher[np.ndarray]):
    """:func:`~.decode.frame_near` at a fixed size and share of the clip's length."""

    def __init__(self, engine: Engine, share: float, *, width: int, height: int) -> None:
        place = {"share": share, "width": width, "height": height}
        super().__init__(
            engine,
            here=lambda file: frame_near(file, share, width=width, height=height),
            task=lambda file: Task(task="picture", file=file, arguments=place),
            result=lambda _, array: array,
        )


class SoundReader(Prefetcher[Sound | None]):
    """:func:`~.audio.read_sound` for a fixed length."""

    def __init__(self, length_s: Fraction, engine: Engine) -> None:
        super().__init__(
            engine,
            here=lambda file: read_sound(file, length_s),
            task=lambda file: Task(task="sound", file=file, arguments={"length_s": str(length_s)}),
            result=lambda header, array: Sound(samples_CS=array.view(np.float32), rate=header["rate"]) if header["rate"] else None,
        )


def _decoded(header: dict[str, Any], frames_THWC: np.ndarray) -> DecodedClip:
    return DecodedClip(
        frames_THWC=frames_THWC,
        times_s=np.array(header["times_s"], dtype=np.float64),
        flags=tuple(header["flags"]),
        appearance=Appearance(**header["appearance"]) if header["appearance"] else None,
    )
