"""The working copy of a root in a bucket. The bucket has the layout of a local root, one object a file; all code works on the copy.

What counts is what the bucket holds. Before a process reads, the copy follows the bucket (:meth:`RootCopy.follow`). The driver, which has the lease,
writes each commit and each publication to the bucket in the order of a disk: what is pointed to first, the pointer last and under a condition
(:meth:`RootCopy.push`, :meth:`RootCopy.publish`). So a reader, or a run after a kill, finds each whole or not at all. What a killed driver left in its
copy only, one batch at most, is removed.

Fetched only when opened: segments of row stores, large files of publications, and finished trainings and videos below ``work/``. The score tables are made again from the
publications wherever they are behind; their own objects are written when a run ends.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from motive_pipeline.bucket.address import Address
from motive_pipeline.bucket.borrowed_lease import BorrowedLease
from motive_pipeline.bucket.client import PART_BYTES, Bucket, Tag
from motive_pipeline.bucket.lease import Lease
from motive_pipeline.bucket.trouble import Absent, BucketError, Conflict
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.object_index import Known, ObjectIndex

__all__ = ["RootCopy", "copy_of", "open_copy", "root_copy_of"]

log = logging.getLogger(__name__)

FOLLOWED = ("published", "history")
"""Folders that the copy holds whole."""

POINTERS = ("current.json", "manifest.json")
"""Files that name others; fetched and written last."""

DATA, SEGMENT, RUN_LOCK, MANIFEST, LAYOUT = "data", ".safetensors", "run.lock", "scores/manifest.json", "layout.json"
OF = "bucket.json"
"""The file of the state that says which address the copy is of."""

WORK_MARKS = "files.json"
"""The file that is written last into a folder of finished work."""

_SAVED_STATE = "-step-"
"""In the name of the folder of an unfinished training, which stays on its machine."""

LARGE_BYTES = 2**25
"""Published files above this size are fetched when the publication's data are first read."""

COPIED_BYTES = 2**20
"""A file above this size that was written under another name before is copied by the server, not sent again."""

_AT_ONCE = 16
_FRESH_FOR_S = 2.0
_MOST_LOOKS = 5
_copies: dict[Path, RootCopy] = {}


def open_copy(address: Address, root: Path, state: Path) -> RootCopy:
    """The working copy ``root`` of ``address``; one object for each folder in a process. ``state`` keeps what the copy knows of the bucket.

    Raises:
        MotiveError: ``state`` has the copy of another address, or the client library is missing.
    """
    found = _copies.get(root)
    if found is None or found.bucket.address != address or not (state / OF).exists():  # the state was deleted since
        found = _copies[root] = RootCopy(Bucket(address), root, state)
    return found


def copy_of(path: Path) -> RootCopy | None:
    """The working copy that ``path`` lies in, if this process has opened it: a shard's own rather than the root's; None for files of a local root."""
    return max(_copies_around(path), key=lambda copy: len(copy.root.parts), default=None)


def root_copy_of(path: Path) -> RootCopy | None:
    """The working copy of the whole root that ``path`` lies in; None as for :func:`copy_of`."""
    return min(_copies_around(path), key=lambda copy: len(copy.root.parts), default=None)


def _copies_around(path: Path) -> Iterator[RootCopy]:
    return (copy for root, copy in _copies.items() if path.is_relative_to(root))


