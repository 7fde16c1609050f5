"""Requirements on the folders that results are written to: their paths must mean the same to every library that opens files below them."""

from __future__ import annotations

import re
from pathlib import Path

from motive_pipeline.config.schema import Settings
from motive_pipeline.errors import ConfigError

SQLITE_MAX_BYTES = 504
"""The longest path of a database that SQLite opens on Unix: 512 bytes with the ending ``-journal``."""

MAX_INSTANCE_BYTES = SQLITE_MAX_BYTES - len("/history/runs/01234567-89ab-cdef-0123-456789abcdef.db")
"""The longest path of a Dagster instance, which keeps a database for each run."""

MAX_STATE_BYTES = MAX_INSTANCE_BYTES - len("/dagster_home")
MAX_ROOT_BYTES = 4095 - 512
"""Linux allows paths of 4095 bytes. No path below a root is longer than 512."""

_MAX_NAME_BYTES = 255
_AMBIGUOUS = re.compile(r"\?|\\|%[0-9A-Fa-f]{2}")


def require_usable_folders(config: Settings) -> None:
    """``storage.root`` and ``storage.state`` can hold results.

    Raises:
        ConfigError: see :func:`require_usable_folder`.
    """
    root, state = config.storage.root, config.storage.state
    require_usable_folder("storage.root", root, MAX_ROOT_BYTES)
    if state is not None:
        require_usable_folder("storage.state", state, MAX_STATE_BYTES)


def require_usable_folder(key: str, folder: Path, max_bytes: int) -> None:
    """Every library that opens files below ``folder`` understands its path. ``key`` names the setting in the message.

    Raises:
        ConfigError: the path is too long, is not UTF-8, has a NUL, or has a character that SQLAlchemy or DuckDB reads as part of an address.
    """
    text = str(folder)
    if found := _AMBIGUOUS.search(text):
        raise ConfigError(
            f"{key} = {text}: {found.group()} is not possible in this path. Dagster's database and DuckDB take it for a part of an address and would "
            "write elsewhere. Rename the folder, or choose another one. Nothing was written."
        )
    if "\0" in text:
        raise ConfigError(f"{key} = {text!r}: no path can hold the character NUL. Choose another folder.")
    try:
        num_bytes = len(text.encode())
    except UnicodeEncodeError as error:
        raise ConfigError(f"{key} = {text!r}: this path is not UTF-8 text. Rename the folder, or choose another one.") from error
    if num_bytes > max_bytes:
        raise ConfigError(
            f"{key} = {text}: this path has {num_bytes} bytes, and {max_bytes} is the most, because the databases below it have longer paths. Choose a "
            f"folder with a shorter path.{' By default it is <storage.root>/state.' if key == 'storage.state' else ''}"
        )
    if long := next((name for name in folder.parts if len(name.encode()) > _MAX_NAME_BYTES), None):
        raise ConfigError(
            f"{key} = {text}: the name {long} has more than the {_MAX_NAME_BYTES} bytes that file systems allow. Choose a shorter one."
        )
