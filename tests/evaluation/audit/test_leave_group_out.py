"""Leave-group-out from trainings that are made up, and on a small project: who is left out, what the rows say, and what a cut run keeps."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.evaluation.audit.leave_group_out import AS_EXPECTED, OPPOSITE, UNCLEAR, Groups, effect_rows, groups_of, planned_runs
from motive_pipeline.evaluation.audit.retraining import Query
from motive_pipeline.evaluation.audit.table import AuditRow
from motive_pipeline.evaluation.audit.verdict import verdict_rows

POOL = np.array([f"{number:016x}" for number in range(10)], "S16")
IDS = POOL.astype(str).tolist()


def ranking(mean_influence: list[float], ids: list[str] = IDS) -> pd.DataFrame:
    """A published ranking whose vote prefers the later clips, whatever their influence."""
    count = len(mean_influence)
    return pd.DataFrame({"clip_id": ids[:count], "votes": range(count), "mean_influence": mean_influence, "rank": range(count, 0, -1)})


def grouped(rankings: dict[str, pd.DataFrame], size: int, pool: np.ndarray = POOL, **settings) -> Groups:
    return groups_of(pool, rankings, size, **({"num_trainings": 2, "seed": 0} | settings))


def test_the_top_is_what_the_vote_ranks_first_and_the_bottom_what_has_the_lowest_mean_influence():
    groups = grouped({"motive": ranking([5, 1, 9, 2, 3, 4, 6, 7, 8, 0.5])}, 2)
    assert groups.end == {("motive", "top"): {IDS[9], IDS[8]}, ("motive", "bottom"): {IDS[9], IDS[1]}}
    assert groups.size == 2


def test_each_training_leaves_out_another_random_group_by_seed():
    groups = grouped({"motive": ranking(list(range(10)))}, 3, num_trainings=4)
    assert len(set(groups.random)) > 1
    assert all(len(group) == 3 and group <= set(IDS) for group in groups.random)
    assert groups.random == grouped({"motive": ranking(list(range(10)))}, 3, num_trainings=4).random
    assert groups.random != grouped({"motive": ranking(list(range(10)))}, 3, num_trainings=4, seed=1).random


def test_top_and_bottom_never_take_the_whole_pool():
    groups = grouped({"motive": ranking(list(range(10))), "no_mask": ranking(list(range(7)))}, 9)
    assert groups.size == 3, "half of the shorter ranking"
    assert not groups.end["no_mask", "top"] & groups.end["no_mask", "bottom"]


def test_two_clips_leave_one_another_out():
    pool = POOL[:2]
    groups = grouped({"motive": ranking([0.1, 0.2])}, 1, pool)
    runs = planned_runs(pool.astype(str).tolist(), groups)
    assert [run.clip_ids for run in runs["motive", "top"]] == [(IDS[0],)] * 2
    assert [run.clip_ids for run in runs["motive", "bottom"]] == [(IDS[1],)] * 2


@pytest.mark.parametrize(
    ("influence", "said"), [([0.5] * 10, "the same influence"), ([0.5], "1 clips are ranked"), ([], "0 clips are ranked")]
)
def test_without_an_order_there_are_no_groups_and_a_reason(influence, said):
    groups = grouped({"motive": ranking(influence), "no_mask": ranking(list(range(10)))}, 2)
    assert said in groups.unranked["motive"]
    assert {variant for variant, _ in groups.end} == {"no_mask"}


def test_a_training_has_the_pool_without_its_group():
    groups = grouped({"motive": ranking(list(range(10)))}, 2)
    runs = planned_runs(IDS, groups)
    assert {name: [run.training for run in each] for name, each in runs.items()} == {name: [0, 1] for name in runs}
    left_out = {("full pool", ""): [set()] * 2, ("random", ""): groups.random} | {name: [group] * 2 for name, group in groups.end.items()}
    for name, each in runs.items():
        assert [set(IDS) - set(run.clip_ids) for run in each] == list(left_out[name])
        assert all(list(run.clip_ids) == sorted(run.clip_ids) for run in each)


QUERIES = [Query(clip_id=f"q{number}", location="", is_held_out=number > 1) for number in range(8)]


def made_up(top: float, bottom: float, *, noise: float = 0.1, queries: list[Query] = QUERIES):
    """Three trainings of each kind: the whole pool lowers each query's loss by about 10 %, without a random group 9 %."""
    rng = np.random.default_rng(0)
    groups = replace(grouped({"motive": ranking(list(range(10)))}, 2, num_trainings=3))
    query_Q = rng.normal(size=len(queries))
    levels = {("full pool", ""): 10.0, ("random", ""): 9.0, ("motive", "top"): top, ("motive", "bottom"): bottom}
    drops = {name: level + query_Q + noise * rng.normal(size=(3, len(queries))) for name, level in levels.items()}
    return drops, groups, queries


def rows_of(*args, why_not: str = "") -> list[AuditRow]:
    return list(effect_rows(*args, why_not=why_not))


def row_of(rows: list[AuditRow], variant: str, against: str, start: str) -> AuditRow:
    (found,) = (
        row for row in rows if (row.variant, row.against, row.query_id) == (variant, against, "") and row.parameter.startswith(start)
    )
    return found


def said(rows: list[AuditRow]) -> dict[str, list[str]]:
    settings = {"proj_dim": 512, "reliability": math.nan, "unfinished": "", "asked_lds": False}
    sentences: dict[str, list[str]] = {}
    for row in verdict_rows(rows, variants=["motive"], **settings):
        sentences.setdefault(row.parameter, []).append(row.verdict)
    return sentences