class RootCopy:
    """See the module. ``root`` is the copy's folder."""

    def __init__(self, bucket: Bucket, root: Path, state: Path) -> None:
        self.bucket = bucket
        self.root = root
        self.index = ObjectIndex(state / "bucket.sqlite")
        self.own_lease = Lease(bucket, _copy_id(state / OF, bucket.address))
        self.lease: Lease | BorrowedLease = self.own_lease
        """What this process writes under: its own lease, unless it works in the stead of a driver elsewhere."""
        self._arriving = state / "arriving"
        self._following = threading.RLock()
        self._pull_lock = FileLock(state / "pull.lock", f"the copy of {bucket.address}")
        self._run_lock = FileLock(root / RUN_LOCK, f"the store {root}")
        self._rows: dict[str, dict[str, int]] = {}
        self.max_bytes = 100 * 10**9
        """Segments that the bucket has are kept in the copy up to this sum of bytes; those read or written longest ago go first."""
        self._untrimmed = 0
        self._sent: dict[tuple[int, int, int, int], str] = {}
        self._followed_at = -_FRESH_FOR_S

    # -- following the bucket ------------------------------------------------------------------------------------------------------

    def follow(self, then: Callable[[], None], *, again: bool = False) -> None:
        """Make the copy show what the bucket holds now, then call ``then``. Nothing happens while a driver of this machine works on the copy, or, unless
        ``again``, if the copy followed a moment ago.

        Raises:
            BucketError: the bucket cannot be read.
        """
        with self._following:
            is_fresh = not again and time.monotonic() - self._followed_at < _FRESH_FOR_S
            if is_fresh or self.lease.is_held or self._run_lock.is_held():
                return
            with self._pull_lock.holding(wait_s=3600.0):
                if not self._run_lock.is_held():
                    self._follow(then)

    def begin(self, then: Callable[[], None]) -> None:
        """As :meth:`follow`, for the driver, which holds the copy's run lock and the lease: what only the copy has is removed."""
        with self._following, self._pull_lock.holding(wait_s=3600.0):
            shutil.rmtree(self._arriving, ignore_errors=True)
            self._follow(then)
            self.trim()

    def _follow(self, then: Callable[[], None]) -> None:
        self._rows.clear()
        atomic.make_folder(self.root)
        for folder in FOLLOWED:
            self._pull(folder)
            if self.lease.is_held:
                self._remove_what_is_not_there(folder)
        self._pull_scores()
        if (layout := self.bucket.head(LAYOUT)) is not None:
            self._fetch_all([known for known in self.index.saw([layout], 0) if not known.is_at(self.root / LAYOUT)])
        then()
        self._followed_at = time.monotonic()

    def _pull(self, folder: str) -> None:
        """Fetch what is new in ``folder``, and remove what has gone. A pointer never shows before what it points to."""
        for _ in range(_MOST_LOOKS):
            pointers = self._pull_once(folder)
            if all(self._is_whole(pointer) for pointer in pointers):
                return
        raise MotiveError(f"{self.bucket.address}: {folder} changes faster than it can be read. Run again.")

    def _pull_once(self, folder: str) -> list[Path]:
        """As :meth:`_pull`; the pointers that were fetched."""
        listing = self.index.next_listing()
        wanted: list[Known] = []
        for page in self.bucket.pages(folder):
            wanted += [known for known in self.index.saw(page, listing) if not known.is_at(self.root / known.key)]
        self._forget_absent(self.index.unseen(folder, listing))
        pointers = [known for known in wanted if known.key.endswith(POINTERS)]
        self._fetch_all([known for known in wanted if not known.key.endswith(POINTERS) and not self._is_lazy(known)])
        self._fetch_all(pointers)
        return [self.root / known.key for known in pointers]

    def _is_lazy(self, known: Known) -> bool:
        """Whether the object is fetched only when it is opened. The folder of a large published file is made, so that the publication shows."""
        if known.key.startswith("rows/"):
            return known.key.endswith(SEGMENT)
        if known.size <= LARGE_BYTES or f"/{DATA}/" not in known.key:
            return False
        (self.root / known.key).parent.mkdir(parents=True, exist_ok=True)
        return True

    def far_below(self, folder: Path) -> dict[str, int]:
        """Name below ``folder`` and size of the objects that are not fetched yet."""
        prefix = self.key(folder)
        return {each.key[len(prefix) + 1 :]: each.size for each in self.index.below(prefix) if each.mtime_ns is None}

    def fetch_rest(self, folder: Path) -> None:
        """Fetch what :meth:`far_below` gives."""
        self._fetch_all([each for each in self.index.below(self.key(folder)) if each.mtime_ns is None])

    def _is_whole(self, pointer: Path) -> bool:
        """Whether what ``pointer`` names is there: it may have been published after the listing."""
        try:
            version = json.loads(pointer.read_bytes())["version"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return True  # damaged, which its reader says
        return (pointer.parent / version).is_dir()

    def _forget_absent(self, keys: Sequence[str]) -> None:
        """Remove the copies of objects that a listing did not show, if they are really gone: listings may lag."""
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            gone = [key for key, found in zip(keys, workers.map(self.bucket.head, keys), strict=True) if found is None]
        for key in gone:
            atomic.remove(self.root / key)
        self.index.forget(gone)

    def _remove_what_is_not_there(self, folder: str) -> None:
        """Remove files of the copy that the bucket does not have: a killed driver left them."""
        known = {each.key for each in self.index.below(folder)}
        for parent, _, names in os.walk(self.root / folder, topdown=False):
            for name in names:
                file = Path(parent, name)
                if self.key(file) not in known:
                    file.unlink()
            if not os.listdir(parent) and parent != str(self.root / folder):
                os.rmdir(parent)

    def _pull_scores(self) -> None:
        """Take over the bucket's score tables if another machine wrote them since this one last did."""
        remote, known = self.bucket.head(MANIFEST), self.index.get(MANIFEST)
        if remote is None or (known is not None and known.tag == remote.tag and (self.root / MANIFEST).exists()):
            return
        kept = {each.key.split("/")[1] for each in self.index.below("scores") if each.mtime_ns is not None}
        for version in (self.root / "scores").glob("v*"):
            if version.name not in kept:
                atomic.remove(version)
        self._pull("scores")

    # -- fetching ------------------------------------------------------------------------------------------------------------------

    def fetch(self, path: Path) -> bool:
        """Bring the object of ``path`` into the copy; False if the bucket has none."""
        key = self.key(path)
        if (known := self.index.get(key)) is None and (found := self.bucket.head(key)) is not None:
            known = Known(key, found.size, found.tag, None)
        if known is None:
            return False
        return self._fetch(known)

    def names_below(self, folder: Path) -> Iterator[list[str]]:
        """For every object of the bucket in ``folder``: the names on the way to it, its own last."""
        prefix = self.key(folder)
        for page in self.bucket.pages(prefix):
            yield from (each.key[len(prefix) + 1 :].split("/") for each in page)

    def fetch_below(self, folder: Path) -> None:
        """Bring everything in ``folder`` into the copy."""
        listing = self.index.next_listing()
        for page in self.bucket.pages(self.key(folder)):
            self._fetch_all([known for known in self.index.saw(page, listing) if not known.is_at(self.root / known.key)])

    def _fetch_all(self, objects: Sequence[Known]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            list(workers.map(self._fetch, objects))

    def _fetch(self, known: Known) -> bool:
        """Copy one object; False if it has gone. Not flushed: after a power cut, size or hash tell that a copy is not whole."""
        path = self.root / known.key
        self._arriving.mkdir(parents=True, exist_ok=True)
        temp = self._arriving / uuid.uuid4().hex
        try:
            for attempt in range(_MOST_LOOKS):
                try:
                    found = self.bucket.download(known.key, temp, known.size)
                    break
                except Absent:
                    self._forget_absent([known.key])
                    return False
                except Conflict:
                    temp.unlink(missing_ok=True)
                    if attempt + 1 == _MOST_LOOKS:
                        raise
            path.parent.mkdir(parents=True, exist_ok=True)
            mtime_ns = temp.stat().st_mtime_ns
            os.replace(temp, path)
        finally:
            temp.unlink(missing_ok=True)
        self.index.copied([(known.key, found.size, found.tag, mtime_ns)])
        return True

    def fetch_again(self, path: Path) -> bool:
        """Fetch ``path`` anew: its copy was found damaged. False if the bucket has none."""
        self.index.forget_copies(self.key(path))
        return self.fetch(path)

    def doubt(self, folder: Path) -> None:
        """The copies in ``folder`` were found damaged: the next pull fetches them again."""
        self.index.forget_copies(self.key(folder))

    # -- row stores ----------------------------------------------------------------------------------------------------------------

    def rows_in(self, folder: Path) -> dict[str, int]:
        """Name and size of every object in the folder of a row store's commits; the records are in the copy, the segments need not be."""
        prefix = self.key(folder)
        with self._following:
            if prefix not in self._rows:
                if self.lease.is_held or not self._run_lock.is_held():
                    self._pull_once(prefix)
                    if self.lease.is_held and folder.is_dir():
                        self._remove_what_is_not_there(prefix)
                self._rows[prefix] = {each.key[len(prefix) + 1 :]: each.size for each in self.index.below(prefix)}
            return self._rows[prefix]

    def trim(self, max_bytes: int | None = None) -> None:
        """Remove segments above ``max_bytes``, by default :attr:`max_bytes`. One that a process has open stays readable for it, and any is fetched again when it is opened."""
        self._untrimmed = 0
        found = [(max(status.st_atime_ns, status.st_mtime_ns), status.st_size, file) for file, status in self._segments_here()]
        over = sum(size for _, size, _ in found) - (self.max_bytes if max_bytes is None else max_bytes)
        for _, size, file in sorted(found):
            if over <= 0:
                return
            if self.index.get(self.key(file)) is not None:
                file.unlink(missing_ok=True)
                over -= size

    def _segments_here(self) -> Iterator[tuple[Path, os.stat_result]]:
        for file in (self.root / "rows").glob(f"*/*/segments/*{SEGMENT}"):
            with suppress(FileNotFoundError):
                yield file, file.stat()

    # -- writing -------------------------------------------------------------------------------------------------------------------

    def push(self, files: Sequence[Path], *, once: bool = False) -> None:
        """Write ``files`` to the bucket, several at a time. With ``once`` their names are never used again, and none may be there with another content.

        Raises:
            LeaseLost: another driver has taken over.
            BucketError: the bucket cannot be written.
        """
        self.lease.check()
        self._push_layout()
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            done = list(workers.map(lambda file: self._put(file, once), files))
        self.index.copied(done)
        if once:
            self._untrimmed += sum(size for _, size, _, _ in done)
            if self._untrimmed > self.max_bytes / 10:
                self.trim()
        for file, (key, size, _, _) in zip(files, done, strict=True):
            prefix = key.rpartition("/")[0]
            if prefix in self._rows:
                self._rows[prefix][file.name] = size

    def _put(self, file: Path, once: bool) -> tuple[str, int, Tag, int | None]:
        key, status = self.key(file), file.stat()
        if once and status.st_size <= PART_BYTES:
            tag = self.bucket.create(key, file.read_bytes())
        else:
            tag = self._copied_by_server(key, status) or self.bucket.put(key, file)
        return key, status.st_size, tag, status.st_mtime_ns

    def _copied_by_server(self, key: str, status: os.stat_result) -> Tag | None:
        """The object ``key`` as a copy of what this process wrote before from another link to the same file; None if it did not, or the server cannot."""
        if status.st_size < COPIED_BYTES:
            return None
        identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        before = self._sent.setdefault(identity, key)
        try:
            return None if before == key else self.bucket.copy(before, key)
        except BucketError as error:
            log.debug("%s is sent, since %s cannot be copied: %s", key, before, error)
            self._sent[identity] = key
            return None

    def is_content_of(self, key: str, file: Path) -> None:
        """Note that the object ``key`` has the content of ``file``: another key gets a copy by the server."""
        status = file.stat()
        self._sent.setdefault((status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns), key)

    def _push_layout(self) -> None:
        file = self.root / LAYOUT
        if file.exists() and self.index.get(LAYOUT) is None:
            self.index.copied([self._put(file, False)])

    def push_folder(self, folder: Path, *, last: Collection[str] = ()) -> None:
        """Make the bucket hold ``folder`` as the copy does: new files, then those called as in ``last``, then what has gone is deleted. Raises as :meth:`push`."""
        prefix = self.key(folder)
        known = {each.key: each for each in self.index.below(prefix)}
        files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_temporary(file.relative_to(folder))]
        new = [file for file in files if (each := known.get(self.key(file))) is None or not each.is_at(file)]
        self.push([file for file in new if file.name not in last])
        self.push([file for file in new if file.name in last])
        if gone := sorted(known.keys() - {self.key(file) for file in files}):
            self._delete(gone)

    def push_work(self) -> None:
        """Write finished work that the bucket lacks: what processes made that do not hold the lease, such as one for each device. Raises as :meth:`push`."""
        for marks in sorted((self.root / "work").rglob(WORK_MARKS)):
            name = marks.relative_to(self.root)
            if (
                not (_is_temporary(name) or _SAVED_STATE in marks.parent.name or "scratch" in name.parts)
                and self.index.get(self.key(marks)) is None
            ):
                self.push_folder(marks.parent, last=(WORK_MARKS,))
        for marks in sorted((self.root / "work" / "videos").glob("*/*.json")):
            if not _is_temporary(marks.relative_to(self.root)) and self.index.get(self.key(marks)) is None:
                self.push([file for file in marks.parent.glob(f"{marks.stem}.*") if file != marks])
                self.push([marks])

    def publish(self, pointer: Path, data: bytes) -> None:
        """Write the object of ``pointer``, which must still be the one that this process knows, then ``pointer`` itself.

        Raises:
            MotiveError: another driver has published there. Nothing was overwritten.
        """
        self.lease.check()
        key = self.key(pointer)
        known = self.index.get(key)
        try:
            tag = self.bucket.create(key, data) if known is None else self.bucket.replace(key, data, known.tag)
        except Conflict as error:
            raise MotiveError(
                f"{self.bucket.address}: another driver has published {Path(key).parent.relative_to('published')} meanwhile. Nothing of it was "
                "overwritten. Run again: the next run starts from what is there."
            ) from error
        atomic.write_bytes(pointer, data)
        self.index.copied([(key, len(data), tag, pointer.stat().st_mtime_ns)])

    def delete(self, files: Iterable[Path]) -> None:
        """Delete the objects of ``files``, which nothing needs any more. Raises as :meth:`push`."""
        self._delete([self.key(file) for file in files])

    def delete_below(self, path: Path) -> None:
        """Delete the object of ``path`` and all in the folder ``path``. Raises as :meth:`push`."""
        key = self.key(path)
        self._delete([key, *(each.key for page in self.bucket.pages(key) for each in page)])

    def _delete(self, keys: Sequence[str]) -> None:
        self.lease.check()
        self.bucket.delete(keys)
        self.index.forget(keys)
        for key in keys:
            prefix, _, name = key.rpartition("/")
            self._rows.get(prefix, {}).pop(name, None)

    def end(self) -> None:
        """Write the score tables, which have followed the publications in the copy until now. The version before is kept for whoever reads it."""
        self._push_layout()
        manifest = self.root / MANIFEST
        known = self.index.get(MANIFEST)
        if not manifest.exists() or (known is not None and known.is_at(manifest)):
            return
        version = json.loads(manifest.read_bytes())["version"]
        self.push_folder(manifest.parent / version)
        self.push([file for file in sorted(manifest.parent.glob("*.json")) if file != manifest])
        self.push([manifest])
        older = {each.key.split("/")[1] for each in self.index.below("scores") if each.key.count("/") > 1} - {version}
        kept = max(older, key=lambda name: int(name[1:]), default="")
        self._delete([each.key for each in self.index.below("scores") if each.key.split("/")[1] in older - {kept}])

    def key(self, path: Path) -> str:
        """The key of the object of ``path``."""
        return path.relative_to(self.root).as_posix()


def _is_temporary(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _copy_id(file: Path, address: Address) -> str:
    """The random id of the working copy; made on first use.

    Raises:
        MotiveError: the copy is of another address.
    """
    try:
        saved = json.loads(file.read_text(encoding="utf-8"))
        url, copy_id = str(saved["url"]), str(saved["copy"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        url, copy_id = address.url, uuid.uuid4().hex
        atomic.write_json(file, {"url": url, "copy": copy_id})
    if url != address.url:
        raise MotiveError(
            f"{file.parent} (storage.state) has the working copy of {url}, and storage.root is {address}. Set storage.state to a folder for each of the two."
        )
    return copy_id
