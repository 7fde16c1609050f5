"""Recognises in which of the layouts of docs/data.md a folder keeps its videos, by file names and by the columns of its tables."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.files.archive import ARCHIVE_SUFFIXES
from motive_pipeline.sources.captions import CAPTION_COLUMNS
from motive_pipeline.sources.endings import is_video, needs_head
from motive_pipeline.sources.layouts import BYTES_COLUMNS, LAYOUTS, PATH_COLUMNS
from motive_pipeline.sources.table_reader import SUFFIXES, read_table
from motive_pipeline.sources.table_row import TableRow

_SHARD = re.compile(r".*[-_]?\d{4,}\.tar$")
_MOST_NAMES = 20_000
"""Names of files that are looked at; a folder with more is recognised by its first ones."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The value of ``clips.source`` for a folder. ``table`` is the one that names its videos, if the layout's own place has others, too."""

    source: str
    table: Path | None = None


def recognise(folder: Path) -> Found:
    """How ``folder`` keeps its videos. Videos beside no table that is known are ``folder``.

    Raises:
        MotiveError: there are neither videos nor archives, nor a table of videos.
    """
    names = list(islice(_names(folder), _MOST_NAMES))
    for source, pattern in _BY_NAME:
        if any(re.fullmatch(pattern, name) for name in names):
            return Found(source=source)
    if table := _table(folder):
        return table
    if any(is_video(name) or needs_head(name) for name in names):
        return Found(source="folder")
    if archive := next((name for name in names if name.lower().endswith(ARCHIVE_SUFFIXES)), None):
        return Found(source="webdataset" if _SHARD.match(archive) else "zip")
    raise MotiveError(f"{folder}: {_nothing(names)} docs/data.md lists the layouts that are read.")


def _nothing(names: list[str]) -> str:
    if not names:
        return "the folder is empty. Put your videos there."
    endings = sorted({os.path.splitext(name)[1] or "no ending" for name in names})
    return f"no videos were found among {len(names)} files ({', '.join(endings[:5])}). Name the folder that holds the videos."


def _names(folder: Path) -> Iterable[str]:
    """Paths of the files below ``folder``, relative to it, without hidden ones."""
    for at, below, files in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        yield from (os.path.relpath(os.path.join(at, name), folder) for name in sorted(files) if not name.startswith("."))


_BY_NAME = (
    ("openvid", r"(.*/)?OpenVid.*\.csv"),
    ("vidgen", r"(.*/)?VidGen_1M_video_caption\.json"),
    ("4dnex", r"(.*/)?[^/]*_with_caption_upload\.csv"),
    ("cosmos", r"metas/v0/[^/]+\.json"),
    ("fastvideo", r"videos2caption\.json"),
    ("finetrainers", r"prompts\.txt"),
    ("video2dataset", r"(.*/)?\d+_stats\.json"),
)
"""(source, regular expression) of the layouts that the path of one file in the folder gives away, the most particular ones first."""

_BY_COLUMNS = (
    ("videofolder", "metadata", {"file_name"}),
    ("diffsynth", "metadata", {"video", "prompt"}),
    ("videox_fun", "metadata", {"file_path", "text"}),
    ("musubi", "", {"video_path", "caption"}),
)
"""(source, name of the table without its ending or nothing, columns) of the layouts that a table's columns tell."""


_OF_SEVERAL = ("videofolder", "parquet")
"""Layouts that may have several tables."""


def _table(folder: Path) -> Found | None:
    """The layout of the one table whose rows name videos. None without such a table, or with several."""
    own = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.is_file()]
    below = [file for source in _OF_SEVERAL for pattern in LAYOUTS[source].tables for file in sorted(folder.glob(pattern))]
    found = {file: source for file in dict.fromkeys([*below, *own]) if (source := _source_of(folder, file)) is not None}
    if len(set(found.values())) != 1:
        return None
    file, source = next(iter(found.items()))
    if source in _OF_SEVERAL:
        return Found(source=source)
    others = {other for pattern in LAYOUTS[source].tables for other in folder.glob(pattern)} - {file}
    return Found(source=source, table=file if others else None) if len(found) == 1 else None


def _source_of(folder: Path, file: Path) -> str | None:
    """The source that reads the table ``file``, by its columns; None if they name no videos."""
    columns = _columns(file)
    for source, name, needed in _BY_COLUMNS:
        if file.stem == (name or file.stem) and needed <= columns and any(file.match(pattern) for pattern in LAYOUTS[source].tables):
            return source
    if (file.parent != folder and file.suffix != ".parquet") or not columns & {*PATH_COLUMNS, *BYTES_COLUMNS}:
        return None
    if file.name == "captions.json" and columns <= {"path", "caption"}:  # one object from files to captions
        return "diffusion_pipe"
    return SUFFIXES[file.suffix.lower()] if columns & {*CAPTION_COLUMNS, *BYTES_COLUMNS} else None


def _columns(file: Path) -> set[str]:
    """The columns of the first row; none if there is none, or the table cannot be read."""
    try:
        first = next(iter(read_table(file)), None)
    except MotiveError:
        return set()
    return {*first.values, *first.cells} if isinstance(first, TableRow) else set()
