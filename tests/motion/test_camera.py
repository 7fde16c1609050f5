"""Camera motion, cuts, visibility and confidence in the mask: the options beyond the paper's equations."""

import cv2
import numpy as np
import pytest

from motive_pipeline.demo.generator import render_clip, render_truth, sample_spec
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.motion.camera import evenness, weighed_down, without_camera
from motive_pipeline.motion.field import MaskRule, motion_field, weigh
from motive_pipeline.motion.mask import magnitude, saliency
from motive_pipeline.motion.trackers import DisTracker, Tracks
from motive_pipeline.video.cuts import cut_frames

GRID = LatentGrid(channels=16, temporal_stride=4, spatial_stride=8)
HEIGHT, WIDTH = 48, 64


def camera_field(num_frames: int = 5, *, shift=(3.0, -1.0), zoom: float = 1.0, roll_deg: float = 0.0) -> np.ndarray:
    """The displacement of every pixel under a camera that shifts, zooms and rolls about the centre."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
    x, y = x - WIDTH / 2, y - HEIGHT / 2
    c, s = zoom * np.cos(np.radians(roll_deg)), zoom * np.sin(np.radians(roll_deg))
    field = np.stack([c * x - s * y + shift[0] - x, s * x + c * y + shift[1] - y], axis=-1)
    return np.broadcast_to(field, (num_frames, *field.shape)).astype(np.float32)


def with_object(field: np.ndarray, displacement=(0.0, 4.0)) -> tuple[np.ndarray, np.ndarray]:
    """A thing with a displacement of its own, in a sixth of the picture."""
    is_object = np.zeros((HEIGHT, WIDTH), dtype=bool)
    is_object[10:30, 20:46] = True
    field = field.copy()
    field[:, is_object] = displacement
    return field, is_object


@pytest.mark.parametrize("camera", [{}, {"zoom": 1.05}, {"roll_deg": 3.0}, {"zoom": 0.96, "roll_deg": -2.0, "shift": (-6.0, 2.5)}])
def test_the_cameras_shift_zoom_and_roll_are_taken_out_and_the_things_own_motion_is_left(camera):
    field, is_object = with_object(camera_field(**camera))
    own = without_camera(field)
    assert np.abs(own[:, ~is_object]).max() < 0.02
    expected = (field - camera_field(**camera))[:, is_object]
    assert own[:, is_object] == pytest.approx(expected, abs=0.05)


def test_subtracting_is_deterministic_and_leaves_its_input_alone():
    field, _ = with_object(camera_field(zoom=1.03))
    field += np.random.default_rng(0).normal(0, 0.2, field.shape).astype(np.float32)
    before = field.copy()
    assert np.array_equal(without_camera(field), without_camera(field))
    assert np.array_equal(field, before)


def test_each_frame_has_its_own_camera():
    field = camera_field(3).copy()
    field[1] = camera_field(1, shift=(-5.0, 0.0))[0]
    field[2] = 0
    assert np.abs(without_camera(field)).max() < 0.02


def test_a_frame_without_one_motion_of_the_most_is_left_as_it_is():
    noise = np.random.default_rng(0).normal(0, 5, (2, HEIGHT, WIDTH, 2)).astype(np.float32)
    assert np.array_equal(without_camera(noise), noise)
    halves = np.zeros((1, HEIGHT, WIDTH, 2), dtype=np.float32)
    halves[:, :, :20, 0], halves[:, :, 20:40, 1], halves[:, :, 40:, 0] = 6, 6, -6
    assert np.array_equal(without_camera(halves), halves)
    broken = camera_field(1).copy()
    broken[0, 3, 3] = np.nan
    assert np.array_equal(without_camera(broken), broken, equal_nan=True)


def test_evenness_is_the_share_of_the_picture_that_holds_the_weight():
    weight = np.zeros((3, 10, 10), dtype=np.float32)
    weight[0] = 0.3
    weight[1, :2] = 0.9
    assert evenness(weight) == pytest.approx([1.0, 0.2, 0.0])


def test_weighing_down_keeps_what_fills_up_to_half_of_the_picture_and_takes_even_motion_away():
    weight = np.zeros((4, 10, 10), dtype=np.float32)
    weight[0], weight[1, :2], weight[2, :5], weight[3, :8] = 0.8, 0.9, 0.7, 0.5
    found = weighed_down(weight)
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[1:3] == pytest.approx(weight[1:3], abs=1e-6)
    assert found[3].max() == pytest.approx(0.5 * 2 * (1 - 0.8))


@pytest.mark.parametrize("name", ["grow", "right"])
def test_without_camera_motion_subtracting_changes_the_mask_but_little(name):
    spec = sample_spec(np.random.default_rng(4), motion=name)
    frames = render_clip(spec)
    kept, subtracted = (motion_field(frames, DisTracker(), MaskRule(floor_px=1.0, camera=camera)) for camera in ("keep", "subtract"))
    assert np.abs(kept.weight_THW - subtracted.weight_THW).mean() < 0.01


@pytest.fixture(scope="module")
def panned():
    """A thing that moves before a camera that pans in the second half of the clip: frames, and where the thing is."""
    spec = sample_spec(np.random.default_rng(3), motion="down")
    frames, truth = render_clip(spec), render_truth(spec)
    large = [cv2.resize(frame, (192, 192), interpolation=cv2.INTER_CUBIC) for frame in frames]
    masks = [cv2.resize(mask.astype(np.uint8), (192, 192), interpolation=cv2.INTER_NEAREST) for mask in truth.object_FHW]
    lefts = [20] * 9 + [20 + 4 * step for step in range(1, 9)]
    crop = [(slice(24, 168), slice(left, left + 128)) for left in lefts]
    return np.stack([frame[at] for frame, at in zip(large, crop, strict=True)]), np.stack(
        [mask[at] > 0 for mask, at in zip(masks, crop, strict=True)]
    )


def share_on_object(frames, is_object, camera) -> float:
    weight = motion_field(frames, DisTracker(), MaskRule(floor_px=1.0, camera=camera)).weight_THW
    return float(weight[is_object].sum() / weight.sum())


def test_a_pan_takes_the_mask_off_the_thing_that_moves_and_both_options_bring_it_back(panned):
    kept, subtracted, down = (share_on_object(*panned, camera) for camera in ("keep", "subtract", "downweight"))
    assert kept < 0.35
    assert subtracted > 1.6 * kept
    assert down > 1.3 * kept


def test_a_clip_in_which_only_the_camera_moves_has_next_to_no_mask():
    rng = np.random.default_rng(0)
    scene = cv2.GaussianBlur(rng.integers(0, 255, (80, 140, 3), dtype=np.uint8), (0, 0), 1.5)
    lefts = [0] * 9 + [3 * step for step in range(1, 9)]
    frames = np.stack([scene[8:72, left : left + 96] for left in lefts])
    weights = {
        camera: motion_field(frames, DisTracker(), MaskRule(floor_px=1.0, camera=camera)).mask(GRID).mean()
        for camera in ("keep", "subtract", "downweight")
    }
    assert weights["keep"] > 0.3
    assert weights["subtract"] < 0.15 * weights["keep"]
    assert weights["downweight"] < 0.15 * weights["keep"]


def with_cut(at: int = 7) -> np.ndarray:
    """Two demo clips of slow motion, one after the other."""
    rng = np.random.default_rng(5)
    first, second = (render_clip(sample_spec(rng, motion="right", background_colour=colour)) for colour in ("navy", "olive"))
    return np.concatenate([first[:at], second[at:]])


def test_a_cut_is_found_and_motion_is_none():
    assert np.flatnonzero(cut_frames(with_cut())).tolist() == [7]
    for motion in ("right", "bounce", "pan", "static", "grow"):
        assert not cut_frames(render_clip(sample_spec(np.random.default_rng(6), motion=motion))).any(), motion
    assert cut_frames(with_cut()[:1]).tolist() == [False]


def test_a_change_of_colour_alone_is_a_cut():
    """Red and green of equal luma (BT.601)."""
    red, green = np.full((4, 32, 32, 3), (196, 0, 0), np.uint8), np.full((4, 32, 32, 3), (0, 100, 0), np.uint8)
    assert np.flatnonzero(cut_frames(np.concatenate([red, green]))).tolist() == [4]


def test_the_ends_of_a_flash_are_cuts():
    frames = render_clip(sample_spec(np.random.default_rng(6), motion="right")).copy()
    frames[5] = 250
    assert np.flatnonzero(cut_frames(frames)).tolist() == [5, 6]


def test_noise_alone_is_no_cut():
    noise = np.random.default_rng(0).integers(0, 255, (9, 64, 64, 3), dtype=np.uint8)
    assert not cut_frames(noise).any()


def test_the_frame_of_a_cut_has_no_weight_and_counts_neither_for_the_range_nor_for_the_mean():
    frames = with_cut()
    kept, skipped = (motion_field(frames, DisTracker(), MaskRule(floor_px=1.0, cuts=cuts)) for cuts in ("keep", "skip"))
    assert kept.weight_THW[7].mean() > 3 * np.delete(kept.weight_THW, 7, axis=0).mean(), "the flow across a cut fills the mask"
    assert not skipped.weight_THW[7].any()
    assert np.delete(skipped.weight_THW, 7, axis=0).max() > 0.4
    without = np.delete(magnitude(DisTracker().displacement(frames)), 7, axis=0)
    assert skipped.magnitude_px == pytest.approx(float(without.mean()), rel=1e-6)
    assert skipped.magnitude_px < kept.magnitude_px


def test_frame_0_is_skipped_when_the_frame_it_leads_to_is_cut_to():
    field = motion_field(with_cut(1), DisTracker(), MaskRule(floor_px=1.0, cuts="skip"))
    assert not field.weight_THW[:2].any()
    assert field.weight_THW[2:].any()


def test_from_the_first_frame_nothing_leads_beyond_a_cut():
    field = motion_field(with_cut(), DisTracker(reference="first"), MaskRule(floor_px=1.0, cuts="skip"))
    assert field.weight_THW[1:7].any()
    assert not field.weight_THW[7:].any()


def test_a_clip_of_which_every_frame_is_skipped_has_an_empty_mask():
    field = weigh(Tracks(displacement_THW2=camera_field(2)), MaskRule(floor_px=1.0, cuts="skip"), np.array([True, True]))
    assert not field.weight_THW.any()
    assert field.magnitude_px == 0.0


@pytest.mark.parametrize("rule", [{}, {"camera": "subtract"}, {"camera": "downweight"}, {"cuts": "skip"}])
def test_still_clips_clips_of_one_frame_and_sensor_noise_make_no_mask_under_any_option(rule):
    still = render_clip(sample_spec(np.random.default_rng(0), motion="static"))
    mask_rule = MaskRule(floor_px=1.0, **rule)
    assert motion_field(still, DisTracker(), mask_rule).weight_THW.max() < 0.01
    assert motion_field(still[:1], DisTracker(), mask_rule).mask(GRID).shape == (1, 8, 8)
    assert not motion_field(still[:1], DisTracker(), mask_rule).weight_THW.any()
    noisy = still + np.random.default_rng(1).normal(0, 2, still.shape)
    field = motion_field(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), DisTracker(), mask_rule)
    assert field.mask(GRID).mean() < 0.12


@pytest.mark.parametrize(("weigh_by", "factor"), [("none", 1.0), ("visibility", 0.5), ("confidence", 0.25), ("both", 0.125)])
def test_weights_are_multiplied_by_visibility_and_confidence_as_asked(weigh_by, factor):
    field, _ = with_object(np.zeros((5, HEIGHT, WIDTH, 2), dtype=np.float32))
    shape = field.shape[:3]
    tracks = Tracks(
        displacement_THW2=field, visibility_THW=np.full(shape, 0.5, np.float32), confidence_THW=np.full(shape, 0.25, np.float32)
    )
    found = weigh(tracks, MaskRule(floor_px=1.0, weigh_by=weigh_by), np.zeros(5, dtype=bool))
    assert found.weight_THW == pytest.approx(factor * saliency(magnitude(field), floor_px=1.0))
    assert found.magnitude_px == pytest.approx(float(magnitude(field).mean())), "how much a clip moves does not depend on it"


def test_a_small_change_in_a_clip_that_stands_still_is_no_cut():
    frames = np.full((9, 64, 64, 3), 90, dtype=np.uint8)
    frames[4:] += 8
    assert not cut_frames(frames).any()
