"""Which files are videos, by the endings of their names; where an ending has other uses, by their first bytes."""

from __future__ import annotations

import os

_BY_CONTENT = (".ts", ".gif")
"""``.ts`` is a transport stream or a program in TypeScript, ``.gif`` a film or a picture."""

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".m2v", ".vob", ".m2ts", ".mts", ".flv", ".f4v", ".wmv", ".asf",
    ".3gp", ".3g2", ".ogv", ".mxf", ".qt", *_BY_CONTENT,
)  # fmt: skip

HEAD_BYTES = 1024
"""What :func:`is_video` needs of a file: the colours of a GIF take 781 bytes of it."""

_TS_PACKET_BYTES = 188
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")


def suffix(name: str) -> str:
    """The ending of a name, in lower case and with its dot."""
    return os.path.splitext(name)[1].lower()


def needs_head(name: str) -> bool:
    """Whether the first bytes of a file called ``name`` decide if it is a video."""
    return suffix(name) in _BY_CONTENT


def is_video(name: str, head: bytes = b"") -> bool:
    """Whether a file is a video: by its name, and for a ``.ts`` or ``.gif`` by its first :data:`HEAD_BYTES`. A GIF without a loop is a picture."""
    ending = suffix(name)
    if ending == ".ts":
        return head[:1] == b"G" and head[_TS_PACKET_BYTES : _TS_PACKET_BYTES + 1] == b"G"
    if ending == ".gif":
        return head.startswith(b"GIF8") and any(mark in head for mark in _LOOPS)
    return ending in VIDEO_SUFFIXES
