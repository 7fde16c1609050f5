"""A process that reads videos for a run, so that a decoder that crashes or hangs costs one clip, not the run.

worker_pool.py starts it with the number of an inherited socket. A clip that takes too long ends this process by the timer signal SIGALRM.
The signal also ends a decoder that hangs in C code, and it works when the run itself is gone.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import Window
from motive_pipeline.video.appearance import appearance_of
from motive_pipeline.video.audio import read_sound
from motive_pipeline.video.decode import FrameRule, frame_near, read_clip
from motive_pipeline.video.probe import probe
from motive_pipeline.video.rejection import as_rejection
from motive_pipeline.video.worker_channel import WorkerChannel

Answer = tuple[dict[str, Any], np.ndarray | None]


def read(file: MediaFile, rule: dict[str, Any], appearance: bool) -> Answer:
    """The result of :func:`~.decode.read_clip`, with the clip's appearance if asked for."""
    clip = read_clip(file, FrameRule(**rule))
    seen = asdict(appearance_of(clip.frames_THWC)) if appearance else None
    return {"times_s": clip.times_s.tolist(), "flags": clip.flags, "appearance": seen}, clip.frames_THWC


def facts(file: MediaFile) -> Answer:
    """The result of :func:`~.probe.probe`."""
    return vars(probe(file)), None


def preview_frame(file: MediaFile, share: float, width: int, height: int) -> Answer:
    """The result of :func:`~.decode.frame_near`."""
    return {}, frame_near(file, share, width=width, height=height)


def sound(file: MediaFile, length_s: str) -> Answer:
    """The result of :func:`~.audio.read_sound`, the samples as bytes; without sound the rate is 0."""
    found = read_sound(file, Fraction(length_s))
    return ({"rate": 0}, None) if found is None else ({"rate": found.rate}, found.samples_CS.view(np.uint8))


TASKS: dict[str, Callable[..., Answer]] = {"read": read, "facts": facts, "picture": preview_frame, "sound": sound}


def answer(task: str, file: MediaFile, arguments: dict[str, Any]) -> Answer:
    """Run one task; returns its result, or a header with the rejection."""
    try:
        return TASKS[task](file, **arguments)
    except Exception as error:  # noqa: BLE001  one file must never end a run
        rejection = as_rejection(error)
        return {"reject": [rejection.reason, rejection.detail, rejection.transient]}, None


def serve(end: socket.socket) -> None:
    """Answer tasks until the run closes its end."""
    channel = WorkerChannel(end)
    while True:
        try:
            task, _ = channel.receive()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_REAL, task["timeout_s"])
        window = Window.of_fields(task["window"]) if task["window"] else None
        file = MediaFile(path=Path(task["path"]), member=task["member"], window=window)
        header, array = answer(task["task"], file, task["arguments"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            channel.send(header, array)
        except OSError:
            return


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the run, which closes the socket
    import cv2

    cv2.setNumThreads(1)
    serve(socket.socket(fileno=int(sys.argv[1])))
    os._exit(0)
