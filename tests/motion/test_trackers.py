"""Trackers: displacement in pixels of the decoded frame, relative to the stated reference frame."""

import cv2
import numpy as np
import pytest

from motive_pipeline.config import Motion
from motive_pipeline.demo.generator import render_clip, render_truth, sample_spec
from motive_pipeline.motion.trackers import DisTracker, build_tracker


@pytest.fixture(scope="module")
def sliding():
    """A demo clip whose square slides to the right, and its exact motion."""
    spec = sample_spec(np.random.default_rng(3), motion="right")
    return render_clip(spec), render_truth(spec), spec.speed_px


def on_object(displacement_THW2: np.ndarray, object_THW: np.ndarray) -> np.ndarray:
    """Mean (dx, dy) on the object, frame by frame."""
    return np.stack([displacement_THW2[t][object_THW[t]].mean(axis=0) for t in range(len(object_THW))])


def test_previous_leads_back_on_each_frames_own_grid_and_frame_0_leads_to_frame_1(sliding):
    frames, truth, speed_px = sliding
    found_T2 = on_object(DisTracker().displacement(frames), truth.object_FHW)
    assert found_T2[1:, 0] == pytest.approx(-speed_px, abs=0.15)
    assert found_T2[0, 0] == pytest.approx(speed_px, abs=0.15)
    assert found_T2[:, 1] == pytest.approx(0, abs=0.1)


def test_previous_agrees_with_the_exact_motion(sliding):
    frames, truth, _ = sliding
    error_THW = np.linalg.norm(DisTracker().displacement(frames) - truth.displacement_FHW2, axis=-1)
    assert error_THW[truth.object_FHW].mean() < 0.1
    assert error_THW.mean() < 0.15


def test_first_leads_from_frame_0_on_its_grid_and_grows_with_time(sliding):
    frames, truth, speed_px = sliding
    displacement = DisTracker(reference="first").displacement(frames[:6])
    assert not displacement[0].any()
    on_first = np.broadcast_to(truth.object_FHW[:1], (6, 64, 64))
    assert on_object(displacement, on_first)[:, 0] == pytest.approx(speed_px * np.arange(6), abs=0.5)


def test_tracking_on_enlarged_frames_gives_pixels_of_the_frames_given(sliding):
    frames, truth, speed_px = sliding
    for min_side_px in (64, 128, 192):
        found_T2 = on_object(DisTracker(min_side_px=min_side_px).displacement(frames[:5]), truth.object_FHW[:5])
        assert found_T2[1:, 0] == pytest.approx(-speed_px, abs=0.3), min_side_px
    wide = np.repeat(frames[:3], 2, axis=2)
    found = DisTracker().displacement(wide)
    assert found.shape == (3, 64, 128, 2)
    assert found[1, truth.object_FHW[1].repeat(2, axis=1), 0].mean() == pytest.approx(-2 * speed_px, abs=0.4), (
        "dx is in the wide frame's pixels"
    )


def test_a_still_clip_and_a_clip_of_one_frame_do_not_move():
    frames = render_clip(sample_spec(np.random.default_rng(0), motion="static"))
    assert np.abs(DisTracker().displacement(frames)).max() < 1e-3
    assert not DisTracker().displacement(frames[:1]).any()
    assert DisTracker().displacement(frames[:1]).shape == (1, 64, 64, 2)


def test_the_same_frames_give_the_same_bits_however_many_threads_opencv_may_use():
    frames = np.random.default_rng(0).integers(0, 255, (3, 200, 160, 3), dtype=np.uint8)
    before = cv2.getNumThreads()
    found = []
    for threads in (1, 2, 7):
        cv2.setNumThreads(threads)
        found.append(DisTracker().displacement(frames))
        assert cv2.getNumThreads() == threads, "the caller's setting must survive"
    cv2.setNumThreads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_the_settings_choose_the_tracker_and_auto_is_previous():
    assert build_tracker(Motion()) == DisTracker(preset="medium", reference="previous", min_side_px=128)
    assert build_tracker(Motion(reference="first", preset="fast", min_side_px=0)) == DisTracker(
        preset="fast", reference="first", min_side_px=0
    )
