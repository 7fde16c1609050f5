"""The one reader: frames by time, at one size, whatever the file is like; a reason code where it cannot be read."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from motive_pipeline.errors import RejectRow
from motive_pipeline.video.container import open_video
from motive_pipeline.video.decode import DecodedClip, frame_near, read_clip
from motive_pipeline.video.flags import FLAGS, flag_bits, flag_names
from motive_pipeline.video.frame_times import TimedFrames, sorted_stamps
from motive_pipeline.video.probe import probe
from tests.clip_fixtures import RULE, counting_frames, cut, damage, noise, which_frames, write_sound, write_video
from tests.shown_files import ORIENTATIONS, with_display_matrix


def reason(path: Path, rule=RULE) -> str:
    with pytest.raises(RejectRow) as caught:
        read_clip(path, rule)
    assert caught.value.detail
    return caught.value.reason


def read(path: Path, **rule) -> DecodedClip:
    return read_clip(path, replace(RULE, **rule))


def combed_bar(num_frames: int) -> np.ndarray:
    """A bar that moves by 4 px from field to field."""
    combed = np.zeros((num_frames, 48, 64, 3), dtype=np.uint8)
    for frame in range(num_frames):
        combed[frame, 0::2, 8 * frame % 48 : 8 * frame % 48 + 8] = 220
        combed[frame, 1::2, (8 * frame + 4) % 48 : (8 * frame + 4) % 48 + 8] = 220
    return combed


def combs(frames_THWC: np.ndarray) -> float:
    """How much neighbouring lines differ."""
    return float(np.abs(np.diff(frames_THWC.astype(float), axis=1)).mean())


def with_sound(path: Path, frames_THWC: np.ndarray, codec: str, *, seconds: float) -> Path:
    """A video at 8 frames a second with ``seconds`` of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames_THWC.shape[1:3], "yuv420p"
        sound = container.add_stream(codec, rate=44100)
        for frame_HWC in frames_THWC:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")))
        container.mux(stream.encode())
        for number in range(round(seconds * 44100 / 1152)):
            samples = np.zeros((1, 1152), dtype=np.float32 if codec == "aac" else np.int16)
            silence = av.AudioFrame.from_ndarray(samples, format="fltp" if codec == "aac" else "s16", layout="mono")
            silence.sample_rate, silence.pts = 44100, number * 1152
            container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return path


