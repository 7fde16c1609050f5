"""Sources list every video with its caption, in a fixed order, and name what is wrong."""

import io
import os
import socket
import zipfile
from pathlib import Path

import pytest

from motive_pipeline.catalog.scan import scan
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.sources.captions import CaptionError, read_sidecar
from motive_pipeline.sources.configured import clip_source, held_out_source, query_source
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.sources.protocol import BadEntry, SourceEntry
from tests.clip_fixtures import forbid_listing, project


def listed(folder: Path, **settings) -> list[SourceEntry | BadEntry]:
    return list(FolderSource(root=folder, key="clips.path", **settings).entries())


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def names(entries) -> list[str]:
    return [entry.relative for entry in entries]


def reasons(entries) -> dict[str, str]:
    return {entry.relative: entry.reason for entry in entries if isinstance(entry, BadEntry)}


def test_every_video_is_found_by_its_suffix_in_any_case_and_in_the_order_of_names(tmp_path):
    wanted = ["B.MP4", "a/deep/z.webm", "a/x.mkv", "a/y.Mov", "c.avi", "d.m4v"]
    touch(
        *(tmp_path / name for name in wanted),
        tmp_path / "notes.txt",
        tmp_path / "image.png",
        tmp_path / ".hidden.mp4",
        tmp_path / ".git" / "v.mp4",
    )
    assert names(listed(tmp_path)) == sorted(wanted)
    assert names(listed(tmp_path)) == names(listed(tmp_path))


def test_names_with_spaces_quotes_percent_signs_dots_newlines_and_emoji_are_ordinary(tmp_path):
    odd = ["-dash.mp4", "a b.mp4", "100%d #1.mp4", 'it\'s "so" (2).mp4', "two.dots.mp4", "línea🎬.mp4", "new\nline.mp4"]
    touch(*(tmp_path / name for name in odd))
    (tmp_path / "two.dots.txt").write_text("dotted")
    entries = listed(tmp_path)
    assert names(entries) == sorted(odd)
    assert {e.relative: e.caption for e in entries}["two.dots.mp4"] == "dotted"


def test_the_category_is_the_outermost_sub_folder(tmp_path):
    touch(tmp_path / "top.mp4", tmp_path / "slide" / "a.mp4", tmp_path / "slide" / "more" / "b.mp4")
    assert {e.relative: e.extra["category"] for e in listed(tmp_path)} == {
        "top.mp4": "",
        "slide/a.mp4": "slide",
        "slide/more/b.mp4": "slide",
    }


@pytest.mark.parametrize(
    ("data", "caption"),
    [
        (b"a red ball\n", "a red ball"),
        (b"\xef\xbb\xbfwith a mark\r\nand two lines\r\n", "with a mark and two lines"),
        ("tab\tand   spaces\u2028separator".encode(), "tab and spaces separator"),
        ("nul\0byte 🎾".encode(), "nul byte 🎾"),
        ("from Windows".encode("utf-16"), "from Windows"),
        (b"  \n", ""),
    ],
)
def test_a_caption_is_one_line_whatever_the_text_file_looks_like(tmp_path, data, caption):
    (tmp_path / "v.txt").write_bytes(data)
    assert read_sidecar(tmp_path / "v.txt").caption == caption


@pytest.mark.parametrize("data", [b"caf\xe9", b"x" * 70_000])
def test_a_caption_that_is_no_utf8_or_far_too_long_rejects_the_clip_and_says_why(tmp_path, data):
    touch(tmp_path / "v.mp4")
    (tmp_path / "v.txt").write_bytes(data)
    with pytest.raises(CaptionError, match=r"v\.txt"):
        read_sidecar(tmp_path / "v.txt")
    assert reasons(listed(tmp_path)) == {"v.mp4": "bad_caption"}


def test_a_video_without_a_caption_file_has_none_and_an_empty_file_says_nothing(tmp_path):
    touch(tmp_path / "a.mp4", tmp_path / "b.mp4")
    (tmp_path / "b.TXT").write_text("")
    assert [e.caption for e in listed(tmp_path)] == [None, ""]


def test_links_are_followed_once_and_loops_end(tmp_path):
    touch(tmp_path / "real" / "a.mp4")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "file.mp4").symlink_to(tmp_path / "real" / "a.mp4")
    assert names(listed(tmp_path)) == ["file.mp4", "real/a.mp4"], "a folder behind a link is listed under its own name, and once"


def test_videos_and_captions_behind_links_that_lead_out_of_the_folder_are_read_as_a_hubs_cache_has_them(tmp_path):
    blobs, clips = tmp_path / "blobs", tmp_path / "snapshot"
    touch(blobs / "1f2e", clips / "own.mp4")
    (blobs / "3d4c").write_text("a ball rolls")
    (clips / "a.mp4").symlink_to(blobs / "1f2e")
    (clips / "a.txt").symlink_to("../blobs/3d4c")
    assert [(entry.relative, entry.caption) for entry in listed(clips)] == [("a.mp4", "a ball rolls"), ("own.mp4", None)]


