"""Windows of a file: the frames that decoding from the beginning gives, read from the key frame before; a reason code where there is none."""

import tarfile
import zipfile
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from motive_pipeline.config import Engine
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.files.window import Window
from motive_pipeline.video import window_frames
from motive_pipeline.video.container import open_video
from motive_pipeline.video.decode import DecodedClip, frame_near, read_clip
from motive_pipeline.video.frame_times import StampsOutOfOrder, TimedFrames
from motive_pipeline.video.geometry import geometry
from motive_pipeline.video.picture import picture
from motive_pipeline.video.probe import probe
from motive_pipeline.video.readers import ClipReader, FrameReader, Prober
from tests.clip_fixtures import RULE, counting_frames, damage, noise, which_frames, write_video

FPS = 16
LONG_RULE = replace(RULE, num_frames=17, fps=float(FPS))


def seconds(start: object, end: object) -> Window:
    return Window(start=Fraction(str(start)), end=Fraction(str(end)), unit="s")


def frames(start: int, end: int) -> Window:
    return Window(start=Fraction(start), end=Fraction(end), unit="frames")


def part(path: Path, window: Window) -> MediaFile:
    return MediaFile(path=path, window=window)


def reason(file: MediaFile, read=read_clip, *arguments) -> str:
    with pytest.raises(RejectRow) as caught:
        read(file, *arguments)
    return f"{caught.value.reason}: {caught.value.detail}"


def film(path: Path, num_frames: int = 48, *, codec: str = "libx264", options: dict[str, str] | None = None) -> Path:
    """A film of different, noisy pictures, with key frames every 12 frames and, in H.264, B-frames between."""
    values_T = np.random.default_rng(0).permutation(num_frames)
    pictures = np.random.default_rng(1).integers(0, 60, (num_frames, 48, 64, 3)) + 3 * values_T[:, None, None, None]
    usual = {"g": "12"} | ({"keyint_min": "12", "bf": "2", "sc_threshold": "0"} if codec == "libx264" else {})
    return write_video(path, pictures.astype(np.uint8), fps=FPS, codec=codec, options=options or usual)


def from_the_beginning(path: Path) -> np.ndarray:
    """The oracle: every frame of the file, decoded from the beginning, as the reader shows it."""
    with open_video(path) as (container, stream):
        decoded = [frame for _, frame in TimedFrames(stream).frames(container)]
        return np.stack([picture(frame, geometry(frame, stream, None), width=64, height=48) for frame in decoded])


