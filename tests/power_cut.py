"""What a power cut leaves: records every fsync and rename below a folder, and rebuilds the folder as the disk may hold it at that point.

A disk keeps the content of a file as it was when the file was last flushed, and the names in a folder as they were when the folder was last
flushed. Between two flushes it may keep names or not, so two states are rebuilt at every point: with flushed names only, and with all names,
of which those of files that were never flushed lead to empty files (as people found them after real power cuts).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

STEPS = ("fsync", "replace", "rename", "link", "unlink")


class Disk:
    """Follows a folder. ``at_each_step`` is called before every flush, rename, link and removal; what is there at first is on disk."""

    def __init__(self, folder: Path, at_each_step: Callable[[Disk], None]) -> None:
        self.folder = folder
        self._call = at_each_step
        self._content: dict[int, bytes] = {}
        self._names: dict[int, dict[str, int]] = {}
        self._held: dict[int, int] = {}
        self._busy = False
        for path in (folder, *folder.rglob("*")):
            self._flush(path)

    def rebuild(self, target: Path, *, all_names: bool) -> Path:
        """The folder as it may be found after a cut now, at ``target``."""
        self._rebuild(self.folder.stat().st_ino, self.folder if all_names else None, target)
        return target

    def step(self, flushed: Path | None) -> None:
        """Something is about to be done; ``flushed`` is the file or folder that is flushed, if any."""
        if self._busy:
            return
        self._busy = True
        try:
            self._call(self)
        finally:
            self._busy = False
        if flushed is not None and flushed.is_relative_to(self.folder):
            self._flush(flushed)

    def _flush(self, path: Path) -> None:
        self._hold(path)
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            self._content[status.st_ino] = path.read_bytes()
            return
        names = {entry.name: entry.inode() for entry in os.scandir(path)}
        for name in names:
            self._hold(path / name)
        self._names[status.st_ino] = names

    def _hold(self, path: Path) -> None:
        """An inode that is open is not given to another file."""
        inode = path.lstat().st_ino
        if inode not in self._held and not path.is_symlink():
            self._held[inode] = os.open(path, os.O_RDONLY)

    def _rebuild(self, inode: int, here: Path | None, target: Path) -> None:
        is_folder = here.is_dir() if here is not None else stat.S_ISDIR(os.fstat(self._held[inode]).st_mode)
        if not is_folder:
            target.write_bytes(self._content.get(inode, b""))
            return
        target.mkdir()
        names = {entry.name: entry.inode() for entry in os.scandir(here)} if here is not None else self._names.get(inode, {})
        for name, child in names.items():
            self._rebuild(child, None if here is None else here / name, target / name)


@contextmanager
def recorded(folder: Path, monkeypatch: pytest.MonkeyPatch, at_each_step: Callable[[Disk], None]) -> Iterator[Disk]:
    """Follow what is done below ``folder`` while this lasts."""
    disk = Disk(folder, at_each_step)
    real = {name: getattr(os, name) for name in STEPS}

    def fsync(descriptor: int) -> None:
        disk.step(Path(os.readlink(f"/proc/self/fd/{descriptor}")))

    def other(name: str) -> Callable:
        def run(*arguments, **more):
            disk.step(None)
            return real[name](*arguments, **more)

        return run

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        for name in STEPS[1:]:
            patched.setattr(os, name, other(name))
        yield disk
    at_each_step(disk)
    for descriptor in disk._held.values():
        os.close(descriptor)
