"""Result files that come back: those that count, those that cannot, and what the study makes of them."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from motive_pipeline.errors import ConfigError
from motive_pipeline.evaluation.preference.bundle import publish_preference_bundle
from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.results import (
    MAX_BYTES,
    load_results,
    observe_preference_files,
    result_files,
    results_being_written,
    results_folder,
)
from motive_pipeline.evaluation.preference.study import evaluate_study, publish_preference_study
from tests.clip_fixtures import forbid_listing
from tests.preference_fixtures import drop, published_key, result_of, signed, study_workspace


def prefers_motive(first: str, second: str, prompt: str) -> str:
    return "first" if first == "motive" else "second" if second == "motive" else "tie"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with a bundle and no results."""
    ws = study_workspace(tmp_path_factory.mktemp("results"), settings="plans: 4, catch_share: 0.5")
    publish_preference_bundle(ws)
    return ws


@pytest.fixture
def ws(made):
    yield made
    shutil.rmtree(results_folder(made), ignore_errors=True)


@pytest.fixture
def key(made):
    return Key.of(made.published("preference_bundle"))


@pytest.fixture
def good(key):
    return result_of(key, 1, prefers_motive)


def refusal(ws, key, content: str | bytes) -> tuple[str, str]:
    """Reason and sentence with which a file of this content is refused."""
    file = results_folder(ws) / "result.json"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    taken, refused = load_results([file], key)
    assert taken == []
    return refused[0].reason, refused[0].detail


def test_what_the_page_writes_is_taken(ws, key, good):
    taken, refused = load_results([drop(ws, good)], key)
    assert [file.result for file in taken] == [good]
    assert refused == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        (b"\xff\xfe", "not_json"),
        ("[" * 100_000, "not_json"),
        ("[1, 2]", "not_a_result"),
        ("{}", "not_a_result"),
        ('{"format": 1, "votes": []}', "not_a_result"),
        (" " * (MAX_BYTES + 1), "too_large"),
        ('{"format": ' + "9" * 5000 + "}", "not_json"),
        ('{"format": 1, "format": 1}', "not_json"),
        ("{" + '"a": 1, ' * 100_000 + '"a": 1}', "not_json"),
        ('{"format": NaN}', "not_json"),
        ('{"format": -Infinity}', "not_json"),
        ('{"format": 1e999}', "not_a_result"),
        ('{"a": ' * 100_000, "not_json"),
        ('{"\\ud800": 1}', "not_a_result"),
        (b'{"\xed\xa0\x80": 1}', "not_json"),
    ],
)
def test_what_is_no_result_file_is_refused(ws, key, content, reason):
    assert refusal(ws, key, content)[0] == reason


