"""Find the video that a user names for ``motive ask``, and its caption: a file, or a sample that the model generated."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from motive_pipeline.catalog.catalog_clips import CatalogClip
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.captions import MAX_CAPTION_BYTES, one_line
from motive_pipeline.sources.endings import VIDEO_SUFFIXES
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.sources.protocol import BadEntry
from motive_pipeline.storage.publication import DATA
from motive_pipeline.storage.workspace import Workspace

GENERATED = "generated_videos"
_SAMPLE = re.compile(rf"{GENERATED}/(?P<arm>[^/]+)/(?:seed-(?P<training>\d+)/)?(?P<prompt_index>\d+)-(?P<n>\d+)\.mp4")
_TABLE = "videos.parquet"
_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class NamedVideo:
    """A video, its caption (empty if there is none), and in words where the caption is from. ``own_name`` is a file name for a copy of it."""

    clip: CatalogClip
    caption_from: str
    own_name: str

    @property
    def caption(self) -> str:
        """The caption."""
        return self.clip.caption


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file that was found. ``caption`` is None if it is not known; ``own_name`` is empty for the file's own."""

    file: MediaFile
    caption: str | None = None
    caption_from: str = ""
    own_name: str = ""


def find_video(ws: Workspace, name: str, *, caption: str | None = None) -> NamedVideo:
    """The video that ``name`` names: a path, a path below the root, or ``generated_videos/<arm>/[seed-<training>/]<prompt>-<number>.mp4``.

    ``caption`` replaces its own: the prompt that it was generated from, else that of the file beside it (as a folder of clips is read), else
    that of the same content in a catalog.

    Raises:
        MotiveError: there is no such file, it is no video by its name, it cannot be read, or its caption cannot be used.
    """
    found = _generated_sample(ws, name) or _file(ws, name, has_caption=caption is not None)
    clip_id = _content_id(ws, found.file)
    own, origin = found.caption, found.caption_from
    if caption is not None:
        own, origin = _given_caption(caption), "--caption"
    elif own is None:
        own, origin = _catalogued_caption(ws, clip_id)
    if not own and ws.config.clips.policies.no_caption == "reject":
        raise MotiveError(f"{found.file.location} has no caption, which clips.policies.no_caption rejects. Give one: --caption TEXT")
    clip = CatalogClip(clip_id=clip_id, location=found.file.location, caption=own, part="query")
    return NamedVideo(clip=clip, caption_from=origin if own else "", own_name=found.own_name or found.file.path.name)


def _generated_sample(ws: Workspace, name: str) -> _Found | None:
    """The sample that ``name`` names below the root by arm, prompt and number; None if it is the path of a file, or has another form."""
    match = _SAMPLE.fullmatch(name)
    if match is None or _path(name).exists():
        return None
    arm, training = match["arm"], int(match["training"] or 0)
    publication = ws.published(f"{GENERATED}/{arm}")
    rows = publication.table("videos").to_dict("records")
    wanted = (training, int(match["prompt_index"]), int(match["n"]))
    own = next((row for row in rows if (row["training"], row["prompt_index"], row["n"]) == wanted), None)
    if own is None:
        there = ", ".join(str(row["file"]) for row in rows[:_SHOWN]) + (", ..." if len(rows) > _SHOWN else "")
        raise MotiveError(
            f"{name}: the arm {arm} has no such sample of training {training}. It has {len(rows)} ({there}). Name one as {GENERATED}/{arm}/<file>"
        )
    return _sample(publication.data_folder / str(own["file"]), arm, own)


def _sample(file: Path, arm: str, row: Mapping[Hashable, object]) -> _Found:
    return _Found(
        file=MediaFile(path=file),
        caption=one_line(str(row["prompt"])),
        caption_from="the prompt that it was generated from",
        own_name=f"{arm}-{str(row['file']).replace('/', '-')}",
    )


def _file(ws: Workspace, name: str, *, has_caption: bool) -> _Found:
    """The file at ``name``, or at that path below the root."""
    tried = [_path(name), ws.root / name]
    for path in tried:
        file = MediaFile.parse(path)
        if file.path.is_dir():
            raise MotiveError(f"{file.path} is a folder. Name one video.")
        if not file.path.exists():
            continue
        if (sample := _recorded_sample(ws, file)) is not None:
            return sample
        return _Found(file=file) if file.member else _plain_file(file, has_caption=has_caption)
    raise MotiveError(
        f"{name}: there is no such file, neither as {' nor as '.join(dict.fromkeys(map(str, tried)))}. Name a video, or a generated sample as "
        f"{GENERATED}/<arm>/<prompt>-<number>.mp4"
    )


def _recorded_sample(ws: Workspace, file: MediaFile) -> _Found | None:
    """The sample that ``file`` is, if it lies in a publication of generated videos."""
    below = ws.root.resolve() / "published" / GENERATED
    path = file.path.resolve()
    if file.member or file.window is not None or not path.is_relative_to(below):
        return None
    parts = path.relative_to(below).parts
    data = below.joinpath(*parts[:2]) / DATA
    if not (data / _TABLE).is_file() or not path.is_relative_to(data):
        return None
    rows, name = pd.read_parquet(data / _TABLE).to_dict("records"), path.relative_to(data).as_posix()
    return next((_sample(path, parts[0], row) for row in rows if row["file"] == name), None)


def _plain_file(file: MediaFile, *, has_caption: bool) -> _Found:
    """A file with the caption in the file beside it, as a folder of clips is read."""
    entry = FolderSource(root=file.path.parent, key="motive ask").entry_of(file.path.name)
    if entry is None:
        raise MotiveError(f"{file.path} is no video by its name. Videos end in {', '.join(VIDEO_SUFFIXES)}")
    if isinstance(entry, BadEntry):
        if entry.reason == "bad_caption" and has_caption:
            return _Found(file=file)
        raise MotiveError(f"{file.path}: {entry.reason}: {entry.detail}")
    return _Found(file=file, caption=entry.caption, caption_from=os.path.basename(entry.caption_file or ""))


def _content_id(ws: Workspace, file: MediaFile) -> str:
    memory = HashMemory(ws.state)
    try:
        clip_id = memory.clip_id(file)
    except RejectRow as rejection:
        raise MotiveError(f"{file.location}: {rejection}") from rejection
    memory.save()
    return clip_id


def _given_caption(caption: str) -> str:
    try:
        num_bytes = len(caption.encode())
    except UnicodeEncodeError as error:
        raise MotiveError("--caption is not valid UTF-8 text") from error
    if num_bytes > MAX_CAPTION_BYTES:
        raise MotiveError(f"--caption has {num_bytes} bytes; at most {MAX_CAPTION_BYTES} are allowed, as in a caption file")
    return one_line(caption)


def _catalogued_caption(ws: Workspace, clip_id: str) -> tuple[str, str]:
    """(caption, where it is from) of the same content in a published catalog; two empty texts if it is in none."""
    for asset, table, key in (("query_catalog", "queries", "query_id"), ("clip_catalog", "catalog", "clip_id")):
        if (publication := ws.published_or_none(asset)) is not None:
            rows = publication.table(table)
            own = rows.loc[rows[key] == clip_id, "caption"]
            if len(own):
                return str(own.iloc[0]), f"the same content in {asset}"
    return "", ""


def _path(name: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(name)))
