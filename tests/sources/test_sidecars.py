"""Captions beside the videos in the forms that people use, and videos with other endings."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from motive_pipeline.sources.archive_source import ArchiveSource
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.sources.protocol import BadEntry, SourceEntry
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.probe import probe
from tests.clip_fixtures import RULE, counting_frames, moving_square, which_frames, write_video
from tests.files.test_archive import zipped

TRACKS = "[" * 3 + "]" * 3


def written(folder: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def captions(entries) -> dict[str, str | None]:
    return {entry.relative.rpartition("!/")[2]: entry.caption for entry in entries if isinstance(entry, SourceEntry)}


def listed(folder: Path, form: str, contents: dict[str, str]) -> list[SourceEntry | BadEntry]:
    """The entries of the same files in a folder, or in a zip."""
    if form == "folder":
        return list(FolderSource(root=written(folder, contents), key="clips.path").entries())
    zipped(folder / "a.zip", {name: text.encode() for name, text in contents.items()})
    return list(ArchiveSource(root=folder, key="clips.path").entries())


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(
    ("sidecars", "caption"),
    [
        ({"x.caption": "kohya's"}, "kohya's"),
        ({"x.mp4.txt": "the whole name"}, "the whole name"),
        ({"x.mp4.caption": "both"}, "both"),
        ({"x.json": json.dumps({"caption": "one"})}, "one"),
        ({"x.json": json.dumps({"prompt": "two", "fps": 8})}, "two"),
        ({"x.json": json.dumps({"text": "three"})}, "three"),
        ({"x.mp4.json": json.dumps({"text": "four"})}, "four"),
        ({"x.json": json.dumps({"fps": 8})}, None),
        ({"x.json": TRACKS}, None),
        ({"x.json": json.dumps({"tracks": "1" * 2**20})}, None),
        ({"x.txt": "text first", "x.caption": "second", "x.json": json.dumps({"caption": "third"})}, "text first"),
        ({"x.caption": "second", "x.json": json.dumps({"caption": "third"})}, "second"),
        ({"x.txt": "stem first", "x.mp4.txt": "name"}, "stem first"),
        ({"y.txt": "another's"}, None),
    ],
)
def test_a_caption_is_read_from_the_file_beside_the_video(tmp_path, form, sidecars, caption):
    assert captions(listed(tmp_path, form, {"x.mp4": "v"} | sidecars)) == {"x.mp4": caption}


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_json_that_is_cut_off_costs_its_clip(tmp_path, form):
    (entry,) = listed(tmp_path, form, {"x.mp4": "v", "x.json": '{"caption": "cu'})
    assert isinstance(entry, BadEntry)
    assert (entry.reason, "x.json is not JSON" in entry.detail) == ("bad_caption", True)


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_caption_is_found_whichever_way_its_name_composes_letters(tmp_path, form):
    composed, decomposed = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))
    entries = listed(tmp_path, form, {f"{decomposed}.mp4": "v", f"{composed}.txt": "one"})
    assert list(captions(entries).values()) == ["one"]


def test_an_ending_in_capitals_counts_and_the_exact_name_comes_first(tmp_path):
    entries = listed(tmp_path, "folder", {"a.mp4": "v", "a.Txt": "any", "b.mp4": "v", "b.TXT": "loud", "b.txt": "exact"})
    assert captions(entries) == {"a.mp4": "any", "b.mp4": "exact"}


ENDINGS = [
    ("ts", "libx264"),
    ("m2ts", "libx264"),
    ("mpg", "mpeg2video"),
    ("mpeg", "mpeg1video"),
    ("flv", "flv1"),
    ("wmv", "wmv2"),
    ("3gp", "libx264"),
]


@pytest.mark.parametrize(("ending", "codec"), ENDINGS)
def test_videos_of_other_endings_are_read_with_the_right_frames(tmp_path, ending, codec):
    fps = 25.0 if codec.startswith("mpeg") else 8.0
    film = write_video(tmp_path / f"x.{ending}", counting_frames(25, width=64), fps=fps, codec=codec)
    assert captions(FolderSource(root=written(tmp_path, {"x.txt": "said"}), key="clips.path").entries()) == {f"x.{ending}": "said"}
    facts = probe(film)
    assert (facts.width, facts.height, facts.fps) == (64, 48, fps)
    rule = FrameRule(num_frames=9, min_frames=5, fps=fps, width=64, height=48)
    assert np.abs(np.subtract(which_frames(read_clip(film, rule).frames_THWC), range(9))).max() <= 1


def test_a_gif_is_a_video_if_it_moves_and_a_picture_otherwise(tmp_path):
    film = write_video(tmp_path / "film.gif", moving_square(9, seed=1), codec="gif", pix_fmt="rgb8")
    (tmp_path / "still.gif").write_bytes(b"GIF89a" + bytes(2000))
    assert captions(FolderSource(root=tmp_path, key="clips.path").entries()) == {"film.gif": None}
    assert read_clip(film, RULE).frames_THWC.shape == (9, 48, 64, 3)


def test_a_program_in_typescript_is_no_video_in_a_folder_or_a_zip(tmp_path):
    film = write_video(tmp_path / "f" / "film.ts", counting_frames(9)).read_bytes()
    (tmp_path / "f" / "main.ts").write_text("Greeting = 'G'; export const a = 1\n" * 20)
    (tmp_path / "f" / "short.ts").write_text("G = 1")
    (tmp_path / "f" / "second.ts").write_text("x" * 188 + "G" * 9)
    zipped(tmp_path / "z.zip", {"film.ts": film, "main.ts": b"import x\n" * 99}, stored=False)
    assert list(captions(FolderSource(root=tmp_path / "f", key="clips.path").entries())) == ["film.ts"]
    assert list(captions(ArchiveSource(root=tmp_path / "z.zip", key="clips.path").entries())) == ["film.ts"]
