"""A clip is its content: hashes, what is remembered of them, and the data version of a source."""

import errno
import hashlib
import os
import sqlite3
import threading
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motive_pipeline.catalog import scan as scan_module
from motive_pipeline.catalog.scan import data_version, observe_clip_files, observe_query_files, scan
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.files import hash_memory
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.configured import clip_source
from motive_pipeline.sources.folder_source import FolderSource
from tests.clip_fixtures import project


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that a test need not wait."""
    monkeypatch.setattr(hash_memory, "SETTLED_AFTER_NS", 0)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "clips").mkdir()
    for name in "abc":
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(name.encode() * 100)
    return tmp_path / "clips"


def scanned(folder: Path):
    return scan(FolderSource(root=folder, key="clips.path"), HashMemory(folder.parent / "state"))


def test_the_id_is_the_first_16_digits_of_the_hash_of_the_bytes(folder):
    assert [file.clip_id for file in scanned(folder).files] == [hashlib.sha256(c * 100).hexdigest()[:16] for c in (b"a", b"b", b"c")]


def test_a_second_scan_of_settled_files_hashes_nothing(folder, settled):
    assert scanned(folder).num_hashed == 3
    again = scanned(folder)
    assert again.num_hashed == 0
    assert len(again.files) == 3


def test_a_file_younger_than_two_seconds_is_hashed_again_the_next_time(folder):
    assert scanned(folder).num_hashed == 3
    assert scanned(folder).num_hashed == 3


def test_a_file_is_settled_two_seconds_after_its_last_change(folder, monkeypatch):
    now = time.time_ns()
    monkeypatch.setattr(hash_memory.time, "time_ns", lambda: now + 2_100_000_000)
    scanned(folder)
    assert scanned(folder).num_hashed == 0


def test_same_size_and_same_modification_time_do_not_hide_a_change(folder, settled):
    before = scanned(folder)
    file = folder / "a.mp4"
    status = file.stat()
    file.write_bytes(b"z" * 100)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    after = scanned(folder)
    assert after.num_hashed == 1
    assert after.files[0].clip_id != before.files[0].clip_id


def test_a_file_that_replaces_another_is_hashed(folder, settled):
    scanned(folder)
    (folder / "new").write_bytes(b"y" * 100)
    os.replace(folder / "new", folder / "b.mp4")
    assert scanned(folder).files[1].clip_id == hashlib.sha256(b"y" * 100).hexdigest()[:16]


def test_a_file_that_keeps_changing_while_it_is_read_is_rejected_and_not_remembered(folder, settled, monkeypatch):
    real = MediaFile.current_stat

    def growing(self):
        stat = real(self)
        with (folder / "a.mp4").open("ab") as file:
            file.write(b"more")
        return stat

    monkeypatch.setattr(MediaFile, "current_stat", growing)
    memory = HashMemory(folder.parent / "state")
    with pytest.raises(RejectRow, match="changed_while_reading") as caught:
        memory.sha256(folder / "a.mp4")
    assert caught.value.transient
    memory.save()
    monkeypatch.undo()
    assert HashMemory(folder.parent / "state").clip_id(folder / "a.mp4") == hashlib.sha256((folder / "a.mp4").read_bytes()).hexdigest()[:16]


def test_large_files_are_hashed_in_threads_and_come_in_order_all_the_same(folder, settled, monkeypatch):
    monkeypatch.setattr(scan_module, "_LARGE_BYTES", 50)
    for number in range(20):
        (folder / f"n{number:02d}.mp4").write_bytes(bytes([number]) * (100 if number % 3 else 10))
    threads, real = set(), scan_module.hash_file

    def slower_at_first(file):
        threads.add(threading.current_thread() is threading.main_thread())
        time.sleep(0.02 if file.name == "n01.mp4" else 0)
        if file.name == "n05.mp4":
            raise PermissionError(errno.EACCES, "Permission denied")
        if file.name == "n07.mp4":
            file.path.unlink()
        return real(file)

    monkeypatch.setattr(scan_module, "hash_file", slower_at_first)
    seen = []
    memory = HashMemory(folder.parent / "state")
    found = scan(FolderSource(root=folder, key="clips.path"), memory, threads=3, seen=seen.append)
    names = [file.entry.relative for file in found.files]
    assert names == sorted(names)
    assert seen == found.files
    assert [(bad.relative, bad.reason) for bad in found.bad] == [("n05.mp4", "unreadable"), ("n07.mp4", "missing_file")]
    assert all(file.sha256 == hashlib.sha256((folder / file.entry.relative).read_bytes()).hexdigest() for file in found.files)
    assert threads == {True, False}, "large ones in threads, small ones here"
    again = scan(FolderSource(root=folder, key="clips.path"), HashMemory(folder.parent / "state"), threads=3)
    assert again.num_hashed == 0, "what was hashed in a thread is remembered like the rest"


def test_members_of_archives_are_hashed_in_threads_and_those_of_parquet_files_are_not(tmp_path, settled, monkeypatch):
    """Threads would each decode the row groups that one reader goes through once."""
    (tmp_path / "clips").mkdir()
    data = [bytes([number]) * 2**17 for number in range(4)]
    with zipfile.ZipFile(tmp_path / "clips" / "a.zip", "w") as packed:
        for number, each in enumerate(data):
            packed.writestr(f"{number}.mp4", each)
    table = pa.table({"file_name": [f"p{number}.mp4" for number in range(4)], "video_bytes": data})
    pq.write_table(table, tmp_path / "clips" / "b.parquet", compression="none")
    threads, real = {}, scan_module.hash_file

    def hashed(file):
        threads.setdefault(file.path.suffix == ".zip", set()).add(threading.current_thread() is threading.main_thread())
        return real(file)

    monkeypatch.setattr(scan_module, "hash_file", hashed)
    for source in ("zip", "parquet"):
        ws = project(tmp_path, clips={"source": source, "path": "clips"})
        found = scan(clip_source(ws), HashMemory(tmp_path / f"state-{source}"), threads=2)
        assert {file.sha256 for file in found.files} == {hashlib.sha256(each).hexdigest() for each in data}
    assert threads == {True: {False}, False: {True}}


def test_the_data_version_covers_names_contents_and_captions_and_no_times_or_places(folder, settled):
    first = data_version(scanned(folder))
    os.utime(folder / "a.mp4", (1, 1))
    assert data_version(scanned(folder)) == first, "a touched file changes nothing"
    moved = folder.parent / "elsewhere"
    os.rename(folder, moved)
    assert data_version(scanned(moved)) == first, "a moved folder changes nothing"
    (moved / "a.txt").write_text("a caption")
    captioned = data_version(scanned(moved))
    (moved / "a.txt").write_text("another")
    recaptioned = data_version(scanned(moved))
    os.rename(moved / "b.mp4", moved / "b2.mp4")
    renamed = data_version(scanned(moved))
    (moved / "c.mp4").write_bytes(b"changed")
    changed = data_version(scanned(moved))
    (moved / "broken.mp4").symlink_to("nowhere")
    assert len({first, captioned, recaptioned, renamed, changed, data_version(scanned(moved))}) == 6


def test_a_memory_from_before_sizes_were_kept_is_still_one(folder, settled):
    first = scanned(folder)
    with sqlite3.connect(folder.parent / "state" / "hashes.sqlite") as db:
        db.execute("ALTER TABLE hashes DROP COLUMN num_bytes")
    db.close()
    again = scanned(folder)
    assert (again.num_hashed, again.files) == (0, first.files)


def test_a_damaged_memory_is_forgotten_and_says_so(tmp_path, caplog):
    (tmp_path / "hashes.sqlite").write_bytes(b"this is no database" * 100)
    memory = HashMemory(tmp_path)
    assert "only remembers hashes, so files are hashed again" in caplog.text
    (tmp_path / "clip.mp4").write_bytes(b"film")
    assert memory.clip_id(tmp_path / "clip.mp4") == hashlib.sha256(b"film").hexdigest()[:16]
    memory.save()


def test_an_unusable_memory_says_that_it_may_be_deleted(tmp_path):
    (tmp_path / "hashes.sqlite").mkdir()
    with pytest.raises(MotiveError, match="delete it"):
        HashMemory(tmp_path)


def test_observing_gives_a_version_and_facts_and_the_queries_cover_the_held_out_ones(tmp_path):
    for name in ("clips/c.mp4", "queries/q.mp4", "held_out/h.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(name.encode())
    version, facts = observe_clip_files(project(tmp_path))
    assert facts["files"] == facts["without caption"] == 1
    assert observe_clip_files(project(tmp_path))[0] == version
    before, _ = observe_query_files(project(tmp_path))
    (tmp_path / "held_out" / "h.mp4").write_bytes(b"other")
    assert observe_query_files(project(tmp_path))[0] != before


def test_observing_an_empty_queries_folder_is_an_error_that_names_the_setting(tmp_path):
    (tmp_path / "queries").mkdir()
    with pytest.raises(MotiveError, match=r"queries\.path"):
        observe_query_files(project(tmp_path))
