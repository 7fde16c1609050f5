"""Has what lies outside changed, and is it at rest? What the sensor and the schedule ask before they request a run."""

from __future__ import annotations

import os
import time
from io import BufferedReader
from pathlib import Path

from motive_pipeline.catalog.scan import observe_clip_files, observe_query_files
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.models.load import observe_base_encoders, observe_base_model
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.sources.protocol import BadEntry, SourceEntry
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.readers import Prober

WHOLE_WITHIN_S = 60.0
"""A file that is no whole video and was written less than this ago is taken for one that is still being copied."""

_PROBE_WITHIN_S = 20.0
"""The sensor must answer within a minute, whatever a decoder does."""

_MP4_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")


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

    A time stamp in the future (a clock that jumped back) says nothing, so that it cannot hold a run back for ever.
    """
    now_s = time.time() if now_s is None else now_s
    sources = [clip_source(ws), query_source(ws), held_out_source(ws)]
    probe = Prober(ws.config.engine.model_copy(update={"decode_workers": 1, "decode_timeout_s": _PROBE_WITHIN_S}))
    found: dict[Path, None] = {}
    for entry in (entry for source in sources if source for entry in source.entries()):
        if isinstance(entry, BadEntry):
            if entry.reason.endswith("_archive") and _age_s(Path(entry.path), now_s) < WHOLE_WITHIN_S:
                found[Path(entry.path)] = None
        elif _unsettled(entry, probe, now_s, settle_s):
            found[Path(entry.file.location)] = None
    return list(found)


def _age_s(path: Path, now_s: float) -> float:
    """Seconds since ``path`` was touched last; very many where that lies in the future, or there is no such file."""
    ages_s = [now_s - stamp_s for stamp_s in _stamps_s(path)]
    return min((age_s for age_s in ages_s if age_s >= 0), default=float("inf"))


def _unsettled(entry: SourceEntry, probe: Prober, now_s: float, settle_s: float) -> bool:
    beside = Path(entry.caption_file) if entry.caption_file else entry.file.path.with_suffix(".txt")
    age_s = min(_age_s(entry.file.path, now_s), _age_s(beside, now_s))
    if age_s < settle_s:
        return True
    if age_s >= WHOLE_WITHIN_S:
        return False
    try:
        probe(entry.file)
    except RejectRow:
        return True
    return ends_early(entry.file)


def ends_early(file: MediaFile) -> bool:
    """Whether the container announces more bytes than the file has: half of a copy that can already be opened as a video."""
    size = file.num_bytes()
    with file.open() as stream:
        head = stream.read(12)
        if head[:4] == b"RIFF":
            return 8 + int.from_bytes(head[4:8], "little") > size
        if head[4:8] in _MP4_BOXES:
            return _end_of_boxes(stream, size) > size
    return False


def _end_of_boxes(file: BufferedReader, size: int) -> int:
    """Where the last top-level box of an MP4 or MOV file says it ends (ISO/IEC 14496-12, 4.2)."""
    end = 0
    while end < size:
        file.seek(end)
        header = file.read(16)
        if len(header) < 8:
            return end + 8
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end of the file, whatever that is
            return size
        end += length
    return end


def _stamps_s(path: Path) -> tuple[float, ...]:
    """When the file was written and when it was last touched in any way (a copy may keep the former); none when it is not there."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return ()
    return status.st_mtime, status.st_ctime
