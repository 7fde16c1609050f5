"""The first clips of a ranking or a subset as Dagster shows them: rank, a small picture, file, caption and figures.

Belongs here: the table as Markdown, of bounded size, since the event log keeps it for every materialization. Does not belong here: which clips are first (the
library).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from PIL import Image

from assets.markdown import cell, escaped, picture_url, table
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.storage.workspace import Publication, Workspace

FACTS = ("best_clips", "first_clips")
"""The facts that list clips by id, best first."""

MAX_LETTERS = 200
"""Of a caption, and of a path."""

MAX_PICTURES_BYTES = 64_000
"""Of all pictures of a table, in base64. A picture for which there is no room is left out."""

PICTURE_PX = 96
_FIRST = ("rank", "clip_id", "path", "caption")


def first_clips(workspace: Workspace, publication: Publication) -> dict[str, dg.MarkdownMetadataValue]:
    """The facts of ``publication`` that list clips, each as a table with pictures. A clip whose file cannot be read now has the reason in place of a picture."""
    listed = {name: publication.facts[name] for name in FACTS if publication.facts.get(name)}
    if not listed:
        return {}
    catalog = workspace.published("clip_catalog").table("catalog").set_index("clip_id")
    tables = {}
    for name, rows in listed.items():
        known = catalog.reindex([row["clip_id"] for row in rows]).fillna({"path": "", "caption": ""})
        whole = [
            {**row, "path": str(path), "caption": str(caption)}
            for row, path, caption in zip(rows, known["path"], known["caption"], strict=True)
        ]
        tables[name] = dg.MetadataValue.md(_table(whole, _pictures(workspace, [row["path"] for row in whole])))
    return tables


def _table(rows: Sequence[Mapping[str, Any]], pictures: Sequence[str]) -> str:
    figures = [name for name in rows[0] if name not in _FIRST]
    shown = (
        [
            str(row["rank"]),
            picture,
            f"{_short(row['path'])} `{row['clip_id']}`",
            _short(row["caption"]),
            *(cell(row[name]) for name in figures),
        ]
        for row, picture in zip(rows, pictures, strict=True)
    )
    return table(["rank", "", "clip", "caption", *figures], shown)


def _short(text: str) -> str:
    return escaped(text if len(text) <= MAX_LETTERS else f"{text[: MAX_LETTERS - 1]}…")


def _pictures(workspace: Workspace, locations: Sequence[str]) -> list[str]:
    """The middle frame of each clip as Markdown, or why there is none."""
    from motive_pipeline.video.readers import FrameReader

    files = [MediaFile.parse(location) for location in locations]
    frame_of = FrameReader(workspace.config.engine, 0.5, width=PICTURE_PX, height=PICTURE_PX)
    frame_of.prefetch(files)
    found, num_bytes = [], 0
    for file in files:
        try:
            picture = picture_url(Image.fromarray(frame_of(file)), (PICTURE_PX, PICTURE_PX), quality=60)
        except (RejectRow, MotiveError) as error:  # the asset is published; a file that has gone since costs its picture
            found.append(_short(getattr(error, "reason", "") or str(error)))
            continue
        num_bytes += len(picture)
        found.append(f"![{_short(file.name)}]({picture})" if num_bytes <= MAX_PICTURES_BYTES else "")
    return found
