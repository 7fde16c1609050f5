"""Pictures of clips that are no plain files: members of archives and windows of films."""

import io
import shutil
import zipfile
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.view.pictures import NoPicture, PictureMaker, Subject
from tests.clip_fixtures import write_video

FRAMES = np.random.default_rng(0).integers(0, 255, (40, 64, 96, 3), np.uint8)


@pytest.fixture
def maker(workspace, tmp_path):
    return PictureMaker(workspace, tmp_path / "view")


def subject(workspace, location: str) -> Subject:
    return Subject(clip_id=HashMemory(workspace.state).clip_id(MediaFile.parse(location)), location=location, role="clip")


def test_members_and_windows_have_tiles_and_scored_videos(workspace, maker, tmp_path):
    film = tmp_path / "film.mp4"
    write_video(film, FRAMES, fps=16)
    with zipfile.ZipFile(tmp_path / "part.zip", "w") as archive:
        archive.write(film, "inner/film.mp4")
    for location in (f"{tmp_path}/part.zip!/inner/film.mp4", f"{film}#t=0.5,2", str(film)):
        clip = subject(workspace, location)
        with Image.open(io.BytesIO(maker.tile(clip, "loop").read_bytes())) as loop:
            assert loop.n_frames == 17
        with av.open(str(maker.scored(clip, "scored"))) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.frames) == ("h264", 17)
        assert (maker.original(clip) is None) == (location != str(film)), "a part of a file is not the file"


def test_what_browsers_do_not_play_is_no_original(workspace, maker, tmp_path):
    film = tmp_path / "film.mp4"
    write_video(film, FRAMES, fps=16)
    shutil.copy(film, tmp_path / "film.mkv")
    (tmp_path / "cut.mp4").write_bytes(film.read_bytes()[:200])
    assert maker.original(subject(workspace, str(film))) == (film, "video/mp4")
    for name in ("film.mkv", "cut.mp4"):
        assert maker.original(subject(workspace, str(tmp_path / name))) is None


def test_a_file_that_cannot_be_read_is_not_tried_at_every_look(workspace, maker, tmp_path, monkeypatch):
    film = tmp_path / "film.mp4"
    film.write_bytes(b"<html>404</html>")
    clip = subject(workspace, str(film))
    with pytest.raises(NoPicture, match=r"not a video") as found:
        maker.tile(clip, "loop")
    monkeypatch.setattr(PictureMaker, "_content_id", lambda *_: pytest.fail("read again"))
    with pytest.raises(NoPicture) as again:
        maker.scored(clip, "scored")
    assert str(again.value) == str(found.value)
    assert list(Path(tmp_path / "view").rglob("*.*")) == []


def test_a_video_that_has_gone_says_so_although_its_tile_was_kept(workspace, maker, tmp_path):
    film = tmp_path / "film.mp4"
    write_video(film, FRAMES, fps=16)
    clip = subject(workspace, str(film))
    assert maker.tile(clip, "still").exists()
    film.unlink()
    for make in (lambda: maker.tile(clip, "still"), lambda: maker.scored(clip, "scored")):
        with pytest.raises(NoPicture, match="the file has gone"):
            make()
