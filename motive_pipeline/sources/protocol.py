"""What a source gives: entries, each a video with its caption, and bad entries with the reason why they cannot be used.

Each kind of source knows one way in which data sets are stored. A source lists videos and reads captions. It opens no video and hashes
nothing (catalog/scan.py does). It drops nothing: whatever cannot be an entry is a :class:`BadEntry`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from motive_pipeline.errors import ConfigError
from motive_pipeline.files.media_file import MediaFile

Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One video of a source. ``relative`` is its name within the source; ``caption`` is None if there is none.

    ``extra`` holds the ``category``: the name of the sub-folder, or what the table says. ``metadata`` is what the publisher's table says of
    the video. ``caption_file`` is the file that the caption was read from.
    """

    file: MediaFile
    relative: str
    caption: str | None
    extra: dict[str, str] = field(default_factory=dict)
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    further_captions: tuple[str, ...] = ()
    caption_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class BadEntry:
    """Something that looks like a video of the source and cannot be used: a row of ``rejects``.

    ``counts`` is false for a video that nobody asked for, such as one that no row of the table names. The gate on the share of rejects
    leaves it out.
    """

    path: str
    relative: str
    reason: str
    detail: str
    counts: bool = True


@runtime_checkable
class ClipSource(Protocol):
    """A list of videos with captions. It is the same, in the same order, as long as no file changes."""

    @property
    def root(self) -> Path:
        """The folder that the videos lie in, or the one archive."""
        ...

    @property
    def key(self) -> str:
        """The setting that names the source (``clips.path``)."""
        ...

    @property
    def name(self) -> str:
        """The value of the column ``source`` for its clips."""
        ...

    @property
    def expects(self) -> str:
        """What the source looks for, for a message to a person."""
        ...

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every video, in the order of ``relative``."""
        ...

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        ...


def require_folder(path: Path, key: str) -> None:
    """Check that ``path`` is a folder that can be listed.

    Raises:
        ConfigError: it is not; the message names ``key``.
    """
    if not path.exists():
        raise ConfigError(f"{key} = {path}: there is no such folder. Make it, or correct the setting.")
    if not path.is_dir():
        raise ConfigError(f"{key} = {path}: this is a file; {key} must name the folder that holds the videos.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{key} = {path}: the folder cannot be read. Give yourself the right to, or name another folder.")
