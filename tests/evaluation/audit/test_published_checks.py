"""The checks on published arrays, on arrays made for the purpose; and the sentences that their rows lead to."""

import math

import numpy as np
import pytest

from motive_pipeline.evaluation.audit import published_checks
from motive_pipeline.evaluation.audit.estimators import Scores, control_scores, variant_scores
from motive_pipeline.evaluation.audit.published_checks import (
    control_rows,
    leakage_rows,
    length_rows,
    motion_rows,
    projection_rows,
    query_rows,
)
from motive_pipeline.evaluation.audit.table import AuditRow, correlation_row, over_queries
from motive_pipeline.evaluation.audit.verdict import verdict_rows
from motive_pipeline.storage.workspace import Workspace
from tests.curation_fixtures import clip_names, publish_clips, publish_gradients, publish_influence_matrix, publish_table, unit_rows

CLIPS, QUERIES = clip_names(120), clip_names(4, 500)


@pytest.fixture
def ws(make_config) -> Workspace:
    return Workspace(make_config("clips: {source: demo}\nqueries: {source: demo}\narms: [base, random, motive]\n"))


def scores(values: np.ndarray, name: str = "motive") -> Scores:
    num_queries, num_clips = values.shape
    return Scores(name=name, score_QN=values, query_ids=QUERIES[:num_queries], clip_id_N=np.array(CLIPS[:num_clips], "S16"))


def said(*rows: AuditRow) -> str:
    found = verdict_rows(rows, variants=["motive"], proj_dim=512, reliability=math.nan, unfinished="", asked_lds=False)
    return "\n".join(f"{row.parameter}: {row.verdict}" for row in found)


def publish_queries(ws: Workspace, categories: list[str]) -> None:
    publish_table(ws, "query_catalog", "queries", {"query_id": QUERIES[: len(categories)], "category": categories, "role": "query"})


def test_random_rows_are_projected_as_theory_says(ws):
    publish_gradients(ws, "projected_gradients/motive", CLIPS, unit_rows(120, 1024))
    publish_gradients(ws, "query_gradients/motive", QUERIES, unit_rows(4, 1024, seed=1))
    rows = {(row.against, row.parameter): row for row in projection_rows(ws, "motive")}
    for narrow in (64, 128, 256, 512):
        measured = rows["1024 entries", f"cosine error at {narrow}"]
        assert measured.value == pytest.approx(rows["Johnson-Lindenstrauss", f"cosine error at {narrow}"].value, rel=0.15)
        assert measured.verdict == "as theory predicts"
    assert rows["1024 entries", "spearman at 64"].value < rows["1024 entries", "spearman at 512"].value < 1
    assert "not supported: The projection is wide enough: 512 entries" in said(*rows.values())
    assert "Raise influence.proj_dim" in said(*rows.values())


def test_what_projects_worse_than_theory_is_named(ws):
    """All of a gradient in its last entries: a prefix knows nothing of it."""
    spoiled = unit_rows(120, 256)
    spoiled[:, 200:] *= 50
    publish_gradients(ws, "projected_gradients/motive", CLIPS, spoiled)
    publish_gradients(ws, "query_gradients/motive", QUERIES, 0.01 * unit_rows(4, 256, seed=1) + spoiled[:4])
    row = next(row for row in projection_rows(ws, "motive") if row.parameter == "cosine error at 64")
    assert row.verdict == "larger than theory predicts"


def test_exact_gradients_have_no_projection(ws):
    publish_gradients(ws, "projected_gradients/motive", CLIPS, unit_rows(120, 64), projection="exact")
    publish_gradients(ws, "query_gradients/motive", QUERIES, unit_rows(4, 64), projection="exact")
    (row,) = projection_rows(ws, "motive")
    assert math.isnan(row.value)
    assert "exact" in row.verdict


def test_rows_of_several_features_are_not_taken_for_one_projection(ws):
    publish_gradients(ws, "projected_gradients/motive", CLIPS, unit_rows(120, 256), features_in_a_row=2)
    publish_gradients(ws, "query_gradients/motive", QUERIES, unit_rows(4, 256, seed=1), features_in_a_row=2)
    (row,) = projection_rows(ws, "motive")
    assert math.isnan(row.value)
    assert "combine: mean_cosine" in row.verdict


def test_clips_of_one_length_cannot_show_a_bias(ws):
    publish_gradients(ws, "projected_gradients/motive", CLIPS, unit_rows(120, 64))
    (row,) = length_rows(ws, "motive", scores(np.zeros((2, 120))))
    assert row.verdict == "all clips have one length"


def test_influence_that_follows_motion_is_named(ws):
    px = np.random.default_rng(0).uniform(0, 5, 120)
    publish_clips(ws, CLIPS, px)
    rows = {row.parameter: row for row in motion_rows(ws, scores(np.stack([px, 2 * px])))}
    assert rows["top 10 %, px"].value == pytest.approx(np.sort(px)[-12:].mean())
    assert rows["bottom 10 %, px"].value == pytest.approx(np.sort(px)[:12].mean())
    assert rows["top minus bottom, px"].ci_low > 0
    follows = correlation_row(
        AuditRow(check="motion", variant="motive", parameter="correlation with magnitude"), px, px + np.arange(120) % 3
    )
    assert "independent of motion magnitude: it is not" in said(follows)
    blind = list(motion_rows(ws, scores(np.random.default_rng(1).normal(size=(2, 120)))))
    assert "no filter for length or motion magnitude" in said(*blind)


