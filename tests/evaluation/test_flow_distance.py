"""Distances of flow: closed forms, the slow formula, and an interval that covers what it promises."""

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import sqrtm

from motive_pipeline.demo.generator import render_clip, sample_spec
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.bootstrap import mean_interval, prompt_resamples, resampled_interval
from motive_pipeline.evaluation.flow_distance import (
    FEATURES,
    FlowDistances,
    Gaussian,
    Moments,
    distances,
    flow_features,
    flow_row,
    frechet_distance,
    gaussian,
    histogram_distance,
    moments,
)
from motive_pipeline.motion.histogram import sampled_flow


def table(features_SJKD) -> pd.DataFrame:
    """``flow`` of an arm: K pairs of frames of one video for each [training, prompt]."""
    rows = [
        {"training": training, "prompt_index": prompt, "n": 0} | dict(zip(FEATURES, pair, strict=True))
        for training, prompts in enumerate(features_SJKD)
        for prompt, pairs in enumerate(prompts)
        for pair in pairs
    ]
    return pd.DataFrame(rows)


def slow_distance(features_a, features_b) -> float:
    """The formula by the letter, with scipy's matrix root."""
    mean_a, mean_b = features_a.mean(0), features_b.mean(0)
    cov_a, cov_b = (np.cov(features.T, bias=True) for features in (features_a, features_b))
    root = sqrtm(cov_a)
    return float(np.sqrt(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a + cov_b - 2 * sqrtm(root @ cov_b @ root).real)))


def test_in_one_dimension_it_is_the_distance_of_mean_and_deviation():
    one = Gaussian(mean_D=np.array([1.0]), cov_DD=np.array([[4.0]]))
    other = Gaussian(mean_D=np.array([4.0]), cov_DD=np.array([[36.0]]))
    assert frechet_distance(one, other) == pytest.approx(5.0), "3-4-5"
    assert frechet_distance(one, one) == pytest.approx(0.0, abs=1e-7)


def test_it_is_the_formula_also_for_few_and_flat_features():
    rng = np.random.default_rng(0)
    many = rng.normal(size=(200, 16)) @ rng.normal(size=(16, 16))
    shifted = rng.normal(size=(200, 16)) + 0.3
    assert frechet_distance(gaussian(many), gaussian(shifted)) == pytest.approx(slow_distance(many, shifted), rel=1e-6)
    few = rng.normal(size=(3, 16))
    assert np.isfinite(frechet_distance(gaussian(few), gaussian(few[:1])))
    assert frechet_distance(gaussian(few), gaussian(few)) == pytest.approx(0.0, abs=1e-6)


def test_weighting_prompts_is_counting_them_as_often():
    features = np.random.default_rng(1).normal(size=(2, 4, 5, 16))
    queries = gaussian(np.random.default_rng(2).normal(size=(40, 16)))
    found = distances(moments(table(features)), queries, np.array([[0.5, 0.25, 0.25, 0.0]]))
    for training in range(2):
        counted = np.concatenate([features[training, prompt] for prompt in (0, 0, 1, 2)])
        assert found[training, 0] == pytest.approx(float(frechet_distance(gaussian(counted), queries)), rel=1e-7)


def test_histograms_differ_by_the_share_that_would_have_to_move():
    assert histogram_distance(np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.5, 0.3])) == pytest.approx(0.3)
    assert histogram_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0


def test_features_are_speed_and_its_change_by_direction():
    velocity_PHW2 = np.zeros((3, 4, 4, 2), np.float32)
    velocity_PHW2[0, ..., 0], velocity_PHW2[1, ..., 0] = 0.3, -0.1
    features_KD = flow_features(velocity_PHW2)
    expected = np.zeros((2, 16))
    expected[0, [0, 8 + 4]] = 0.3, 0.4  # to the right, then a change of 0.4 to the left
    expected[1, [4, 8 + 0]] = 0.1, 0.1
    assert features_KD == pytest.approx(expected, abs=1e-6)
    assert flow_features(velocity_PHW2[:1])[0] == pytest.approx(expected[0] * ([1] * 8 + [0] * 8), abs=1e-6)


