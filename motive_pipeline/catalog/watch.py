"""Have the observed sources changed, and are their files complete? The sensor and the schedule ask this before they request a run."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from motive_pipeline.catalog.scan import observe_clip_files, observe_query_files
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import split_location
from motive_pipeline.models.load import observe_base_encoders, observe_base_model
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.sources.protocol import BadEntry, SourceEntry
from motive_pipeline.storage.mirror import mirror_of
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.mp4_boxes import top_level_boxes
from motive_pipeline.video.readers import Prober

WHOLE_WITHIN_S = 60.0
"""A file that is not a complete video and was written less than this ago is taken as a copy in progress."""

_PROBE_WITHIN_S, _LOOK_WITHIN_S = 10.0, 30.0
"""The limits for one young file and for all of them: the sensor must answer within a minute, even if decoders hang."""

_FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
"""Boxes that an MP4 or MOV file can start with."""


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

    A time stamp in the future (after a clock was set back) is ignored, so that it cannot delay a run for ever.
    """
    now_s = time.time() if now_s is None else now_s
    sources = [clip_source(ws), query_source(ws), held_out_source(ws)]
    probe = Prober(ws.config.engine.model_copy(update={"decode_workers": 1, "decode_timeout_s": _PROBE_WITHIN_S}))
    found: dict[Path, None] = {}
    windows: set[MediaFile] = set()
    deadline = time.monotonic() + _LOOK_WITHIN_S
    for entry in (entry for source in sources if source for entry in source.entries()):
        if isinstance(entry, BadEntry):
            if entry.reason.endswith("_archive") and _age_s(Path(entry.path), now_s) < WHOLE_WITHIN_S:
                found[Path(entry.path)] = None
            continue
        if entry.file.window is not None:  # a file is looked at once for all of its windows
            entry = replace(entry, file=entry.file.whole)
            if entry.file in windows:
                continue
            windows.add(entry.file)
        if _unsettled(entry, probe if time.monotonic() < deadline else None, now_s, settle_s):
            found[Path(entry.file.location)] = None
    return list(found)


def at_rest_in_s(files: Iterable[Path], *, settle_s: float, now_s: float | None = None) -> float:
    """Seconds until files that are being written count as at rest if nothing changes any more. What looks like half of a copy counts as whole only
    :data:`WHOLE_WITHIN_S` after its last change."""
    now_s = time.time() if now_s is None else now_s
    ages_s = [_age_s(Path(split_location(str(file))[0]), now_s) for file in files]
    return max((max((settle_s if age_s < settle_s else WHOLE_WITHIN_S) - age_s, 0.0) for age_s in ages_s), default=0.0)


def _age_s(path: Path, now_s: float) -> float:
    """Seconds since ``path`` last changed; infinite if that is in the future, or if the file does not exist."""
    ages_s = [now_s - stamp_s for stamp_s in _stamps_s(path)]
    return min((age_s for age_s in ages_s if age_s >= 0), default=float("inf"))


def _unsettled(entry: SourceEntry, probe: Prober | None, now_s: float, settle_s: float) -> bool:
    """Whether the file or its caption is being written. Without ``probe`` there is no time left to look into files, so a young one counts as such.
    An object in a bucket appears whole."""
    if mirror_of(entry.file.path) is not None:
        return False
    beside = Path(entry.caption_file) if entry.caption_file else entry.file.path.with_suffix(".txt")
    age_s = min(_age_s(entry.file.path, now_s), _age_s(beside, now_s))
    if age_s < settle_s:
        return True
    if age_s >= WHOLE_WITHIN_S:
        return False
    if probe is None:
        return True
    try:
        probe(entry.file)
    except RejectRow:
        return True
    return ends_early(entry.file)


def ends_early(file: MediaFile) -> bool:
    """Whether the container states more bytes than the file has: half of a copy that can already be opened as a video."""
    num_bytes = file.num_bytes()
    with file.open() as stream:
        head = stream.read(12)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little") > num_bytes
        return head[4:8] in _FIRST_BOXES and any(box.end > num_bytes for box in top_level_boxes(stream, num_bytes))


def _stamps_s(path: Path) -> tuple[float, ...]:
    """The times of the last write and of the last change of any kind (a copy may keep the former). Empty if the file does not exist."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    return status.st_mtime, status.st_ctime
