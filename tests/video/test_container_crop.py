"""A crop that only the container states (``clap`` in MP4 and MOV, ``PixelCrop`` in Matroska) is cut out wherever frames are read."""

import io
import struct
import time
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motive_pipeline.catalog.stage import publish_clip_catalog
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import Window
from motive_pipeline.video.container_crop import MATROSKA, MP4, Margins, stated_crop
from motive_pipeline.video.decode import frame_near, read_clip
from motive_pipeline.video.probe import probe
from tests.clip_fixtures import RULE, counting_frames, moving_square, project, which_frames, write_project, write_video
from tests.shown_files import ORIENTATIONS, clap, element, with_clap, with_display_matrix, with_pixel_crop

WHOLE = {"width": 64, "height": 48}


def film(path: Path, **kinds) -> Path:
    return write_video(path, moving_square(12, **WHOLE), **kinds)


def frames(source: Path | MediaFile, width: int, height: int) -> np.ndarray:
    return read_clip(source, replace(RULE, width=width, height=height)).frames_THWC


def crop_of(data: bytes, container: str = MP4, track: int = 1) -> Margins | None:
    crop = stated_crop(io.BufferedReader(io.BytesIO(data)), container, track, 0)
    return None if crop is None else crop.margins(**WHOLE)


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "index first.mp4", "v.mkv", "v.webm"])
def test_the_picture_read_is_the_one_that_the_container_states(tmp_path, name):
    kinds = {"codec": "libvpx-vp9"} if name == "v.webm" else {}
    path = film(tmp_path / name, container_options={"movflags": "faststart"} if "first" in name else None, **kinds)
    stored = frames(path, **WHOLE)
    if path.suffix in (".mkv", ".webm"):
        with_pixel_crop(path, left=10, right=6, top=12, bottom=4)
    else:
        with_clap(path, clap(48, 32, x=2, y=4))
    clip = read_clip(path, replace(RULE, width=48, height=32))
    assert np.array_equal(clip.frames_THWC, stored[:, 12:44, 10:58])
    assert clip.flags == ("cropped_by_file",)
    facts = probe(path)
    assert (facts.width, facts.height, facts.flags) == (48, 32, ("cropped_by_file",))
    assert np.array_equal(frame_near(path, 0.0, width=48, height=32), stored[0, 12:44, 10:58])


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_crop_counts_for_the_stored_picture_which_is_turned_afterwards(tmp_path, orientation):
    matrix, shown = ORIENTATIONS[orientation]
    path = film(tmp_path / "v.mp4")
    stored = frames(path, **WHOLE)[:, 12:44, 10:58]
    with_display_matrix(with_clap(path, clap(48, 32, x=2, y=4)), matrix)
    expected = np.stack([shown(picture) for picture in stored])
    assert np.array_equal(frames(path, expected.shape[2], expected.shape[1]), expected)


def test_pixels_are_made_square_after_the_crop(tmp_path):
    path = with_clap(film(tmp_path / "v.mp4", pixel_aspect=Fraction(2)), clap(32, 48))
    assert (probe(path).width, probe(path).height) == (64, 48)
    assert read_clip(path, RULE).flags == ("non_square_pixels", "cropped_by_file")


@pytest.mark.parametrize("place", ["zip", "deflated", "cell"])
def test_so_it_is_in_an_archive_and_in_a_parquet_file(tmp_path, place):
    path = film(tmp_path / "v.mp4")
    expected = frames(path, **WHOLE)[:, 12:44, 10:58]
    data = with_clap(path, clap(48, 32, x=2, y=4)).read_bytes()
    if place == "cell":
        pq.write_table(pa.table({"video": [data]}), tmp_path / "t.parquet")
        source = MediaFile(path=tmp_path / "t.parquet", member="video/00000001")
    else:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED if place == "deflated" else zipfile.ZIP_STORED) as packed:
            packed.writestr("in/v.mp4", data)
        source = MediaFile(path=tmp_path / "a.zip", member="in/v.mp4")
    assert np.array_equal(frames(source, 48, 32), expected)
    assert (probe(source).width, probe(source).height) == (48, 32)


@pytest.mark.parametrize("name", ["v.mp4", "v.mkv"])
def test_a_window_is_cropped_too(tmp_path, name):
    path = write_video(tmp_path / name, counting_frames(24), options={"g": "6"})
    with_clap(path, clap(32, 32)) if name == "v.mp4" else with_pixel_crop(path, left=16, right=16, top=8, bottom=8)
    for window in (Window(unit="frames", start=Fraction(9), end=Fraction(18)), Window(unit="s", start=Fraction(9, 8), end=Fraction(18, 8))):
        clip = read_clip(MediaFile(path=path, window=window), replace(RULE, width=32, height=32))
        assert which_frames(clip.frames_THWC) == list(range(9, 18))
        assert clip.flags == ("cropped_by_file",), "and not upscaled"


