"""Size and SHA-256 of the files in a folder: takes them for a record, and compares the files with a record.

Names and sizes are cheap to check, so this is done whenever a folder is opened. A file is hashed once per process, however many names it has; the
files of a folder are hashed in parallel.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from motive_pipeline.storage.digest import digest_file

Files = Mapping[str, Sequence[Any]]
"""Path within the folder -> [bytes, SHA-256], as it stands in JSON."""

_HASHED_AT_ONCE = 4
_known: dict[tuple[int, int, int, int], str] = {}


def file_hash(path: Path) -> str:
    """The SHA-256 of a file. It is not read again if this process has hashed it and nobody has written to it since."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    if identity not in _known:
        _known[identity] = digest_file(path)
    return _known[identity]


def files_of(folder: Path, *, known: Files | None = None) -> dict[str, Sequence[Any]]:
    """Size and hash of every file below ``folder``. Files in ``known`` are links to files hashed before, and are not read."""
    known = known or {}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    unknown = [name for name in names if name not in known]
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as workers:
        hashes = dict(zip(unknown, workers.map(file_hash, [folder / name for name in unknown]), strict=True))
    return {name: [(folder / name).stat().st_size, hashes[name]] if name in hashes else known[name] for name in names}


def missing_or_cut(folder: Path, files: Files) -> str | None:
    """The first file that is missing or has another size, and what is wrong with it; None if all sizes are right."""
    for name, (num_bytes, _) in files.items():
        try:
            found = os.stat(folder / name).st_size
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if found != num_bytes:
            return f"{name} has {found} bytes instead of {num_bytes}"
    return None


def altered(folder: Path, files: Files) -> Iterator[str]:
    """Every file that is missing or differs from the record in size or content, and what is wrong with it."""
    whole = []
    for name, mark in files.items():
        if wrong := missing_or_cut(folder, {name: mark}):
            yield wrong
        else:
            whole.append(name)
    with ThreadPoolExecutor(_HASHED_AT_ONCE) as workers:
        for name, sha256 in zip(whole, workers.map(file_hash, [folder / name for name in whole]), strict=True):
            if sha256 != files[name][1]:
                yield f"{name} was altered: its content does not match its SHA-256"


def forget_hashes() -> None:
    """Forget all hashes, so that every file is read again."""
    _known.clear()
