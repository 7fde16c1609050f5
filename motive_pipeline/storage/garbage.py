"""Finds and deletes what no current setting uses below the root: old rows, publications, trainings and videos.

Only :func:`remove_unused` deletes anything. The files of a finished training or video have two names, in ``work/`` and in the publication. So a
piece of ``work/`` is in use exactly if current publications hold all of it, too. In a copy of a root that lost its hard links, the recorded hashes
tell.

Only folders that the pipeline makes are searched, and links are not followed: a link to another disk stays, and so does its target.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.graph import STAGES
from motive_pipeline.storage import atomic
from motive_pipeline.storage.adopting import has_all
from motive_pipeline.storage.publication import DAMAGED, RECORD
from motive_pipeline.storage.root_copy import RootCopy, root_copy_of
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.sealed import Damaged, read_sealed
from motive_pipeline.storage.shard_folders import is_at_work, shard_sets, shard_stores
from motive_pipeline.storage.work_folders import MARKS, marks_of
from motive_pipeline.storage.workspace import POINTER, Workspace

WORK = {"finetune": "finetuned_checkpoint", "videos": "generated_videos"}
"""Folders of ``work/``, and the asset whose parts they keep. While one of its arms is stale, such parts may be unfinished work."""


@dataclass(frozen=True, kw_only=True)
class Unused:
    """Something that can be deleted. ``num_bytes`` is the space that this frees."""

    path: Path
    num_bytes: int
    why: str


def unused(ws: Workspace, *, assets: Collection[str], stale: Collection[str], keep: Collection[Path] = ()) -> list[Unused]:
    """Everything that neither the current settings nor the current publications need, in order of path.

    ``assets`` are those of the current graph, ``stale`` the stale ones among them, ``keep`` further folders to keep.
    """
    published = [publication for asset in sorted(assets) if (publication := ws.published_or_none(asset))]
    kept = {publication.folder for publication in published} | set(keep)
    fingerprints = {ws.config.row_fingerprint(stage) for stage in STAGES}
    fingerprints |= {ws.config.row_fingerprint(asset.stage.name, asset.lane) for asset in ws.graph.assets.values()}
    fingerprints |= {publication.provenance["row_fingerprint"] for publication in published}
    found = {path: "a publication that no longer counts" for path in _publications(ws.root) if path not in kept}
    found |= {path: "rows of other settings" for path in _grandchildren(ws.root / "rows") if path.name not in fingerprints}
    found |= dict(_shards(ws, fingerprints))
    scratch = _children(ws.root / "work" / "scratch")
    for folder in (*scratch, *(lane for path in scratch for lane in _children(path))):
        found |= {path: "a killed run left it" for path in _children(folder) if _is_leftover(path)}
    in_use = {_inode(status) for path in kept for _, status in _files(path)}
    contents = {mark for path in kept for mark in _recorded(path / RECORD)}
    for name, asset in WORK.items():
        if any(each.split("/")[0] == asset for each in stale):
            continue
        for path in _grandchildren(ws.root / "work" / name):
            marks = marks_of(path) if name == "videos" else path / MARKS
            if path != marks and not _is_in_use(path, marks, in_use, contents):
                found |= {each: f"no published {asset} holds it" for each in (path, marks_of(path)) if _exists(each)}
    return _sized(found)


def remove_unused(found: Sequence[Unused]) -> None:
    """Delete what :func:`unused` returned. The caller holds the root's lock.

    Each is first renamed to a name that nothing reads. So if the process is killed, nothing half deleted can be taken for whole.
    """
    for each in found:
        if (copy := root_copy_of(each.path)) is not None:
            copy.delete_below(each.path)
            if not each.path.exists():
                continue
        gone = atomic.temp_beside(each.path)
        os.rename(each.path, gone)
        atomic.remove(gone)


def _publications(root: Path) -> Iterator[Path]:
    """Every version that any asset has published, and what killed runs left beside them."""
    assets = _children(root / "published")
    for folder in (*assets, *(lane for asset in assets for lane in _children(asset))):
        if (folder / POINTER).exists():
            yield from (
                path for path in _children(folder) if any((path / name).exists() for name in (RECORD, DAMAGED)) or _is_leftover(path)
            )


def _shards(ws: Workspace, fingerprints: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Sets of shards whose rows are all in the main root, and rows of other settings in the others. A set with a shard at work is left alone."""
    yield from ((folder, "a killed run left it") for folder in _children(ws.root / "shards") if _is_leftover(folder))
    for folder, shards in shard_sets(ws.root / "shards").items():
        if _is_leftover(folder) or any(map(is_at_work, shards)):
            continue
        stores = [store for shard in shards for store in shard_stores(shard)]
        if all(has_all(ws.store_at(f"{store.parent.name}/{store.name}"), RowStore(store)) for store in stores):
            yield folder, "shards that are merged"
        else:
            yield from ((store, "rows of other settings") for store in stores if store.name not in fingerprints)


