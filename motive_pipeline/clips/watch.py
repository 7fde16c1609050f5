"""Has what lies outside changed, and is it at rest? What the sensor and the schedule ask before they request a run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from motive_pipeline.clips.probe import probe
from motive_pipeline.clips.scan import observe_clip_files, observe_query_files
from motive_pipeline.clips.sources import SourceEntry, clip_source, held_out_source, query_source
from motive_pipeline.errors import RejectRow
from motive_pipeline.models.load import observe_base_encoders, observe_base_model
from motive_pipeline.storage.workspace import Workspace

WHOLE_WITHIN_S = 60.0
"""A file that cannot be opened as a video and was written less than this ago is taken for one that is still being copied."""


def source_versions(ws: Workspace) -> dict[str, str]:
    """The data version of each observed source as it is now: ``clip_files``, ``query_files``, ``base_encoders``, ``base_model``.

    Raises:
        MotiveError: a folder is missing or holds no video, or the model cannot be found.
    """
    return {
        "clip_files": observe_clip_files(ws)[0],
        "query_files": observe_query_files(ws)[0],
        "base_encoders": observe_base_encoders(ws)[0],
        "base_model": observe_base_model(ws)[0],
    }


def still_being_written(ws: Workspace, *, settle_s: float, now_s: float | None = None) -> list[Path]:
    """Videos and captions that were written less than ``settle_s`` seconds ago, or look like half of a copy.

    A time stamp in the future (a clock that jumped back) counts as old, so that it cannot hold a run back for ever.
    """
    now_s = time.time() if now_s is None else now_s
    sources = [clip_source(ws), query_source(ws), held_out_source(ws)]
    entries = [entry for source in sources if source for entry in source.entries() if isinstance(entry, SourceEntry)]
    return [entry.path for entry in entries if _unsettled(entry.path, now_s, settle_s)]


def _unsettled(path: Path, now_s: float, settle_s: float) -> bool:
    ages_s = [now_s - _written_s(file) for file in (path, path.with_suffix(".txt")) if file.exists()]
    if any(0 <= age_s < settle_s for age_s in ages_s):
        return True
    if not any(0 <= age_s < WHOLE_WITHIN_S for age_s in ages_s):
        return False
    try:
        probe(path)
    except RejectRow:
        return True
    return False


def _written_s(path: Path) -> float:
    status = os.stat(path)
    return max(status.st_mtime, status.st_ctime)
