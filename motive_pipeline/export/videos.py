"""Writes the videos of an export, and checks that every clip is there with the scored bytes."""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.export.trainer import VIDEOS, Audio, Videos
from motive_pipeline.files.file_stat import disk_errors_as_rejects
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.progress import Progress
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.encode import write_mp4
from motive_pipeline.video.readers import ClipReader, SoundReader

_SHOWN = 5


def remove_half_written(videos: Path) -> None:
    """Remove the unfinished files of a killed export; their names contain its process id."""
    videos.mkdir(parents=True, exist_ok=True)
    for file in videos.glob(".*.part"):
        file.unlink()


def write_videos(ws: Workspace, table: pd.DataFrame, rule: FrameRule, folder: Path, videos: Videos, audio: Audio) -> int:
    """Write the missing videos; returns their number."""
    files = [folder / name for name in file_names(table, videos)]
    missing = [(MediaFile.parse(path), file) for path, file in zip(table["path"], files, strict=True) if not file.exists()]
    progress = Progress("export", len(table), unit="clips")
    progress.reused = len(table) - len(missing)
    problems: list[str] = []
    threads = max(1, ws.config.engine.num_decode_workers)
    reader = ClipReader(rule, ws.config.engine)
    sounds = SoundReader(rule.num_frames / Fraction(rule.fps).limit_denominator(1001), ws.config.engine)
    keeps_sound = videos == "window" and audio == "keep"
    if videos == "window":
        reader.prefetch([source for source, _ in missing])
    if keeps_sound:
        sounds.prefetch([source for source, _ in missing])
    begun: deque[tuple[MediaFile, Future[None]]] = deque()

    def end() -> None:
        source, future = begun.popleft()
        with collect_problems(problems, source.location):
            future.result()
            progress.step()

    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        try:
            for source, file in missing:
                with collect_problems(problems, source.location):
                    if videos == "window":
                        sound = sounds(source) if keeps_sound else None
                        write = partial(write_mp4, file, reader(source).frames_THWC, rule.fps, sound=sound)
                    else:
                        write = partial(_copy, source, file)
                    begun.append((source, pool.submit(write)))
                while len(begun) > threads:
                    end()
            while begun:
                end()
        finally:
            for _, future in begun:
                future.cancel()
    require_no_problems(problems, len(table))
    return len(missing)


def _copy(source: MediaFile, target: Path) -> None:
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with ExitStack() as opened:
            with disk_errors_as_rejects():
                data = opened.enter_context(source.open())
            shutil.copyfileobj(data, opened.enter_context(unfinished.open("wb")), 2**20)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def file_names(table: pd.DataFrame, videos: str) -> list[str]:
    """The name of each clip's video in the export."""
    endings = [".mp4" if videos == "window" else Path(path).suffix.lower() or ".mp4" for path in table["path"]]
    return [clip_id + ending for clip_id, ending in zip(table["clip_id"], endings, strict=True)]


def require_unchanged(ws: Workspace, table: pd.DataFrame) -> None:
    """Check that every clip exists with the scored bytes.

    Raises:
        MotiveError: a clip is missing or has changed.
    """
    memory = HashMemory(ws.state)
    problems: list[str] = []
    progress = Progress("export, comparing files with the catalog", len(table), unit="files")
    for clip_id, path in zip(table["clip_id"], table["path"], strict=True):
        with collect_problems(problems, path):
            if memory.clip_id(MediaFile.parse(path)) != clip_id:
                problems.append(f"{path}: its content has changed")
        progress.computed += 1
        progress.report()
    memory.save()
    require_no_problems(problems, len(table))


def require_identical_copies(work: Path, clips: Sequence[dict[str, Any]]) -> None:
    """Check that every copy has the bytes of its clip id; remove a copy that differs.

    Raises:
        MotiveError: a file changed while it was copied.
    """
    wrong = [clip for clip in clips if not clip["sha256"].startswith(clip["clip_id"])]
    for clip in wrong:
        (work / VIDEOS / clip["file"]).unlink()
    require_no_problems([f"{clip['source']}: its content has changed" for clip in wrong], len(clips))


def require_no_problems(problems: Sequence[str], total: int) -> None:
    """Raise :class:`MotiveError` with the first of ``problems``, if there are any."""
    if problems:
        listed = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        raise MotiveError(
            f"{len(problems)} of {total} clips cannot be exported: {listed}. A subset without these clips would be another subset, so nothing is "
            "exported. Restore the files, or run `motive run` to choose again."
        )


@contextmanager
def collect_problems(problems: list[str], path: str | Path) -> Iterator[None]:
    """Append a rejected clip to ``problems`` instead of raising."""
    try:
        yield
    except RejectRow as rejection:
        problems.append(f"{path}: {rejection.detail}")
