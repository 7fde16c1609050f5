"""Requirements on a ``storage.root``: written by this version of the layout, and separate from the clips and from other roots."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic

LAYOUT = 2
"""The version of everything below a root. Increase it if older installations cannot read what this one writes, or this one what they wrote."""

FILE = "layout.json"


def require_known_layout(root: Path) -> None:
    """Raise unless ``root`` was written with this layout; a root without the mark is new.

    Raises:
        MotiveError: it was written by a newer or an older version, or the mark cannot be read.
    """
    file = root / FILE
    if not file.exists():
        return
    try:
        found = int(json.loads(file.read_text(encoding="utf-8"))["layout"])
    except (ValueError, KeyError, TypeError) as error:
        raise MotiveError(
            f"{file} is damaged ({error}). All results are kept: delete this file, and the next run writes it again. (A root of another version of "
            "motive-pipeline must not be used: set storage.root to another folder then.)"
        ) from error
    if found > LAYOUT:
        raise MotiveError(
            f"{root} was written by a newer version of motive-pipeline (layout {found}; this one knows {LAYOUT}). Upgrade this "
            "installation, or set storage.root to another folder. Nothing was changed."
        )
    if found < LAYOUT:
        raise MotiveError(
            f"{root} was written by an older version of motive-pipeline (layout {found}; this one writes {LAYOUT}), which this one cannot read. Start "
            f"a new root: `mv {shlex.quote(str(root))} {shlex.quote(f'{root}.layout{found}')} && motive run`, or set storage.root to another folder. Nothing was changed."
        )


def require_apart(config: Config) -> None:
    """Raise if the root lies where its files would be taken for clips or for files of another root.

    Raises:
        MotiveError: it lies inside the folder of the clips or of the queries, or inside another root.
    """
    root = config.storage.root.resolve()
    for key, folder in source_folders(config):
        if root.is_relative_to(folder):
            raise MotiveError(
                f"storage.root = {root} lies inside {key} = {folder}: the videos that the pipeline generates would be taken for clips. Set storage.root "
                f"to a folder outside of {key}."
            )
    other = next((folder for folder in root.parents if (folder / FILE).exists()), None)
    if other is not None:
        raise MotiveError(f"storage.root = {root} lies inside another root, {other}. Set storage.root to a folder outside of it.")


def source_folders(config: Config) -> Iterator[tuple[str, Path]]:
    """(YAML key, resolved folder) of every folder that clips or queries are read from."""
    found = {"clips.path": config.clips.path, "queries.path": config.queries.path, "queries.held_out_path": config.queries.held_out_path}
    yield from ((key, path.resolve()) for key, path in found.items() if path is not None and path.is_dir())


def mark_layout(root: Path) -> None:
    """Write the mark into a new root. The caller holds the root's lock.

    Raises:
        MotiveError: another root lies in the folder.
    """
    if (root / FILE).exists():
        return
    if (inner := next(root.glob(f"*/{FILE}"), None)) is not None:
        raise MotiveError(f"storage.root = {root} contains another root, {inner.parent}. Set storage.root to a folder beside it.")
    atomic.write_json(root / FILE, {"layout": LAYOUT})
