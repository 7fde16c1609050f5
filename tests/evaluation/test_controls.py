"""Precision, lure, and the two controls that need no trained model."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from motive_pipeline.curation import controls as features
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.embeddings import voted_choice
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.demo.generator import render_clip, sample_spec
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation import controls
from motive_pipeline.evaluation.ground_truth import GroundTruth, load_truth
from motive_pipeline.models.grid import LatentGrid
from tests import tiny_wan
from tests.eval_fixtures import copied, with_settings

GRID = LatentGrid(channels=16, temporal_stride=4, spatial_stride=8)


def truth(*, lures="b"):
    """Four clips, of which the first and the third show the queries' motion."""
    clip_ids = ["a", "b", "c", "d"]
    motion = pd.Series(["grow", "left", "grow", "left"], index=clip_ids)
    if not lures:
        return GroundTruth(motion=motion, query_motion="grow")
    is_lure = pd.Series([clip_id in lures for clip_id in clip_ids], index=clip_ids)
    return GroundTruth(motion=motion, query_motion="grow", is_lure=is_lure, lure="lures")


def film(motion, seed, **changed):
    return render_clip(replace(sample_spec(np.random.default_rng(seed), motion=motion), **changed))


def test_precision_and_lure_are_shares_of_the_chosen_clips():
    found = controls.precision("x", "arm", ["a", "b", "c", "d"], truth())
    assert (found.precision, found.lure, found.num_clips) == (0.5, 0.25, 4)
    assert controls.precision("x", "arm", ["b"], truth()).lure == 1.0
    assert controls.precision("x", "arm", ["c"], truth()).lure == 0.0


def test_a_lure_of_the_right_motion_does_not_count_as_precise():
    found = controls.precision("x", "arm", ["a", "b", "c", "d"], truth(lures="c"))
    assert (found.precision, found.lure) == (0.25, 0.25)


def test_without_lures_there_is_no_share_of_them():
    found = controls.precision("x", "arm", ["a", "b"], truth(lures=""))
    assert found.precision == 0.5
    assert math.isnan(found.lure)


def test_clips_without_ground_truth_do_not_count():
    assert controls.precision("x", "arm", ["a", "stranger"], truth()).num_clips == 1
    with pytest.raises(GateFailed, match="no ground truth"):
        controls.precision("x", "arm", ["stranger"], truth())


def test_flow_fields_tell_directions_apart_and_ignore_speed():
    right, left = (features.flow_field(film(motion, 1, speed_px=0.5), GRID) for motion in ("right", "left"))
    assert np.linalg.norm(right) == pytest.approx(1, abs=1e-5)
    assert right.shape == (4 * 8 * 8 * 2,)
    assert right @ left < -0.3
    faster = features.flow_field(film("right", 1, speed_px=0.8), GRID)
    assert np.linalg.norm(faster) == pytest.approx(1, abs=1e-5)
    assert faster @ right > 0.8


def test_a_still_clip_has_a_zero_field():
    assert not features.flow_field(np.repeat(film("static", 1)[:1], 17, 0), GRID).any()


def test_untrained_weights_are_new_seeded_and_leave_the_random_state_alone():
    model, again = tiny_wan.build_model(), tiny_wan.build_model()
    before = {name: value.clone() for name, value in model.transformer.state_dict().items()}
    state = torch.random.get_rng_state()
    features.reset_weights(model, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    after = model.transformer.state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    features.reset_weights(again, 1)
    assert all(torch.equal(after[name], value) for name, value in again.transformer.state_dict().items())
    features.reset_weights(again, 2)
    assert any(not torch.equal(after[name], value) for name, value in again.transformer.state_dict().items())


def test_the_table_holds_every_choosing_arm_the_controls_and_chance(evaluated):
    known = load_truth(evaluated)
    table = controls.precision_rows(evaluated, known)
    assert [row.name for row in table] == [
        "random", "motion_magnitude", "no_mask", "motive", controls.FLOW_SIMILARITY, controls.UNTRAINED, controls.CHANCE,
    ]  # fmt: skip
    chance = table[-1]
    assert chance.num_clips == 9
    assert chance.precision == pytest.approx((known.motion == "grow").mean())
    assert all(row.num_clips == 3 for row in table[:-1])


def test_controls_are_computed_once(evaluated, monkeypatch):
    first = features.untrained_features(evaluated, "query")

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "untrained_gradient", refuse)
    monkeypatch.setattr(features, "flow_field", refuse)
    features.flow_similarity_features(evaluated, "query")
    again = features.untrained_features(evaluated, "query")
    assert all((again[name] == first[name]).all() for name in first)


def test_there_is_no_ground_truth_for_the_users_own_clips(evaluated):
    clips = evaluated.config.clips.model_copy(update={"source": "folder"})
    other = type(evaluated)(evaluated.config.model_copy(update={"clips": clips}))
    assert load_truth(other) is None


def test_the_controls_can_be_arms_that_train(evaluated, tmp_path, tiny_model):
    """They choose as many clips as every arm, the same that the report's controls choose."""
    ws = copied(evaluated, tmp_path, tiny_model)
    arms = (*ws.config.arms, "flow_similarity", "untrained")
    ws = with_settings(ws, arms=arms)
    found = {}
    for arm in ("flow_similarity", "untrained"):
        assert f"finetuned_checkpoint/{arm}" in ws.graph.assets
        found[arm] = publish_subset(ws, arm).table("subset")["clip_id"].tolist()
        assert len(found[arm]) == 3
    pool = load_pool(ws).astype(str).tolist()
    by_flow = [features.flow_similarity_features(ws, role) for role in ("query", "clip")]
    assert found["flow_similarity"] == voted_choice(ws, pool, *by_flow)
    names = [row.name for row in controls.precision_rows(ws, load_truth(ws)) if row.name not in ws.config.arms]
    assert names == [controls.CHANCE], "an arm is not listed twice"
    assert set(features.flow_similarity_features(ws, "clip", of=pool[:2])) == set(pool[:2])
