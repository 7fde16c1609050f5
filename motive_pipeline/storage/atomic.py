"""Files and folders that appear whole or not at all, and that are on disk before anything points to them.

Every function that gives a file or folder its name flushes its content first and the folder that holds the name last (fsync). So everything
committed or published before a power cut is whole after it. Code that puts something in its final place uses only these functions.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMP_PREFIX = ".tmp-"


def write_bytes(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step: a reader sees the old content or the new one, never a part."""
    make_folder(path.parent)
    temp = temp_beside(path)
    try:
        with temp.open("wb") as file:
            file.write(data)
        replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; its folder is made if need be."""
    make_folder(path.parent)
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Put ``value`` as JSON at ``path`` in one step."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


def replace(source: Path, target: Path) -> None:
    """Move the finished file ``source`` to ``target`` (same file system), replacing what is there."""
    sync_file(source)
    os.replace(source, target)
    sync_folder(target.parent)


@contextmanager
def new_folder(path: Path, *, links_are_flushed: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` if the block succeeds, and is deleted if it raises.

    Every file in it is flushed first, and may be read by whom the umask allows. If ``path`` exists by then (callers name folders by content), that one is kept.
    ``links_are_flushed``: a file that has a second name was flushed when it got the first, and need not be again.
    """
    make_folder(path.parent)
    temp = temp_beside(path)
    temp.mkdir()
    try:
        yield temp
        _apply_umask(temp)
        sync_tree(temp, links_are_flushed=links_are_flushed)
        try:
            os.rename(temp, path)
        except OSError:
            if not path.is_dir():
                raise
        sync_folder(path.parent)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def _apply_umask(folder: Path) -> None:
    """Give every file below a new folder the rights that the umask gives a new file. Some libraries (safetensors) write for their owner only."""
    usual = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode) and mode & usual != usual:
            file.chmod(stat.S_IMODE(mode) | usual)


def is_writable(folder: Path) -> bool:
    """Whether this process may make files in ``folder``, or make the folder if it does not exist."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK | os.X_OK, effective_ids=True)


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it; each new one is flushed into its parent."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link ``source`` as ``target``, or copy it where hard links are not possible. The caller flushes (:func:`new_folder`)."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def sync_file(path: Path) -> None:
    """Flush the content of a file to disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Flush the names in a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, *, links_are_flushed: bool = False) -> None:
    """Flush every file and folder at or below ``folder``; symbolic links are not followed. ``links_are_flushed``: see :func:`new_folder`."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            file = Path(parent, name)
            status = file.lstat()
            if not stat.S_ISLNK(status.st_mode) and not (links_are_flushed and status.st_nlink > 1):
                sync_file(file)
        sync_folder(Path(parent))


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that a killed process left in ``folder``. The caller holds the writer's lock."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(TEMP_PREFIX):
                remove(path)


def remove(path: Path) -> None:
    """Delete a file, a folder with all in it, or a link; what a link points to stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def temp_beside(path: Path) -> Path:
    """An unused name in the folder of ``path``, which :func:`remove_leftovers` recognizes."""
    return path.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex[:12]}-{path.name[:80]}"
