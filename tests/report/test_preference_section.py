"""The report's section on the preference study, from no vote to the votes of more than three raters."""

import shutil

import pytest

from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.results import results_folder
from motive_pipeline.evaluation.preference.study import publish_preference_study
from motive_pipeline.report.preference_section import load_preference_section
from tests.preference_fixtures import drop, published_key, result_of, study_workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project in which motive, random and base are compared, each with each."""
    ws = study_workspace(
        tmp_path_factory.mktemp("preference"),
        settings="comparisons: [[motive, base], [motive, random], [random, base]], catch_share: 0.5, plans: 4",
        prompts=[f"film {number}" for number in range(8)],
    )
    published_key(ws)
    return ws


@pytest.fixture
def ws(made):
    yield made
    shutil.rmtree(results_folder(made), ignore_errors=True)


def section_after(ws, **raters):
    """Sentences, tables by key and numbers after these raters have voted: taste, or (taste, is_careless)."""
    key = Key.of(ws.published("preference_bundle"))
    for number, taste in enumerate(raters.values()):
        taste, is_careless = taste if isinstance(taste, tuple) else (taste, False)
        drop(ws, result_of(key, number, taste, is_careless=is_careless))
    publish_preference_study(ws)
    preference = load_preference_section(ws)
    return " ".join(preference.sentences), {table.key: table for table in preference.tables}, preference.numbers


def first(*_):
    return "first"


def tied(*_):
    return "tie"


def test_no_votes_are_said_in_words(ws):
    sentence, tables, numbers = section_after(ws)
    assert sentence.startswith("Nobody has voted yet.")
    assert "motive path preference_bundle" in sentence
    assert tables == {}
    assert list(numbers) == []


def test_two_raters_give_a_table_and_no_statement(ws):
    sentence, tables, _ = section_after(ws, a=first, b=first)
    assert "Fewer than 3 raters" in sentence
    assert "prefer" not in sentence
    assert len(tables["preference"].rows) == 3


def test_three_raters_of_one_mind_give_a_statement_and_a_scale(ws):
    sentence, tables, numbers = section_after(ws, a=first, b=first, c=first)
    assert "People prefer the videos of MOTIVE to those of base model." in sentence
    assert "3 raters gave 72 votes on 8 prompts." in sentence
    assert tables["preference"].rows[0][:5] == ["MOTIVE against base model", "24", "0", "0", numbers[3].shown]
    assert numbers[3].shown.startswith("100.0 [")
    assert [row[0] for row in tables["strengths"].rows] == ["MOTIVE", "random", "base model"]


def test_ties_leave_open_which_is_better(ws):
    sentence, tables, _ = section_after(ws, a=tied, b=tied, c=tied)
    assert "The votes do not show whether people prefer MOTIVE or base model." in sentence
    assert tables["preference"].rows[0][1:4] == ["0", "24", "0"]


def test_raters_who_failed_are_told(ws):
    sentence, _, _ = section_after(ws, a=first, b=first, c=first, d=(first, True))
    assert "1 rater failed the catch trials and is left out." in sentence
    assert "3 raters gave 72 votes" in sentence


def test_when_every_file_was_left_out_that_is_said(ws):
    results_folder(ws).mkdir()
    (results_folder(ws) / "letter.txt").write_text("hello")
    sentence, tables, _ = section_after(ws)
    assert sentence.startswith("No vote counts: 1 result file left out.")
    assert tables == {}