class TestSeek:
    @pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "webm"])
    def test_each_window_has_the_bits_that_decoding_from_the_beginning_gives(self, tmp_path, ending):
        path = film(tmp_path / f"v.{ending}", codec="libvpx-vp9") if ending == "webm" else film(tmp_path / f"v.{ending}")
        whole = from_the_beginning(path)
        assert len(whole) == 48
        for start in (0, 1, 7, 11, 12, 13, 23, 24, 25, 31):
            clip = read_clip(part(path, seconds(start / FPS, (start + 17) / FPS)), LONG_RULE)
            assert np.array_equal(clip.frames_THWC, whole[start : start + 17]), f"from frame {start}"
            assert clip.times_s == pytest.approx(np.arange(17) / FPS, abs=0.001), "time counts from the window's first frame"

    @pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
    def test_a_window_of_frames_has_the_frames_of_these_numbers(self, tmp_path, ending):
        path = film(tmp_path / f"v.{ending}")
        whole = from_the_beginning(path)
        for start in (0, 11, 12, 30):
            clip = read_clip(part(path, frames(start, start + 17)), LONG_RULE)
            assert np.array_equal(clip.frames_THWC, whole[start : start + 17])

    @pytest.mark.parametrize(("ending", "num_before"), [("mp4", 8), ("mkv", 8), ("ts", 8 + 2 * 12)])
    def test_only_the_groups_of_pictures_before_it_are_decoded(self, tmp_path, monkeypatch, ending, num_before):
        """The key frame before frame 200 is 192. In MPEG-TS a seek aims at 1 s before."""
        path = film(tmp_path / f"v.{ending}", 240)
        num_decoded = []
        real = window_frames.SpanFilter.__call__

        def counted(self, decoded):
            num_decoded.append(0)

            def each():
                for frame in decoded:
                    num_decoded[-1] += 1
                    yield frame

            return real(self, each())

        monkeypatch.setattr(window_frames.SpanFilter, "__call__", counted)
        read_clip(part(path, seconds(200 / FPS, 217 / FPS)), LONG_RULE)
        assert len(num_decoded) == 1
        assert num_decoded[0] <= num_before + 17 + 1

    def test_a_container_that_cannot_be_sought_in_is_read_from_the_beginning(self, tmp_path, monkeypatch):
        path = film(tmp_path / "v.mp4")
        monkeypatch.setattr("motive_pipeline.video.decode.packets_from_key", lambda *_: None)
        monkeypatch.setattr(window_frames, "packets_from_key", lambda *_: None)
        whole = from_the_beginning(path)
        clip = read_clip(part(path, seconds(13 / FPS, 30 / FPS)), LONG_RULE)
        assert np.array_equal(clip.frames_THWC, whole[13:30])
        assert probe(part(path, seconds(13 / FPS, 30 / FPS))).num_frames == 17

    def test_a_seek_that_lands_behind_the_window_is_tried_again_from_before(self, tmp_path, monkeypatch):
        path = film(tmp_path / "v.ts")
        whole = from_the_beginning(path)
        monkeypatch.setattr(window_frames, "SEEK_MARGINS_S", (0,))
        for start in (11, 12, 13, 23):
            assert np.array_equal(
                read_clip(part(path, seconds(start / FPS, (start + 17) / FPS)), LONG_RULE).frames_THWC, whole[start : start + 17]
            )

    def test_frames_that_a_decoder_cannot_give_after_a_seek_are_read_from_the_beginning(self, tmp_path):
        """With ``intra-refresh`` only the first frame is a whole picture; the key frames are points from which a decoder recovers slowly."""
        path = film(tmp_path / "v.mp4", options={"x264-params": "intra-refresh=1:keyint=12:bframes=0", "crf": "12"})
        whole = from_the_beginning(path)
        for start in (12, 14, 25):
            assert np.array_equal(
                read_clip(part(path, seconds(start / FPS, (start + 17) / FPS)), LONG_RULE).frames_THWC, whole[start : start + 17]
            )

    def test_open_groups_of_pictures_are_read_rightly(self, tmp_path):
        path = film(tmp_path / "v.mp4", options={"x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=3:scenecut=0", "crf": "12"})
        whole = from_the_beginning(path)
        for start in range(0, 31, 3):
            assert np.array_equal(
                read_clip(part(path, seconds(start / FPS, (start + 17) / FPS)), LONG_RULE).frames_THWC, whole[start : start + 17]
            )

    def test_b_frames_without_presentation_times_are_in_order_in_a_window_too(self, tmp_path):
        path = write_video(tmp_path / "v.avi", counting_frames(40), fps=FPS, options={"bf": "2", "g": "12"})
        for window in (seconds(13 / FPS, 30 / FPS), frames(13, 30)):
            clip = read_clip(part(path, window), LONG_RULE)
            assert which_frames(clip.frames_THWC) == list(range(13, 30))
            assert clip.flags == ("time_repaired",)
            assert probe(part(path, window)).num_frames == 17
        assert probe(part(path, seconds(23 / FPS, 40 / FPS))).num_frames == 17, "up to the very end"
        assert reason(part(path, seconds(23 / FPS, 41 / FPS)), probe).startswith("window_outside")

    def test_time_counts_from_the_first_frame_wherever_the_file_starts(self, tmp_path):
        path = write_video(tmp_path / "v.mkv", counting_frames(40), fps=FPS, times_s=[3 + number / FPS for number in range(40)])
        assert which_frames(read_clip(part(path, seconds(1, 2)), LONG_RULE).frames_THWC) == list(range(16, 29)), "13 of 16 are 4n+1"


