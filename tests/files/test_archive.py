"""Videos in zips and tars are read where they lie; damage, tricks and missing parts are rejects."""

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from motive_pipeline.catalog.scan import scan
from motive_pipeline.errors import RejectRow
from motive_pipeline.files import hash_memory
from motive_pipeline.files.archive import list_archive
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.sources.archive_source import ArchiveSource
from motive_pipeline.sources.protocol import BadEntry, SourceEntry

DATA = os.urandom(5000)


def zipped(file: Path, contents: dict[str, bytes], *, stored: bool = True) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as opened:
        for name, data in contents.items():
            opened.writestr(name, data)
    return file


def tarred(file: Path, contents: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w") as opened:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return file


def listed(folder: Path) -> list[SourceEntry | BadEntry]:
    return list(ArchiveSource(root=folder, key="clips.path").entries())


def reasons(entries) -> dict[str, str]:
    return {entry.relative: entry.reason for entry in entries if isinstance(entry, BadEntry)}


@pytest.mark.parametrize(
    "make", [zipped, tarred, lambda file, contents: zipped(file, contents, stored=False)], ids=["zip", "tar", "deflated"]
)
def test_a_member_is_read_and_sought_in_as_a_file_is(tmp_path, make):
    archive = make(tmp_path / "a", {"other.mp4": b"x" * 999, "in/a.mp4": DATA})
    member = MediaFile.parse(f"{archive}!/in/a.mp4")
    with member.open() as file:
        assert file.read() == DATA
        assert file.read(1) == b""
        assert file.seek(-10, os.SEEK_END) == 4990
        assert file.read(99) == DATA[-10:]
        file.seek(3)
        file.seek(4, os.SEEK_CUR)
        assert (file.tell(), file.read(2)) == (7, DATA[7:9])
    assert member.num_bytes() == 5000


def test_a_folder_whose_name_looks_like_an_address_is_a_folder(tmp_path):
    (tmp_path / "x.zip!").mkdir()
    (tmp_path / "x.zip!" / "a.mp4").write_bytes(DATA)
    file = MediaFile.parse(tmp_path / "x.zip!" / "a.mp4")
    assert (file.path, file.member) == (tmp_path / "x.zip!" / "a.mp4", "")
    with file.open() as file:
        assert file.read() == DATA


@pytest.mark.parametrize("make", [zipped, tarred])
def test_names_that_lead_out_of_the_folder_are_refused_and_nothing_is_written(tmp_path, make):
    bad = ["../out.mp4", "/abs.mp4", "a/../../out.mp4", "..\\out.mp4", "C:\\x.mp4"]
    (tmp_path / "clips").mkdir()
    make(tmp_path / "clips" / "x.zip", {name: DATA for name in [*bad, "./good.mp4"]})
    entries = listed(tmp_path / "clips")
    assert [entry.relative for entry in entries if isinstance(entry, SourceEntry)] == ["x.zip!/good.mp4"]
    assert set(reasons(entries).values()) == {"unsafe_member_name"}
    assert len(reasons(entries)) == len(bad)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["clips", "x.zip"]


def test_links_and_devices_in_a_tar_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as opened:
        for name, kind in (("link.mp4", tarfile.SYMTYPE), ("hard.mp4", tarfile.LNKTYPE), ("fifo.mp4", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            opened.addfile(info)
    assert set(reasons(listed(tmp_path)).values()) == {"not_a_file"}


def test_a_member_that_would_grow_without_measure_is_refused_unread(tmp_path):
    zipped(tmp_path / "bomb.zip", {"a.mp4": bytes(50_000_000)}, stored=False)
    assert reasons(listed(tmp_path)) == {"bomb.zip!/a.mp4": "suspicious_archive"}


def test_an_encrypted_member_is_refused(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", {"a.mp4": DATA}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(bytes(data))
    assert reasons(listed(tmp_path)) == {"a.zip!/a.mp4": "encrypted_member"}


@pytest.mark.parametrize("data", [b"", b"<html>404</html>", b"PK\x03\x04" + bytes(500)])
def test_a_file_that_is_no_archive_is_a_reject_and_the_others_are_used(tmp_path, data):
    (tmp_path / "bad.zip").write_bytes(data)
    zipped(tmp_path / "good.zip", {"a.mp4": DATA})
    entries = listed(tmp_path)
    assert reasons(entries) == {"bad.zip": "damaged_archive"}
    assert len(entries) == 2


def test_an_archive_that_is_a_pipe_or_a_link_to_nowhere_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.zip")
    os.mkfifo(tmp_path / "b_part_00")
    (tmp_path / "c.tar").symlink_to("nowhere")
    assert reasons(listed(tmp_path)) == {"a.zip": "not_a_file", "c.tar": "unreadable"}


def test_a_zip_cut_in_half_is_damaged(tmp_path):
    data = zipped(tmp_path / "a.zip", {"a.mp4": DATA, "b.mp4": DATA}).read_bytes()
    (tmp_path / "a.zip").write_bytes(data[: len(data) // 2])
    assert reasons(listed(tmp_path)) == {"a.zip": "damaged_archive"}


def test_bytes_that_do_not_match_their_checksum_are_a_reject_when_they_are_hashed(tmp_path):
    data = bytearray(zipped(tmp_path / "a.zip", {"a.mp4": DATA, "b.mp4": DATA[::-1]}).read_bytes())
    data[200] ^= 255
    (tmp_path / "a.zip").write_bytes(bytes(data))
    found = scan(ArchiveSource(root=tmp_path, key="clips.path"), HashMemory(tmp_path / "state"))
    assert [file.entry.relative for file in found.files] == ["a.zip!/b.mp4"]
    assert [(bad.relative, bad.reason) for bad in found.bad] == [("a.zip!/a.mp4", "damaged_archive")]


class TestSplit:
    """``OpenVid_part7_partaa``, ``..._partab``: one archive."""

    def parts(self, folder: Path, num: int) -> list[Path]:
        data = zipped(folder / "whole.zip", {"a.mp4": DATA, "b.mp4": DATA[::-1]}).read_bytes()
        (folder / "whole.zip").unlink()
        size = -(-len(data) // num)
        files = [folder / f"OpenVid_part7_parta{chr(ord('a') + n)}" for n in range(num)]
        for number, file in enumerate(files):
            file.write_bytes(data[number * size : (number + 1) * size])
        return files

    def test_it_is_read_across_its_parts(self, tmp_path):
        self.parts(tmp_path, 4)
        entries = [entry for entry in listed(tmp_path) if isinstance(entry, SourceEntry)]
        assert [entry.relative for entry in entries] == ["OpenVid_part7_partaa!/a.mp4", "OpenVid_part7_partaa!/b.mp4"]
        with entries[1].file.open() as file:
            assert file.read() == DATA[::-1]

    def test_a_part_missing_in_the_middle_is_named(self, tmp_path):
        self.parts(tmp_path, 4)[2].unlink()
        (bad,) = listed(tmp_path)
        assert isinstance(bad, BadEntry)
        assert (bad.reason, bad.relative) == ("incomplete_archive", "OpenVid_part7_partaa")
        assert "the first is number 3" in bad.detail

    def test_the_first_part_missing_is_named_once_and_other_names_that_end_in_a_count_are_left_alone(self, tmp_path):
        self.parts(tmp_path, 4)[0].unlink()
        for name in ("notes_ab", "take_01", "b.zip.002"):
            (tmp_path / name).write_bytes(b"x")
        entries = listed(tmp_path)
        assert reasons(entries) == {"OpenVid_part7_partab": "incomplete_archive", "b.zip.002": "incomplete_archive"}
        assert [entry.detail for entry in entries if isinstance(entry, BadEntry)] == [
            "a part of a split archive whose first part, OpenVid_part7_partaa, is missing",
            "a part of a split archive whose first part, b.zip.001, is missing",
        ]

    def test_the_last_part_missing_leaves_a_damaged_archive(self, tmp_path):
        self.parts(tmp_path, 4)[3].unlink()
        assert reasons(listed(tmp_path)) == {"OpenVid_part7_partaa": "damaged_archive"}

    def test_a_changed_part_is_a_changed_archive(self, tmp_path, monkeypatch):
        monkeypatch.setattr(hash_memory, "SETTLED_AFTER_NS", 0)
        source, memory = ArchiveSource(root=tmp_path, key="clips.path"), HashMemory(tmp_path.parent / f"{tmp_path.name}-state")
        parts = self.parts(tmp_path, 2)
        assert [scan(source, memory).num_hashed for _ in range(2)] == [2, 0]
        os.utime(parts[1])
        assert scan(source, memory).num_hashed == 2


def test_members_of_an_unchanged_archive_are_not_hashed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(hash_memory, "SETTLED_AFTER_NS", 0)
    source, memory = ArchiveSource(root=tmp_path / "z", key="clips.path"), HashMemory(tmp_path / "state")
    (tmp_path / "z").mkdir()
    zipped(tmp_path / "z" / "a.zip", {"a.mp4": DATA, "b.mp4": DATA[::-1]})
    first, again = scan(source, memory), scan(source, memory)
    assert (first.num_hashed, again.num_hashed) == (2, 0)
    assert [file.num_bytes for file in again.files] == [5000, 5000]
    assert [file.sha256 for file in first.files] == [file.sha256 for file in again.files]
    zipped(tmp_path / "z" / "a.zip", {"a.mp4": DATA[1:], "c.mp4": DATA})
    assert [file.entry.relative for file in scan(source, memory).files] == ["a.zip!/a.mp4", "a.zip!/c.mp4"]
    with pytest.raises(RejectRow, match=r"missing_file: a\.zip holds no b\.mp4"):
        memory.sha256(tmp_path / "z" / "a.zip!" / "b.mp4")


def test_of_two_members_with_one_name_the_later_counts(tmp_path):
    tarred(tmp_path / "x.tar", {"a.mp4": b"old", "./a.mp4": b"newer"})
    assert [member.num_bytes for member in list_archive(tmp_path / "x.tar")[1]] == [5]