CHANGES = {
    "a choice edited by hand": (lambda r: r["votes"][0].update(choice="left" if r["votes"][0]["choice"] != "left" else "right"), "wrong_checksum"),
    "another rater's name on it": (lambda r: r.update(rater="f" * 16), "wrong_checksum"),
    "a vote taken out": (lambda r: r["votes"].pop(2), "wrong_checksum"),
    "a choice that does not exist": (lambda r: r["votes"][0].update(choice="both"), "not_a_result"),
    "a number as text": (lambda r: r["votes"][0].update(turn="0"), "not_a_result"),
    "something beside": (lambda r: r.update(note="hello"), "not_a_result"),
    "a rater that is a path": (lambda r: r.update(rater="../../etc/passwd"), "not_a_result"),
    "a later format": (lambda r: r.update(format=2), "other_format"),
    "another study": (lambda r: r.update(study="0" * 16), "other_study"),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_was_tampered_with_or_is_of_another_study_is_refused(ws, key, good, change):
    edit, reason = CHANGES[change]
    raw = json.loads(drop(ws, good).read_text())
    edit(raw)
    assert refusal(ws, key, json.dumps(raw))[0] == reason


SIGNED = {
    "no such plan": lambda r: r.update(plan=99),
    "a pair answered twice": lambda r: r["votes"].append(dict(r["votes"][0])),
    "a pair beyond the plan": lambda r: r["votes"][0].update(turn=500),
    "videos that the plan does not show": lambda r: r["votes"][0].update(left=r["votes"][1]["left"], right=r["votes"][1]["right"]),
    "sides exchanged": lambda r: r["votes"][0].update(left=r["votes"][0]["right"], right=r["votes"][0]["left"]),
    "answered before it was seen": lambda r: r["votes"][0].update(plays=0),
}


@pytest.mark.parametrize("change", SIGNED)
def test_votes_that_the_page_cannot_have_taken_are_refused_even_with_a_true_checksum(ws, key, good, change):
    raw = good.model_dump()
    SIGNED[change](raw)
    forged = signed(type(good).model_validate(raw))
    assert refusal(ws, key, json.dumps(forged.model_dump()))[0] == "impossible_vote"


def test_a_file_without_any_answer_is_refused(ws, key):
    assert refusal(ws, key, json.dumps(result_of(key, 1, prefers_motive, num_votes=0).model_dump()))[0] == "no_votes"


def hostile(r, **values):
    """One value, in the file or in its first vote, that a page would not write."""
    for name, value in values.items():
        (r if name in r else r["votes"][0])[name] = value


HOSTILE = (
    {"study": "\ud800"},
    {"left": "\ud800.mp4"},
    {"ms": 10**4000},
    {"plays": 2**53},
    {"format": 10**300},
    {"checksum": "\ud800"},
    {"saved": -1},
)


@pytest.mark.parametrize("values", HOSTILE, ids=lambda values: next(iter(values)))
def test_a_value_that_would_stop_the_study_costs_its_own_file_only(ws, key, good, values):
    raw = good.model_dump()
    hostile(raw, **values)
    drop(ws, result_of(key, 2, prefers_motive))
    (results_folder(ws) / "hostile.json").write_text(json.dumps(raw))
    study = publish_preference_study(ws)
    assert study.rejects()["reason"].tolist() == ["not_a_result"]
    assert len(study.table("raters")) == 1


def test_the_sentence_about_a_file_holds_no_character_that_a_terminal_obeys(ws, key):
    reason, sentence = refusal(ws, key, json.dumps({"\x1b[2J\u202e": 1, "format": 1}))
    assert reason == "not_a_result"
    assert sentence.isprintable()
    assert refusal(ws, key, '{"\x1b[2J": 1}')[1].isprintable()


def test_a_file_name_that_is_no_text_is_read_and_shown_with_escapes(ws, key, good):
    drop(ws, good, os.fsdecode(b"answers-\xff.json"))
    drop(ws, result_of(key, 1, prefers_motive, num_votes=2, saved=0), os.fsdecode(b"old-\xfe.json"))
    study = publish_preference_study(ws)
    assert study.table("raters")["file"].tolist() == ["answers-\\xff.json"]
    assert study.rejects()["path"].tolist() == [str(results_folder(ws) / "old-\\xfe.json")]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_file_that_a_mail_program_wrote_anew_in_another_encoding_is_read(ws, key, good, encoding):
    file = drop(ws, good)
    file.write_bytes(file.read_text(encoding="utf-8").encode(encoding))
    assert [taken.result for taken in load_results([file], key)[0]] == [good]


def test_the_file_saved_last_counts_so_that_a_withdrawn_answer_is_not_in_force(ws, key, good):
    withdrawn = good
    votes = [good.votes[0].model_copy(update={"choice": "tie"}), *good.votes[1:-1]]
    changed = signed(good.model_copy(update={"saved": 2, "votes": votes}))
    files = [drop(ws, withdrawn, "z.json"), drop(ws, changed, "a.json")]
    taken, refused = load_results(files, key)
    assert [file.result for file in taken] == [changed]
    assert [(each.path.name, each.reason) for each in refused] == [("z.json", "duplicate")]
    assert "number 1 that the rater saved" in refused[0].detail
    assert load_results(files[::-1], key)[0] == taken


def test_a_file_of_a_page_that_did_not_number_its_files_still_counts(ws, key, good):
    unnumbered = signed(good.model_copy(update={"saved": 0}))
    raw = unnumbered.model_dump()
    del raw["saved"]
    file = results_folder(ws) / "before.json"
    file.parent.mkdir()
    file.write_text(json.dumps(raw))
    assert [taken.result for taken in load_results([file], key)[0]] == [unnumbered]
    assert load_results([file, drop(ws, good)], key)[0][0].result == good


def test_the_number_of_a_file_cannot_be_changed_by_hand(ws, key, good):
    assert refusal(ws, key, json.dumps(good.model_dump() | {"saved": 9}))[0] == "wrong_checksum"


def test_of_a_raters_files_with_the_same_number_the_fullest_counts_and_the_others_are_rejects(ws, key, good):
    half = result_of(key, 1, prefers_motive, num_votes=3)
    files = [drop(ws, half, "a half.json"), drop(ws, good, "b.json"), drop(ws, good, "b (1).json")]
    taken, refused = load_results(files, key)
    assert [(len(file.result.votes), file.path.name) for file in taken] == [(len(good.votes), "b (1).json")]
    assert {(each.path.name, each.reason) for each in refused} == {("a half.json", "duplicate"), ("b.json", "duplicate")}


def test_a_rater_who_stops_half_way_counts_with_what_was_given(ws, key):
    drop(ws, result_of(key, 1, prefers_motive, num_votes=5))
    drop(ws, result_of(key, 2, prefers_motive))
    study = publish_preference_study(ws)
    raters = study.table("raters").set_index("rater")
    answered = {number: [trial for trial in key.plan(number)[:count] if not trial.is_catch] for number, count in ((1, 5), (2, None))}
    assert raters.loc[f"{1:016x}", "votes"] == len(answered[1])
    assert len(study.table("votes")) == len(answered[1]) + len(answered[2])
    assert len(study.rejects()) == 0
    table = study.table("preference")
    assert (table["win_rate"] == 1.0).all()
    assert table["wins"].sum() == len(study.table("votes"))


def test_skipped_pairs_are_counted_as_skipped_and_nowhere_else(ws, key, good):
    votes = [vote.model_copy(update={"choice": "skip", "plays": 0}) if number < 2 else vote for number, vote in enumerate(good.votes)]
    drop(ws, signed(good.model_copy(update={"votes": votes})))
    study = publish_preference_study(ws)
    rater = study.table("raters").iloc[0]
    assert rater["skipped"] == 2
    assert rater["votes"] + rater["catch_seen"] == len(good.votes) - 2
    assert len(study.table("votes")) == rater["votes"]


def test_a_rater_who_fails_catch_trials_is_shown_and_left_out_with_a_reason_or_kept(ws, key):
    careless = result_of(key, 3, prefers_motive, is_careless=True)
    file = drop(ws, careless)
    drop(ws, result_of(key, 1, prefers_motive))
    taken, refused = load_results(result_files(ws), key)
    options = {"min_catch_share": 0.75, "num_samples": 100}
    strict = evaluate_study(key, taken, refused, exclude_failed=True, **options)
    row = strict.raters.set_index("rater").loc[careless.rater]
    assert (row["failed"], row["counted"], row["catch_seen"]) == (True, False, 4)
    assert row["catch_right"] == 2
    assert set(strict.votes["rater"]) == {f"{1:016x}"}
    assert [(reject.path, reject.reason) for reject in strict.rejects] == [(str(file), "failed_catch_trials")]
    assert "2 of 4" in strict.rejects[0].detail
    kept = evaluate_study(key, taken, refused, exclude_failed=False, **options)
    assert set(kept.votes["rater"]) == {f"{1:016x}", careless.rater}
    assert kept.raters.set_index("rater").loc[careless.rater, "failed"]
    assert kept.rejects == []


def test_a_tie_on_a_catch_trial_is_wrong(ws, key, good):
    plan = key.plan(good.plan)
    votes = [vote.model_copy(update={"choice": "tie"}) if plan[vote.turn].is_catch else vote for vote in good.votes]
    drop(ws, signed(good.model_copy(update={"votes": votes})))
    study = publish_preference_study(ws)
    assert study.table("raters")["catch_right"].tolist() == [0]
    assert study.table("preference").empty


def test_the_sides_do_not_matter_only_the_arms(ws, key):
    """Who always likes MOTIVE wins every vote for it, however often it stood on the right; who always presses left wins half."""
    for number in range(4):
        drop(ws, result_of(key, number, prefers_motive))
    assert (publish_preference_study(ws).table("preference")["win_rate"] == 1.0).all()
    shutil.rmtree(results_folder(ws))
    for number in range(4):
        result = result_of(key, number, prefers_motive)
        votes = [vote if key.plan(number)[vote.turn].is_catch else vote.model_copy(update={"choice": "left"}) for vote in result.votes]
        drop(ws, signed(result.model_copy(update={"votes": votes})))
    assert publish_preference_study(ws).table("preference")["win_rate"].tolist() == [0.5, 0.5]


def test_without_results_the_study_publishes_empty_tables(ws):
    study = publish_preference_study(ws)
    assert study.table("preference").empty
    assert study.facts["votes"] == 0
    assert ws.scores.query("SELECT count(*) FROM preference").fetchall() == [(0,)]


def test_the_table_preference_has_the_columns_of_the_contract_and_the_study_is_the_same_every_time(ws, key):
    for number in range(3):
        drop(ws, result_of(key, number, prefers_motive))
    study = publish_preference_study(ws)
    row = ws.scores.query("SELECT * FROM preference ORDER BY arm_b").df().iloc[0]
    assert row[["arm_a", "arm_b", "ties", "losses", "win_rate"]].tolist() == ["motive", "base", 0, 0, 1.0]
    assert 0 < row["ci_low"] < row["ci_high"] <= 1
    assert (row["num_raters"], row["num_prompts"], row["prompts_for"], row["prompts_against"]) == (3, 4, 4, 0)
    assert row["sign_test_p"] == pytest.approx(0.125)
    assert np.isnan(row["agreement"]), "nobody disagreed, so there is nothing to compare with"
    assert publish_preference_study(ws).data_version == study.data_version


def test_rejected_files_are_rows_of_rejects(ws, good):
    drop(ws, good)
    (results_folder(ws) / "holiday.txt").write_text("wish you were here")
    (results_folder(ws) / ".hidden").write_text("left alone")
    publish_preference_study(ws)
    rows = ws.scores.query("SELECT path, reason FROM rejects WHERE stage = 'preference_study'").fetchall()
    assert rows == [(str(results_folder(ws) / "holiday.txt"), "not_json")]
    assert (results_folder(ws) / "holiday.txt").exists()


def test_the_version_of_the_folder_follows_names_and_contents_only(ws, good):
    empty = observe_preference_files(ws)[0]
    file = drop(ws, good)
    one = observe_preference_files(ws)[0]
    os.utime(file, (0, 0))
    assert observe_preference_files(ws)[0] == one != empty
    file.write_text(file.read_text() + " ")
    assert observe_preference_files(ws)[0] != one
    file.unlink()
    assert observe_preference_files(ws)[0] == empty


def test_a_named_folder_that_is_missing_is_an_error_that_names_the_key(tmp_path):
    ws = study_workspace(tmp_path, settings="results_path: votes")
    with pytest.raises(ConfigError, match=r"preference.results_path = .*votes"):
        observe_preference_files(ws)
    (tmp_path / "votes").mkdir()
    key = published_key(ws)
    drop(ws, result_of(key, 1, prefers_motive))
    assert result_files(ws)[0].parent == tmp_path / "votes"


def test_a_folder_that_cannot_be_listed_is_a_row_and_counts_once_it_can(ws, key, good, monkeypatch):
    drop(ws, good)
    inner = results_folder(ws) / "second rater"
    inner.mkdir()
    drop(ws, result_of(key, 2, prefers_motive), "second rater/b.json")
    everything = observe_preference_files(ws)[0]
    with monkeypatch.context() as closed:
        forbid_listing(inner, closed)
        taken, refused = load_results(result_files(ws), key)
        assert len(taken) == 1
        assert [(each.path, each.reason) for each in refused] == [(inner, "unreadable")]
        assert "cannot be listed" in refused[0].detail
        assert observe_preference_files(ws)[0] != everything, "so the study is stale once the folder can be read"
        forbid_listing(results_folder(ws), closed)
        assert [each.path for each in load_results(result_files(ws), key)[1]] == [results_folder(ws)]
    assert len(load_results(result_files(ws), key)[0]) == 2


def test_half_a_copy_is_left_alone_for_a_while(ws, good):
    file = drop(ws, good)
    now_s = time.time()
    assert results_being_written(ws, settle_s=600.0, now_s=now_s + 1) == [file]
    assert results_being_written(ws, settle_s=0.0, now_s=now_s + 1) == []
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert results_being_written(ws, settle_s=0.0, now_s=now_s + 30) == [file]
    assert results_being_written(ws, settle_s=0.0, now_s=now_s + 600) == [], "after a while it is a file that cannot be used"
