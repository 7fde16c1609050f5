"""Flow histograms: hand-made fields whose bins are known, and generated films whose motions they must tell apart."""

import numpy as np
import pytest

from motive_pipeline.curation.encoders import flow_embedding
from motive_pipeline.demo.generator import render_clip, sample_spec
from motive_pipeline.motion.histogram import (
    NUM_DIRECTIONS,
    SPEED_EDGES,
    STILL_SPEED,
    direction,
    flow_histogram,
    sampled_flow,
    sampling_step,
    speed_by_direction,
    velocity,
)

NUM_SPEEDS = len(SPEED_EDGES)


def field(*vectors, shape=(2, 4, 6)):
    """Still pixels, but for the first of the first pair's: one for each vector."""
    velocity_PHW2 = np.zeros((*shape, 2), np.float32)
    for at, vector in enumerate(vectors):
        velocity_PHW2[0, 0, at] = vector
    return velocity_PHW2


def film(motion, seed):
    return render_clip(sample_spec(np.random.default_rng(seed), motion=motion))


@pytest.mark.parametrize(
    ("vector", "number"), [((1, 0), 0), ((1, 1), 1), ((0, 1), 2), ((-1, 0), 4), ((0, -1), 6), ((1, -0.3), 0), ((1, -0.6), 7)]
)
def test_directions_go_clockwise_on_the_screen_from_the_right(vector, number):
    assert direction(np.array([vector], float))[0] == number


def test_a_pixel_counts_as_much_as_it_moves_in_the_bin_of_its_direction_and_speed():
    histogram = flow_histogram(field((0.6, 0.0), (0.0, -0.2)))
    expected = np.zeros(NUM_DIRECTIONS * NUM_SPEEDS + 1)
    expected[0 * NUM_SPEEDS + 4], expected[6 * NUM_SPEEDS + 2] = 0.75, 0.25
    assert histogram == pytest.approx(expected, abs=1e-6)


def test_what_is_slower_than_noise_does_not_move_and_little_motion_leaves_the_rest_to_the_still_bin():
    assert flow_histogram(field((SPEED_EDGES[0] * 0.99, 0.0)))[-1] == 1.0
    small = flow_histogram(field((0.04, 0.0)))  # a mean speed of 0.04 / 48
    assert small[0] == pytest.approx(0.04 / 48 / STILL_SPEED, rel=1e-5)
    assert small.sum() == pytest.approx(1.0)
    assert flow_histogram(np.zeros((0, 4, 6, 2), np.float32))[-1] == 1.0


def test_spans_and_cells_say_when_and_where():
    velocity_PHW2 = np.zeros((4, 4, 6, 2), np.float32)
    velocity_PHW2[3, 1, 4, 0] = 0.6  # second half, top, right
    histogram = flow_histogram(velocity_PHW2, spans=2, cells=2)
    assert len(histogram) == 8 * NUM_DIRECTIONS * NUM_SPEEDS + 1
    assert int(histogram.argmax()) == 5 * NUM_DIRECTIONS * NUM_SPEEDS + 4


def test_speeds_are_shorter_sides_a_second_whatever_the_rate():
    flow_PHW2 = np.full((1, 32, 64, 2), 4.0, np.float32)
    assert sampling_step(16.0) == 2
    assert velocity(flow_PHW2, 16.0)[0, 0, 0, 0] == pytest.approx(4 / 32 * 8)
    assert velocity(flow_PHW2, 6.0)[0, 0, 0, 0] == pytest.approx(4 / 32 * 6)
    assert len(sampled_flow(np.zeros((9, 16, 16, 3), np.uint8), 16.0)) == 4
    assert len(sampled_flow(np.zeros((1, 16, 16, 3), np.uint8), 16.0)) == 0


def test_speed_by_direction_is_a_mean_over_the_picture_pair_by_pair():
    speeds = speed_by_direction(field((0.3, 0.0), (-0.1, 0.0), (0.6, 0.0)))
    assert speeds[0] == pytest.approx(np.array([0.9, 0, 0, 0, 0.1, 0, 0, 0]) / 24, abs=1e-7)
    assert (speeds[1] == 0).all()


def test_embeddings_tell_motions_apart():
    """Every film is nearer to another film of its motion than to the mean of any other motion's: also grow and shrink, right and sway."""
    motions = ("right", "left", "up", "grow", "shrink", "sway")
    found = {motion: np.stack([flow_embedding(film(motion, seed), 16.0) for seed in range(4)]) for motion in motions}
    hits = 0
    for motion in motions:
        for one in range(4):
            rest = {other: np.delete(rows, one, 0) if other == motion else rows for other, rows in found.items()}
            hits += max(motions, key=lambda other: float((rest[other] @ found[motion][one]).mean())) == motion
    assert hits >= 20, f"{hits} of 24"
    assert np.linalg.norm(found["sway"], axis=1) == pytest.approx(1.0, abs=1e-5)
