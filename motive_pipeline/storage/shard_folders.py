"""The folders of shards: ``<count>/<number>`` below one folder, on disk or in the bucket of the root.

Below the working copy of a root in a bucket, the folder of a shard is a working copy of its own, with its own lease. So shards write there at the same
time, from any machine, while the root's lease is another's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from motive_pipeline.bucket.lease import KEY as LEASE
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.root_copy import RUN_LOCK, RootCopy, copy_of, open_copy, root_copy_of
from motive_pipeline.storage.root_lock import BucketLock

STATE = "state"
"""What a shard keeps for itself, in its folder; it is in no bucket."""


def shard_lock(folder: Path, what: str) -> FileLock:
    """The lock of the shard in ``folder``. In a bucket it is a lease, and ``folder`` follows the bucket before the lock is given out."""
    root = root_copy_of(folder)
    return FileLock(folder / RUN_LOCK, what) if root is None else BucketLock(_shard_copy(root, folder), lambda: None)


def is_at_work(folder: Path) -> bool:
    """Whether the shard in ``folder`` is at work. One in a bucket that was killed counts as at work until it is run again."""
    if FileLock(folder / RUN_LOCK, "a shard").is_held():
        return True
    root = root_copy_of(folder)
    return root is not None and _shard_copy(root, folder).own_lease.other_holder() is not None


def has_begun(folder: Path) -> bool:
    """Whether the shard in ``folder`` was ever run."""
    root = root_copy_of(folder)
    return folder.is_dir() if root is None else root.bucket.head(f"{root.key(folder)}/{LEASE}") is not None


def shard_sets(shards: Path) -> dict[Path, list[Path]]:
    """Every set of shards in ``shards``: its folder, and those of its shards."""
    found: dict[Path, set[Path]] = {}
    for shard in _two_below(shards):
        found.setdefault(shard.parent, set()).add(shard)
    return {folder: sorted(found[folder]) for folder in sorted(found)}


def shard_stores(folder: Path) -> list[Path]:
    """The folders of the row stores of the shard in ``folder``."""
    return sorted(set(_two_below(folder / "rows")))


def give_up_copies(folder: Path) -> None:
    """Remove this machine's copies of the rows of the shard in ``folder``, if it is in a bucket. The caller has its lock."""
    if (copy := copy_of(folder)) is not None:
        copy.trim(0)


def shown(folder: Path) -> str:
    """Where ``folder`` is, for a message: the address of one in a bucket."""
    root = root_copy_of(folder)
    return str(folder) if root is None else root.bucket.address.below(root.key(folder)).url


def _shard_copy(root: RootCopy, folder: Path) -> RootCopy:
    copy = open_copy(root.bucket.address.below(root.key(folder)), folder, folder / STATE)
    copy.max_bytes = root.max_bytes
    return copy


def _two_below(folder: Path) -> Iterator[Path]:
    """The folders two levels below ``folder``, which may come several times."""
    root = root_copy_of(folder)
    if root is None:
        yield from (path for child in _folders_in(folder) for path in _folders_in(child))
        return
    yield from (folder.joinpath(*names[:2]) for names in root.names_below(folder) if len(names) > 2)


def _folders_in(folder: Path) -> list[Path]:
    """The folders in ``folder``, which is no link; none if it does not exist."""
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() and not folder.is_symlink() else []
