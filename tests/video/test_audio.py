"""The sound of a clip: as long as its frames, beginning with the first of them."""

import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest

from motive_pipeline.config import Engine
from motive_pipeline.errors import RejectRow
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.video import audio
from motive_pipeline.video.audio import Sound, has_sound, read_sound
from motive_pipeline.video.encode import write_mp4
from motive_pipeline.video.readers import SoundReader
from tests.clip_fixtures import clicks_in, counting_frames, moving_square, noise, write_film_with_sound, write_sound, write_video

CLOSE_S = 0.003
"""A codec smears a click by less than this."""


def film(path, **options):
    """Four seconds at 12 frames a second, with clicks at 0.5, 1.5, 2.5 and 3.5 s."""
    return write_film_with_sound(path, noise(48, width=32, height=32), fps=12, **{"clicks_s": [0.5, 1.5, 2.5, 3.5]} | options)


def found(sound: Sound | None) -> list[float]:
    assert sound is not None
    return clicks_in(sound.samples_CS, sound.rate)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {}),
        ("a.mp4", {"layout": "mono", "rate": 22050}),
        ("a.mkv", {"codec": "libopus", "rate": 48000}),
        ("a.mov", {"codec": "pcm_s16le"}),
        ("a.ts", {}),
    ],
)
def test_the_sound_begins_with_the_first_frame_and_is_as_long_as_was_asked_for(tmp_path, name, options):
    sound = read_sound(film(tmp_path / name, **options), Fraction(2))
    assert sound is not None
    assert sound.samples_CS.shape == (1 if "layout" in options else 2, 2 * sound.rate)
    assert found(sound) == pytest.approx([0.5, 1.5], abs=CLOSE_S)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
@pytest.mark.parametrize(
    ("window", "length_s", "clicks"), [("#t=2.25,3.75", Fraction(3, 2), [0.25, 1.25]), ("#frames=18,42", Fraction(2), [0.0, 1.0])]
)
def test_the_sound_of_a_window_begins_with_the_windows_first_frame(tmp_path, name, window, length_s, clicks):
    """2.25 s is the time of frame 27, and frame 18 is shown at 1.5 s."""
    file = film(tmp_path / name)
    assert found(read_sound(MediaFile.parse(f"{file}{window}"), length_s)) == pytest.approx(clicks, abs=CLOSE_S)


def test_a_window_that_begins_between_two_frames_has_its_sound_from_the_next_frame_on(tmp_path):
    file = film(tmp_path / "a.mp4", clicks_s=[2.5])
    sound = read_sound(MediaFile.parse(f"{file}#t=2.2,3.2"), Fraction(1))
    assert found(sound) == pytest.approx([0.25], abs=CLOSE_S), "frame 27 is the first at or after 2.2 s"


def test_sound_that_begins_later_or_ends_earlier_than_the_picture_is_filled_with_silence(tmp_path):
    late = film(tmp_path / "late.mp4", begins_s=1.0, clicks_s=[1.5, 2.5], length_s=2.0)
    assert found(read_sound(late, Fraction(4))) == pytest.approx([1.5, 2.5], abs=CLOSE_S)
    sound = read_sound(MediaFile.parse(f"{late}#t=2,4"), Fraction(2))
    assert found(sound) == pytest.approx([0.5], abs=CLOSE_S)
    assert sound is not None
    assert np.abs(sound.samples_CS[:, int(1.1 * sound.rate) :]).max() == 0


def test_sound_that_pauses_goes_on_at_its_own_time(tmp_path):
    file = film(tmp_path / "a.mkv", codec="pcm_s16le", pause_s=(1.0, 2.0))
    assert found(read_sound(file, Fraction(4))) == pytest.approx([0.5, 2.5, 3.5], abs=CLOSE_S)


def test_a_container_that_is_sought_behind_the_place_is_read_from_the_beginning(tmp_path, monkeypatch):
    file = film(tmp_path / "a.mp4")

    def too_far(container, place_s):
        container.seek(int(3.2 * av.time_base))
        return True

    monkeypatch.setattr(audio, "_sought", too_far)
    assert found(read_sound(MediaFile.parse(f"{file}#t=2,3"), Fraction(1))) == pytest.approx([0.5], abs=CLOSE_S)
    monkeypatch.setattr(audio, "_sought", lambda container, place_s: False)
    assert found(read_sound(MediaFile.parse(f"{file}#t=2,3"), Fraction(1))) == pytest.approx([0.5], abs=CLOSE_S)


def test_a_film_without_sound_and_a_window_behind_the_end_of_the_sound_have_none(tmp_path):
    silent = write_video(tmp_path / "silent.mp4", moving_square(9))
    assert (read_sound(silent, Fraction(1)), has_sound(silent)) == (None, False)
    short = film(tmp_path / "short.mp4", clicks_s=[0.5], length_s=1.0)
    assert has_sound(short)
    assert read_sound(MediaFile.parse(f"{short}#t=2,3"), Fraction(1)) is None
    with pytest.raises(RejectRow, match="no video"):
        read_sound(write_sound(tmp_path / "sound.m4a"), Fraction(1))


def test_the_members_of_archives_are_heard_and_the_workers_give_the_same_samples(tmp_path):
    file = film(tmp_path / "a.mp4")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        packed.write(file, "a.mp4")
    member = MediaFile(path=tmp_path / "all.zip", member="a.mp4")
    here = read_sound(file, Fraction(1))
    reader = SoundReader(Fraction(1), Engine(decode_workers=1))
    reader.prefetch([member, MediaFile(path=write_video(tmp_path / "silent.mp4", moving_square(9)))])
    there = reader(member)
    assert here is not None
    assert there is not None
    assert (there.rate, there.samples_CS.tobytes()) == (here.rate, here.samples_CS.tobytes())
    assert reader(tmp_path / "silent.mp4") is None


def test_an_odd_sample_rate_becomes_one_that_aac_has(tmp_path):
    sound = read_sound(film(tmp_path / "a.mkv", codec="pcm_s16le", rate=37800), Fraction(2))
    assert sound is not None
    assert sound.rate == 48000
    assert found(sound) == pytest.approx([0.5, 1.5], abs=CLOSE_S)


def test_frames_are_written_with_the_sound_of_their_time_and_equal_input_gives_equal_bytes(tmp_path):
    sound = read_sound(film(tmp_path / "a.mp4"), Fraction(4))
    for name in ("b.mp4", "c.mp4"):
        write_mp4(tmp_path / name, counting_frames(17), 16, sound=sound)
    with av.open(str(tmp_path / "b.mp4")) as container:
        lengths = {stream.type: stream.duration * stream.time_base for stream in container.streams}
    assert lengths == {"video": Fraction(17, 16), "audio": pytest.approx(17 / 16, abs=0.001)}
    assert found(read_sound(tmp_path / "b.mp4", Fraction(17, 16))) == pytest.approx([0.5], abs=CLOSE_S)
    assert (tmp_path / "b.mp4").read_bytes() == (tmp_path / "c.mp4").read_bytes()


def test_sound_that_cannot_be_decoded_is_a_rejection(tmp_path):
    file = film(tmp_path / "a.mp4")
    with av.open(str(file)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    data = bytearray(file.read_bytes())
    for position, size in packets[2:]:
        data[position : position + size] = bytes(size)
    file.write_bytes(data)
    with pytest.raises(RejectRow, match="its sound cannot be decoded") as rejected:
        read_sound(file, Fraction(4))
    assert rejected.value.reason == "decode_error"