def test_what_cannot_be_a_video_is_listed_with_its_reason(tmp_path):
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "self.mp4").symlink_to(tmp_path / "self.mp4")
    touch(tmp_path / "folder.mp4" / "inside.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.mp4"))
        touch(Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mp4")))
        entries = listed(tmp_path)
    assert reasons(entries) == {
        "gone.mp4": "broken_symlink",
        "self.mp4": "unreadable",
        "folder.mp4": "is_a_directory",
        "pipe.mp4": "not_a_file",
        "s.mp4": "not_a_file",
        "bad\\xff.mp4": "bad_file_name",
    }
    assert "folder.mp4/inside.mp4" in names(e for e in entries if isinstance(e, SourceEntry))


def test_a_caption_file_that_is_a_pipe_or_a_link_to_itself_is_not_waited_for(tmp_path):
    touch(*(tmp_path / f"{name}.mp4" for name in "abcd"))
    os.mkfifo(tmp_path / "a.txt")
    (tmp_path / "b.txt").symlink_to("b.txt")
    (tmp_path / "c.txt").mkdir()
    (tmp_path / "d.txt").symlink_to(tmp_path / "nowhere.txt")
    entries = listed(tmp_path)
    assert reasons(entries) == dict.fromkeys(["a.mp4", "b.mp4", "c.mp4", "d.mp4"], "bad_caption")
    told = [entry.detail for entry in entries if isinstance(entry, BadEntry)]
    for detail, words in zip(
        told, ("a pipe, a socket or a device", "cannot be read", "a folder", f"a link to {tmp_path / 'nowhere.txt'}"), strict=True
    ):
        assert words in detail


@pytest.mark.parametrize("kind", ["folder", "zip", "csv"])
def test_a_folder_that_cannot_be_listed_is_a_bad_entry_that_names_it(tmp_path, monkeypatch, kind):
    clips = tmp_path / "clips"
    touch(clips / "a.mp4", clips / "closed" / "b.mp4")
    with zipfile.ZipFile(clips / "c.zip", "w") as packed:
        packed.writestr("c.mp4", b"x")
    if kind == "csv":
        (clips / "t.csv").write_text("video,caption\na.mp4,one\nclosed/b.mp4,two\nc.mp4,three\n")
    forbid_listing(clips / "closed", monkeypatch)
    found = list(clip_source(project(tmp_path, clips={"source": kind})).entries())
    (closed,) = [entry for entry in found if isinstance(entry, BadEntry) and entry.path == str(clips / "closed")]
    assert (closed.relative, closed.reason) == ("closed", "unreadable")
    assert "cannot be listed" in closed.detail
    assert "Permission denied" in closed.detail
    of_kind = {"folder": ["a.mp4"], "zip": ["c.zip!/c.mp4"], "csv": ["a.mp4", "c.zip!/c.mp4", "closed/b.mp4"]}
    assert names(found) == sorted(["closed", *of_kind[kind]])


def test_a_file_that_cannot_be_read_counts_as_the_video_that_its_name_says(tmp_path, monkeypatch):
    touch(tmp_path / "a.ts", tmp_path / "b.mp4")
    assert names(listed(tmp_path)) == ["b.mp4"], "a program in TypeScript"
    opened = io.open
    forbidden = tmp_path / "a.ts"

    def refuse(path, *arguments, **options):
        if path == forbidden:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, *arguments, **options)

    monkeypatch.setattr("io.open", refuse)  # what Path.open calls
    assert names(listed(tmp_path)) == ["a.ts", "b.mp4"], "reading it will say why it cannot be used"


def test_a_missing_folder_and_a_file_in_its_place_name_the_setting_and_the_path(tmp_path):
    with pytest.raises(ConfigError, match=r"clips\.path = .*nowhere: there is no such folder"):
        listed(tmp_path / "nowhere")
    touch(tmp_path / "v.mp4")
    with pytest.raises(ConfigError, match=r"clips\.path = .*v\.mp4: this is a file"):
        listed(tmp_path / "v.mp4")


@pytest.mark.parametrize("key", ["clips.path", "queries.path"])
def test_an_empty_folder_is_an_error_that_says_what_to_put_there(tmp_path, key):
    touch(tmp_path / "readme.txt")
    with pytest.raises(MotiveError, match=rf"{key} = .*no video found.*\.mp4"):
        scan(FolderSource(root=tmp_path, key=key), HashMemory(tmp_path / "state"))


def test_held_out_videos_below_the_queries_folder_are_no_queries(tmp_path):
    touch(tmp_path / "clips" / "c.mp4", tmp_path / "queries" / "q.mp4", tmp_path / "queries" / "held" / "h.mp4")
    ws = project(tmp_path, queries={"held_out_path": "queries/held"})
    held_out = held_out_source(ws)
    assert held_out is not None
    assert names(query_source(ws).entries()) == ["q.mp4"]
    assert names(held_out.entries()) == ["h.mp4"]


def test_the_demo_is_written_below_the_root_and_its_names_and_captions_do_not_tell_the_motion(workspace):
    clips = list(clip_source(workspace).entries())
    queries = list(query_source(workspace).entries())
    held_out = held_out_source(workspace)
    assert held_out is not None
    assert (len(clips), len(queries), len(list(held_out.entries()))) == (18, 2, 2)
    assert all(clip.file.location.startswith(str(workspace.root / "demo")) for clip in clips)
    assert {clip.extra["category"] for clip in clips} == {""}
    assert {query.extra["category"] for query in queries} == {"sway"}
    assert not any("sway" in (query.caption or "") for query in queries)


def test_a_demo_folder_that_lost_a_file_is_an_error_that_says_which(workspace):
    clip = next(iter(clip_source(workspace).entries()))
    assert isinstance(clip, SourceEntry)
    clip.file.path.unlink()
    with pytest.raises(MotiveError, match=clip.file.name):
        clip_source(workspace)
