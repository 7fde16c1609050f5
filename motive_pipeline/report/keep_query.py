"""``motive ask --keep``: copy a video and its caption into the folder of the queries."""

from __future__ import annotations

import shutil
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.report.named_video import NamedVideo
from motive_pipeline.sources.configured import GENERATED, query_source
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace


def kept_at(ws: Workspace, video: NamedVideo) -> Path:
    """Where :func:`keep_query` will put ``video``. Changes nothing.

    Raises:
        MotiveError: the queries are not read from a folder, the video is a part of a file, it is a query already, or the name is taken.
    """
    name = ws.config.queries.source
    source = None if name in GENERATED else query_source(ws)
    if not isinstance(source, FolderSource):
        raise MotiveError(
            f"--keep copies the video into a folder of queries, and queries.source: {name} reads none. Add the video to the queries yourself, or use "
            "queries.source: folder."
        )
    if video.clip.file.member or video.clip.file.window is not None:
        raise MotiveError(f"--keep copies whole files, and {video.clip.location} is a part of one. Cut it out first.")
    if (publication := ws.published_or_none("query_catalog")) is not None:
        queries = publication.table("queries").set_index("query_id")
        if video.clip.clip_id in queries.index:
            role, path = (str(queries.at[video.clip.clip_id, column]) for column in ("role", "path"))
            raise MotiveError(f"--keep: the same content is a {'held-out ' * (role == 'held_out')}query already: {path}")
    target = source.root / video.own_name
    if taken := next((path for path in (target, *_captions(target)) if path.exists()), None):
        raise MotiveError(f"--keep: {taken} exists. Rename the video, or remove that file.")
    return target


def keep_query(video: NamedVideo, target: Path) -> None:
    """Copy ``video`` to ``target`` (of :func:`kept_at`), its caption beside it. The caption comes first, so that no run sees the video without it."""
    if video.caption:
        atomic.write_text(target.with_suffix(".txt"), video.caption + "\n")
    atomic.make_folder(target.parent)
    copy = atomic.temp_beside(target)
    try:
        shutil.copyfile(video.clip.file.path, copy)
        atomic.replace(copy, target)
    finally:
        copy.unlink(missing_ok=True)


def _captions(target: Path) -> list[Path]:
    """The files that would be read as its caption."""
    return [base.parent / f"{base.name}{ending}" for ending in (".txt", ".caption", ".json") for base in (target.with_suffix(""), target)]
