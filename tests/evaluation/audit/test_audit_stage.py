"""The stage on a small project: every check is in the table, and where there is no number there is a reason."""

import math
import re
import types

import numpy as np
import pandas as pd
import pytest
import torch

from motive_pipeline.config import Audit
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.evaluation.audit import passes, random_subsets, retraining
from motive_pipeline.evaluation.audit.lds import MIN_SUBSETS
from motive_pipeline.evaluation.audit.stage import publish_audit
from motive_pipeline.storage.publication import UNFINISHED
from tests.eval_fixtures import copied, with_settings

CHEAP = {"projection", "length", "motion", "queries", "controls", "leakage", "timestep", "noise", "draws", "precision"}


def audit_of(ws) -> pd.DataFrame:
    return ws.published("attribution_audit").table("audit")


def test_every_cheap_check_is_in_the_table_without_being_asked_for(evaluated):
    audit = audit_of(evaluated)
    assert set(audit["check"]) == CHEAP | {"verdict"}
    assert set(audit.loc[audit["check"] == "controls", "against"]) == {
        "motive", "no_mask", "flow_similarity", "untrained", "motion_magnitude", "random",
    }  # fmt: skip
    assert (audit.loc[audit["value"].isna(), "verdict"] != "").all(), "where there is no number there is a reason"
    first = audit[audit["check"] == "verdict"].iloc[0]
    assert (first["parameter"], first["verdict"]) == ("headline", "Not tested: whether influence predicts what training does")
    assert evaluated.published("attribution_audit").facts["verdict"] == first["verdict"]


def test_the_table_has_the_seconds_and_the_data_has_not(evaluated):
    """Two equal runs take different time and publish the same."""
    assert "seconds" not in audit_of(evaluated)
    taken = evaluated.scores.query("SELECT min(seconds) FROM audit WHERE \"check\" <> 'verdict'").fetchall()
    assert taken[0][0] >= 0


def test_two_queries_give_values_and_no_interval(evaluated):
    audit = audit_of(evaluated)
    assert audit.loc[audit["unit"] == "queries", ["ci_low", "std_error"]].isna().all(axis=None)


