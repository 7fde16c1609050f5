"""Lists the files of a source and identifies each by its content.

A clip's id is the first 16 hex digits of the SHA-256 of its bytes; for a window of a file, of that hash and the window. So a renamed file is
the same clip, and a changed file is a new one. A file is hashed once, however many rows name it or windows of it. Hashes of files that have not changed come from memory (files/hash_memory.py).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files.file_stat import disk_errors_as_rejects
from motive_pipeline.files.hash_memory import FileHash, HashMemory, clip_id_of, hash_file
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.progress import Progress
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.sources.protocol import BadEntry, ClipSource, SourceEntry
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace

DIFFERENCES = {
    "missing_file": "rows without file",
    "orphan_file": "files without row",
    "duplicate_name": "files of a name that stands for another",
    "bad_row": "rows that cannot be read",
}
"""Reason codes of the differences between a table and the files beside it, and the words for each."""

_LARGE_BYTES = 2**18
"""Smaller files are hashed in this thread: passing them to another takes as long. A member counts with the size of its archive."""

_HASHED_AHEAD = 4
"""Large files queued for each thread, while the caller waits for the oldest one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFile:
    """An entry of a source, with the hash and the size of its content: those of the whole file, also for a window."""

    entry: SourceEntry
    clip_id: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Scan:
    """The files of a source as they are now, in its order. ``num_hashed`` of them were read; the hashes of the others were remembered."""

    files: list[SourceFile]
    bad: list[BadEntry]
    num_hashed: int

    def facts(self) -> dict[str, Any]:
        """Figures for a person."""
        return {
            "files": len(self.files),
            "different contents": len({file.clip_id for file in self.files}),
            "gigabytes": round(sum({file.entry.file.whole: file.num_bytes for file in self.files}.values()) / 1e9, 3),
            "without caption": sum(not file.entry.caption for file in self.files),
            "unusable entries": len(self.bad),
            "hashed now": self.num_hashed,
        } | self.differences()

    def differences(self) -> dict[str, int]:
        """The number of rows or files in which a table and the files beside it differ, by kind, in words. Zeros are left out."""
        reasons = Counter(bad.reason for bad in self.bad)
        counts = {words: reasons[reason] for reason, words in DIFFERENCES.items()}
        counts["rows that name a file again"] = len(self.files) - len({file.entry.file for file in self.files})
        return {words: number for words, number in counts.items() if number}


def scan(source: ClipSource, memory: HashMemory, *, threads: int = 1, seen: Callable[[SourceFile], None] | None = None) -> Scan:
    """Every file of ``source`` with the hash of its content. Entries that cannot be read are in ``bad``.

    ``seen`` is called with each file, in order, as soon as it is hashed. Large files are hashed in ``threads`` threads.

    Raises:
        MotiveError: the source holds no video at all.
    """
    files: list[SourceFile] = []
    bad: list[BadEntry] = []
    hashed_before = memory.num_hashed
    progress, num_bytes, places = Progress(source.key, None, unit="files"), 0, set[MediaFile]()
    for found in _identified(source.entries(), memory, threads):
        if isinstance(found, SourceFile):
            files.append(found)
            num_bytes += 0 if found.entry.file.whole in places else found.num_bytes
            places.add(found.entry.file.whole)
            progress.step(note=f"{memory.num_hashed - hashed_before} hashed, {num_bytes / 1e9:.1f} GB")
            if seen is not None:
                seen(found)
        else:
            bad.append(found)
    memory.save()
    if not files and not bad:
        raise MotiveError(f"{source.describe()}: no video found. Put videos there ({source.expects}), or name another folder.")
    return Scan(files=files, bad=bad, num_hashed=memory.num_hashed - hashed_before)


def hash_threads(ws: Workspace) -> int:
    """The number of threads that hash: as many as there are decoding workers, at least one."""
    return max(1, ws.config.engine.num_decode_workers)


def data_version(*scans: Scan) -> str:
    """A hash of the sources' content: names, bytes, captions and metadata of the files, and the unusable entries. It covers no time stamps
    and no absolute paths."""
    return digest(
        [
            [
                [_described(file) for file in found.files],
                [[bad.relative, bad.reason] for bad in found.bad],
            ]
            for found in scans
        ]
    )


def _described(file: SourceFile) -> list[Any]:
    entry = file.entry
    described = [entry.relative, file.sha256, entry.caption, sorted(entry.extra.items())]
    beside = [sorted(entry.metadata.items()), list(entry.further_captions)] if entry.metadata or entry.further_captions else []
    return described + beside


