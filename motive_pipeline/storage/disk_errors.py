"""Explains a full disk or a folder that cannot be written in one message, whatever library raised the error."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

FULL = "no space left on device", "disk is full", "disk quota exceeded", "file too large", "not enough disk space"
FULL_OR_FAILING = ("disk i/o error",)
"""What SQLite says when it cannot make its shared memory file, for instance because the disk is full."""

READ_ONLY = "read-only file system", "readonly database", "read-only database"
_FULL_NUMBERS = errno.ENOSPC, errno.EDQUOT, errno.EFBIG
_FORBIDDEN_NUMBERS = errno.EACCES, errno.EPERM, errno.ENOTDIR


def storage_trouble(error: BaseException, *folders: Path) -> str | None:
    """What to tell a person when ``error`` comes from a full or unwritable disk; None when it comes from something else.

    ``folders`` are those that are written to; the message names them, with the space left. Libraries wrap such errors, so the
    causes of ``error`` are checked too.
    """
    places = " and ".join(f"{folder} ({_free(folder)})" for folder in dict.fromkeys(folders))
    for each in _chain(error):
        number = each.errno if isinstance(each, OSError) else None
        text = str(each).lower()
        is_full = number in _FULL_NUMBERS or any(words in text for words in FULL)
        if is_full or any(words in text for words in FULL_OR_FAILING):
            what = "no room to write" if is_full else "cannot write, as on a full or failing disk"
            return (
                f"{what}: {_first_line(each)}. Written to are {places}. Free some space and run again; "
                "what was committed is kept, and the run goes on from there."
            )
        if number == errno.EROFS or any(words in text for words in READ_ONLY) or _is_forbidden(each, folders):
            return f"cannot write: {_first_line(each)}. Written to are {places}. Make them writable, or set storage.root and storage.state."
    return None


def _is_forbidden(error: BaseException, folders: tuple[Path, ...]) -> bool:
    """Whether ``error`` says that a path in, at or above one of ``folders`` cannot be written or is not a folder. Other paths do not count."""
    if not isinstance(error, OSError) or error.errno not in _FORBIDDEN_NUMBERS or not isinstance(error.filename, str):
        return False
    path = Path(error.filename)
    return any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in folders)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop(0)
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


def _free(folder: Path) -> str:
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        return f"{shutil.disk_usage(existing).free / 1e6:.1f} MB free"
    except OSError as error:
        return str(error.strerror)
