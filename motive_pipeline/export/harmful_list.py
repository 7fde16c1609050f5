"""``motive export --harmful``: the clips of the view ``harmful`` as a plain list, for whoever cleans a data set.

A name that ends in ``.txt`` gets one path a line, worst clip first; one in ``.csv`` gets rank, clip_id, mean_influence, path and caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from motive_pipeline.config import Variant
from motive_pipeline.errors import MotiveError
from motive_pipeline.export.subset import require_apart
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace

ENDINGS = (".txt", ".csv")

_CLIPS = (
    "SELECT variant, harmful.rank, clip_id, mean_influence, path, caption FROM harmful JOIN clips USING (clip_id) ORDER BY harmful.rank"
)


@dataclass(frozen=True, kw_only=True)
class HarmfulList:
    """A written list: its file, and the numbers of clips in it and in the variant's ranking."""

    file: Path
    num_clips: int
    num_ranked: int


def export_harmful(ws: Workspace, variant: Variant, file: Path) -> HarmfulList:
    """Write the harmful clips of ``variant``'s ranking to ``file``. Doing it twice is no error; a file with other content is not changed.

    Raises:
        NotPublished: the variant's ranking is not published yet.
        MotiveError: the ending is neither .txt nor .csv, the file is there with other content or lies where clips are read from, or a path
            holds a line break, so that it does not fit into a .txt.
    """
    file = file.resolve()
    if file.suffix not in ENDINGS:
        raise MotiveError(f"--to {file}: the name of a list ends in {' or '.join(ENDINGS)} (paths alone, or a table).")
    require_apart(ws, file)
    num_ranked = len(ws.published(f"voted_ranking/{variant}").table("ranking"))
    found = ws.scores.query(_CLIPS).df()
    clips = found[found["variant"] == variant].drop(columns="variant")
    data = _text(clips, file).encode("utf-8")
    if file.exists() and (not file.is_file() or file.read_bytes() != data):
        raise MotiveError(f"--to {file}: something else is there, and it is not changed. Name another file, or remove this one.")
    atomic.write_bytes(file, data)
    return HarmfulList(file=file, num_clips=len(clips), num_ranked=num_ranked)


def _text(clips: pd.DataFrame, file: Path) -> str:
    if file.suffix == ".csv":
        return clips.to_csv(index=False)
    paths = clips["path"].tolist()
    if broken := [path for path in paths if len(path.splitlines()) > 1]:
        raise MotiveError(f"--to {file}: the path {broken[0]!r} holds a line break, so a list of lines cannot name it. Use a .csv.")
    return "".join(f"{path}\n" for path in paths)
