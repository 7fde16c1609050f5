"""The weight-free metrics: hand-made videos whose value is known, and the slow, obvious formula beside the fast one."""

import itertools

import cv2
import numpy as np
import pytest

from motive_pipeline.evaluation import metrics
from motive_pipeline.graph.metrics import video_metrics


def textured(height=96, width=96, seed=0):
    """A smooth random picture, uint8 (H, W, 3), larger than any motion in these tests."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = sum(np.sin(x * rng.uniform(-0.5, 0.5) + y * rng.uniform(-0.5, 0.5) + rng.uniform(0, 6)) for _ in range(12))
    grey = np.interp(waves, (waves.min(), waves.max()), (20, 235))
    return np.repeat(grey[..., None], 3, -1).astype(np.uint8)


def moving(step_px, num_frames, size=64):
    """The whole picture moves ``step_px`` whole pixels to the right in each frame."""
    picture = textured(size, size + abs(step_px) * num_frames)
    start = step_px * (num_frames - 1) if step_px > 0 else 0
    return np.stack([picture[:, start - step_px * t :][:, :size] for t in range(num_frames)])


def vbench_flickering(frames):
    """VBench's text: mean over pairs of cv2.absdiff's mean, then (255 - m) / 255."""
    return (255.0 - np.mean([np.mean(cv2.absdiff(a, b)) for a, b in itertools.pairwise(frames)])) / 255.0


def test_a_frozen_video_never_flickers_is_smooth_and_does_not_move():
    frames = np.repeat(textured(64, 64)[None], 17, 0)
    assert metrics.temporal_flickering(frames) == 1.0
    assert metrics.motion_smoothness(frames) == 1.0
    assert metrics.dynamic_degree(frames, 16.0) == 0.0


@pytest.mark.parametrize("num_frames", [2, 5, 6])
def test_black_and_white_in_turn_is_the_worst_flicker(num_frames):
    frames = np.zeros((num_frames, 16, 16, 3), np.uint8)
    frames[1::2] = 255
    assert metrics.temporal_flickering(frames) == 0.0


def test_flicker_is_the_mean_over_pairs_and_does_not_wrap_around():
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    frames[1], frames[2] = 200, 100
    assert metrics.temporal_flickering(frames) == pytest.approx(1 - (200 + 100) / 2 / 255, abs=1e-12)


def test_flickering_is_vbenchs_formula():
    frames = np.random.default_rng(1).integers(0, 256, (7, 20, 30, 3), dtype=np.uint8)
    assert metrics.temporal_flickering(frames) == pytest.approx(vbench_flickering(frames), abs=1e-12)


def test_flow_finds_direction_and_distance_in_the_frames_own_pixels():
    frames = moving(2, 3)
    inner = metrics.dis_flow(frames[0], frames[1])[16:-16, 16:-16]
    assert np.abs(np.median(inner, (0, 1)) - (2, 0)).max() < 0.1
    wide = np.repeat(frames, 2, axis=2)[:, :32]  # not square, and the horizontal motion doubled
    assert np.abs(np.median(metrics.dis_flow(wide[0], wide[1])[8:-8, 32:-32], (0, 1)) - (4, 0)).max() < 0.2


@pytest.mark.parametrize(("step_px", "moves"), [(0, 0.0), (1, 1.0), (3, 1.0)])
def test_translation_is_dynamic_from_three_quarters_of_a_pixel_on_at_64_px_and_16_fps(step_px, moves):
    assert metrics.dynamic_degree(moving(step_px, 17), 16.0) == moves


def test_the_sampling_rate_decides_what_counts_as_motion():
    """1 px a frame in a 64 px video against 1.5 px a pair: too slow frame by frame (8 fps), fast enough at every second (16 fps)."""
    frames = moving(1, 17)
    assert metrics.dynamic_degree(frames, 8.0) == 0.0
    assert metrics.dynamic_degree(frames, 16.0) == 1.0
    assert metrics.dynamic_degree(frames, 3.0) == 0.0, "below 8 fps every frame counts"


def test_the_threshold_grows_with_the_picture():
    assert metrics.dynamic_degree(moving(2, 5, size=64), 8.0) == 1.0
    assert metrics.dynamic_degree(moving(2, 5, size=128), 8.0) == 0.0


def test_the_shorter_side_sets_the_threshold():
    """2 px a pair: above 6 * 64 / 256 = 1.5 px, but below 6 * 128 / 256 = 3 px."""
    wide = np.concatenate([moving(2, 5), moving(2, 5)], axis=2)
    assert wide.shape[1:3] == (64, 128)
    assert metrics.dynamic_degree(wide, 8.0) == 1.0


@pytest.mark.parametrize(("sampled", "moving_pairs", "expected"), [(17, 3, 0.0), (17, 4, 1.0), (8, 1, 0.0), (8, 2, 1.0)])
def test_a_quarter_of_the_sampled_frames_must_move(sampled, moving_pairs, expected):
    """n sampled frames ask for round(4 n / 16) moving pairs: 4 of 17, 2 of 8."""
    start = moving(3, moving_pairs + 1)
    frames = np.concatenate([start, np.repeat(start[-1:], sampled - len(start), 0)])
    assert len(frames) == sampled
    assert metrics.dynamic_degree(frames, 8.0) == expected


def test_only_the_fastest_twentieth_of_the_pixels_decides():
    flow = np.zeros((20, 20, 2), np.float32)
    flow[0, :, 1] = 3.0  # 20 of 400 pixels
    flow[0, 0] = (-3.0, 4.0)
    assert metrics._top_magnitude_px(flow) == pytest.approx((19 * 3 + 5) / 20)


def test_a_small_moving_object_is_enough():
    frames = np.repeat(textured(64, 64)[None], 9, 0)
    for t in range(9):
        frames[t, 20:44, 4 * t : 4 * t + 24] = textured(24, 24, seed=5)[:, :24] // 2 + 120
    assert metrics.dynamic_degree(frames, 8.0) == 1.0


def test_steady_motion_is_smoother_than_the_same_frames_shuffled():
    frames = moving(2, 9)
    shuffled = frames[[0, 5, 2, 7, 4, 1, 6, 3, 8]]
    assert metrics.motion_smoothness(frames) > 0.97
    assert metrics.motion_smoothness(frames) > metrics.motion_smoothness(shuffled) + 0.05


def test_smoothness_follows_the_motion_instead_of_blending():
    frames = moving(4, 5)
    blend = 1 - np.mean([np.abs(frames[t] - (frames[t - 1] / 2 + frames[t + 1] / 2)).mean() for t in (1, 3)]) / 255
    assert metrics.motion_smoothness(frames) > blend + 0.02


def test_the_midpoint_lies_half_way_along_the_motion():
    frames = moving(4, 3)
    inner = np.s_[12:-12, 12:-12]
    found = metrics.midpoint(frames[0], frames[2])[inner].astype(float)
    errors = [np.abs(found - frame[inner]).mean() for frame in frames]
    assert errors[1] < 0.15 * min(errors[0], errors[2])


def test_smoothness_measures_the_odd_frames_and_drops_a_last_one_without_successor():
    frames = np.full((6, 16, 16, 3), 100, np.uint8)
    frames[1], frames[3], frames[5] = 110, 130, 255  # the last has no right neighbour
    assert metrics.motion_smoothness(frames) == pytest.approx(1 - (10 + 30) / 2 / 255, abs=1e-12)
    assert metrics.motion_smoothness(frames[:5]) == metrics.motion_smoothness(frames)


@pytest.mark.parametrize(
    ("metric", "too_few"),
    [
        (metrics.temporal_flickering, 1),
        (metrics.motion_smoothness, 1),
        (metrics.motion_smoothness, 2),
        (lambda frames: metrics.dynamic_degree(frames, 16.0), 1),
        (lambda frames: metrics.dynamic_degree(frames, 16.0), 2),
    ],
)
def test_too_few_frames_are_an_error_and_not_a_number(metric, too_few):
    with pytest.raises(ValueError, match="frames"):
        metric(np.zeros((too_few, 16, 16, 3), np.uint8))


def test_two_sampled_frames_still_need_one_moving_pair():
    assert metrics.dynamic_degree(np.repeat(textured(64, 64)[None], 2, 0), 8.0) == 0.0


def test_stand_ins_are_labelled_and_only_they():
    assert {metric.label for metric in video_metrics()} == {"dynamic_degree[dis]", "motion_smoothness[dis]", "temporal_flickering"}
