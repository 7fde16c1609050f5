"""A video that is dropped on the page: which training clips drive its motion, as `motive ask` says it."""

from __future__ import annotations

import re
import shutil
import threading
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.clip_view import BadRequest

MAX_MB = 2000
"""Megabytes of a dropped video."""
TOP = 10
_PAGE = re.compile(r"[0-9a-f]{16}-[A-Za-z0-9_-]+\.html")


class Asker:
    """Answers one question at a time. Dropped videos are deleted when they are answered; the pages stay."""

    def __init__(self, ws: Workspace, folder: Path) -> None:
        self._ws, self._folder = ws, folder / "asked"
        self._lock = threading.Lock()

    async def ask(self, name: str, caption: str | None, content: AsyncIterator[bytes]) -> str:
        """The name of the page about the video with this content.

        Raises:
            MotiveError: see :func:`~motive_pipeline.report.ask.answer`; BadRequest if the video is too large.
        """
        own = self._folder / f"video-{uuid.uuid4().hex[:12]}"
        own.mkdir(parents=True)
        try:
            file = own / file_name(name)
            num_bytes = 0
            with file.open("wb") as stream:
                async for part in content:
                    num_bytes += len(part)
                    if num_bytes > MAX_MB * 1e6:
                        raise BadRequest(f"the video has more than {MAX_MB} MB. Ask in a shell: motive ask VIDEO")
                    stream.write(part)
            return await run_in_threadpool(self._answer, file, caption)
        finally:
            shutil.rmtree(own, ignore_errors=True)

    def page(self, name: str) -> Path:
        """A page that an answer named. Raises BadRequest if there is none."""
        if not _PAGE.fullmatch(name) or not (self._folder / name).is_file():
            raise BadRequest(f"there is no page {name!r}")
        return self._folder / name

    def _answer(self, file: Path, caption: str | None) -> str:
        from motive_pipeline.report.ask import answer
        from motive_pipeline.report.ask_page import write_answer
        from motive_pipeline.report.named_video import find_video

        with self._lock:
            video = find_video(self._ws, str(file), caption=caption)
            found = answer(self._ws, video, self._ws.config.lead_variant, top=TOP)
            page = self._folder / f"{video.clip.clip_id}-{found.variant}.html"
            write_answer(self._ws, found, file=page)
        return page.name


def file_name(name: str) -> str:
    """``name`` as the name of a file in a folder: its last part, in plain letters."""
    plain = re.sub(r"[^\w .()+-]", "_", name.replace("\\", "/").rpartition("/")[2], flags=re.ASCII).strip(" .")
    return plain[-100:].lstrip(" .-") or "video"
