"""Archives that cannot be read in place: how each is known, and what a person can do with it."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

UNREAD_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".7z", ".rar")

_UNPACK = "unpack it, and name the folder"
_REPACK = f"{_UNPACK}, or pack it again as a plain .tar"
_KINDS = {
    b"\x1f\x8b": f"compressed with gzip, so no member can be read by itself; {_REPACK}",
    b"BZh": f"compressed with bzip2, so no member can be read by itself; {_REPACK}",
    b"\xfd7zXZ\0": f"compressed with xz, so no member can be read by itself; {_REPACK}",
    b"\x28\xb5\x2f\xfd": f"compressed with zstd, so no member can be read by itself; {_REPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive; {_UNPACK} (7z x FILE)",
    b"Rar!\x1a\x07": f"a RAR archive; {_UNPACK} (unrar x FILE)",
}
"""The first bytes of a file, and what it is."""

_SPANNED_PART = re.compile(r"\.z[0-9]{2}$", re.IGNORECASE)


def unread_kind(head: bytes) -> str | None:
    """What an archive is that begins with ``head``, and what to do; None if it is none of these."""
    return next((words for magic, words in _KINDS.items() if head.startswith(magic)), None)


def has_unread_name(name: str) -> bool:
    """Whether a file called ``name`` is an archive that cannot be read in place."""
    return name.lower().endswith(UNREAD_SUFFIXES)


def is_spanned_part(name: str) -> bool:
    """Whether ``name`` is that of a part of a zip in several files, but not of the last part, which ends in ``.zip``."""
    return _SPANNED_PART.search(name) is not None


def parts_without_last(names: Collection[str]) -> list[str]:
    """The lowest part of each zip in several files whose last part is not among ``names``."""
    zips = {name.lower() for name in names}
    lowest: dict[str, str] = {}
    for name in sorted(filter(is_spanned_part, names)):
        last = f"{name[:-4]}.zip".lower()
        if last not in zips:
            lowest.setdefault(last, name)
    return list(lowest.values())


def spanned_problem(archive: Path) -> tuple[str, str] | None:
    """Why a zip in several files (``x.z01``, ``x.z02``, ``x.zip``) cannot be read; None for any other archive. Raises OSError."""
    if archive.suffix.lower() != ".zip" and not is_spanned_part(archive.name):
        return None
    stem = archive.stem.lower()
    names = sorted(os.listdir(archive.parent))
    parts = [name for name in names if is_spanned_part(name) and os.path.splitext(name)[0].lower() == stem]
    if not parts:
        return None
    if not any(name.lower() == f"{stem}.zip" for name in names):
        return (
            "incomplete_archive",
            f"{', '.join(parts[:3])} are parts of a zip in several files, whose last part, {archive.stem}.zip, is missing",
        )
    whole = f"zip -s 0 {archive.stem}.zip --out whole.zip"
    return "unsupported_archive", f"a zip in several files ({', '.join(parts[:3])}, {archive.stem}.zip); make one of them: {whole}"