def test_the_effect_is_the_loss_without_the_group_minus_that_with_it_on_held_out_queries_in_pairs():
    """Oracle: loop over the held-out queries and the trainings."""
    drops, groups, queries = made_up(top=4.0, bottom=12.0)
    rows = rows_of(drops, groups, queries)

    def mean_of(name: str, end: str, other: str) -> float:
        found = [
            drops[other, ""][training, place] - drops[name, end][training, place]
            for training in range(3)
            for place, query in enumerate(queries)
            if query.is_held_out
        ]
        return sum(found) / len(found)

    assert row_of(rows, "motive", "full pool", "without the top 2").value == pytest.approx(mean_of("motive", "top", "full pool"))
    assert row_of(rows, "motive", "random", "without the top 2").value == pytest.approx(mean_of("motive", "top", "random"))
    assert row_of(rows, "motive", "full pool", "without the bottom 2").value == pytest.approx(mean_of("motive", "bottom", "full pool"))
    assert row_of(rows, "random", "full pool", "without 2 at random").value == pytest.approx(mean_of("random", "", "full pool"))
    single = [row for row in rows if row.query_id == "q5" and row.parameter == "without the top 2"]
    assert [row.value for row in single] == [pytest.approx(np.mean(drops["full pool", ""][:, 5] - drops["motive", "top"][:, 5]))]
    assert {row.query_id for row in rows} == {"", *(query.clip_id for query in queries if query.is_held_out)}
    assert all(row.ci_low < row.value < row.ci_high and row.num_units == 6 for row in rows if not row.query_id)


@pytest.mark.parametrize(
    ("top", "bottom", "of_top", "of_bottom"),
    [(4, 12, AS_EXPECTED, AS_EXPECTED), (9.5, 8, OPPOSITE, OPPOSITE), (9, 10, UNCLEAR, UNCLEAR), (8.5, 9.5, AS_EXPECTED, OPPOSITE)],
)
def test_the_top_is_judged_against_random_ones_and_the_bottom_against_the_full_pool(top, bottom, of_top, of_bottom):
    drops, groups, queries = made_up(top, bottom, noise=0.02 if UNCLEAR not in (of_top, of_bottom) else 2.0)
    rows = rows_of(drops, groups, queries)
    assert row_of(rows, "motive", "random", "without the top").verdict == of_top
    assert row_of(rows, "motive", "full pool", "without the bottom").verdict == of_bottom
    sentences = said(rows)
    supported = " ".join(sentences.get("supported", []))
    assert ("Training needs the 2 clips that motive ranks first" in supported) == (of_top == AS_EXPECTED)
    assert ("The 2 clips of lowest mean influence by motive do harm" in supported) == (of_bottom == AS_EXPECTED)
    starts = {AS_EXPECTED: "The clips that", UNCLEAR: "No evidence that the clips that", OPPOSITE: "Training needs the clips that"}
    assert sentences["headline"][0].startswith(starts[of_top])


@pytest.mark.parametrize(("num_variants", "outcome"), [(1, AS_EXPECTED), (20, UNCLEAR)])
def test_the_more_is_compared_the_more_it_takes_to_be_clear(num_variants, outcome):
    """The same effect, whose 95 % interval excludes zero."""
    queries = [Query(clip_id=f"q{number}", location="", is_held_out=True) for number in range(8)]
    groups = grouped(
        {"motive": ranking(list(range(10)))} | {f"other {number}": ranking(list(range(10))) for number in range(1, num_variants)}, 2
    )
    zero = np.zeros((2, 8))
    effect_TQ = np.tile(np.linspace(-0.15, 1, 8), (2, 1))
    drops = {("full pool", ""): zero, ("random", ""): zero, ("motive", "top"): -effect_TQ}
    top = row_of(rows_of(drops, groups, queries, why_not="left"), "motive", "random", "without the top")
    assert top.ci_low > 0
    assert top.verdict == outcome


def test_one_query_has_a_value_and_no_conclusion():
    drops, groups, queries = made_up(top=4.0, bottom=12.0, queries=[Query(clip_id="q", location="", is_held_out=False)])
    rows = rows_of(drops, groups, queries)
    top = row_of(rows, "motive", "random", "without the top")
    assert top.value == pytest.approx(5, abs=0.3)
    assert math.isnan(top.ci_low)
    assert top.verdict == "no conclusion: fewer than three queries"
    assert row_of(rows, "random", "full pool", "without").verdict == "in-sample: there are no held-out queries"


def test_what_is_not_trained_yet_has_a_reason_and_what_is_trained_has_its_number():
    drops, groups, queries = made_up(top=4.0, bottom=12.0)
    del drops["motive", "bottom"]
    rows = rows_of(drops, groups, queries, why_not="2 of 8 trainings are left; the next run goes on")
    assert not math.isnan(row_of(rows, "motive", "random", "without the top").value)
    bottom = row_of(rows, "motive", "full pool", "without the bottom")
    assert math.isnan(bottom.value)
    assert bottom.verdict == "no number: 2 of 8 trainings are left; the next run goes on"
    assert (
        "What leaving out groups of clips does: no number: 2 of 8 trainings are left; the next run goes on." in said(rows)["not supported"]
    )
    assert not any("nan" in sentence for sentences in said(rows).values() for sentence in sentences)
    del drops["full pool", ""]
    rows = rows_of(drops, groups, queries, why_not="a training diverged")
    assert all(row.verdict == "no number: a training diverged" for row in rows)
    assert said(rows)["headline"] == ["Not tested: whether influence predicts what training does"]
