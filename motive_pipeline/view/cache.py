"""Keeps the viewer's folder bounded: of everything in it that can be made again, the newest stays.

Belongs here: what of ``<state>/view`` is deleted. Nothing outside of that folder ever is: the clips, the edits file and all that was published stay.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

log = logging.getLogger(__name__)

KEPT_EXPLANATIONS = 3
"""Versions of the scores whose explanations are kept."""
KEPT_LAYOUTS = 6
KEPT_ANSWERS = 200
"""Pages about dropped videos."""
KEPT_VIDEOS = 4000
KEPT_MARKS = 2
"""Settings of frames (or versions of the masks) whose pictures are kept: the present ones, and those that were used last before."""

_MADE = re.compile(r"[0-9a-f]{16}-(?P<mark>[0-9a-f]{8})-(?:still|loop|scored|mask-(?P<masks>[0-9a-f]{8}))\.(?:webp|mp4)")
"""The names of pictures and videos (pictures.py). Another file is left alone."""


def prune(folder: Path, *, mark: str) -> int:
    """Delete what is old in the viewer's ``folder``; the number of files and folders. ``mark`` is that of the present settings of frames.

    Several viewers may use the folder. What one of them deletes another makes again when it is wanted.
    """
    old = [
        *_oldest((folder / "explain").glob("*/"), KEPT_EXPLANATIONS),
        *_oldest((folder / "maps").glob("*.npz"), KEPT_LAYOUTS),
        *_oldest((folder / "asked").glob("*.html"), KEPT_ANSWERS),
        *_of_old_settings(folder, mark),
    ]
    gone = set(old)
    videos = (file for file in (folder / "videos").glob("*/*.mp4") if _MADE.fullmatch(file.name) and file not in gone)
    old += _oldest(videos, KEPT_VIDEOS)
    for path in old:
        try:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        except OSError as error:  # it has gone meanwhile, or this disk may only be read
            log.debug("%s was not deleted: %s", path, error)
    if old:
        log.info("deleted %d old pictures, layouts and pages from %s", len(old), folder)
    return len(old)


def _oldest(paths: Iterable[Path], kept: int) -> list[Path]:
    """All but the ``kept`` newest."""
    return sorted(paths, key=_changed, reverse=True)[kept:]


def _of_old_settings(folder: Path, present: str) -> list[Path]:
    """Pictures and videos of settings, and of versions of the masks, that are neither the present ones nor among the last used."""
    made = [(file, found) for part in ("tiles", "videos") for file in (folder / part).glob("*/*") if (found := _MADE.fullmatch(file.name))]
    marks: dict[str, float] = {}
    masks: dict[str, float] = {}
    for file, found in made:
        at = _changed(file)
        marks[found["mark"]] = max(at, marks.get(found["mark"], 0.0))
        if found["masks"]:
            masks[found["masks"]] = max(at, masks.get(found["masks"], 0.0))
    marks[present] = float("inf")
    kept_marks, kept_masks = (set(sorted(seen, key=lambda each: -seen[each])[:KEPT_MARKS]) for seen in (marks, masks))
    return [file for file, found in made if found["mark"] not in kept_marks or (found["masks"] and found["masks"] not in kept_masks)]


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
