"""Folders below ``work/``: for unfinished work, and for finished pieces of work that a publication links to.

They lie under the root, so that a finished file moves into a publication without being copied.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from motive_pipeline.storage import atomic
from motive_pipeline.storage.integrity import altered, file_hash, files_of
from motive_pipeline.storage.root_copy import WORK_MARKS, copy_of
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed
from motive_pipeline.storage.workspace import Workspace

log = logging.getLogger(__name__)

MARKS = WORK_MARKS


@contextmanager
def scratch_folder(ws: Workspace, asset: str) -> Iterator[Path]:
    """An empty folder, deleted after the block. What a killed run of the same asset left is deleted before it.

    The caller holds the root's lock, or is otherwise the only one that makes ``asset``.
    """
    parent = ws.root / "work" / "scratch" / asset
    atomic.make_folder(parent)
    atomic.remove_leftovers(parent)
    with TemporaryDirectory(prefix=atomic.TEMP_PREFIX, dir=parent) as folder:
        yield Path(folder)


def move_children(source: Path, target: Path) -> None:
    """Move everything in ``source`` into the existing folder ``target`` (on the same file system)."""
    for child in sorted(source.iterdir()):
        os.rename(child, target / child.name)


def link_tree(source: Path, target: Path) -> None:
    """Hard-link every file of ``source`` to the same place below ``target`` (or copy it). Nobody may change these files afterwards."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        atomic.link_or_copy(file, target / file.relative_to(source))


def save_work(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Finish a piece of work in ``folder``: write ``record`` as ``name``, and size and hash of every file as :data:`MARKS`."""
    atomic.write_json(folder / name, record)
    write_sealed(folder / MARKS, {"files": files_of(folder)})


def keep_work(folder: Path) -> None:
    """Write a finished piece of work in a root in a bucket there, too, so that no machine has to make it again. A process that is not the driver leaves that
    to the driver's next publication."""
    if (copy := copy_of(folder)) is not None and copy.lease.is_held:
        copy.push_folder(folder, last=(MARKS,))


def load_work(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of a finished piece of work; None if there is none, or one of its files has changed (the log says which).

    What is damaged is removed, so that it can be made again.
    """
    if (copy := copy_of(folder)) is not None and not (folder / MARKS).exists():
        copy.fetch_below(folder)
    try:
        wrong = next(altered(folder, read_sealed(folder / MARKS)["files"]), None)
    except FileNotFoundError:
        wrong = f"{MARKS} is missing"
    except Damaged as error:
        wrong = f"{MARKS} {error.what}"
    if wrong is None:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    if folder.exists():
        log.warning("%s: %s; it counts as missing and is made again", folder, wrong)
        atomic.remove(folder)
    return None


def finish_file(unfinished: Path, file: Path) -> None:
    """Move a finished file of work to ``file``, and note its size and hash beside it."""
    marks = {"files": {file.name: (unfinished.stat().st_size, file_hash(unfinished))}}
    atomic.replace(unfinished, file)
    write_sealed(marks_of(file), marks)
    if (copy := copy_of(file)) is not None and copy.lease.is_held:
        copy.push([file])
        copy.push([marks_of(file)])


def is_finished(file: Path) -> bool:
    """Whether ``file`` was finished and still has its content. If not, it is removed, so that it can be made again (the log says why)."""
    if (copy := copy_of(file)) is not None and not marks_of(file).exists() and copy.fetch(marks_of(file)):
        copy.fetch(file)
    try:
        wrong = next(altered(file.parent, read_sealed(marks_of(file))["files"]), None)
    except FileNotFoundError:
        wrong = f"{marks_of(file).name} is missing"
    except Damaged as error:
        wrong = str(error)
    if wrong is not None and file.exists():
        log.warning("%s: %s; it counts as missing and is made again", file, wrong)
        atomic.remove(file)
    return wrong is None


def marks_of(file: Path) -> Path:
    """The file that holds size and hash of a finished file."""
    return file.with_suffix(".json")