def observe_clip_files(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """(data version, figures for a person) of the clips' files as they are now.

    Raises:
        MotiveError: ``clips.path`` is missing, is not a folder, or holds no video.
    """
    found = scan(clip_source(ws), HashMemory(ws.state), threads=hash_threads(ws))
    return data_version(found), found.facts()


def observe_query_files(ws: Workspace) -> tuple[str, dict[str, Any]]:
    """(data version, figures for a person) of the files of the queries and the held-out queries as they are now.

    Raises:
        MotiveError: as for the clips, with ``queries.path`` and ``queries.held_out_path``.
    """
    memory = HashMemory(ws.state)
    queries = scan(query_source(ws), memory, threads=hash_threads(ws))
    held_out = held_out_source(ws)
    if held_out is None:
        return data_version(queries), queries.facts()
    kept = scan(held_out, memory, threads=hash_threads(ws))
    facts = queries.facts() | {f"held out: {name}": value for name, value in kept.facts().items()}
    return data_version(queries, kept), facts


class _Hashes:
    """The hashes of a scan: each file is looked up or read once, whether or not the memory may keep its hash."""

    def __init__(self, memory: HashMemory, pool: ThreadPoolExecutor) -> None:
        self._memory, self._pool = memory, pool
        self._known: dict[MediaFile, tuple[str, int] | Future[FileHash]] = {}

    def start(self, file: MediaFile) -> tuple[str, int] | Future[FileHash]:
        """(hash, number of bytes), or the future of them for a large file that must be read. ``file`` has a stat."""
        whole = file.whole
        if whole not in self._known:
            found = self._memory.remembered(whole)
            if found is None and _is_worth_a_thread(whole):
                self._known[whole] = self._pool.submit(hash_file, whole)
            else:
                self._known[whole] = found or self._memory.remember(hash_file(whole))
        return self._known[whole]

    def finish(self, file: MediaFile, future: Future[FileHash]) -> tuple[str, int]:
        """The result of ``future``, remembered."""
        known = self._known[file.whole]
        if isinstance(known, Future):
            known = self._known[file.whole] = self._memory.remember(future.result())
        return known


def _identified(entries: Iterable[SourceEntry | BadEntry], memory: HashMemory, threads: int) -> Iterator[SourceFile | BadEntry]:
    """The entries in their order, each with its hash, or as a bad entry."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="hash")
    hashes = _Hashes(memory, pool)
    waiting: deque[SourceFile | BadEntry | tuple[SourceEntry, Future[FileHash]]] = deque()
    try:
        for entry in entries:
            waiting.append(entry if isinstance(entry, BadEntry) else _start_hash(entry, hashes))
            while waiting and (len(waiting) > threads * _HASHED_AHEAD or not isinstance(waiting[0], tuple) or waiting[0][1].done()):
                yield _finish_hash(waiting.popleft(), hashes)
        while waiting:
            yield _finish_hash(waiting.popleft(), hashes)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_hash(entry: SourceEntry, hashes: _Hashes) -> SourceFile | BadEntry | tuple[SourceEntry, Future[FileHash]]:
    """The file with its hash, if that is remembered or the file is small; else the entry and the future of its hash."""
    try:
        with disk_errors_as_rejects():
            found = hashes.start(entry.file.with_stat())
    except RejectRow as rejection:
        return _bad(entry, rejection)
    return (entry, found) if isinstance(found, Future) else _file(entry, *found)


def _is_worth_a_thread(file: MediaFile) -> bool:
    """Whether ``file`` is large and no cell of a Parquet file: each thread would decode row groups that one reader decodes only once."""
    assert file.stat is not None
    return file.stat.size >= _LARGE_BYTES and not file.is_cell()


def _finish_hash(begun: SourceFile | BadEntry | tuple[SourceEntry, Future[FileHash]], hashes: _Hashes) -> SourceFile | BadEntry:
    if not isinstance(begun, tuple):
        return begun
    entry, future = begun
    try:
        with disk_errors_as_rejects():
            return _file(entry, *hashes.finish(entry.file, future))
    except RejectRow as rejection:
        return _bad(entry, rejection)


def _file(entry: SourceEntry, sha256: str, num_bytes: int) -> SourceFile:
    return SourceFile(entry=entry, clip_id=clip_id_of(sha256, entry.file.window), sha256=sha256, num_bytes=num_bytes)


def _bad(entry: SourceEntry, rejection: RejectRow) -> BadEntry:
    return BadEntry(path=entry.file.location, relative=entry.relative, reason=rejection.reason, detail=rejection.detail)