def _children(folder: Path) -> list[Path]:
    """What lies in ``folder``; nothing if it is a link or does not exist."""
    return sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _grandchildren(folder: Path) -> list[Path]:
    """What lies two levels below ``folder``, of a root in a bucket also what is only there."""
    found = {path for child in _children(folder) for path in _children(child)}
    if (copy := root_copy_of(folder)) is not None:
        found |= {folder.joinpath(*names[:2]) for names in copy.names_below(folder) if len(names) > 1}
    return sorted(found)


def _is_in_use(path: Path, marks: Path, in_use: Collection[tuple[int, int]], contents: set[tuple[int, str]]) -> bool:
    """Whether current publications hold all of a finished piece of work, whose hashes are in ``marks``."""
    copy = root_copy_of(path)
    files = [status for file, status in _files(path) if file.suffix != ".json"]
    if (files or copy is None) and all(_inode(status) in in_use for status in files):
        return True
    if copy is not None and not marks.exists():
        copy.fetch(marks)
    return all(status.st_nlink == 1 for status in files) and bool(found := _recorded(marks)) and found <= contents


def _exists(path: Path) -> bool:
    return path.exists() or ((copy := root_copy_of(path)) is not None and copy.bucket.head(copy.key(path)) is not None)


def _is_leftover(path: Path) -> bool:
    return path.name.startswith(atomic.TEMP_PREFIX)


def _files(path: Path) -> list[tuple[Path, os.stat_result]]:
    """Every file at or below ``path``."""
    files = path.rglob("*") if path.is_dir() and not path.is_symlink() else [path]
    return [(file, file.lstat()) for file in files if file.is_symlink() or file.is_file()]


def _recorded(record: Path) -> set[tuple[int, str]]:
    """(bytes, SHA-256) of every file but JSON that the record of a publication or of a piece of work lists; none if it cannot be read."""
    try:
        files = read_sealed(record)["files"]
    except (OSError, Damaged, KeyError):
        return set()
    return {(num_bytes, sha256) for name, (num_bytes, sha256) in files.items() if not name.endswith(".json")}


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _sized(found: dict[Path, str]) -> list[Unused]:
    """Add the sizes. A file counts where its last name would be deleted; a file that keeps a name elsewhere counts nowhere. In a bucket each name counts."""
    names_going: Counter[tuple[int, int]] = Counter()
    listed = []
    for path, why in sorted(found.items()):
        num_bytes = 0 if (copy := root_copy_of(path)) is None else _bytes_there(copy, path)
        for _, status in _files(path) if copy is None else ():
            names_going[_inode(status)] += 1
            if names_going[_inode(status)] == status.st_nlink:
                num_bytes += status.st_size
        listed.append(Unused(path=path, num_bytes=num_bytes, why=why))
    return listed


def _bytes_there(copy: RootCopy, path: Path) -> int:
    """What ``path`` and all below it take in the bucket."""
    key = copy.key(path)
    itself = copy.bucket.head(key)
    return (itself.size if itself else 0) + sum(each.size for page in copy.bucket.pages(key) for each in page)


def report_folders(ws: Workspace) -> list[Path]:
    """The publications that the current report names in its ``provenance.json``. They are kept, so that it can be verified."""
    report = ws.published_or_none("eval_report")
    record = report.path / "provenance.json" if report else None
    if record is None or not record.exists():
        return []
    return [ws.root / entry["folder"] for entry in json.loads(record.read_text(encoding="utf-8"))["assets"].values()]