class TestTime:
    def test_at_the_files_own_rate_every_frame_is_taken_from_the_first_on(self, tmp_path):
        clip = read(write_video(tmp_path / "v.mp4", counting_frames(12), fps=8))
        assert clip.frames_THWC.shape == (9, 48, 64, 3)
        assert clip.frames_THWC.dtype == np.uint8
        assert which_frames(clip.frames_THWC) == list(range(9))
        assert clip.times_s == pytest.approx(np.arange(9) / 8)
        assert clip.flags == ()

    def test_another_rate_takes_the_frame_nearest_in_time_and_the_earlier_of_two(self, tmp_path):
        clip = read(write_video(tmp_path / "v.mp4", counting_frames(40), fps=24), fps=16.0)
        assert which_frames(clip.frames_THWC) == [0, 1, 3, 4, 6, 7, 9, 10, 12], "1.5 frames a step; 1.5 and 4.5 lie between two"
        assert clip.times_s[2] == pytest.approx(3 / 24)

    def test_a_slower_file_repeats_frames(self, tmp_path):
        clip = read(write_video(tmp_path / "v.mp4", counting_frames(5), fps=4), fps=8.0)
        assert which_frames(clip.frames_THWC) == [0, 0, 1, 1, 2, 2, 3, 3, 4]

    def test_a_variable_rate_is_read_by_time_and_flagged(self, tmp_path):
        times_s = [0, 0.033, 0.066, 0.1, 0.4, 0.7, 1.0, 1.033, 1.066, 1.1]
        clip = read(write_video(tmp_path / "v.mp4", counting_frames(10), fps=30, times_s=times_s))
        assert which_frames(clip.frames_THWC) == [0, 3, 3, 4, 4, 5, 5, 6, 6], "0.25 s lies between frames 3 and 4"
        assert clip.flags == ("variable_rate",)

    def test_time_starts_at_the_first_frame_wherever_the_file_starts(self, tmp_path):
        late = [5 + k / 8 for k in range(9)]
        clip = read(write_video(tmp_path / "v.mkv", counting_frames(9), fps=8, times_s=late))
        assert which_frames(clip.frames_THWC) == list(range(9))
        assert clip.times_s[0] == 0

    @pytest.mark.parametrize(("num_frames", "kept"), [(5, 5), (6, 5), (8, 5), (9, 9), (13, 9)])
    def test_the_largest_4n_plus_1_that_fits_is_kept(self, tmp_path, num_frames, kept):
        assert len(read(write_video(tmp_path / "v.mp4", counting_frames(num_frames))).frames_THWC) == kept

    @pytest.mark.parametrize(("num_frames", "kept"), [(9, 9), (16, 9), (17, 17), (24, 17)])
    def test_with_another_step_the_largest_number_that_fits_it_is_kept(self, tmp_path, num_frames, kept):
        path = write_video(tmp_path / "v.mp4", counting_frames(num_frames))
        assert len(read(path, num_frames=25, min_frames=9, frame_step=8).frames_THWC) == kept

    def test_fewer_than_min_frames_is_too_short_and_says_what_to_set(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(8))
        with pytest.raises(RejectRow, match=r"too_short: 8 frames at 8 fps .* 9 are needed .*clips\.min_frames"):
            read(path, min_frames=9)
        assert reason(write_video(tmp_path / "one.mp4", counting_frames(1))) == "too_short"
        assert len(read(tmp_path / "one.mp4", num_frames=1, min_frames=1).frames_THWC) == 1

    def test_a_last_frame_stands_for_at_most_half_a_step(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(24), fps=24)
        assert len(read(path, fps=16.0, num_frames=17, min_frames=1).frames_THWC) == 13, (
            "the 17th target, 1 s, is 1/24 s after the last frame"
        )
        assert len(read(write_video(tmp_path / "w.mp4", counting_frames(25), fps=24), fps=16.0, num_frames=17).frames_THWC) == 17

    def test_a_last_frame_does_stand_for_a_target_within_half_a_step(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(48), fps=60)
        assert len(read(path, fps=16.0, num_frames=13, min_frames=1).frames_THWC) == 13, (
            "the 13th target, 0.75 s, is 1/60 s off: less than 1/32"
        )
        path = write_video(tmp_path / "w.mp4", counting_frames(45), fps=60)
        assert len(read(path, fps=16.0, num_frames=13, min_frames=1).frames_THWC) == 13
        path = write_video(tmp_path / "x.mp4", counting_frames(44), fps=60)
        assert len(read(path, fps=16.0, num_frames=13, min_frames=1).frames_THWC) == 9, (
            "0.75 s is 2/60 s after the last frame: more than 1/32"
        )

    def test_what_comes_after_the_window_is_not_looked_at(self, tmp_path):
        later = [k / 8 for k in range(9)] + [1.2, 2.0, 2.1, 5.0]
        assert read(write_video(tmp_path / "v.mp4", counting_frames(13), times_s=later)).flags == ()

    def test_after_a_jump_back_the_frames_keep_the_times_between_them(self, tmp_path):
        first = write_video(tmp_path / "a.ts", counting_frames(6), options={"bf": "0"}).read_bytes()
        second = write_video(tmp_path / "b.ts", counting_frames(6), fps=4, options={"bf": "0"}).read_bytes()
        (tmp_path / "both.ts").write_bytes(first + second)
        clip = read(tmp_path / "both.ts", num_frames=13)
        assert which_frames(clip.frames_THWC) == [0, 1, 2, 3, 4, 5, 0, 0, 1, 1, 2, 2, 3], "the second part is half as fast"
        assert "time_repaired" in clip.flags

    def test_time_stamps_that_jump_back_are_repaired_and_flagged(self, tmp_path):
        first = write_video(tmp_path / "a.ts", counting_frames(6), options={"bf": "0"}).read_bytes()
        (tmp_path / "both.ts").write_bytes(first + first)
        clip = read(tmp_path / "both.ts")
        assert which_frames(clip.frames_THWC)[:6] == list(range(6))
        assert "time_repaired" in clip.flags
        assert np.all(np.diff(clip.times_s) > 0)

    @pytest.mark.parametrize(
        ("stamps", "average_rate", "times"),
        [
            ([0, 1, 2, 3], 8, [0, 1, 2, 3]),
            ([0, 1, None, 3, 4], 8, [0, 1, 2, 3, 4]),
            ([0, 1, 2, 6, None, 8], 8, [0, 1, 2, 6, 7, 8]),
            ([None, None, None], 4, [0, 2, 4]),
            ([4, 5, 6, 0, 1, 3], 8, [0, 1, 2, 3, 4, 6]),
            ([0, 1, 1, 2], 8, [0, 1, 2, 3]),
        ],
        ids=["whole", "one missing", "one missing after a pause", "none at all", "a jump back", "one twice"],
    )
    def test_a_missing_stamp_is_filled_in_and_moves_no_other(self, tmp_path, stamps, average_rate, times):
        """In units of 1/8 s. A frame lasts as long as most do; stamps after a missing one stand as they are."""
        frames = [av.VideoFrame(16, 16) for _ in stamps]
        for frame, stamp in zip(frames, stamps, strict=True):
            frame.pts, frame.time_base = stamp, Fraction(1, 8)
        with open_video(write_video(tmp_path / "v.mp4", counting_frames(3), fps=average_rate)) as (container, stream):
            reading = TimedFrames(stream)
            reading._decoded = lambda _: iter(frames)
            assert [8 * time for time, _ in reading.frames(container)] == times
        assert ("time_repaired" in reading.flags()) == (stamps != [0, 1, 2, 3])


