"""The pictures and videos of the explorer, each made at its first use and kept below ``<state>/view``.

Of a clip or a query: a looping tile, the same with its motion mask, a still picture, and the scored frames as H.264, with and without the mask. They are named by the clip's
content and the settings that decide its frames, so a renamed file keeps them and other settings get others.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import av
import av.error
import numpy as np

from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files.file_stat import regular_file_stat
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.graph import Role
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.mirror import held
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.encode import write_mp4
from motive_pipeline.video.readers import ClipReader

if TYPE_CHECKING:  # it imports torch, for which the first page would wait
    from motive_pipeline.motion.stage import MaskSet

Kind = Literal["still", "loop", "mask"]
VideoKind = Literal["scored", "mask"]
KINDS, VIDEO_KINDS = get_args(Kind), get_args(VideoKind)

SCALE = 2
"""Tiles are this many times as large as the loops of the report: at most 256 x 192 pixels."""
VERSION = 1
"""Raise it when pictures are made in another way."""
CRF = 18
FORGET_S = 20.0
"""How long a file that could not be read is not tried again."""

_PLAYED = {"h264": "video/mp4", "vp8": "video/webm", "vp9": "video/webm", "av1": "video/mp4"}
"""Codecs that browsers play, with the type of their usual container."""
_CONTAINERS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/mp4", ".webm": "video/webm"}


class NoPicture(MotiveError):
    """A clip of which there is no picture; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A clip or a query whose pictures are wanted."""

    clip_id: str
    location: str
    role: Role


class PictureMaker:
    """Makes and keeps pictures. Several threads may ask at once; a picture is made once."""

    def __init__(self, ws: Workspace, folder: Path) -> None:
        self._ws, self._folder = ws, folder
        self._rule = FrameRule.of(ws.config)
        self.mark = digest(self._rule.content(), SCALE, VERSION)[:8]
        self._readers: queue.SimpleQueue[ClipReader] = queue.SimpleQueue()
        for _ in range(max(1, ws.config.engine.num_decode_workers)):
            self._readers.put(ClipReader(self._rule, ws.config.engine))
        self._own = threading.local()
        self._lock = threading.Lock()
        self._making: dict[tuple[str, str], threading.Lock] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._masks: dict[tuple[Role, str], MaskSet] = {}

    def tile(self, subject: Subject, kind: Kind) -> Path:
        """A WebP file.

        Raises:
            NoPicture: the video cannot be read (any more), has changed, or has no mask.
        """
        _require_there(subject)
        loop, still = (self._file("tiles", subject, f"{part}.webp") for part in ("loop", "still"))
        wanted = self._mask_file("tiles", subject, "webp") if kind == "mask" else still if kind == "still" else loop
        with self._making_once(subject, wanted):
            if not wanted.exists():
                from motive_pipeline.report.pictures import film, loop_webp, masked, still_webp

                shown = film(self._frames(subject), float(self._rule.fps), scale=SCALE)
                if kind == "mask":
                    atomic.write_bytes(wanted, loop_webp(masked(shown, self._mask(subject), self._stride), shown.duration_ms))
                else:
                    atomic.write_bytes(still, still_webp(shown.pictures))
                    atomic.write_bytes(loop, loop_webp(shown.pictures, shown.duration_ms))
        return wanted

    def scored(self, subject: Subject, kind: VideoKind) -> Path:
        """The frames that were scored as an MP4 file (H.264), at the rate of ``clips.fps``; with ``mask``, the motion mask drawn over them.

        Raises:
            NoPicture: see :meth:`tile`.
        """
        _require_there(subject)
        wanted = self._mask_file("videos", subject, "mp4") if kind == "mask" else self._file("videos", subject, "scored.mp4")
        with self._making_once(subject, wanted):
            if not wanted.exists():
                frames_THWC = self._frames(subject)
                if kind == "mask":
                    from motive_pipeline.motion.overlay import overlay_mask
                    from motive_pipeline.report.pictures import at_frame

                    mask_FHW, stride = self._mask(subject), self._stride
                    frames_THWC = np.stack(
                        [overlay_mask(frame, at_frame(mask_FHW, number, stride)) for number, frame in enumerate(frames_THWC)]
                    )
                atomic.make_folder(wanted.parent)
                write_mp4(wanted, frames_THWC, self._rule.fps, crf=CRF)
        return wanted

    def original(self, subject: Subject) -> tuple[Path, str] | None:
        """The clip's own file and its type, if a browser plays it; None if it does not, or the clip is a part of the file."""
        file = MediaFile.parse(subject.location)
        media_type = _CONTAINERS.get(file.path.suffix.lower())
        if file.member or file.window is not None or media_type is None:
            return None
        try:
            regular_file_stat(file.path)
            with held(file.path), av.open(str(file.path)) as container:
                stream = container.streams.video[0]
                is_played = stream.codec_context.name in _PLAYED and stream.codec_context.pix_fmt in ("yuv420p", "yuvj420p")
        except (RejectRow, av.error.FFmpegError, IndexError):
            return None
        return (file.path, media_type) if is_played else None

    def _frames(self, subject: Subject) -> np.ndarray:
        """The scored frames. Raises NoPicture."""
        failed = self._failed.get(subject.clip_id)
        if failed is not None and time.monotonic() - failed[0] < FORGET_S:
            raise NoPicture(failed[1])
        file = MediaFile.parse(subject.location)
        reader = self._readers.get()
        try:
            if self._content_id(file) != subject.clip_id:
                raise RejectRow(
                    "changed_since_catalog", "the file has changed since it was catalogued; `motive run` takes it in as a new clip"
                )
            return reader(file).frames_THWC
        except RejectRow as rejection:
            self._failed[subject.clip_id] = time.monotonic(), f"{rejection.reason.replace('_', ' ')}: {rejection.detail}"
            raise NoPicture(self._failed[subject.clip_id][1]) from rejection
        finally:
            self._readers.put(reader)

    def _content_id(self, file: MediaFile) -> str:
        """The id of what the file holds now. Raises RejectRow."""
        if not hasattr(self._own, "memory"):  # SQLite wants a connection for each thread
            self._own.memory = HashMemory(self._ws.state)
        return self._own.memory.clip_id(file)

    def _mask(self, subject: Subject) -> np.ndarray:
        """The published mask [F, h, w]. Raises NoPicture."""
        from motive_pipeline.motion.stage import MaskSet

        with self._lock:
            version = self._mask_version(subject.role)
            if (subject.role, version) not in self._masks:
                self._masks[subject.role, version] = MaskSet(self._ws, subject.role)
            masks = self._masks[subject.role, version]
            if subject.clip_id not in masks:
                raise NoPicture("no motion mask of this clip is published")
            try:
                return masks.get(subject.clip_id).numpy()
            except MotiveError as error:
                raise NoPicture(str(error)) from error

    @property
    def _stride(self) -> int:
        from motive_pipeline.models.load import latent_grid

        return latent_grid(self._ws).temporal_stride

    def _file(self, folder: str, subject: Subject, ending: str) -> Path:
        return self._folder / folder / subject.clip_id[:2] / f"{subject.clip_id}-{self.mark}-{ending}"

    def _mask_file(self, folder: str, subject: Subject, ending: str) -> Path:
        """Its name changes with what is published as masks."""
        with self._lock:
            return self._file(folder, subject, f"mask-{self._mask_version(subject.role)[:8]}.{ending}")

    def _mask_version(self, role: Role) -> str:
        version = self._ws.data_version("motion_masks" if role == "clip" else "query_masks")
        if version is None:
            raise NoPicture("no motion masks are published")
        return version

    @contextmanager
    def _making_once(self, subject: Subject, wanted: Path) -> Iterator[None]:
        """One thread at a time makes pictures of a clip."""
        if wanted.exists():
            yield
            return
        with self._lock:
            own = self._making.setdefault((subject.clip_id, subject.role), threading.Lock())
        with own:
            yield
        with self._lock:
            self._making.pop((subject.clip_id, subject.role), None)


def _require_there(subject: Subject) -> None:
    """Raises NoPicture if the file has gone, although a picture of it may have been kept. A clip in object storage is there, whether a copy is here or not."""
    path = MediaFile.parse(subject.location).path
    try:
        regular_file_stat(path)
    except RejectRow as rejection:
        raise NoPicture(f"{rejection.reason.replace('_', ' ')}: {rejection.detail}") from rejection
