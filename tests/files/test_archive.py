"""Videos in zips and tars are read where they lie; damage, tricks and missing parts are rejects."""

import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
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


def test_a_compressed_member_has_a_limit_whatever_its_factor(tmp_path):
    with zipfile.ZipFile(tmp_path / "large.zip", "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a.mp4", DATA)
        opened.getinfo("a.mp4").file_size, opened.getinfo("a.mp4").compress_size = 17 * 2**30, 2**30
    (entry,) = listed(tmp_path)
    assert entry.reason == "suspicious_archive"
    assert "16 GiB is the limit for a compressed member; store it without compression" in entry.detail


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["deflate", "bzip2", "lzma"])
@pytest.mark.parametrize("member", ["a.mp4", "a.txt"])
def test_a_member_that_states_a_small_size_and_unpacks_to_a_large_one_takes_no_memory(tmp_path, method, member):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", method) as opened:
        opened.writestr("a.mp4", DATA if member == "a.txt" else bytes(200_000_000))
        opened.writestr("a.txt", "a caption" if member == "a.mp4" else bytes(200_000_000))
        opened.getinfo(member).file_size = 100
    tracemalloc.start()
    used, bad = hashed(tmp_path)
    with (
        pytest.raises(RejectRow, match=r"suspicious_archive|damaged_archive"),
        MediaFile.parse(tmp_path / "bomb.zip!" / member).open() as stream,
    ):
        stream.read()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60_000_000
    assert (used, [*bad]) == ([], ["bomb.zip!/a.mp4"])


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["bzip2", "lzma"])
def test_members_are_read_whole_through_the_limit(tmp_path, method):
    contents = {
        "noise.mp4": np.random.default_rng(0).bytes(3_000_000),
        "plain.mp4": bytes(50_000),
        "empty.mp4": b"",
        "text.mp4": b"ab" * 400_000,
    }
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as opened:
        for name, data in contents.items():
            opened.writestr(name, data)
    for name, data in contents.items():
        with MediaFile.parse(tmp_path / "a.zip!" / name).open() as stream:
            assert stream.read() == data, name


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


def hashed(folder: Path):
    """(names of the videos whose bytes can be read, reasons by name) of the archives in ``folder``."""
    found = scan(ArchiveSource(root=folder, key="clips.path"), HashMemory(folder.parent / f"{folder.name}-state"))
    return [file.entry.relative for file in found.files], {bad.relative: (bad.reason, bad.detail) for bad in found.bad}


def with_method(archive: Path, member: str, method: int) -> None:
    """Say in both headers of ``member`` that it is compressed by ``method``."""
    data, at, name = bytearray(archive.read_bytes()), 0, member.encode()
    while (at := data.find(name, at)) >= 0:
        if data[at - 30 : at - 26] == b"PK\3\4":
            data[at - 22 : at - 20] = struct.pack("<H", method)
        if data[at - 46 : at - 42] == b"PK\1\2":
            data[at - 36 : at - 34] = struct.pack("<H", method)
        at += 1
    archive.write_bytes(bytes(data))


def test_what_macos_puts_beside_the_files_of_a_zip_is_no_video_and_no_caption(tmp_path):
    apple = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(180)
    contents = {"my/c.mp4": DATA, "my/c.txt": b"a square"}
    contents |= {f"__MACOSX/{folder}._{name}": apple for folder in ("", "my/") for name in ("c.mp4", "c.txt")} | {
        "my/._c.mp4": apple,
        "__MACOSX/d.mp4": apple,
    }
    zipped(tmp_path / "mac.zip", contents)
    (entry,) = listed(tmp_path)
    assert isinstance(entry, SourceEntry)
    assert (entry.relative, entry.caption) == ("mac.zip!/my/c.mp4", "a square")


@pytest.mark.parametrize(("method", "named"), [(9, "Deflate64"), (93, "zstd"), (77, "method 77")])
def test_a_member_compressed_by_an_unknown_method_costs_itself_and_a_caption_its_clip(tmp_path, method, named):
    archive = zipped(
        tmp_path / "a.zip", {f"{name}.{end}": f"{name} slides".encode() for name in "abc" for end in ("mp4", "txt")}, stored=False
    )
    with_method(archive, "a.mp4", method)
    with_method(archive, "b.txt", method)
    used, bad = hashed(tmp_path)
    assert used == ["a.zip!/c.mp4"]
    assert bad["a.zip!/a.mp4"][0] == "unsupported_compression"
    assert named in bad["a.zip!/a.mp4"][1]
    assert "unpack" in bad["a.zip!/a.mp4"][1]
    assert bad["a.zip!/b.mp4"][0] == "bad_caption"
    assert named in bad["a.zip!/b.mp4"][1]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA], ids=["deflate", "bzip2", "lzma"])
@pytest.mark.parametrize("member", ["b.mp4", "b.txt"])
def test_a_damaged_member_costs_one_clip_whatever_it_is_compressed_with(tmp_path, method, member):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as opened:
        for name in "abc":
            opened.writestr(f"{name}.mp4", DATA + name.encode())
            opened.writestr(f"{name}.txt", f"caption {name} " * 50)
        info = opened.getinfo(member)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    start = info.header_offset + 30 + len(member)
    for place in range(start + 4, start + info.compress_size):
        data[place] ^= 0x5A
    (tmp_path / "a.zip").write_bytes(bytes(data))
    used, bad = hashed(tmp_path)
    assert used == ["a.zip!/a.mp4", "a.zip!/c.mp4"]
    assert {name: reason for name, (reason, _) in bad.items()} == {
        "a.zip!/b.mp4": "damaged_archive" if member == "b.mp4" else "bad_caption"
    }
    assert member in bad["a.zip!/b.mp4"][1]
    with pytest.raises(RejectRow, match="damaged_archive"), MediaFile.parse(tmp_path / "a.zip!" / member).open() as stream:
        stream.read()


