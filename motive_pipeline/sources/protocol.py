"""What a source gives: entries, each a video and its caption; and what cannot be one.

An adapter knows one way in which data sets are laid out. It lists what is there and reads captions; it opens no video and hashes nothing
(scan.py), and it never leaves anything out silently: what cannot be an entry is a :class:`BadEntry`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from motive_pipeline.errors import ConfigError
from motive_pipeline.files.media_file import MediaFile

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
MAX_CAPTION_BYTES = 2**16

Scalar = str | int | float | bool


@dataclass(frozen=True, kw_only=True)
class SourceEntry:
    """One video of a source. ``relative`` names it within the source; ``caption`` is None where there is none.

    ``extra`` is what the source knows beside; ``category`` is the
    name of the sub-folder. ``metadata`` holds what the data set's own table says of the video. ``caption_file`` is where the caption stands.
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
    """Something that looks like a video and cannot be one: a row of ``rejects``.

    ``counts`` is false for what nobody asked for (a video that no row of the table names), which the gate on the share of rejects leaves out.
    """

    path: str
    relative: str
    reason: str
    detail: str
    counts: bool = True


@runtime_checkable
class ClipSource(Protocol):
    """A list of videos with captions, the same in the same order as long as nothing changes."""

    @property
    def key(self) -> str:
        """The setting that names it (``clips.path``)."""
        ...

    @property
    def name(self) -> str:
        """What the column ``source`` says of its clips."""
        ...

    @property
    def expects(self) -> str:
        """What it looks for, for a message to a person."""
        ...

    def entries(self) -> Iterator[SourceEntry | BadEntry]:
        """Every video, in the order of ``relative``."""
        ...

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        ...


class CaptionError(ValueError):
    """A caption that cannot be used."""


def parse_caption(data: bytes, name: str) -> str:
    """The caption in the bytes of the text file ``name``: UTF-8, or UTF-16 with its mark.

    Raises:
        CaptionError: they are no such text, or far too long for a caption.
    """
    if len(data) > MAX_CAPTION_BYTES:
        raise CaptionError(f"the caption file {name} has more than {MAX_CAPTION_BYTES} bytes")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise CaptionError(f"the caption file {name} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from error
    return one_line(text)


def one_line(text: str) -> str:
    """``text`` with every run of white space and line ends (U+2028 among them) and every NUL as one space."""
    return " ".join(text.replace("\0", " ").split())


def require_folder(path: Path, key: str) -> None:
    """``path`` is a folder that can be listed.

    Raises:
        ConfigError: it is not; the message names ``key``.
    """
    if not path.exists():
        raise ConfigError(f"{key} = {path}: there is no such folder. Make it, or correct {key} in motive.yaml.")
    if not path.is_dir():
        raise ConfigError(f"{key} = {path}: this is a file; {key} must name the folder that holds the videos.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise ConfigError(f"{key} = {path}: the folder cannot be read. Give yourself the right to, or name another folder.")
