"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TEMP_PREFIX = ".tmp-"


def write_bytes(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` in one step; a reader sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_beside(path)
    try:
        with temp.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """``value`` as JSON at ``path``, in one step."""
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    If ``path`` has come to exist meanwhile (equal content, by the naming of whoever calls), that one is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = _temp_beside(path)
    temp.mkdir()
    try:
        yield temp
        try:
            os.rename(temp, path)
        except OSError:
            if not path.is_dir():
                raise
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files and folders that a killed process left in ``folder``. Call it under the writer's lock."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(TEMP_PREFIX):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _temp_beside(path: Path) -> Path:
    return path.parent / f"{TEMP_PREFIX}{uuid.uuid4().hex[:12]}-{path.name[:80]}"
