"""What a trainer's layout is made of: an exported clip, an export in the making, and the description of a trainer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32

VIDEOS = "videos"

Videos = Literal["window", "original"]
"""The videos of an export: the scored frames, or copies of the clips' own files."""

Audio = Literal["strip", "keep"]
"""Whether the scored frames are written without sound, or with the sound of their time."""

PANDAS_NOTHING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"}  # fmt: skip
"""Captions that ``pandas.read_csv`` reads as missing; trainers that read CSV crash on them or train on the word "nan"."""


@dataclass(frozen=True, kw_only=True)
class ExportedClip:
    """A video of an export. ``file`` is its name below ``videos/``; the numbers are those of the exported file."""

    clip_id: str
    file: str
    caption: str
    num_frames: int
    fps: float
    width: int
    height: int
    has_sound: bool = False

    @property
    def path(self) -> str:
        """The path relative to the export."""
        return f"{VIDEOS}/{self.file}"


@dataclass(frozen=True, kw_only=True)
class Export:
    """An export in the making. Files are written to ``folder`` and will lie in ``home`` (for files with absolute paths). ``clips`` are in the
    order of the subset, best first. The clips were scored at ``fps``, ``width`` and ``height``.

    ``arm`` chose the clips; ``variant`` is the gradient variant that it chose by, or the lead arm's. ``scores`` has a row for each clip
    (:func:`~.contents.score_table`); ``gradients_NP`` has the variant's projected gradients, or is None if it was not asked for or a clip has none.
    """

    folder: Path
    home: Path
    clips: Sequence[ExportedClip]
    fps: float
    width: int
    height: int
    arm: str
    variant: str
    videos_are: Videos
    audio: Audio
    scores: pd.DataFrame
    gradients_NP: Float32[np.ndarray, "N P"] | None = None

    @property
    def lengths(self) -> list[int]:
        """The distinct numbers of frames, ascending."""
        return sorted({clip.num_frames for clip in self.clips})

    @property
    def videos(self) -> str:
        """The final folder of the videos."""
        return str(self.home / VIDEOS)

    def write(self, name: str, text: str) -> None:
        """Write a UTF-8 text file whose lines end in a line feed."""
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="\n")

    def write_json(self, name: str, value: Any) -> None:
        """Write ASCII-only JSON, because trainers open files in the default encoding of their machine."""
        self.write(name, json.dumps(value, indent=1) + "\n")

    def write_lines(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write ASCII-only JSON lines; see :meth:`write_json`."""
        self.write(name, "".join(json.dumps(row) + "\n" for row in rows))

    def write_csv(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Write CSV with a header, every text quoted."""
        text = io.StringIO()
        table = csv.DictWriter(text, fieldnames=list(rows[0]), quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        self.write(name, text.getvalue())

    def write_sidecars(self) -> None:
        """Write a ``.txt`` beside each video: its caption in one line."""
        for clip in self.clips:
            self.write(f"{VIDEOS}/{Path(clip.file).stem}.txt", clip.caption + "\n")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A trainer, or a format that several trainers read. ``use`` tells how to point it at the export; ``{home}`` is the export's folder.

    ``without_caption`` states what it does with a clip without a caption, ``several_lengths`` what it does with clips of different lengths,
    if that is unexpected.
    """

    title: str
    write: Callable[[Export], None]
    use: str
    without_caption: str = ""
    several_lengths: str = ""
    reads_csv: bool = False
    needs_window: bool = False
    """Its settings name one frame rate and the numbers of frames, which the clips' own files may not have."""

    own_fps: tuple[float, ...] = ()
    """The frame rates to which it resamples every file."""

    commas: bool = True
    """Whether the path of the export may contain a comma."""

    keeps_videos: bool = True
    """If False, ``write`` packs the videos, and the folder ``videos`` is not part of the export."""

    without_sound: str = ""
    """What it does with a clip without sound when it trains on sound, too."""

    reads_gradients: bool = False
    """Whether ``write`` uses ``Export.gradients_NP``."""

    version: int = 1
    """Raise it when the same input is written in another layout."""

    own_warnings: Callable[[Export], Iterator[str]] = field(default=lambda export: iter(()))
    """Warnings that no other trainer has."""

    def warnings(self, export: Export) -> Iterator[str]:
        """Warnings for a person who trains on this export."""
        blank = sum(not clip.caption for clip in export.clips)
        if blank and self.without_caption:
            yield f"{blank} of {len(export.clips)} clips have no caption: {self.without_caption}."
        lost = [clip.caption for clip in export.clips if clip.caption and clip.caption in PANDAS_NOTHING] if self.reads_csv else []
        if lost:
            yield f"{len(lost)} captions are words that pandas reads as missing ({', '.join(sorted(set(lost)))}): give these clips real captions."
        if self.own_fps and export.fps not in self.own_fps:
            rates = " or ".join(f"{fps:g}" for fps in self.own_fps)
            yield f"clips.fps is {export.fps:g}, and it resamples to {rates} frames a second, so it trains on other frames than were scored."
        if not self.commas and "," in str(export.home):
            yield f"it splits the path {export.home} at the comma: export to a folder without a comma."
        silent = sum(not clip.has_sound for clip in export.clips)
        if silent and export.audio == "keep":
            consequence = f": {self.without_sound}" if self.without_sound else ""
            yield f"{silent} of {len(export.clips)} clips have no sound{consequence}."
        yield from self.own_warnings(export)
        if export.lengths[0] == 1:
            yield "most trainers treat clips of one frame as images."
        if len(export.lengths) > 1 and self.several_lengths:
            listed = ", ".join(map(str, export.lengths[:6]))
            yield f"the clips have {len(export.lengths)} different numbers of frames ({listed}{', ...' if len(export.lengths) > 6 else ''}): {self.several_lengths}."