def test_the_vote_of_one_query_is_said_to_be_that(ws):
    (row,) = query_rows(ws, scores(np.random.default_rng(0).normal(size=(1, 120))))
    assert "one query" in row.verdict
    assert "Add queries" in said(row)


def test_queries_that_disagree_are_noticed_and_a_category_of_one_query_is_marked(ws):
    publish_queries(ws, ["grow", "grow", "grow", "sway"])
    rows = list(query_rows(ws, scores(np.random.default_rng(0).normal(size=(4, 120)))))
    overlap = next(row for row in rows if row.check == "query_overlap")
    assert (overlap.parameter, overlap.against, overlap.verdict) == ("grow", "sway", "a category has one query")
    assert len([row for row in rows if row.query_id]) == 4
    assert "Add queries of the same motion" in said(*rows)


def test_two_clips_are_too_few_for_rank_agreement(ws):
    (row,) = control_rows(scores(np.zeros((2, 2))), [scores(np.zeros((2, 2)), "random")])
    assert (row.num_units, row.verdict) == (2, "fewer than three clips in common")


def test_equal_influences_agree_with_nothing():
    first, overlap = control_rows(scores(np.ones((3, 50))), [scores(np.random.default_rng(0).normal(size=(3, 50)), "random")])
    assert math.isnan(first.value)
    assert first.verdict == "no query has a value: all scores of a side are equal"
    assert 0 <= overlap.value <= 1


def test_agreement_is_over_common_clips_and_queries():
    rng = np.random.default_rng(0)
    whole = rng.normal(size=(4, 60))
    sample = Scores(name="flow_similarity", score_QN=whole[1:, 10:40], query_ids=QUERIES[1:4], clip_id_N=np.array(CLIPS[10:40], "S16"))
    first, _ = control_rows(scores(whole), [sample])
    assert (first.value, first.num_units, first.parameter) == (pytest.approx(1.0), 3, "spearman on 30 clips")


def publish_hashes(ws: Workspace, of: dict[str, dict[str, str]]) -> None:
    for asset, hashes in of.items():
        columns = {"clip_id": list(hashes), "key": "", "content": "", "store": "latents/x", "phash": list(hashes.values())}
        publish_table(ws, asset, "index", columns)


def test_copies_are_leaks(ws, monkeypatch):
    monkeypatch.setattr(ws._indexes, "what_is_wrong", lambda folder: None)  # the index stands for rows that no check reads
    publish_queries(ws, ["grow", "grow"])
    selected = [number < 4 for number in range(10)]
    publish_table(ws, "voted_ranking/motive", "ranking", {"clip_id": CLIPS[:10], "selected": selected})
    hashes = {clip: f"{2**number * 0x1111111111111111 % 2**256:064x}"[::-1] for number, clip in enumerate(CLIPS[:10])}
    for number, clip in enumerate(CLIPS[:10]):
        hashes[clip] = f"{int.from_bytes(np.random.default_rng(number).bytes(32), 'big'):064x}"
    hashes[CLIPS[1]] = hashes[CLIPS[0]]
    hashes[CLIPS[9]] = hashes[CLIPS[2]]
    publish_hashes(ws, {"latents": hashes, "query_latents": {QUERIES[0]: hashes[CLIPS[3]], QUERIES[1]: "0" * 64}})
    rows = {row.parameter: row for row in leakage_rows(ws, "motive", [*CLIPS[:10], QUERIES[1]])}
    assert rows["queries in the pool"].value == 1
    assert rows["chosen clips that look like a query"].value == 1
    assert rows["chosen clips that look like another"].value == 2, "a copy that was not chosen does not count"
    assert "Leakage: queries in the pool: 1 of 2." in said(*rows.values())


def test_a_mean_over_queries_ignores_those_without_a_value():
    row = over_queries(AuditRow(check="x"), np.array([0.5, np.nan, 0.7, 0.6]))
    assert (row.value, row.num_units) == (pytest.approx(0.6), 3)
    assert row.std_error == pytest.approx(np.std([0.5, 0.7, 0.6], ddof=1) / math.sqrt(3))
    assert row.ci_low < 0.6 < row.ci_high


def test_a_variant_without_some_clips_is_compared_on_the_rest(ws):
    publish_clips(ws, CLIPS[:20])
    publish_queries(ws, ["grow"] * 3)
    values = np.random.default_rng(0).normal(size=(3, 18)).astype(np.float32)
    publish_influence_matrix(ws, "motive", QUERIES[:3], [*CLIPS[:17], CLIPS[50]], values)
    (found,) = variant_scores(ws)
    assert found.clip_id_N.astype(str).tolist() == CLIPS[:17], "no clip outside the pool"
    assert np.isnan(found.over(QUERIES[:1], np.array(CLIPS[16:18], "S16"))).tolist() == [[False, True]]


def test_the_tail_is_a_tenth():
    assert published_checks.TAIL == 0.1


def test_controls_are_those_of_the_arms(evaluated):
    found = {each.name: each for each in control_scores(evaluated, variant_scores(evaluated)[0].query_ids)}
    assert list(found) == ["flow_similarity", "untrained", "motion_magnitude", "random"]
    magnitude = found["motion_magnitude"].score_QN
    assert (magnitude[0] == magnitude[1]).all(), "the same for every query"
    chance = found["random"].score_QN
    assert ((chance >= 0) & (chance < 1)).all()
    assert (chance[0] != chance[1]).all()