WITHOUT_TIMES = {
    "H.264 in AVI": ("v.avi", {"codec": "libx264", "options": {"bf": "2", "b-adapt": "0"}}),
    "H.264 with a pyramid in AVI": (
        "v.avi",
        {"codec": "libx264", "options": {"bf": "3", "b-adapt": "0", "x264-params": "b-pyramid=normal"}},
    ),
    "MPEG-4 in AVI": ("v.avi", {"codec": "mpeg4", "options": {"bf": "2", "qmin": "1", "qmax": "2"}}),
}
"""Containers that keep no presentation times, with B-frames."""


class TestFramesWithoutPresentationTimes:
    """The stamps of these files are those of decoding. By them the frames would come out of order, or at half speed."""

    @pytest.mark.parametrize("kind", WITHOUT_TIMES)
    def test_frames_come_in_order_and_at_their_speed(self, tmp_path, kind):
        name, encoding = WITHOUT_TIMES[kind]
        clip = read(write_video(tmp_path / name, counting_frames(40), **encoding), num_frames=17)
        assert which_frames(clip.frames_THWC) == list(range(17))
        assert np.allclose(np.diff(clip.times_s), 1 / 8)

    @pytest.mark.parametrize(
        ("codec", "options"),
        [("libx264", {"bf": "2", "b-adapt": "0"}), ("libx265", {"x265-params": "bframes=3:b-adapt=0:log-level=none"})],
    )
    def test_an_mp4_that_lost_its_presentation_times_is_read_in_order(self, tmp_path, codec, options):
        path = tmp_path / "v.mp4"
        write_video(path, counting_frames(40), codec=codec, options=options, container_options={"use_editlist": "0"})
        before = read(path, num_frames=17)
        path.write_bytes(path.read_bytes().replace(b"ctts", b"free"))
        after = read(path, num_frames=17)
        assert np.array_equal(after.frames_THWC, before.frames_THWC)
        assert (before.flags, after.flags) == ((), ("time_repaired",))

    def test_stamps_that_are_no_times_of_frames_are_an_error(self):
        def packets(*stamps):
            for stamp in stamps:
                packet = av.Packet(1)
                packet.pts, packet.time_base = stamp, Fraction(1, 8)
                yield packet

        assert [8 * stamp for stamp in sorted_stamps(packets(0, 3, 1, None, 2))] == [0, 1, 2, 3]
        for wrong in ((0, 1, 1), (0, *range(20, 60), 10)):
            with pytest.raises(ValueError, match="past or taken"):
                list(sorted_stamps(packets(*wrong)))


