"""Archives that ``split`` cut into several files: ``OpenVid_part73_partaa``, ``OpenVid_part73_partab``, ...

Such an archive is known by the name of its first part and read as a whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from motive_pipeline.errors import RejectRow
from motive_pipeline.files.file_stat import FileStat, file_stat

FIRST_PART = re.compile(r"^(?P<stem>.+?)(?P<mark>[._-](?:part)?)(?P<count>aa|00|001)$")
"""Names of first parts: OpenVid's ``OpenVid_part73_partaa``, Pexels' ``pexels_45k.tar.00``."""

_ANY_PART = re.compile(r"^(?P<head>.+[._-]part|.+\.(?:zip|tar)[._-])(?P<count>(?!gz|xz|bz|lz)[a-z]{2}|[0-9]{2,3})$")
"""Names that can only be parts of an archive; ``x.tar.gz`` is none. ``FIRST_PART`` is wider, since many other files end in ``_01``."""


def archive_parts(archive: Path) -> list[Path]:
    """The files that make up ``archive``: ``archive`` alone, or every part of one that was split, in order.

    Raises:
        RejectRow: ``incomplete_archive``: the first part, or a part between two others, is missing.
        OSError: the folder cannot be listed.
    """
    found = FIRST_PART.match(archive.name)
    if found is None:
        first = _first_part(archive.name)
        if first is not None and not (archive.parent / first).exists():
            raise RejectRow("incomplete_archive", f"a part of a split archive whose first part, {first}, is missing")
        return [archive]
    head, width = found["stem"] + found["mark"], len(found["count"])
    count = re.compile(rf"^{re.escape(head)}(?P<count>{'[a-z]' if found['count'] == 'aa' else '[0-9]'}{{{width}}})$")
    numbered = {_number(match["count"]): archive.parent / name for name in os.listdir(archive.parent) if (match := count.match(name))}
    missing = [number for number in range(_number(found["count"]), max(numbered, default=0)) if number not in numbered]
    if missing:
        raise RejectRow("incomplete_archive", f"{len(missing)} of the parts {head}* are missing; the first is number {missing[0] + 1}")
    return [numbered[number] for number in sorted(numbered)] if len(numbered) > 1 else [archive]


def archive_stat(archive: Path) -> FileStat:
    """The stat of ``archive``. For a split archive: of its first part, with the size of all parts and the time of the youngest.

    Raises:
        RejectRow: ``incomplete_archive``.
        OSError: a part does not exist, or cannot be looked at.
    """
    stats = [file_stat(part) for part in archive_parts(archive)]
    return stats[0]._replace(
        size=sum(each.size for each in stats),
        mtime_ns=max(each.mtime_ns for each in stats),
        ctime_ns=max(each.ctime_ns for each in stats),
    )


def parts_without_first(names: Collection[str]) -> list[str]:
    """The lowest part of each split archive whose first part is not among ``names``."""
    lowest: dict[str, str] = {}
    for name in sorted(names):
        first = _first_part(name)
        if first is not None and first not in names:
            lowest.setdefault(first, name)
    return list(lowest.values())


def _first_part(name: str) -> str | None:
    """The name of the first part, if ``name`` is that of a later one."""
    found = _ANY_PART.match(name)
    if found is None:
        return None
    first = "aa" if found["count"].isalpha() else "001" if len(found["count"]) == 3 else "00"
    return found["head"] + first if found["count"] != first else None


def _number(count: str) -> int:
    return int(count) if count.isdigit() else 26 * (ord(count[0]) - ord("a")) + ord(count[1]) - ord("a")
