"""One value for the bytes of a clip: a file, a member of an archive or a cell of a Parquet file."""

import hashlib
import os
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from motive_pipeline.errors import RejectRow
from motive_pipeline.files import hash_memory
from motive_pipeline.files.file_stat import regular_file_stat
from motive_pipeline.files.hash_memory import HashMemory, hash_file
from motive_pipeline.files.media_file import MediaFile, media_file

DATA = os.urandom(3000)


@pytest.fixture
def places(tmp_path) -> dict[str, MediaFile]:
    """The same bytes as a file, as a member of a zip, and as a cell."""
    (tmp_path / "a.mp4").write_bytes(DATA)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as packed:
        packed.writestr("other.mp4", b"x" * 50)
        packed.writestr("in/odd!/a.mp4", DATA)
    pq.write_table(pa.table({"video": [b"x", DATA]}), tmp_path / "t.parquet")
    return {
        "file": MediaFile(path=tmp_path / "a.mp4"),
        "member": MediaFile(path=tmp_path / "z.zip", member="in/odd!/a.mp4"),
        "cell": MediaFile(path=tmp_path / "t.parquet", member="video/00000002"),
    }


@pytest.mark.parametrize("kind", ["file", "member", "cell"])
def test_every_kind_of_place_has_the_same_bytes_size_and_id(places, tmp_path, kind):
    file = places[kind]
    for check in (False, True):
        with file.open(check=check) as stream:
            assert stream.read() == DATA
    assert file.num_bytes() == len(DATA)
    assert file.is_cell() == (kind == "cell")
    assert HashMemory(tmp_path / "state").clip_id(file) == hashlib.sha256(DATA).hexdigest()[:16]


@pytest.mark.parametrize(("kind", "shown", "name"), [
    ("file", "a.mp4", "a.mp4"), ("member", "z.zip!/in/odd!/a.mp4", "a.mp4"), ("cell", "t.parquet!/video/00000002", "00000002"),
])  # fmt: skip
def test_what_tables_show_leads_back_to_the_same_place(places, tmp_path, kind, shown, name):
    file = places[kind]
    assert file.location == f"{tmp_path}/{shown}"
    assert file.name == name
    assert MediaFile.parse(file.location) == media_file(Path(file.location)) == media_file(file) == file


def test_a_stat_is_taken_once_and_is_no_part_of_the_place(places):
    file = places["member"].with_stat()
    assert file.with_stat() is file
    assert file == places["member"]
    assert hash(file) == hash(places["member"])
    assert file.stat == file.current_stat()
    assert file.stat.size == file.path.stat().st_size, "the stat is that of the archive"
    with file.path.open("ab") as opened:
        opened.write(b"more")
    assert file.stat != file.current_stat()


def test_a_file_that_changed_since_it_was_listed_is_hashed_as_it_is_now(places, tmp_path, monkeypatch):
    monkeypatch.setattr(hash_memory, "SETTLED_AFTER_NS", 0)
    listed = places["file"].with_stat()
    listed.path.write_bytes(b"new")
    memory = HashMemory(tmp_path / "state")
    found = hash_file(listed)
    assert found.sha256 == hashlib.sha256(b"new").hexdigest()
    assert found.file.stat == listed.current_stat()
    memory.remember(found)
    memory.save()
    assert memory.remembered(listed) is None
    assert memory.remembered(found.file) == (found.sha256, 3)


def test_a_path_that_is_no_readable_file_has_a_reason(tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "link.mp4").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    reasons = {}
    for name in ("folder.mp4", "link.mp4", "pipe.mp4", "gone.mp4"):
        with pytest.raises(RejectRow) as caught:
            regular_file_stat(tmp_path / name)
        reasons[name] = (caught.value.reason, caught.value.transient)
    assert reasons == {
        "folder.mp4": ("is_a_directory", False),
        "link.mp4": ("broken_symlink", True),
        "pipe.mp4": ("not_a_file", False),
        "gone.mp4": ("missing_file", True),
    }
