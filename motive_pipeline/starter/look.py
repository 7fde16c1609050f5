"""Looks into the videos of a source without a model: how many there are, which lack a caption or cannot be opened, and how long they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.hash_memory import hash_file
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.protocol import BadEntry, ClipSource, SourceEntry
from motive_pipeline.video.probe import probe

MOST_OPENED = 200
"""Videos that are opened; of more, evenly spread ones."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What was found in one source. ``num_frames`` are those of the opened videos at the rate of the settings; ``broken`` are (name, reason) of what cannot be used; ``broken_share`` is their share, 0-1, of all videos, reckoned from those
    that were opened.
    """

    files: Sequence[MediaFile]
    num_without_caption: int
    num_opened: int
    num_frames: Sequence[int]
    broken: Sequence[tuple[str, str]]
    broken_share: float
    categories: Sequence[str]

    @property
    def num_videos(self) -> int:
        """Videos that the source lists as usable; those that were not opened count, too."""
        return len(self.files)


def look_at(source: ClipSource, *, fps: float) -> Look:
    """List ``source`` and open its videos, at most :data:`MOST_OPENED`.

    Raises:
        ConfigError: the source cannot be listed.
    """
    entries = list(source.entries())
    usable = [entry for entry in entries if isinstance(entry, SourceEntry)]
    bad = [(entry.relative, f"{entry.reason}: {entry.detail}") for entry in entries if isinstance(entry, BadEntry) and entry.counts]
    opened = [usable[place] for place in _spread(len(usable), MOST_OPENED)]
    num_frames, broken = [], list(bad)
    for entry in opened:
        try:
            facts = probe(entry.file)
        except RejectRow as rejection:
            broken.append((entry.relative, f"{rejection.reason}: {rejection.detail}"))
            continue
        num_frames.append(frames_at(fps, num_frames=facts.num_frames, own_fps=facts.fps))
    return Look(
        files=[entry.file for entry in usable],
        num_without_caption=sum(not entry.caption for entry in usable),
        num_opened=len(opened),
        num_frames=num_frames,
        broken=broken,
        broken_share=_share(len(bad), len(usable), opened_share=(len(broken) - len(bad)) / max(len(opened), 1)),
        categories=sorted({entry.extra.get("category", "") for entry in usable} - {""}),
    )


def frames_at(fps: float, *, num_frames: int, own_fps: float) -> int:
    """How many frames a video of constant rate gives at ``fps``: the last one may stand for a time up to half a step behind it."""
    if not math.isfinite(own_fps) or own_fps <= 0:
        return num_frames
    return int((num_frames - 1) / own_fps * fps + 0.5 + 1e-6) + 1


def shared_files(first: Look, second: Look) -> list[str]:
    """Names of the files in ``second`` whose content ``first`` has, too. Only files of equal size are read."""
    by_size: dict[int, list[MediaFile]] = {}
    for file in first.files:
        if not file.member:
            by_size.setdefault(_size(file), []).append(file)
    return [
        file.name for file in second.files if not file.member and any(_hash(file) == _hash(other) for other in by_size.get(_size(file), ()))
    ]


def _size(file: MediaFile) -> int:
    return file.current_stat().size


def _hash(file: MediaFile) -> str:
    return hash_file(file.whole).sha256


def _share(num_bad: int, num_usable: int, *, opened_share: float) -> float:
    return (num_bad + opened_share * num_usable) / max(num_bad + num_usable, 1)


def _spread(number: int, most: int) -> list[int]:
    """At most ``most`` places of ``number``, evenly spread from the first to the last."""
    if number <= most:
        return list(range(number))
    return [round(place * (number - 1) / (most - 1)) for place in range(most)]