def test_the_gradient_passes_are_few_and_made_once(evaluated, tmp_path, tiny_model, monkeypatch):
    draws = passes.draws_of_audit(evaluated, "motive")
    items = passes.sampled_items(evaluated, "motive", len(draws))
    assert {item.role for item in items} == {"query", "clip"}
    assert len(items) * len(draws) <= passes.MAX_PASSES
    assert len({draw.timestep for draw in draws}) == 5
    ws = copied(evaluated, tmp_path, tiny_model)
    before = ws.data_version("attribution_audit")

    def refuse(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(passes, "_single_draw_gradient", refuse)
    assert publish_audit(ws).data_version == before


def test_a_single_draws_row_is_the_projects_own_gradient(evaluated):
    """At the project's own timestep and noise a pass of the audit gives the published row."""
    from motive_pipeline.attribution.stage import load_gradients

    draw = passes.draws_of_audit(evaluated, "motive")[0]
    items = passes.sampled_items(evaluated, "motive", 7)
    found = passes.computed_passes(evaluated, "motive", items, [draw]).gradient_NP[draw]
    for item, gradient_P in zip(items, found, strict=True):
        published = load_gradients(evaluated, "motive", item.role, 2**20)
        row = published.clip_ids.index(item.clip_id)
        np.testing.assert_allclose(
            gradient_P, published.norms_N[row] * np.asarray(published.gradient_NP[row], np.float64), rtol=1e-4, atol=1e-7
        )


@pytest.fixture
def trained(evaluated, tmp_path, tiny_model, monkeypatch):
    """A copy of the project that asks for LDS on subsets of two clips; three are enough here."""
    monkeypatch.setattr("motive_pipeline.evaluation.audit.lds_check.MIN_SUBSETS", 3)
    return copied(evaluated, tmp_path, tiny_model)


def asking(ws, **settings):
    return with_settings(ws, audit=Audit(checks=("lds",), subset_share=0.23, steps=1, **settings))


@pytest.mark.slow
def test_a_budget_that_ends_in_the_middle_keeps_what_is_there_and_goes_on(trained, monkeypatch):
    train, done = retraining.Retraining._train, []

    def slow(self, model, weights, run):
        done.append(run)
        if len(done) == 4:  # the base model and three trainings
            clock.spent = True
        return train(self, model, weights, run)

    class Clock:
        spent = False

        def monotonic(self) -> float:
            return 1e9 if self.spent else 0.0

    clock = Clock()
    ws = asking(trained, subsets=4, budget_minutes=1)
    with monkeypatch.context() as patch:
        patch.setattr(retraining.Retraining, "_train", slow)
        patch.setattr(retraining, "time", clock)
        stopped = publish_audit(ws)
    assert stopped.facts[UNFINISHED] == "5 of 8 trainings are left; the next run goes on"
    lds = audit_of(ws)[audit_of(ws)["check"] == "lds"]
    assert lds["value"].isna().all()
    assert "1 subsets have all their trainings" in lds["verdict"].item()
    done.clear()
    with monkeypatch.context() as patch:
        patch.setattr(retraining.Retraining, "_train", lambda self, *rest: done.append(rest[-1]) or train(self, *rest))
        finished = publish_audit(ws)
    assert UNFINISHED not in finished.facts
    assert len(done) == 5, "what was trained is kept"
    audit = audit_of(ws)
    assert set(audit.loc[audit["check"] == "lds", "variant"]) == {
        "motive", "no_mask", "flow_similarity", "untrained", "motion_magnitude", "random",
    }  # fmt: skip
    differences = audit[audit["check"] == "lds_difference"]
    assert len(differences) == 2 * 4 + 1, "each variant minus each control, and the variants from each other"
    assert (differences["verdict"] == "no conclusion: fewer than three queries").all()
    assert -1 <= finished.facts["reliability of one training"] <= 1


def test_leaving_groups_out_shares_trainings_and_time_with_the_score(trained, monkeypatch):
    train, done, clock = retraining.Retraining._train, [], types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now

    def counted(self, model, weights, run):
        done.append(run)
        clock.now = 1e9 if len(done) == stop_after else clock.now
        return train(self, model, weights, run)

    audit = Audit(checks=("lds", "leave_group_out"), subset_share=0.23, steps=1, subsets=3, budget_minutes=1)
    ws = with_settings(trained, audit=audit)
    monkeypatch.setattr(retraining.Retraining, "_train", counted)
    monkeypatch.setattr(retraining, "time", clock)
    stop_after = 5  # the base model, two on the whole pool, two without random clips
    stopped = publish_audit(ws)
    left = {name: audit_of(ws).query("check == @name")["verdict"].tolist() for name in ("lds", "leave_group_out")}
    assert "0 subsets have all their trainings" in left["lds"][0]
    assert any(said.startswith("no number: ") and "the next run goes on" in said for said in left["leave_group_out"])
    num_left, num_planned = map(
        int, re.match(r"(\d+) of (\d+) trainings are left; the next run goes on$", stopped.facts[UNFINISHED]).groups()
    )
    assert num_left == num_planned - 4
    stop_after, clock.now = 0, 0.0
    done.clear()
    finished = publish_audit(ws)
    assert UNFINISHED not in finished.facts
    assert len(done) == num_left, "what was trained is kept"
    groups = audit_of(ws).query("check == 'leave_group_out' and query_id == ''")
    assert set(groups["variant"]) == {"motive", "no_mask", "random"}
    assert set(groups["parameter"]) == {"without 3 at random", "without the top 3", "without the bottom 3"}
    assert groups["value"].notna().all()
    assert len(groups) == 1 + 2 * (2 + 2)
    assert groups["ci_low"].isna().all(), "two held-out queries give no interval"
    done.clear()
    alone = with_settings(ws, audit=audit.model_copy(update={"checks": ("leave_group_out",)}))
    publish_audit(alone)
    assert not done
    headline = audit_of(alone).query("check == 'verdict'").iloc[0]["verdict"]
    assert headline == "No conclusion on whether the clips that motive ranks first matter more to training than random ones"
    assert "lds" not in set(audit_of(alone)["check"])


def test_a_training_of_the_audit_is_the_finetune_loop_on_the_subset(trained):
    """Oracle: load the base model, train it by the loop of all arms, measure the loss; the second of two trainings starts from the base, too."""
    from motive_pipeline.attribution.loss import held_out_draws, mean_motion_weighted_loss
    from motive_pipeline.latents.stage import LatentSet
    from motive_pipeline.models.load import load_model, model_folder
    from motive_pipeline.motion.stage import MaskSet
    from motive_pipeline.training.loop import finetune
    from motive_pipeline.training.trainings import clips_by_shape

    ws = asking(trained, subsets=3)
    effects = random_subsets.subset_effects(ws, retraining.Retraining(ws))
    latents, of_queries, masks = LatentSet(ws, "clip"), LatentSet(ws, "query"), MaskSet(ws, "query")
    chosen = effects.clip_id_N[effects.member_SN[2]].astype(str).tolist()
    assert len(chosen) == 2
    draws = held_out_draws(ws.config.evaluate.held_out_draws, ALL_TIMESTEPS)
    losses = []
    for trains in (False, True):
        model = load_model(ws.config.model, threads=1, path=model_folder(ws.config.model))
        if trains:
            settings = retraining.training_settings(ws.config)
            assert settings.steps == 1
            finetune(model, clips_by_shape(chosen, latents, asset="", chosen_by=""), latents.get, settings, training=1)
        query = effects.queries[0].clip_id
        with torch.no_grad():
            losses.append(float(mean_motion_weighted_loss(model, *of_queries.get(query), mask_FHW=masks.get(query), draws=draws)))
    assert losses[0] != losses[1]
    assert effects.drop_TQS[1, 0, 2] == pytest.approx(100 * (losses[0] - losses[1]) / losses[0], rel=1e-6)
    assert {query.is_held_out for query in effects.queries} == {True, False}


def test_too_few_subsets_train_nothing_and_give_no_number(evaluated, tmp_path, tiny_model, monkeypatch):
    ws = asking(copied(evaluated, tmp_path, tiny_model), subsets=MIN_SUBSETS - 1)

    def refuse(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(retraining.Retraining, "trained", refuse)
    publish_audit(ws)
    lds = audit_of(ws)[audit_of(ws)["check"] == "lds"]
    assert lds["value"].isna().all()
    assert "Raise audit.subsets" in lds["verdict"].item()
    headline = audit_of(ws).query("check == 'verdict'").iloc[0]["verdict"]
    assert headline == "No conclusion yet: too few trainings"


def test_subsets_are_shared_different_and_seeded():
    pool = np.array([f"{number:016x}" for number in range(40)], "S16")
    subsets = random_subsets.random_subsets(pool, 8, 30, 0)
    assert len(set(subsets)) == 30
    assert all(len(set(subset)) == 8 and list(subset) == sorted(subset) for subset in subsets)
    assert subsets == random_subsets.random_subsets(pool, 8, 30, 0)
    assert not set(subsets) & set(random_subsets.random_subsets(pool, 8, 30, 1))
    assert len(random_subsets.random_subsets(pool[:6], 2, 14, 0)) == 14, "of fifteen"
    assert len(random_subsets.random_subsets(pool[:2], 1, 30, 0)) == 2, "a pool of two clips has two subsets of one"


def test_nan_is_no_number_of_the_audit(evaluated):
    assert not any(math.isinf(value) for value in audit_of(evaluated)["value"].dropna())
