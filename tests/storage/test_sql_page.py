"""docs/sql.md: every statement and the Python on the page run on a finished root, and say what their headings ask."""

import re
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.vote import publish_ranking
from tests.eval_fixtures import copied, with_harmful_clips, with_settings

PAGE = (Path(__file__).parents[2] / "docs" / "sql.md").read_text(encoding="utf-8")
QUESTIONS = re.findall(r"^### (\d+)\. (.+?)\n.*?```sql\n(.*?)```", PAGE, flags=re.MULTILINE | re.DOTALL)
WITHOUT_ROWS = {4, 10, 13, 17}
"""Questions about what the demo's clips have nothing of: publisher's scores, rejects, duplicates, arms with wishes."""


@pytest.fixture(scope="module")
def ws(evaluated, tmp_path_factory, tiny_model):
    """A finished project with harmful clips and a second curation, of twice as many clips."""
    ws = with_settings(copied(evaluated, tmp_path_factory.mktemp("sql"), tiny_model), subset={"share": 0.6})
    publish_ranking(ws, "motive")
    for arm in ("motive", "random"):
        publish_subset(ws, arm)
    with_harmful_clips(ws)
    return ws


def answer(ws, number: int) -> pd.DataFrame:
    (sql,) = (sql for at, _, sql in QUESTIONS if int(at) == number)
    return ws.scores.query(sql).df()


def test_the_page_has_at_least_fifteen_questions_in_order():
    assert [int(number) for number, *_ in QUESTIONS] == list(range(1, len(QUESTIONS) + 1))
    assert len(QUESTIONS) >= 15
    assert PAGE.count("```sql") == len(QUESTIONS)


@pytest.mark.parametrize("number", [int(number) for number, *_ in QUESTIONS])
def test_a_question_has_an_answer(ws, number):
    assert answer(ws, number).empty == (number in WITHOUT_ROWS)


def test_the_answers_are_those_that_pandas_finds(ws):
    ranking = ws.published("voted_ranking/motive").table("ranking").set_index("clip_id")
    assert answer(ws, 2).groupby("clip_id")["votes"].sum().to_dict() == ranking["votes"][ranking["selected"]].to_dict()
    chosen = {arm: set(ws.published(f"curated_subset/{arm}").table("subset")["clip_id"]) for arm in ws.config.arms if arm != "base"}
    others = set.union(*(clips for arm, clips in chosen.items() if arm not in ("full", "motive")))
    assert set(answer(ws, 5)["clip_id"]) == chosen["motive"] - others
    week = answer(ws, 3)
    assert week.groupby("arm")["curation"].max()["motive"] == 2
    assert set(week[(week["arm"] == "random") & (week["curation"] == 2)]["came"].iloc[0]) < chosen["random"]
    assert set(answer(ws, 6)["stage"]) == {"voted_ranking", "curated_subset"}, "the last run alone"
    settings = answer(ws, 15).query("setting == 'subset.share' and asset == 'voted_ranking/motive'")
    assert settings["value"].tolist() == ["0.6", "0.34"], "newest first"
    overlap = answer(ws, 9).set_index(["arm", "other"]).loc[("full", "motive")]
    assert (overlap["in_both"], overlap["jaccard"]) == (5, 5 / 9)
    assert len(answer(ws, 16)) == len(ws.scores.query("SELECT DISTINCT arm, metric, backend FROM eval_scores").df())


def test_votes_by_query_add_up_to_the_ranking(ws):
    wrong = """SELECT * FROM (SELECT variant, clip_id, sum(vote::INT) AS sum FROM votes_by_query GROUP BY ALL) FULL JOIN ranking USING (variant, clip_id)
    WHERE sum IS DISTINCT FROM votes"""
    assert ws.scores.query(wrong).df().empty
    assert (
        ws.scores.query("SELECT sum(votes) FROM votes_by_category").fetchall()
        == ws.scores.query("SELECT sum(votes) FROM ranking").fetchall()
    )


def test_the_page_reads_the_tables_without_duckdb(ws, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    monkeypatch.chdir(ws.root.parent)
    found: dict = {}
    exec(code, found)
    by_duckdb = ws.scores.query("SELECT * FROM ranking ORDER BY ALL").df()
    pd.testing.assert_frame_equal(found["ranking"].sort_values(list(by_duckdb)).reset_index(drop=True), by_duckdb, check_dtype=False)
    assert found["subsets"].num_rows == ws.scores.query("SELECT count(*) FROM subsets").fetchall()[0][0]
    assert sorted(set(found["history"]["curation"])) == [1, 2]
    flags = pd.read_parquet(found["tables"] / "catalog")["flags"]
    assert all(isinstance(list(value), list) for value in flags)
    assert pa.types.is_list(pa.parquet.read_schema(found["tables"] / "catalog" / "catalog.parquet").field("flags").type)


def test_polars_reads_them_too(ws):
    polars = pytest.importorskip("polars")
    folder = ws.scores.version() / "ranking"
    assert len(polars.read_parquet(folder / "*.parquet")) == ws.scores.query("SELECT count(*) FROM ranking").fetchall()[0][0]
