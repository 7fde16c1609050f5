"""The classifier reads the motion of real films, names no motion in noise, and measures speed."""

import cv2
import numpy as np
import pytest

from motive_pipeline.demo import generator as demo
from motive_pipeline.demo.motion_class import motion_class


def test_it_reads_every_motion_of_the_demo_and_its_speed():
    rng, right, errors_px = np.random.default_rng(11), [], []
    for motion in demo.MOTIONS:
        for _ in range(6):
            spec = demo.sample_spec(rng, motion=motion)
            reading = motion_class(demo.render_clip(spec))
            right.append(reading.label == motion)
            errors_px.append(abs(reading.speed_px - spec.speed_px))
    assert np.mean(right) >= 0.95
    assert np.median(errors_px) < 0.1


@pytest.mark.parametrize("blur_px", [0, 1, 3])
def test_noise_has_no_motion_of_its_own(blur_px):
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(17, 64, 64)).astype(np.float32)
    if blur_px:
        noise = np.stack([cv2.GaussianBlur(frame, (0, 0), blur_px) for frame in noise])
    frames = np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=-1)
    assert motion_class(frames).label == "incoherent"


def test_a_motion_that_changes_its_mind_is_incoherent():
    rng = np.random.default_rng(3)
    frames = demo.render_clip(demo.sample_spec(rng, motion="right"))
    there, back = frames[:12:2], frames[12:0:-2]
    assert motion_class(np.concatenate([there, back, there])).label == "incoherent"


def test_a_film_played_backwards_has_the_opposite_motion():
    rng = np.random.default_rng(4)
    for motion, opposite in (("right", "left"), ("up", "down"), ("grow", "shrink"), ("bounce", "bounce"), ("static", "static")):
        frames = demo.render_clip(demo.sample_spec(rng, motion=motion))
        assert motion_class(frames).label == motion
        assert motion_class(frames[::-1].copy()).label == opposite


def test_it_refuses_what_is_no_film():
    with pytest.raises(ValueError, match="5 uint8 RGB frames"):
        motion_class(np.zeros((17, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="5 uint8 RGB frames"):
        motion_class(np.zeros((3, 64, 64, 3), np.uint8))
