"""Check a report against its ``provenance.json``: the report's own files, the assets they were made from, the clips, the model.

``python -m motive_pipeline.report.verify REPORT_FOLDER`` needs no config. Files that are missing are listed as not checked.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from motive_pipeline.errors import MotiveError
from motive_pipeline.files.hash_memory import clip_id_of
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.models.folder import folder_hash
from motive_pipeline.report.provenance_record import FILE, FORMAT, content_hash
from motive_pipeline.visible_text import tell

CheckOutcome = Literal["ok", "WRONG", "not checked"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: its outcome, its subject, and a detail."""

    outcome: CheckOutcome
    what: str
    detail: str = ""


def verify(report: Path, *, clips: Sequence[Path] = (), model: Path | None = None) -> list[Check]:
    """Every check of the report in the folder ``report``.

    If the report still lies below its root, the published assets are checked too, and the clips at the paths in the catalogs. ``clips`` names
    other folders to look for clips and queries, ``model`` the folder of the base model.

    Raises:
        MotiveError: there is no record, or it has a format that this version does not read.
    """
    record = _load(report)
    root = next((folder for folder in report.resolve().parents if (folder / "published").is_dir()), None)
    hash_of = _cached_hash()
    checks = [*_report_files(report, record, hash_of), *_chain(record), *_assets(root, record, hash_of)]
    checks += _clips(_possible_files(root, record, clips), record, hash_of)
    checks.append(_model(model, record))
    return checks


def _load(report: Path) -> dict[str, Any]:
    file = report / FILE
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        found = record["format"]
    except OSError as error:
        raise MotiveError(f"{file}: {error.strerror}. Name the folder that holds report.html and {FILE}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MotiveError(f"{file} is not the record of a report ({error})") from error
    if found != FORMAT:
        raise MotiveError(f"{file} has format {found}; this version reads {FORMAT}. Take the version of motive-pipeline that it names.")
    return record


def _report_files(report: Path, record: dict[str, Any], hash_of: Callable[[Path], str]) -> Iterator[Check]:
    for name, expected in record["report"].items():
        yield _compare(f"the report's {name}", report / name, expected, hash_of)


def _chain(record: dict[str, Any]) -> Iterator[Check]:
    """Each asset was made from the versions of its inputs that the record names."""
    assets = record["assets"]
    wrong = [
        Check(outcome="WRONG", what=asset, detail=f"was made from another version of {upstream} than the report")
        for asset, entry in assets.items()
        for upstream, version in entry["upstream"].items()
        if assets[upstream]["data_version"] != version
    ]
    yield from wrong or [Check(outcome="ok", what=f"{len(assets)} assets were made from one another")]


def _assets(root: Path | None, record: dict[str, Any], hash_of: Callable[[Path], str]) -> Iterator[Check]:
    for asset, entry in record["assets"].items():
        folder = root / entry["folder"] if root else None
        if folder is None or not folder.is_dir():
            yield Check(outcome="not checked", what=asset, detail=f"{entry['folder']} is not here")
        else:
            yield _compare(asset, folder, entry["content"], functools.partial(content_hash, hash_of=hash_of))


def _possible_files(root: Path | None, record: dict[str, Any], clips: Sequence[Path]) -> dict[str, list[Path]]:
    """The possible files of each clip and query."""
    names = record["clips"] | record["queries"]
    if clips:
        return {clip: [folder / name for folder in clips for name in files] for clip, files in names.items()}
    places: dict[str, list[Path]] = {clip: [] for clip in names}
    for asset, table, column in (("clip_catalog", "catalog", "clip_id"), ("query_catalog", "queries", "query_id")):
        file = root / record["assets"][asset]["folder"] / f"{table}.parquet" if root else None
        if file is not None and file.exists():
            catalog = pd.read_parquet(file, columns=[column, "path"])
            for clip, path in zip(catalog[column], catalog["path"], strict=True):
                places.setdefault(str(clip), []).append(Path(str(path)))
    return places


def _clips(places: dict[str, list[Path]], record: dict[str, Any], hash_of: Callable[[Path], str]) -> Iterator[Check]:
    """Check that every clip and query has the content that its id states.

    Two sources may use one file name, so a file with the content of another clip of the record does not show a change.
    """
    known = record["clips"] | record["queries"]
    good, missing = 0, []
    for clip, names in sorted(known.items()):
        files = {path: MediaFile.parse(path) for path in places[clip]}
        found = {clip_id_of(hash_of(path), file.window): path for path, file in files.items() if file.path.is_file()}
        changed = [path for content, path in found.items() if content not in known]
        if clip in found:
            good += 1
        elif changed:
            yield Check(outcome="WRONG", what=f"clip {clip}", detail=f"{changed[0]} has other content now")
        else:
            missing.append(names[0])
    if good:
        yield Check(outcome="ok", what=f"{good} clips and queries")
    if missing:
        yield Check(
            outcome="not checked", what=f"{len(missing)} clips and queries", detail=f"not found, for instance {missing[0]} (--clips FOLDER)"
        )


def _model(folder: Path | None, record: dict[str, Any]) -> Check:
    name, expected = record["model"]["name"], record["model"]["hash"]
    if folder is None:
        return Check(outcome="not checked", what=f"the base model {name}", detail=f"its hash is {expected} (--model FOLDER)")
    with tempfile.TemporaryDirectory() as scratch:
        return _compare(f"the base model {name}", folder, expected, lambda path: folder_hash(path, Path(scratch) / "hashes.json"))


def _compare(what: str, path: Path, expected: str, hash_of: Callable[[Path], str]) -> Check:
    if not path.exists():
        return Check(outcome="WRONG", what=what, detail=f"{path} is missing")
    if hash_of(path) != expected:
        return Check(outcome="WRONG", what=what, detail=f"{path} was changed after the report was made")
    return Check(outcome="ok", what=what)


def _cached_hash() -> Callable[[Path], str]:
    """A function for the SHA-256 of files and of archive members. A file with several names is read once."""
    known: dict[tuple[int, int, str], str] = {}

    def hash_of(path: Path) -> str:
        file = MediaFile.parse(path)
        stat = file.current_stat()
        identity = (stat.device, stat.inode, file.member)
        if identity not in known:
            with file.open() as stream:
                known[identity] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
        return known[identity]

    return hash_of


def print_checks(checks: Sequence[Check]) -> int:
    """Print every check; the exit code: 1 when something is wrong."""
    for check in checks:
        tell(f"{check.outcome:11}  {check.what}{': ' + check.detail if check.detail else ''}")
    wrong = sum(check.outcome == "WRONG" for check in checks)
    tell(f"{wrong} of {len(checks)} checks failed" if wrong else "no check failed")
    return 1 if wrong else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Print every check. The exit code is 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m motive_pipeline.report.verify", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path, help=f"the folder that holds report.html and {FILE}")
    parser.add_argument("--clips", type=Path, action="append", default=[], help="a folder of clips or queries; may be given several times")
    parser.add_argument("--model", type=Path, help="the folder of the base model")
    arguments = parser.parse_args(argv)
    try:
        checks = verify(arguments.report, clips=arguments.clips, model=arguments.model)
    except MotiveError as error:
        tell(error, file=sys.stderr)
        return 1
    return print_checks(checks)


if __name__ == "__main__":
    sys.exit(main())