@pytest.mark.parametrize("stored", [True, False])
def test_a_name_in_a_zip_that_is_no_text_costs_its_own_member(tmp_path, stored):
    archive = zipped(
        tmp_path / "a.zip", {"caf\u00e9.mp4": DATA, "\u00fcber.mp4": DATA[1:], "plain.mp4": DATA[2:], "\u65e5.txt": b"x"}, stored=stored
    )
    archive.write_bytes(archive.read_bytes().replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    used, bad = hashed(tmp_path)
    assert used == ["a.zip!/plain.mp4", "a.zip!/\u00fcber.mp4"]
    assert {name: reason for name, (reason, _) in bad.items()} == {"a.zip!/caf\\xe9\\xe9.mp4": "bad_file_name"}
    for name, data in (("\u00fcber.mp4", DATA[1:]), ("plain.mp4", DATA[2:])):
        with MediaFile.parse(f"{archive}!/{name}").open() as stream:
            assert stream.read() == data


def test_bytes_lost_in_a_member_of_a_zip_cost_that_member(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.mp4": DATA, "b.mp4": DATA[1:]})
    data = archive.read_bytes()
    archive.write_bytes(data[:1000] + data[1100:])
    used, bad = hashed(tmp_path)
    assert (used, [(name, reason) for name, (reason, _) in bad.items()]) == (["a.zip!/b.mp4"], [("a.zip!/a.mp4", "damaged_archive")])


def test_a_member_without_its_header_costs_itself(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"a.mp4": DATA, "b.mp4": DATA[1:]})
    archive.write_bytes(archive.read_bytes().replace(b"PK\3\4", b"XXXX", 2).replace(b"XXXX", b"PK\3\4", 1))
    used, bad = hashed(tmp_path)
    assert (used, [(name, reason) for name, (reason, _) in bad.items()]) == (["a.zip!/a.mp4"], [("a.zip!/b.mp4", "damaged_archive")])


def test_a_tar_cut_off_costs_the_member_that_is_cut(tmp_path):
    archive = tarred(tmp_path / "a.tar", {"a.mp4": DATA, "b.mp4": DATA[1:], "c.mp4": DATA[2:]})
    archive.write_bytes(archive.read_bytes()[: 2 * 512 + 5120 + 700])
    used, bad = hashed(tmp_path)
    assert (used, [(name, reason) for name, (reason, _) in bad.items()]) == (["a.tar!/a.mp4"], [("a.tar!/b.mp4", "damaged_archive")])
    assert "ends inside this member" in bad["a.tar!/b.mp4"][1]


def test_what_follows_a_damaged_header_of_a_tar_is_one_reject_and_no_silence(tmp_path):
    archive = tarred(tmp_path / "a.tar", {"a.mp4": DATA, "b.mp4": DATA[1:], "c.mp4": DATA[2:]})
    data = bytearray(archive.read_bytes())
    data[512 + 5120 + 10] ^= 255
    archive.write_bytes(bytes(data))
    used, bad = hashed(tmp_path)
    assert used == ["a.tar!/a.mp4"]
    assert {name: reason for name, (reason, _) in bad.items()} == {"a.tar!/(from byte 5632)": "damaged_archive"}
    assert "byte 5632" in bad["a.tar!/(from byte 5632)"][1]


def test_a_link_in_place_of_a_caption_is_told_with_its_clip(tmp_path):
    archive = tarred(tmp_path / "a.tar", {"a.mp4": DATA})
    with tarfile.open(archive, "a") as opened:
        info = tarfile.TarInfo("a.txt")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        opened.addfile(info)
    assert hashed(tmp_path)[1]["a.tar!/a.mp4"][0] == "bad_caption"


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("x.tar.gz", b"\x1f\x8b\x08", "gzip"),
        ("x.tgz", b"\x1f\x8b\x08", "plain .tar"),
        ("x.tar.bz2", b"BZh9", "bzip2"),
        ("x.tar.xz", b"\xfd7zXZ\0", "xz"),
        ("x.tar.zst", b"\x28\xb5\x2f\xfd", "zstd"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c", "7z x"),
        ("x.RAR", b"Rar!\x1a\x07\x01", "unrar"),
        ("x.tar", b"\x1f\x8b\x08", "gzip"),
        ("x.7z.001", b"7z\xbc\xaf\x27\x1c", "7z x"),
    ],
)
def test_an_archive_of_another_kind_is_named_for_what_it_is_with_what_to_do(tmp_path, name, head, words):
    (tmp_path / name).write_bytes(head + bytes(600))
    zipped(tmp_path / "good.zip", {"a.mp4": DATA})
    used, bad = hashed(tmp_path)
    assert used == ["good.zip!/a.mp4"]
    assert list(bad) == [name]
    assert bad[name][0] == "unsupported_archive"
    assert words in bad[name][1]
    (alone,) = ArchiveSource(root=tmp_path / name, key="clips.path").entries()
    assert isinstance(alone, BadEntry)
    assert alone.reason == "unsupported_archive"


def test_a_zip_in_several_files_is_one_reject_that_says_how_to_join_them(tmp_path):
    for name in ("x.z01", "x.z02", "x.zip", "y.z01", "y.z02"):
        (tmp_path / name).write_bytes(b"PK\7\x08" + bytes(100))
    used, bad = hashed(tmp_path)
    assert {name: reason for name, (reason, _) in bad.items()} == {"x.zip": "unsupported_archive", "y.z01": "incomplete_archive"}
    assert "zip -s 0 x.zip --out whole.zip" in bad["x.zip"][1]
    assert "y.zip, is missing" in bad["y.z01"][1]
    assert used == []