class TestEdges:
    def test_the_first_frame_is_at_or_after_the_start_and_the_last_before_the_end(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(40), fps=FPS)
        rule = replace(LONG_RULE, num_frames=5)
        assert which_frames(read_clip(part(path, seconds(1.0, 1.3125)), rule).frames_THWC) == [16, 17, 18, 19, 20]
        assert which_frames(read_clip(part(path, seconds(1.01, 1.375)), rule).frames_THWC) == [17, 18, 19, 20, 21]
        assert reason(part(path, seconds(1.01, 1.3125)), read_clip, rule).startswith("too_short")

    @pytest.mark.parametrize("ending", ["mp4", "mkv"])
    @pytest.mark.parametrize(("start", "end"), [("0.067", "0.233"), ("0.066667", "0.233333"), ("0.0671", "0.2338"), ("0.0663", "0.2329")])
    def test_times_that_the_table_or_the_container_has_rounded_mean_the_frame(self, tmp_path, ending, start, end):
        """Frames 2 (1/15 s, in Matroska 0.067 s) to 7 (7/30 s, in Matroska 0.233 s)."""
        path = write_video(tmp_path / f"v.{ending}", counting_frames(40), fps=30)
        clip = read_clip(part(path, seconds(start, end)), replace(RULE, num_frames=9, fps=30.0))
        assert which_frames(clip.frames_THWC) == [2, 3, 4, 5, 6]
        assert probe(part(path, seconds(start, end))).num_frames == 5

    def test_another_rate_counts_from_the_first_frame_of_the_window(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(45), fps=24)
        clip = read_clip(part(path, seconds(0.5, 1.5)), replace(LONG_RULE, num_frames=9))
        assert which_frames(clip.frames_THWC) == [12, 13, 15, 16, 18, 19, 21, 22, 24]

    def test_the_facts_are_those_of_the_window(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(40), fps=FPS)
        for window in (seconds(1.0625, 2.125), frames(17, 34)):
            facts = probe(part(path, window))
            assert (facts.num_frames, facts.duration_s, facts.fps, facts.width, facts.height) == (17, 1.0625, 16, 64, 48)
        assert probe(part(path, frames(30, 40))).duration_s == pytest.approx(10 / FPS)

    def test_a_window_that_is_too_short_is_named(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(40), fps=FPS)
        said = reason(part(path, seconds(1, "1.2")), read_clip, LONG_RULE)
        assert said.startswith("too_short: the window from 1 to 1.2 s: 4 frames at 16 fps")
        assert reason(part(path, frames(3, 5)), read_clip, LONG_RULE).startswith("too_short: the window of frames 3 to 5: 2 frames")
        for read in (probe, lambda file: read_clip(file, LONG_RULE)):
            assert reason(part(path, seconds("1.01", "1.02")), read) == "too_short: the window from 1.01 to 1.02 s holds no frame"

    @pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
    @pytest.mark.parametrize("window", [seconds(2, 3), seconds(3, 4), seconds(30, 40), frames(30, 41), frames(50, 60)])
    def test_a_window_beyond_the_end_is_outside(self, tmp_path, ending, window):
        path = write_video(tmp_path / f"v.{ending}", counting_frames(40), fps=FPS)
        length = "2.50 s" if window.unit == "s" else "40 frames"
        assert reason(part(path, window), probe) == f"window_outside: {window} ends behind the end of the file, which has {length}"

    def test_a_reader_says_that_a_window_is_outside(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(40), fps=FPS)
        assert reason(part(path, seconds(3, 4)), read_clip, LONG_RULE).startswith("window_outside")
        assert reason(part(path, frames(39, 60)), read_clip, LONG_RULE).startswith("window_outside")

    def test_an_end_that_is_rounded_up_is_inside(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(40), fps=FPS)
        assert probe(part(path, seconds(2, 2.5))).num_frames == 8
        assert probe(part(path, seconds(2, 2.53))).num_frames == 8
        assert reason(part(path, seconds(2, 2.54)), probe).startswith("window_outside")

    def test_a_variable_rate_outside_the_window_is_no_flag_of_it(self, tmp_path):
        times_s = [number / FPS for number in range(20)] + [2 + number / 4 for number in range(8)]
        path = write_video(tmp_path / "v.mkv", counting_frames(28), fps=FPS, times_s=times_s)
        assert read_clip(part(path, seconds(0, 1)), LONG_RULE).flags == ()
        assert read_clip(part(path, seconds(0, 3)), replace(LONG_RULE, fps=8.0)).flags == ("variable_rate",)
        assert probe(part(path, frames(20, 25))).duration_s == pytest.approx(1.25, abs=0.002)

    def test_the_picture_for_people_is_one_of_the_window(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(40), fps=FPS)
        for window in (seconds(1, 2), frames(16, 32)):
            shown = [frame_near(part(path, window), share, width=64, height=48)[None] for share in (0.0, 0.5, 1.0)]
            assert [which_frames(picture)[0] for picture in shown] == [16, 24, 31]

    def test_damage_elsewhere_is_no_matter_and_damage_inside_is(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", noise(96), fps=FPS, options={"g": "12", "bf": "0"})
        damage(path, 0.75, 3000)
        assert len(read_clip(part(path, seconds(1, 2)), LONG_RULE).frames_THWC) == 13
        assert reason(part(path, seconds(4, 5)), read_clip, LONG_RULE).startswith("decode_error: the window from 4 to 5 s")


class TestSpanFilter:
    """The choice among decoded frames, on frames that are made up: (number of the stamp, what is special)."""

    def kept(self, *made_up, after_seek: bool = True) -> tuple[list[int], bool]:
        decoded = [
            Mock(spec=VideoFrame, pts=stamp, time_base=Fraction(1), is_corrupt="corrupt" in special, key_frame="key" in special)
            for stamp, special in made_up
        ]
        stream = Mock(spec=VideoStream, codec_context=Mock(has_b_frames=True))
        chosen = window_frames.SpanFilter(stream, window_frames.Span(first=Fraction(3), end=Fraction(5)), after_seek=after_seek)  # type: ignore[arg-type]
        return [frame.pts for frame in chosen(iter(decoded))], chosen.damaged_before  # type: ignore[arg-type]

    def test_the_start_is_inside_and_the_end_is_not(self):
        assert self.kept((2, "key"), (3, ""), (4, ""), (5, ""), (4, "")) == ([3, 4], False)

    def test_after_a_seek_a_frame_must_come_before(self):
        with pytest.raises(window_frames.LostFrames):
            self.kept((4, ""), (5, ""))
        assert self.kept((4, ""), (5, ""), after_seek=False) == ([4], False)
        assert self.kept((3, ""), (5, "")) == ([3], False)

    def test_stamps_of_other_frames_are_noticed(self):
        with pytest.raises(StampsOutOfOrder):
            self.kept((0, "key"), (2, ""), (1, ""), (3, ""))

    def test_damage_counts_until_the_next_key_frame(self):
        assert self.kept((0, "key"), (1, "corrupt"), (2, ""), (3, "")) == ([3], True)
        assert self.kept((0, "key"), (1, "corrupt"), (2, "key"), (3, "")) == ([3], False)
        assert self.kept((0, "key corrupt"), (1, ""), (3, "")) == ([3], True)

    def test_a_frame_without_a_stamp_cannot_be_placed(self):
        with pytest.raises(RejectRow, match="time_disorder"):
            self.kept((None, "key"))


class TestPlaces:
    @pytest.mark.parametrize("kind", ["tar", "zip", "deflated", "cell"])
    def test_a_window_of_a_member_or_a_cell_is_that_of_the_file(self, tmp_path, kind):
        path = film(tmp_path / "v.mp4")
        if kind == "tar":
            with tarfile.open(tmp_path / "a.tar", "w") as packed:
                packed.add(path, "in/v.mp4")
            place = MediaFile(path=tmp_path / "a.tar", member="in/v.mp4")
        elif kind == "cell":
            pq.write_table(pa.table({"video": [path.read_bytes()]}), tmp_path / "t.parquet")
            place = MediaFile(path=tmp_path / "t.parquet", member="video/00000001")
        else:
            with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED) as packed:
                packed.write(path, "in/v.mp4")
            place = MediaFile(path=tmp_path / "a.zip", member="in/v.mp4")
        whole = from_the_beginning(path)
        for window in (seconds(13 / FPS, 30 / FPS), frames(13, 30)):
            assert np.array_equal(read_clip(replace(place, window=window), LONG_RULE).frames_THWC, whole[13:30])
            assert probe(replace(place, window=window)).num_frames == 17

    def test_the_workers_read_the_window(self, tmp_path):
        path = film(tmp_path / "v.mp4")
        files = [part(path, seconds(1, 2)), part(path, frames(5, 22)), MediaFile(path=path)]
        for workers in (0, 1):
            engine = Engine(decode_workers=workers)
            read, prober, show = ClipReader(LONG_RULE, engine), Prober(engine), FrameReader(engine, 0.0, width=64, height=48)
            for each in (read, prober, show):
                each.prefetch(files)
            for file in files:
                expected: DecodedClip = read_clip(file, LONG_RULE)
                assert np.array_equal(read(file).frames_THWC, expected.frames_THWC)
                assert prober(file) == probe(file)
                assert np.array_equal(show(file), expected.frames_THWC[0])