class TestPicture:
    def test_a_picture_of_the_right_size_is_not_touched(self, tmp_path):
        frames = np.repeat(np.kron(np.random.default_rng(0).integers(0, 255, (12, 16, 3)), np.ones((4, 4, 1)))[None], 9, 0).astype(np.uint8)
        clip = read(write_video(tmp_path / "v.mp4", frames, codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"}))
        assert np.array_equal(clip.frames_THWC, frames)

    def test_it_is_scaled_to_cover_and_cropped_in_the_middle(self, tmp_path):
        frames = np.zeros((9, 96, 256, 3), dtype=np.uint8)
        frames[:, :, 64:192] = 200  # the middle half, which is what 64x48 shows of 256x96
        clip = read(write_video(tmp_path / "wide.mp4", frames))
        assert clip.frames_THWC.shape[1:3] == (48, 64)
        assert clip.frames_THWC[:, :, 2:-2].min() > 190
        frames = np.zeros((9, 256, 64, 3), dtype=np.uint8)
        frames[:, 104:152] = 200
        assert read(write_video(tmp_path / "tall.mp4", frames)).frames_THWC[:, 2:-2].min() > 190

    def test_shrinking_averages_over_areas(self, tmp_path):
        stripes = np.zeros((9, 192, 256, 3), dtype=np.uint8)
        stripes[:, :, ::4] = 200
        clip = read(write_video(tmp_path / "v.mp4", stripes, codec="libx264rgb", pix_fmt="rgb24", options={"qp": "0"}))
        assert np.abs(clip.frames_THWC.astype(int) - 50).max() <= 1, "fine stripes must become grey, not a pattern of their own"

    def test_enlarging_much_is_flagged(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(9, width=24, height=18))
        assert read(path).flags == ("upscaled",)
        assert read(path, width=32, height=32).flags == ()

    @pytest.mark.parametrize("rotation", [90, 180, 270])
    def test_rotation_is_applied(self, tmp_path, rotation):
        frames = np.zeros((9, 48, 64, 3), dtype=np.uint8)
        frames[:, :24, :32] = (250, 20, 20)  # the stored picture's corner at the top left
        clip = read(write_video(tmp_path / "v.mp4", frames, rotation=rotation), width=32, height=32)
        with av.open(str(tmp_path / "v.mp4")) as container:
            turned = np.rot90(frames[0], k=next(container.decode(video=0)).rotation // 90)
        quarters = {"tl": turned[:8, :8], "tr": turned[:8, -8:], "bl": turned[-8:, :8], "br": turned[-8:, -8:]}
        shown = clip.frames_THWC[0]
        seen = {"tl": shown[:8, :8], "tr": shown[:8, -8:], "bl": shown[-8:, :8], "br": shown[-8:, -8:]}
        assert max(seen, key=lambda c: seen[c][..., 0].mean()) == max(quarters, key=lambda c: quarters[c][..., 0].mean()) != "tl"
        assert clip.flags == ("rotated",)

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_each_of_the_eight_orientations_is_shown_as_players_show_it(self, tmp_path, orientation):
        frames = np.zeros((9, 48, 64, 3), dtype=np.uint8)
        frames[:, :24, :32], frames[:, :24, 32:], frames[:, 24:, :32] = (250, 20, 20), (20, 250, 20), (20, 20, 250)
        path = write_video(tmp_path / "v.mp4", frames)
        matrix, shown = ORIENTATIONS[orientation]
        upright = read(path, width=64, height=48)
        expected = np.stack([shown(frame) for frame in upright.frames_THWC])
        with_display_matrix(path, matrix)
        clip = read(path, width=expected.shape[2], height=expected.shape[1])
        assert np.array_equal(clip.frames_THWC, expected)
        assert clip.flags == (() if orientation == "as stored" else ("rotated",))
        facts = probe(path)
        assert (facts.width, facts.height) == (expected.shape[2], expected.shape[1])

    def test_a_turn_by_an_odd_angle_is_the_nearest_orientation(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(9))
        with_display_matrix(path, (0.97, 0.26, -0.26, 0.97))
        assert read(path).flags == ()

    def test_pixels_that_are_not_square_are_made_square(self, tmp_path):
        frames = np.zeros((9, 48, 32, 3), dtype=np.uint8)
        frames[:, :, 16:] = 200
        frames[:, :12] = 100
        path = write_video(tmp_path / "v.mp4", frames, pixel_aspect=Fraction(2, 1))
        clip = read(path)
        assert clip.flags == ("non_square_pixels",)
        assert clip.frames_THWC[:, 14:, :30].max() < 20, "a 64x48 window shows the whole stretched picture, its edge in the middle"
        assert clip.frames_THWC[:, 14:, 34:].min() > 180
        assert np.abs(clip.frames_THWC[:, :10].astype(int) - 100).max() < 20, "and nothing of it is cut off"
        assert (probe(path).width, probe(path).height) == (64, 48)

    @pytest.mark.parametrize(
        ("codec", "pix_fmt"),
        [
            ("libx264", "yuv444p"),
            ("libx264", "yuv422p"),
            ("libx264", "yuv420p10le"),
            ("ffv1", "gray"),
            ("ffv1", "gray16le"),
            ("libvpx-vp9", "yuv420p"),
        ],
    )
    def test_other_pixel_formats_are_read(self, tmp_path, codec, pix_fmt):
        clip = read(write_video(tmp_path / "v.mkv", counting_frames(9), codec=codec, pix_fmt=pix_fmt))
        assert which_frames(clip.frames_THWC) == list(range(9))

    def test_full_range_is_read_as_such(self, tmp_path):
        frames = np.full((9, 48, 64, 3), 8, dtype=np.uint8)
        frames[:, :, 32:] = 247
        shown = read(write_video(tmp_path / "v.mp4", frames, full_range=True)).frames_THWC.astype(int)
        assert np.abs(shown - frames).max() <= 3

    def test_alpha_is_left_out_and_flagged(self, tmp_path):
        clip = read(write_video(tmp_path / "v.mov", counting_frames(9), codec="qtrle", pix_fmt="argb"))
        assert which_frames(clip.frames_THWC) == list(range(9))
        assert clip.flags == ("alpha",)

    def test_odd_sizes_are_read(self, tmp_path):
        frames = counting_frames(9, width=67, height=49)
        clip = read(write_video(tmp_path / "v.mkv", frames, codec="ffv1", pix_fmt="yuv420p"))
        assert which_frames(clip.frames_THWC) == list(range(9))

    def test_hdr_is_flagged(self, tmp_path):
        assert read(write_video(tmp_path / "v.mp4", counting_frames(9), transfer=16)).flags == ("hdr",)

    def test_interlaced_video_is_deinterlaced_and_flagged(self, tmp_path):
        combed = combed_bar(9)
        clip = read(write_video(tmp_path / "v.mkv", combed, interlaced=True))
        assert clip.flags == ("interlaced",)
        assert len(clip.frames_THWC) == 9
        before, after = (combs(frames[1:-1]) for frames in (combed, clip.frames_THWC))
        assert after < 0.6 * before, "the combs between the lines must be gone"

    def test_a_video_that_turns_interlaced_after_its_first_frames_is_deinterlaced_from_there_on(self, tmp_path):
        still = np.zeros((8, 48, 64, 3), dtype=np.uint8)
        still[:, 16:32, 16:32] = 200
        calm = write_video(tmp_path / "calm.ts", still)
        alone = read(calm, num_frames=5)
        combed = write_video(tmp_path / "combed.ts", combed_bar(16), interlaced=True)
        (tmp_path / "both.ts").write_bytes(calm.read_bytes() + combed.read_bytes())
        clip = read(tmp_path / "both.ts", num_frames=21)
        assert {"interlaced", "time_repaired"} <= set(clip.flags)
        assert np.array_equal(clip.frames_THWC[:5], alone.frames_THWC), "progressive frames are not touched"
        assert alone.flags == ()
        before, after = (combs(frames) for frames in (combed_bar(16)[2:10], clip.frames_THWC[10:18]))
        assert after < 0.6 * before, "the combs between the lines must be gone"


class TestBadFiles:
    @pytest.mark.parametrize("matrix", [8, 10, 11, 12, 13, 14, 15, 16, 17])
    def test_colours_that_ffmpeg_does_not_convert(self, tmp_path, matrix):
        """YCgCo, BT.2020 with constant luminance, ICtCp and others of H.273."""
        path = write_video(tmp_path / "v.mkv", counting_frames(9), codec="ffv1", matrix=matrix)
        for use in (lambda: read_clip(path, RULE), lambda: frame_near(path, 0.5, width=32, height=32)):
            with pytest.raises(RejectRow, match=rf"matrix {matrix} of ITU-T H\.273.*Encode it anew") as caught:
                use()
            assert caught.value.reason == "unsupported_colours"

    @pytest.mark.parametrize("matrix", [0, 1, 2, 4, 5, 6, 7, 9])
    def test_colours_that_ffmpeg_converts_are_read(self, tmp_path, matrix):
        path = write_video(tmp_path / "v.mkv", counting_frames(9), codec="ffv1", matrix=matrix)
        assert which_frames(read(path).frames_THWC) == list(range(9))

    @pytest.mark.parametrize(("suffix", "sound"), [("mkv", "aac"), ("ts", "mp2"), ("mp4", "aac"), ("avi", "mp2")])
    def test_a_short_video_whose_sound_goes_on_is_short_and_not_cut_off(self, tmp_path, suffix, sound):
        path = with_sound(tmp_path / f"v.{suffix}", counting_frames(4), sound, seconds=3.0)
        assert reason(path) == "too_short"
        assert probe(path).duration_s == pytest.approx(0.5, abs=0.13)
        assert frame_near(path, 0.5, width=64, height=48).shape == (48, 64, 3)

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "v.mp4").write_bytes(b"")
        assert reason(tmp_path / "v.mp4") == "empty_file"

    @pytest.mark.parametrize(
        "data",
        [
            b"<!doctype html><html><body>404 Not Found</body></html>" * 20,
            b'{"error": "rate limited"}',
            b"\x89PNG\r\n\x1a\n" + bytes(100),
            b"PK\x03\x04" + bytes(2000),
            b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
            b"ffconcat version 1.0\nfile '/etc/passwd'\n",
            b"plain words\n" * 100,
        ],
        ids=["html", "json", "png", "zip", "hls playlist", "concat list", "text"],
    )
    def test_something_else_under_a_videos_name(self, tmp_path, data):
        (tmp_path / "v.mp4").write_bytes(data)
        assert reason(tmp_path / "v.mp4") == "not_a_video"

    def test_a_real_picture_is_no_video(self, tmp_path):
        from PIL import Image

        Image.fromarray(counting_frames(1)[0]).save(tmp_path / "v.png")
        (tmp_path / "v.png").rename(tmp_path / "v.mp4")
        assert reason(tmp_path / "v.mp4") == "not_a_video"

    def test_a_download_that_stopped_before_the_index(self, tmp_path):
        assert reason(cut(write_video(tmp_path / "v.mp4", noise()), 0.7)) == "no_moov"

    def test_sound_without_a_picture(self, tmp_path):
        assert reason(write_sound(tmp_path / "v.mp4")) == "no_video_stream"

    def test_a_file_that_was_cut_is_used_while_enough_of_it_is_left(self, tmp_path):
        faststart = {"movflags": "+faststart"}
        path = cut(write_video(tmp_path / "v.mp4", noise(24), container_options=faststart, options={"bf": "0", "g": "4"}), 0.5)
        assert reason(path, replace(RULE, num_frames=17, min_frames=17)) == "truncated_tail"
        assert len(read(path, num_frames=9).frames_THWC) == 9
        longer = read(path, num_frames=21, min_frames=5)
        assert 5 <= len(longer.frames_THWC) < 17
        assert longer.flags == ("truncated",)

    def test_a_cut_matroska_file_ends_without_an_error_and_is_noticed_all_the_same(self, tmp_path):
        path = cut(write_video(tmp_path / "v.mkv", noise(40), options={"bf": "0", "g": "4"}), 0.3)
        assert reason(path, replace(RULE, num_frames=33, min_frames=33)) == "truncated_tail"

    def test_damage_inside_the_window_rejects_and_damage_behind_it_does_not_matter(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", noise(40), options={"bf": "0", "g": "40"})
        damage(path, 0.5, path.stat().st_size // 10)
        assert reason(path, replace(RULE, num_frames=37, min_frames=5)) == "decode_error"
        assert len(read(path).frames_THWC) == 9

    def test_damage_that_the_decoder_conceals_is_noticed_even_in_a_frame_that_is_not_taken(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", noise(40), fps=16, options={"bf": "0", "g": "40"})
        damage(path, 0.5, 60)
        with av.open(str(path)) as container:
            corrupt = [k for k, frame in enumerate(container.decode(video=0)) if frame.is_corrupt]
        assert len(corrupt) == 1, "the decoder says it of one frame, though all later ones are made from it"
        for num_frames, fps in ((37, 16.0), (17, 8.0), (13, 16 / 3)):
            assert reason(path, replace(RULE, num_frames=num_frames, min_frames=5, fps=fps)) == "decode_error", fps
        assert len(read(path, fps=16.0, num_frames=17).frames_THWC) == 17, "the window ends before the damage"

    def test_damage_at_which_the_decoder_stops_is_no_cut(self, tmp_path):
        path = damage(write_video(tmp_path / "v.mov", noise(24), codec="png", pix_fmt="rgb24"), 0.5, 3000)
        assert reason(path, replace(RULE, num_frames=21, min_frames=5)) == "decode_error"
        assert len(read(path).frames_THWC) == 9

    def test_a_missing_file_a_broken_link_and_a_folder(self, tmp_path):
        assert reason(tmp_path / "v.mp4") == "missing_file"
        (tmp_path / "link.mp4").symlink_to("nowhere")
        assert reason(tmp_path / "link.mp4") == "broken_symlink"
        (tmp_path / "folder.mp4").mkdir()
        assert reason(tmp_path / "folder.mp4") == "is_a_directory"

    def test_only_a_reason_that_may_pass_is_transient(self, tmp_path):
        for name, transient in (("gone.mp4", True), ("empty.mp4", False)):
            if not transient:
                (tmp_path / name).write_bytes(b"")
            with pytest.raises(RejectRow) as caught, open_video(tmp_path / name):
                pass
            assert caught.value.transient is transient

    def test_a_codec_that_this_ffmpeg_does_not_know(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(9))
        path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
        assert reason(path) == "unsupported_codec"

    def test_a_moving_webp_under_a_videos_name(self, tmp_path):
        from PIL import Image

        first, *others = (Image.fromarray(frame) for frame in counting_frames(9))
        first.save(tmp_path / "v.webp", save_all=True, append_images=others, duration=125)
        (tmp_path / "v.webp").rename(tmp_path / "v.mp4")
        assert reason(tmp_path / "v.mp4") == "not_a_video"

    @pytest.mark.parametrize("fps", [240, 1000])
    def test_a_few_frames_at_an_absurd_rate_are_too_short(self, tmp_path, fps):
        assert reason(write_video(tmp_path / "v.mp4", counting_frames(40), fps=fps)) == "too_short"


class TestContainer:
    def test_the_content_counts_and_not_the_suffix(self, tmp_path):
        write_video(tmp_path / "v.webm", counting_frames(9), codec="libvpx-vp9").rename(tmp_path / "v.mp4")
        assert which_frames(read(tmp_path / "v.mp4").frames_THWC) == list(range(9))

    def test_av1_is_read(self, tmp_path):
        path = write_video(tmp_path / "v.mp4", counting_frames(9), codec="libsvtav1")
        assert which_frames(read(path).frames_THWC) == list(range(9))

    def test_frames_that_an_edit_list_hides_are_not_shown_though_the_header_counts_them(self, tmp_path):
        whole = write_video(tmp_path / "whole.mp4", counting_frames(24), options={"bf": "0", "g": "12"})
        shift = Fraction(5, 8)  # as cutting without encoding leaves it: the five frames since the key frame are in the file, before time 0
        options = {"avoid_negative_ts": "disabled"}
        with av.open(str(whole)) as given, av.open(str(tmp_path / "v.mp4"), "w", options=options) as container:
            stream = container.add_stream_from_template(given.streams.video[0])
            for packet in given.demux(video=0):
                if packet.dts is not None:
                    packet.pts, packet.dts = (int(stamp - shift / packet.time_base) for stamp in (packet.pts, packet.dts))
                    packet.stream = stream
                    container.mux(packet)
        assert probe(tmp_path / "v.mp4").num_frames == 24
        assert which_frames(read(tmp_path / "v.mp4").frames_THWC) == list(range(5, 14))

    def test_a_stream_of_time_codes_beside_the_video_is_left_alone(self, tmp_path):
        with av.open(str(tmp_path / "v.mov"), "w") as container:
            container.metadata["timecode"] = "01:00:00:00"
            stream = container.add_stream("libx264", rate=8)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for frame_HWC in counting_frames(9):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")))
            container.mux(stream.encode())
        with av.open(str(tmp_path / "v.mov")) as container:
            assert "data" in {stream.type for stream in container.streams}
        assert which_frames(read(tmp_path / "v.mov").frames_THWC) == list(range(9))


class TestProbe:
    def test_it_tells_what_the_container_says(self, tmp_path):
        facts = probe(write_video(tmp_path / "v.mp4", counting_frames(12), fps=8))
        assert (facts.num_frames, facts.fps, facts.width, facts.height, facts.duration_s) == (12, 8.0, 64, 48, 1.5)

    def test_sizes_are_those_after_rotation(self, tmp_path):
        facts = probe(write_video(tmp_path / "v.mp4", counting_frames(9), rotation=90))
        assert (facts.width, facts.height, facts.flags) == (48, 64, ("rotated",))

    @pytest.mark.parametrize("suffix", ["mkv", "webm", "avi", "mov"])
    def test_frames_are_counted_where_the_container_gives_no_count(self, tmp_path, suffix):
        codec = "libvpx" if suffix == "webm" else "libx264"
        assert probe(write_video(tmp_path / f"v.{suffix}", counting_frames(12), codec=codec)).num_frames == 12

    def test_flags_survive_the_way_through_a_number(self):
        for flags in ((), FLAGS, ("hdr", "rotated")):
            assert flag_names(flag_bits(flags)) == flags


def test_the_same_file_gives_the_same_bits(tmp_path):
    path = write_video(tmp_path / "v.mp4", noise(20), fps=24)
    assert np.array_equal(read(path, fps=16.0).frames_THWC, read(path, fps=16.0).frames_THWC)


def test_a_frame_to_look_at_comes_from_about_where_it_was_asked_for(tmp_path):
    path = write_video(tmp_path / "v.mp4", counting_frames(24), options={"g": "4"})
    assert which_frames(frame_near(path, 0.5, width=64, height=48)[None])[0] in range(11, 14)
    assert which_frames(frame_near(path, 0.0, width=64, height=48)[None]) == [0]


def test_a_frame_to_look_at_is_sought_from_where_the_file_starts(tmp_path):
    late = [5 + k / 8 for k in range(24)]
    path = write_video(tmp_path / "v.mkv", counting_frames(24), times_s=late, options={"g": "4"})
    share = 1.5 / 8  # mkv states 8 s, its end: the frame at 5 + 1.5 s
    assert which_frames(frame_near(path, share, width=64, height=48)[None])[0] in range(11, 14)


def test_a_file_of_which_no_frame_can_be_looked_at_is_refused(tmp_path):
    path = write_video(tmp_path / "v.mov", noise(5), codec="png", pix_fmt="rgb24")
    damage(path, 0.01, path.stat().st_size // 2)
    with pytest.raises(RejectRow) as caught:
        frame_near(path, 0.0, width=64, height=48)
    assert caught.value.reason == "decode_error"
