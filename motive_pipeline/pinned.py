"""Third-party code and weights that this package does not ship: their addresses and hashes, and where they lie once fetched.

They lie in one folder for each user, not in a project: ``$MOTIVE_CACHE``, else ``motive-pipeline`` below ``$XDG_CACHE_HOME`` or
``~/.cache``. ``fetch.py`` downloads them.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class PinnedFile:
    """One file: its address, the SHA-256 of its bytes, and their number."""

    url: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class PinnedCode:
    """Files of a ``.tar.gz`` archive: the path of each below the archive's one top folder, and the SHA-256 of its bytes.

    The archive itself has no hash: GitHub packs it anew for each request and does not promise equal compression.
    """

    url: str
    sha256: Mapping[str, str]

    @property
    def content(self) -> str:
        """64 hex digits over all its files."""
        return hashlib.sha256("".join(f"{name}\0{digest}\0" for name, digest in sorted(self.sha256.items())).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """What ``motive fetch <name>`` downloads: code into ``<version>/code``, each of ``files`` beside it. ``terms`` states the licence."""

    name: str
    version: str
    code: PinnedCode
    files: Mapping[str, PinnedFile]
    terms: str

    @property
    def folder(self) -> Path:
        """Where it lies once fetched."""
        return cache_folder() / self.name / self.version

    @property
    def code_folder(self) -> Path:
        """The root of its code, for the import path."""
        return self.folder / "code"


ALLTRACKER = Pinned(
    name="alltracker",
    version="c1ed462",
    code=PinnedCode(
        url="https://github.com/aharley/alltracker/archive/c1ed462b7cfe9b4c6d07d8880ae5ed103b0848e0.tar.gz",
        sha256={
            "LICENSE": "ab740abe5c34e17963fe4d6a1f68a3dcd35bbc05dc520cf08d7a062c0ea13c79",
            "nets/alltracker.py": "42a203dfe1f4f6f035570c0c97a83172bd769591fa5930deda422ddac42f7807",
            "nets/blocks.py": "0c347f79b53367e0a99fb8d5bbe65346def904940f07dd361349af1da4eb0672",
            "utils/misc.py": "4ac64b714891789b21f1776292c7b9bd580031950f8df4398c9718922e7dbe90",
        },
    ),
    files={
        "alltracker.pth": PinnedFile(
            url="https://huggingface.co/aharley/alltracker/resolve/c8ba31225828cab9ec512d0627f0f826e641a877/alltracker.pth",
            sha256="ffd9ebcfb6d206d594b646999a150540f92c049cf9b2bf940facf7123f62aa1d",
            num_bytes=66_005_722,
        )
    },
    terms="code and weights: MIT, Adam W. Harley and others",
)

PINNED: dict[str, Pinned] = {ALLTRACKER.name: ALLTRACKER}
"""By the name that ``motive fetch`` takes."""


def cache_folder() -> Path:
    """The folder of everything fetched."""
    if chosen := os.environ.get("MOTIVE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "motive-pipeline"


def code_content(folder: Path) -> str:
    """64 hex digits over names and bytes of the Python files in ``nets/`` and ``utils/`` of a checkout."""
    files = sorted(path for part in ("nets", "utils") for path in (folder / part).rglob("*.py"))
    listed = "".join(f"{path.relative_to(folder).as_posix()}\0{file_content(path)}\0" for path in files)
    return hashlib.sha256(listed.encode()).hexdigest()


def file_content(file: Path) -> str:
    """The SHA-256 of the file's bytes. A process reads an unchanged file once."""
    status = file.stat()
    return _remembered(file, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=256)
def _remembered(file: Path, *_: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
