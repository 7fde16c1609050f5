"""Read the raters' result files, check that the study's page can have written them, and return their votes.

A file counts as a whole or not at all. A file that does not count is a rejected row with a reason. The checksum detects damage and manual
edits. It is not a signature: anyone who reads the page's script can compute it, so results are only as trustworthy as the raters.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from motive_pipeline.errors import ConfigError, RejectRow
from motive_pipeline.evaluation.preference.key import FORMAT, Key
from motive_pipeline.files.file_stat import printable, unlisted
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.visible_text import visible_text

MAX_BYTES = 4_000_000
MAX_NUMBER = 2**53 - 1
"""The largest whole number that JavaScript, and so the page, counts exactly."""

DEFAULT_FOLDER = "preference_results"

WHOLE_WITHIN_S = 60.0
"""A file that is not valid JSON and was written less than this ago may still be in the middle of a copy."""


Count = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]*$", max_length=64)]
VideoName = Annotated[str, Field(pattern=r"^[0-9a-f]+\.mp4$", max_length=64)]


class RaterVote(BaseModel):
    """One answer as the page writes it. ``turn`` is the place in the plan, ``ms`` the time in milliseconds from showing the pair to the answer."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    turn: Count
    left: VideoName
    right: VideoName
    choice: Literal["left", "right", "tie", "skip"]
    plays: Count
    ms: Count


class RaterResult(BaseModel):
    """The content of one result file. ``saved`` counts the files that the rater has saved so far; 0 in a file of a page that did not count."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Count
    study: Hex
    rater: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    plan: Count
    saved: Count = 0
    votes: list[RaterVote]
    checksum: Hex

    def expected_checksum(self) -> str:
        """SHA-256 of the same text that the page hashes."""
        head = [str(self.format), self.study, self.rater, str(self.plan), *([str(self.saved)] if self.saved else [])]
        lines = [" ".join(str(value) for value in vote.model_dump().values()) for vote in self.votes]
        text = "\n".join([*head, *lines])
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class ResultFile:
    """A file that counts."""

    path: Path
    result: RaterResult


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A file that does not count, and why."""

    path: Path
    reason: str
    detail: str


def results_folder(ws: Workspace) -> Path:
    """The folder of result files: ``preference.results_path``, else a folder below the root."""
    return ws.config.preference.results_path or ws.root / DEFAULT_FOLDER


def result_files(ws: Workspace) -> list[Path]:
    """Every file in and below the folder, except hidden ones, and every folder there that cannot be listed (as a file, it cannot be read); none
    while the default folder does not exist.

    Raises:
        ConfigError: ``preference.results_path`` is not a folder.
    """
    folder = results_folder(ws)
    if ws.config.preference.results_path is not None and not folder.is_dir():
        raise ConfigError(
            f"preference.results_path = {str(folder)!r}: no such folder. Create it, or leave the key out to use {DEFAULT_FOLDER}/ below storage.root."
        )
    found, closed = list[Path](), list[Path]()
    for parent, below, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename or folder))):
        below[:] = [name for name in below if not name.startswith(".")]
        found += [Path(parent, name) for name in names if not name.startswith(".")]
    return sorted([path for path in found if _is_file(path)] + [path for path in closed if os.path.isdir(path)])


def _is_file(path: Path) -> bool:
    """Whether this is a file, or what cannot be looked at."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        return not isinstance(error, FileNotFoundError)


def observe_preference_files(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """(data version, facts) of the result files as they are now.

    Raises:
        ConfigError: as :func:`result_files`.
    """
    folder, files = results_folder(ws), result_files(ws)
    found = [[path.relative_to(folder).as_posix(), _hash(path)] for path in files]
    return digest(found), {"folder": str(folder), "files": len(files)}


def results_being_written(ws: Workspace, *, settle_s: float, now_s: float | None = None) -> list[Path]:
    """Result files that were written less than ``settle_s`` seconds ago, or look like an unfinished copy."""
    now_s = time.time() if now_s is None else now_s
    return [path for path in result_files(ws) if _unsettled(path, now_s, settle_s)]


def load_results(files: Sequence[Path], key: Key) -> tuple[list[ResultFile], list[Refusal]]:
    """The files that count, one for each rater, and the other files with a reason."""
    read: list[ResultFile] = []
    refused: list[Refusal] = []
    for path in files:
        try:
            read.append(ResultFile(path=path, result=_checked(_parsed(path), key)))
        except RejectRow as rejection:
            refused.append(Refusal(path=path, reason=rejection.reason, detail=rejection.detail))
    taken, doubled = _one_per_rater(read)
    return taken, sorted([*refused, *doubled], key=lambda refusal: str(refusal.path))


def _hash(path: Path) -> str:
    """The SHA-256 of a file as :func:`load_results` reads it, or the error text of a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"


