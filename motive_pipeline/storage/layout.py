"""The version of everything below a ``storage.root``, so that an older installation does not misread what a newer one wrote."""

from __future__ import annotations

import json
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic

LAYOUT = 1
"""Raise it when what lies below a root can no longer be read by the installations before."""

FILE = "layout.json"


def require_known_layout(root: Path) -> None:
    """Nothing below ``root`` was written by a newer version; a root without the mark is new.

    Raises:
        MotiveError: it was, or the mark cannot be read.
    """
    file = root / FILE
    if not file.exists():
        return
    try:
        found = int(json.loads(file.read_text(encoding="utf-8"))["layout"])
    except (ValueError, KeyError, TypeError) as error:
        raise MotiveError(f"{file} is damaged ({error}). Restore it, or set storage.root to another folder.") from error
    if found > LAYOUT:
        raise MotiveError(
            f"{root} was written by a newer version of motive-pipeline (layout {found}; this one knows {LAYOUT}). Upgrade this "
            "installation, or set storage.root to another folder. Nothing was changed."
        )


def mark_layout(root: Path) -> None:
    """Write the mark into a new root. The caller holds the root's lock."""
    if not (root / FILE).exists():
        atomic.write_json(root / FILE, {"layout": LAYOUT})
