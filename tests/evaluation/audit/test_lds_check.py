"""The rows of the LDS from trainings that are made up: an estimator that knows the truth beats the controls, one that does not does not."""

import math
from dataclasses import replace

import numpy as np
import pytest

from motive_pipeline.evaluation.audit.estimators import Scores
from motive_pipeline.evaluation.audit.lds_check import findings_of
from motive_pipeline.evaluation.audit.random_subsets import Effects
from motive_pipeline.evaluation.audit.retraining import Query
from motive_pipeline.evaluation.audit.table import AuditRow
from motive_pipeline.evaluation.audit.verdict import verdict_rows

CLIPS = np.array([f"{number:016x}" for number in range(60)], "S16")
QUERIES = [f"{number:016x}" for number in range(100, 106)]


def made_up(*, noise: float, num_subsets: int = 48, num_queries: int = 6, seed: int = 0, unfinished: str = ""):
    """Trainings whose effect is the summed true influence plus noise; a held-out query like the mean of the others."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(num_queries, 60)) + rng.normal(size=60)
    member = np.zeros((num_subsets, 60), bool)
    for row in member:
        row[rng.permutation(60)[:12]] = True
    effect = truth @ member.T
    effect = np.concatenate([effect, effect.mean(axis=0, keepdims=True)])
    spread = effect.std()
    drop = effect + noise * spread * rng.normal(size=(2, *effect.shape))
    queries = [Query(clip_id=each, location=each, is_held_out=False) for each in QUERIES[:num_queries]]
    queries.append(Query(clip_id="f" * 16, location="held", is_held_out=True))
    effects = Effects(
        drop_TQS=drop,
        member_SN=member,
        queries=queries,
        clip_id_N=CLIPS,
        unfinished=unfinished,
        seconds_a_training=1.0,
    )

    def scores(name: str, values: np.ndarray) -> Scores:
        return Scores(name=name, score_QN=values, query_ids=QUERIES[:num_queries], clip_id_N=CLIPS)

    knows = scores("motive", truth + 0.5 * rng.normal(size=truth.shape))
    blind = scores("no_mask", rng.normal(size=truth.shape))
    controls = [scores(name, rng.normal(size=truth.shape)) for name in ("flow_similarity", "motion_magnitude", "random")]
    return effects, [knows, blind], controls


def row_of(rows: list[AuditRow], **wanted: str) -> AuditRow:
    (found,) = (row for row in rows if all(getattr(row, name) == value for name, value in wanted.items()))
    return found


def said(found, variants, **changed) -> dict[str, list[str]]:
    sentences: dict[str, list[str]] = {}
    settings = {"proj_dim": 512, "reliability": found.reliability, "unfinished": found.unfinished, "asked_lds": True} | changed
    for row in verdict_rows(found.rows, variants=[each.name for each in variants], **settings):
        sentences.setdefault(row.parameter, []).append(row.verdict)
    return sentences


def test_an_estimator_that_knows_beats_every_control_and_one_that_does_not_beats_none():
    effects, variants, controls = made_up(noise=0.7)
    found = findings_of(effects, variants, controls, num_samples=300)
    assert found.reliability == pytest.approx(1 / (1 + 0.7**2), abs=0.1)
    knows = row_of(found.rows, check="lds", variant="motive", parameter="mean over queries")
    ceiling = row_of(found.rows, check="reliability", parameter="ceiling of a score, mean of 2 trainings")
    share = row_of(found.rows, check="lds", variant="motive", against="ceiling")
    assert share.value == pytest.approx(knows.value / ceiling.value)
    assert knows.ci_low > 0
    assert 0.7 < share.value < 1.1
    for control in controls:
        assert row_of(found.rows, check="lds_difference", variant="motive", against=control.name).verdict.startswith("better (Holm p = ")
        assert row_of(found.rows, check="lds_difference", variant="no_mask", against=control.name).verdict.startswith(
            "not clearly different"
        )
    assert row_of(found.rows, check="lds_difference", variant="no_mask", against="motive").verdict.startswith("worse")
    assert row_of(found.rows, check="lds", variant="motive", parameter="mean of the held-out queries' loss").value > 0.5
    by_query = [row.value for row in found.rows if row.check == "lds" and row.variant == "motive" and row.query_id]
    assert np.mean(by_query) == pytest.approx(knows.value)
    sentences = said(found, variants)
    assert sentences["headline"] == ["The influence of motive predicts what training does better than every control"]
    assert any(sentence.startswith("no_mask is not shown to predict") for sentence in sentences["not supported"])


def test_targets_that_are_noise_decide_nothing_and_recommend_what_costs_nothing():
    effects, variants, controls = made_up(noise=4.0)
    found = findings_of(effects, variants, controls, num_samples=100)
    assert found.reliability < 0.3
    sentences = said(found, variants)
    assert "too noisy" in sentences["headline"][0]
    assert any("choose by flow similarity (the arm flow_similarity) or at random" in sentence for sentence in sentences["to change"])
    assert not any("predicts" in sentence for sentence in sentences.get("supported", []))


def test_a_blind_estimator_gives_way_to_a_control_only_if_that_is_shown_to_predict():
    effects, variants, controls = made_up(noise=0.7)
    found = findings_of(effects, variants[1:], controls, num_samples=100)
    sentences = said(found, variants[1:])
    assert sentences["headline"] == ["No evidence that influence predicts what training does better than a control"]
    assert not any(sentence.startswith("Choose by") for sentence in sentences["to change"])
    assert any(
        sentence.startswith("No control that no_mask does not beat is shown to predict it either: more")
        for sentence in sentences["to change"]
    )

    knows = replace(variants[0], name="motion_magnitude")
    found = findings_of(effects, variants[1:], [controls[0], knows, controls[2]], num_samples=100)
    assert any(sentence.startswith("Choose by motion_magnitude") for sentence in said(found, variants[1:])["to change"])


def test_few_subsets_give_no_number():
    effects, variants, controls = made_up(noise=0.7, num_subsets=11, unfinished="5 trainings are left")
    found = findings_of(effects, variants, controls)
    assert [row.check for row in found.rows] == ["lds"]
    assert math.isnan(found.rows[0].value)
    assert found.rows[0].verdict == "no score: 11 subsets have all their trainings; 12 are needed for a score. 5 trainings are left"
    assert said(found, variants)["headline"] == ["No conclusion yet: too few trainings"]


def test_one_query_has_a_score_and_no_verdict_on_differences():
    effects, variants, controls = made_up(noise=0.5, num_queries=1)
    found = findings_of(effects, variants, controls, num_samples=50)
    score = row_of(found.rows, check="lds", variant="motive", parameter="mean over queries")
    assert score.value > 0.5
    assert math.isnan(score.ci_low)
    assert (
        row_of(found.rows, check="lds_difference", variant="motive", against="random").verdict == "no conclusion: fewer than three queries"
    )
    assert said(found, variants)["headline"] == ["No evidence that influence predicts what training does better than a control"]


def test_equal_influences_score_zero():
    effects, _, controls = made_up(noise=0.5)
    equal = Scores(name="motive", score_QN=np.ones((6, 60)), query_ids=QUERIES, clip_id_N=CLIPS)
    found = findings_of(effects, [equal], controls, num_samples=50)
    assert row_of(found.rows, check="lds", variant="motive", parameter="mean over queries").value == 0


def test_a_clip_without_a_score_counts_as_zero():
    effects, variants, _ = made_up(noise=0.5)
    knows = variants[0]
    less = Scores(name="motive", score_QN=knows.score_QN[:, 1:], query_ids=QUERIES, clip_id_N=CLIPS[1:])
    zero = Scores(name="zero", score_QN=np.where(np.arange(60) == 0, 0.0, knows.score_QN), query_ids=QUERIES, clip_id_N=CLIPS)
    found = findings_of(effects, [less, zero], [], num_samples=50)
    first, second = (row_of(found.rows, check="lds", variant=name, parameter="mean over queries").value for name in ("motive", "zero"))
    assert first == second