def test_films_of_the_queries_motion_are_nearer_than_films_of_another():
    def rows(motion, seeds):
        films = [render_clip(sample_spec(np.random.default_rng(seed), motion=motion)) for seed in seeds]
        return [flow_row(sampled_flow(film, 16.0), 16.0) for film in films]

    queries = rows("sway", range(6))
    reference, wanted = (
        np.mean([row["flow_histogram"] for row in queries], axis=0),
        gaussian(np.concatenate([r["flow_features"] for r in queries])),
    )
    near, *far = (rows(motion, range(10, 16)) for motion in ("sway", "bounce", "grow", "right"))
    by_histogram = [np.mean([histogram_distance(row["flow_histogram"], reference) for row in films]) for films in (near, *far)]
    by_frechet = [float(frechet_distance(gaussian(np.concatenate([r["flow_features"] for r in films])), wanted)) for films in (near, *far)]
    assert min(by_histogram[1:]) > 1.2 * by_histogram[0], by_histogram
    assert min(by_frechet[1:]) > 1.2 * by_frechet[0], by_frechet


def drawn(rng, num_trainings, num_prompts, luck=0.6):
    """Four features of a true mean of 1 each, with luck of trainings (where there are several), of prompts and of single videos."""
    training = luck * rng.normal(size=(num_trainings, 1, 1, 4)) / 2 if num_trainings > 1 else 0.0
    prompt = luck * rng.normal(size=(1, num_prompts, 1, 4))
    return 1 + training + prompt + rng.normal(size=(num_trainings, num_prompts, 3, 4))


@pytest.mark.parametrize("num_trainings", [1, 3])
def test_a_95_percent_interval_of_the_distance_covers_its_expectation(num_trainings):
    rng, queries = np.random.default_rng(5), Gaussian(mean_D=np.zeros(4), cov_DD=np.eye(4))
    estimates = [
        FlowDistances(arms={"a": _moments(drawn(rng, num_trainings, 16))}, queries=queries, num_samples=200).estimate("a")
        for _ in range(1000)
    ]
    truth = np.mean([found.value for found in estimates])
    coverage = np.mean([found.low <= truth <= found.high for found in estimates])
    assert 0.93 <= coverage <= 0.97, coverage


def _moments(features_SJKD):
    return Moments(
        trainings=range(len(features_SJKD)),
        prompts=range(features_SJKD.shape[1]),
        num_videos_S=[features_SJKD.shape[1]] * len(features_SJKD),
        mean_SJD=features_SJKD.mean(2),
        square_SJDD=np.einsum("sjkd,sjke->sjde", features_SJKD, features_SJKD) / features_SJKD.shape[2],
    )


@pytest.mark.parametrize("shape", [(1, 12), (3, 12), (5, 8)])
def test_for_a_mean_it_is_the_interval_of_a_mean(shape):
    """The general interval, given means over resampled prompts, is the one that is made for means."""
    value_SJ = np.random.default_rng(3).normal(size=shape) + np.random.default_rng(4).normal(size=(shape[0], 1))
    resampled_SB = value_SJ @ prompt_resamples(shape[1], 40_000).T
    general = resampled_interval(value_SJ.mean(1), resampled_SB, num_prompts=shape[1])
    special = mean_interval(value_SJ, num_samples=40_000)
    assert general.value == pytest.approx(special.value)
    width = special.high - special.low
    assert (general.low, general.high) == pytest.approx((special.low, special.high), abs=0.05 * width)


def test_differences_are_paired_by_prompt_and_over_the_prompts_that_both_have():
    features = np.random.default_rng(6).normal(size=(3, 10, 4, 16))
    flows = {"motive": table(features), "same": table(features + 0.2), "fewer": table(features[:, :6])}
    found = FlowDistances.of(flows, table(features[:1] + 2.0), num_samples=300)
    paired = found.difference("motive", "same")
    alone = found.estimate("motive")
    assert paired.value > 0, "further from the queries"
    assert paired.high - paired.low < 0.5 * (alone.high - alone.low)
    assert found.difference("motive", "fewer").num_prompts == 6
    with pytest.raises(GateFailed, match="no prompt in common"):
        FlowDistances.of(
            {"motive": table(features), "x": table(features).assign(prompt_index=99)}, table(features), num_samples=9
        ).difference("motive", "x")


def test_a_prompt_that_one_training_lacks_is_left_out_of_all():
    flow = table(np.random.default_rng(7).normal(size=(2, 3, 4, 16)))
    found = moments(flow[~((flow["training"] == 1) & (flow["prompt_index"] == 2))])
    assert found.prompts == [0, 1]
    assert list(found.num_videos_S) == [2, 2]