def _unsettled(path: Path, now_s: float, settle_s: float) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    ages_s = [now_s - stamp_s for stamp_s in (status.st_mtime, status.st_ctime)]
    if any(0 <= age_s < settle_s for age_s in ages_s):
        return True
    if not any(0 <= age_s < WHOLE_WITHIN_S for age_s in ages_s):
        return False
    try:
        _parsed(path)
    except RejectRow as rejection:
        return rejection.reason == "not_json"
    return False


def _parsed(path: Path) -> RaterResult:
    """The content of a file as the page saves it. A mark of the byte order, and UTF-16 or UTF-32, are read: mail programs and editors write them."""
    raw = _json(_bytes(path))
    try:
        return RaterResult.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = visible_text(".".join(str(part) for part in first["loc"])[:80]) or "(file)"
        raise RejectRow("not_a_result", f"not what the study's page writes: {where}: {first['msg']}") from error


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise RejectRow("too_large", f"{path.stat().st_size} bytes; a result file has a few KB, at most {MAX_BYTES}")
    except OSError as error:
        raise RejectRow("unreadable", unlisted(error) if os.path.isdir(path) else f"cannot be read: {error.strerror}") from error
    return data


def _json(data: bytes) -> Any:
    """Also what is valid JSON in Python but nothing the page writes is refused: a key twice, NaN, a number of 5,000 digits, 100,000 brackets."""
    try:
        text = data.decode(json.detect_encoding(data))
        return json.loads(text, object_pairs_hook=_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RejectRow("not_json", f"not a result file of the study's page: {visible_text(str(error))}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:80]!r} is given twice")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _checked(result: RaterResult, key: Key) -> RaterResult:
    """``result``, if the page of this study can have written it; otherwise a :class:`RejectRow`."""
    if result.format != FORMAT:
        raise RejectRow("other_format", f"written in format {result.format}; this version reads {FORMAT}")
    if result.study != key.study:
        raise RejectRow(
            "other_study",
            f"made with the bundle of study {result.study[:40]}; the current study is {key.study}. Votes count only for their own bundle. If you "
            "restore its settings and videos, they count again.",
        )
    if result.checksum != result.expected_checksum():
        raise RejectRow("wrong_checksum", "changed after it was saved, or damaged")
    if result.plan >= key.num_plans:
        raise RejectRow("impossible_vote", f"plan {result.plan}; the bundle has plans 0 to {key.num_plans - 1}")
    plan = key.plan(result.plan)
    turns = [vote.turn for vote in result.votes]
    if len(set(turns)) < len(turns):
        raise RejectRow("impossible_vote", "answers the same pair twice")
    for vote in result.votes:
        if vote.turn >= len(plan):
            raise RejectRow("impossible_vote", f"answers pair {vote.turn + 1} of {len(plan)}")
        if (vote.left, vote.right) != (plan[vote.turn].left, plan[vote.turn].right):
            raise RejectRow("impossible_vote", f"pair {vote.turn + 1} of plan {result.plan} shows other videos")
        if vote.choice != "skip" and vote.plays < 1:
            raise RejectRow("impossible_vote", f"pair {vote.turn + 1} was answered before it was seen once")
    if not result.votes:
        raise RejectRow("no_votes", "holds no answer")
    return result


def _one_per_rater(read: Sequence[ResultFile]) -> tuple[list[ResultFile], list[Refusal]]:
    """Of several files of one rater, the one saved last: a rater who saves, changes an answer or goes on, and saves again leaves two files.

    Of files with the same count the one with most answers counts.
    """
    by_rater: dict[str, list[ResultFile]] = {}
    for file in sorted(read, key=lambda file: (-file.result.saved, -len(file.result.votes), str(file.path))):
        by_rater.setdefault(file.result.rater, []).append(file)
    taken = [files[0] for _, files in sorted(by_rater.items())]
    doubled = [
        Refusal(
            path=other.path,
            reason="duplicate",
            detail=f"another file of rater {rater} counts: {printable(first.path.name)}, {_place(first)}. This file: {_place(other)}.",
        )
        for rater, (first, *others) in by_rater.items()
        for other in others
    ]
    return taken, doubled


def _place(file: ResultFile) -> str:
    return f"number {file.result.saved} that the rater saved, with {len(file.result.votes)} answers"
