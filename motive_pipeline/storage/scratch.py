"""A folder for what is being made: it lies under the root, so that a finished file moves into a publication without being copied."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace


@contextmanager
def scratch_folder(ws: Workspace, asset: str) -> Iterator[Path]:
    """An empty folder that is gone after the block; what a killed run of the same asset left is gone before it.

    The caller holds the root's lock, or is otherwise the only one that makes ``asset``.
    """
    parent = ws.root / "work" / "scratch" / asset
    parent.mkdir(parents=True, exist_ok=True)
    atomic.remove_leftovers(parent)
    with TemporaryDirectory(prefix=atomic.TEMP_PREFIX, dir=parent) as folder:
        yield Path(folder)


def move_children(source: Path, target: Path) -> None:
    """Move everything in ``source`` into the existing folder ``target`` (on the same file system)."""
    for child in sorted(source.iterdir()):
        os.rename(child, target / child.name)


def link_tree(source: Path, target: Path) -> None:
    """Every file of ``source`` at the same place below ``target``, as a hard link: for files that nobody changes any more."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, place)