def test_the_catalog_has_the_size_of_the_picture_shown_and_the_flag(tmp_path):
    write_project(tmp_path)
    with_clap(tmp_path / "clips" / "clip_0.mp4", clap(32, 32))
    catalog = publish_clip_catalog(project(tmp_path)).table("catalog").set_index("caption").loc["a square of kind 0"]
    assert (catalog["width"], catalog["height"], catalog["flags"]) == (32, 32, "cropped_by_file")


def test_an_aperture_of_the_whole_picture_is_no_crop(tmp_path):
    path = film(tmp_path / "v.mp4")
    stored = frames(path, **WHOLE)
    with_clap(path, clap(64, 48))
    assert np.array_equal(frames(path, **WHOLE), stored)
    assert read_clip(path, RULE).flags == ()


@pytest.mark.parametrize(("aperture", "margins"), [
    (clap(63, 47), Margins(top=0, bottom=1, left=0, right=1)),
    (clap(60.5, 48), Margins(left=1, right=2)),
    (clap(48, 32, x=-8, y=8), Margins(top=16, left=0, right=16)),
    (clap(64, 48, x=-0.5), Margins(right=1)),
    (clap(0.5, 48), Margins(left=31, right=32)),
    (clap(1, 1), Margins(top=23, bottom=24, left=31, right=32)),
])  # fmt: skip
def test_fractions_of_a_pixel_are_rounded_as_ffmpeg_does(tmp_path, aperture, margins):
    assert crop_of(with_clap(film(tmp_path / "v.mp4"), aperture).read_bytes()) == margins


@pytest.mark.parametrize("aperture", [
    clap(66, 48), clap(64, 50), clap(0, 48), clap(48, 32, x=20), clap(48, 32, y=-20), clap(-48, 32), bytes(32),
    struct.pack(">8i", 48, 0, 32, 1, 0, 1, 0, 1), struct.pack(">8i", 48, 1, 32, 1, 0, -1, 0, 1),
])  # fmt: skip
def test_an_aperture_that_makes_no_sense_is_ignored_and_flagged(tmp_path, aperture):
    path = film(tmp_path / "v.mp4")
    stored = frames(path, **WHOLE)
    with_clap(path, aperture)
    clip = read_clip(path, RULE)
    assert np.array_equal(clip.frames_THWC, stored)
    assert clip.flags == ("cropped_by_file",)


def test_a_box_that_is_cut_off_states_nothing(tmp_path):
    path = with_clap(film(tmp_path / "v.mp4"), clap(48, 32)[:20])
    assert crop_of(path.read_bytes()) is None
    assert read_clip(path, RULE).flags == ()


def test_a_matroska_file_whose_crop_leaves_nothing_is_refused_by_ffmpeg(tmp_path):
    with pytest.raises(RejectRow, match="not_a_video"):
        read_clip(with_pixel_crop(film(tmp_path / "v.mkv"), left=40, right=40), RULE)


def test_only_the_tracks_own_crop_counts(tmp_path):
    data = with_clap(film(tmp_path / "v.mp4"), clap(48, 32)).read_bytes()
    assert crop_of(data) == Margins(8, 8, 8, 8)
    assert crop_of(data, track=2) is None
    assert crop_of(data, "avi") is None


@pytest.fixture(scope="module")
def cropped(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("cropped")
    return {
        MP4: with_clap(write_video(folder / "v.mp4", moving_square(1)), clap(48, 32)).read_bytes(),
        MATROSKA: with_pixel_crop(write_video(folder / "v.mkv", moving_square(1)), left=8, top=8).read_bytes(),
    }


@settings(max_examples=300, deadline=None)
@given(data=st.data(), container=st.sampled_from((MP4, MATROSKA)))
def test_damaged_files_are_read_without_an_exception(cropped, data, container):
    whole = bytearray(cropped[container])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    crop_of(bytes(whole[: data.draw(st.integers(1, len(whole)))]), container)


@pytest.mark.parametrize(("container", "hostile"), [
    (MP4, struct.pack(">I4s", 2**31, b"moov") + struct.pack(">I4s", 8, b"trak") * 10**6),
    (MP4, struct.pack(">I4s", 8, b"free") * 10**6),
    (MP4, struct.pack(">I4sQ", 1, b"free", 2**64 - 1)),
    (MATROSKA, element(0x18538067, element(0x1654AE6B, element(0xAE, b"\xec\x80" * 1000) * 2000))),
    (MATROSKA, b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" * 1000),
    (MATROSKA, b"\x00" * 10**6),
])  # fmt: skip
def test_hostile_files_cost_no_time(container, hostile):
    started = time.monotonic()
    assert crop_of(hostile, container) is None
    assert time.monotonic() - started < 2
