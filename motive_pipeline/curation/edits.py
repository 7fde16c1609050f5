"""The ticks of a person: clips to keep or to drop, with notes, in a CSV file of the user's own (``subset.edits``), which `motive view` writes.

Columns: ``clip_id``, ``tick`` (``keep``, ``drop`` or empty) and ``note``. The file may be edited by hand. Further columns, and lines that mean nothing here,
stay as they are. If a clip has several lines, the last one counts.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from motive_pipeline.errors import MotiveError
from motive_pipeline.files.hash_memory import ID_DIGITS
from motive_pipeline.storage import atomic

Tick = Literal["keep", "drop", ""]

COLUMNS: tuple[str, ...] = ("clip_id", "tick", "note")
MAX_NOTE = 10_000
"""Letters of a note."""
_SHOWN = 5
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EBADF, errno.EINVAL)
"""What some network disks answer to a lock on a folder. There, two viewers at the same instant are not told apart."""
_ID = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What an edits file says. ``problems`` names the lines that mean nothing; ``stamp`` is :func:`edits_stamp` as it was read."""

    file: Path
    ticks: dict[str, tuple[Tick, str]] = field(default_factory=dict)
    """By clip id: the tick and the note."""
    problems: Sequence[str] = ()
    stamp: str = ""

    def tick(self, clip_id: str) -> Tick:
        """The tick of a clip."""
        return self.ticks.get(clip_id, ("", ""))[0]

    def note(self, clip_id: str) -> str:
        """The note on a clip."""
        return self.ticks.get(clip_id, ("", ""))[1]

    def having(self, tick: str) -> list[str]:
        """The clips with this tick; for ``noted`` those with a note, for ``none`` those with a tick or a note, which are left out."""
        if tick == "none":
            return [clip_id for clip_id, (own, note) in self.ticks.items() if own or note]
        if tick == "noted":
            return [clip_id for clip_id, (_, note) in self.ticks.items() if note]
        return [clip_id for clip_id, (own, _) in self.ticks.items() if own == tick]

    def unknown(self, known: Iterable[str]) -> list[str]:
        """The ids, in order, that are none of ``known``."""
        there = set(known)
        return sorted(clip_id for clip_id in self.ticks if clip_id not in there)


def load_edits(file: Path) -> Edits:
    """The edits in ``file``; none if there is no such file.

    Raises:
        MotiveError: it cannot be read, is not UTF-8, or has no column ``clip_id`` or ``tick``.
    """
    try:
        stamp = _stamp(file)
        header, rows = _read(file)
    except FileNotFoundError:
        return Edits(file=file)
    places = {name: header.index(name) for name in COLUMNS if name in header}
    ticks: dict[str, tuple[Tick, str]] = {}
    problems = []
    for number, row in enumerate(rows, start=2):
        clip_id, tick, note = (row[places[name]].strip() if name in places and places[name] < len(row) else "" for name in COLUMNS)
        if not any(row):
            continue
        if not (is_id := _ID.fullmatch(clip_id)) or tick.lower() not in get_args(Tick):
            what = f"clip_id {clip_id[:40]!r}" if not is_id else f"tick {tick[:40]!r} (allowed: keep, drop, or nothing)"
            problems.append(f"row {number}: {what}")
            continue
        if clip_id in ticks:
            problems.append(f"row {number}: {clip_id} has a row before, which no longer counts")
        ticks[clip_id] = (_tick(tick.lower()), note)
    return Edits(file=file, ticks=ticks, problems=problems, stamp=stamp)


def edits_stamp(file: Path) -> str:
    """Changes when ``file`` does, whoever writes it; empty without one."""
    try:
        return _stamp(file)
    except OSError:
        return ""


def save_tick(file: Path, clip_id: str, tick: Tick | None, note: str | None) -> Edits:
    """Write the tick and the note of one clip into ``file``, in one step, and return what it says then. One that is None stays as the file has it.

    Everything else in the file stays, also what others write meanwhile by this function: only one process at a time reads it and replaces it.

    Raises:
        MotiveError: see :func:`load_edits`; the note is too long, or the file cannot be written.
    """
    if note is not None and len(note) > MAX_NOTE:
        raise MotiveError(f"the note has {len(note)} letters; at most {MAX_NOTE} are allowed")
    try:
        with _alone_in(file.parent):
            return _save(file, clip_id, tick, note)
    except OSError as error:
        raise MotiveError(f"cannot write {file} (subset.edits): {error.strerror}. Nothing was saved.") from error


def _save(file: Path, clip_id: str, tick: Tick | None, note: str | None) -> Edits:
    try:
        header, rows = _read(file)
    except FileNotFoundError:
        header, rows = list(COLUMNS), []
    header = header + [name for name in COLUMNS if name not in header]
    places = {name: header.index(name) for name in COLUMNS}
    own = [row for row in rows if len(row) > places["clip_id"] and row[places["clip_id"]].strip() == clip_id]
    if own:
        row = own[-1]
    else:
        row = [""] * len(header)
        rows.append(row)
    row += [""] * (len(header) - len(row))
    for name, value in (("clip_id", clip_id), ("tick", tick), ("note", None if note is None else " ".join(note.split()))):
        if value is not None:
            row[places[name]] = value
    if sum(map(bool, row)) == 1:  # the id alone is left
        rows.remove(row)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([header, *rows])
    atomic.write_text(file, stream.getvalue())
    return load_edits(file)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process is between reading and replacing a file of ``folder``. The lock is on the folder itself: nothing is left beside the user's file."""
    atomic.make_folder(folder)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


def _stamp(file: Path) -> str:
    status = file.stat()
    return f"{status.st_mtime_ns}-{status.st_size}"


def _tick(text: str) -> Tick:
    return "keep" if text == "keep" else "drop" if text == "drop" else ""


def _read(file: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows. Raises FileNotFoundError, and MotiveError as :func:`load_edits`."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise MotiveError(f"cannot read {file} (subset.edits): {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MotiveError(f"{file} (subset.edits) is not UTF-8 text. Save it as CSV in UTF-8; it was left as it is.") from error
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise MotiveError(f"{file} (subset.edits) is no CSV file ({error}). It was left as it is.") from error
    header = [name.strip() for name in rows[0]] if rows else list(COLUMNS)
    if missing := [name for name in COLUMNS[:2] if name not in header]:
        raise MotiveError(
            f"{file} (subset.edits) has no column {missing[0]}. Its first row must name the columns {', '.join(COLUMNS)}; it was left as it is."
        )
    return header, rows[1:]


def in_words(ids: Sequence[str]) -> str:
    """The first ids, and how many more there are."""
    return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")
