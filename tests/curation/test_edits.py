"""A person's ticks: the file is theirs, and the arm `edited` does what it says."""

import logging
import threading

import pytest

from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.edits import MAX_NOTE, load_edits, save_tick
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.storage.workspace import Workspace
from tests.curation.test_arms import MAGNITUDE_PX, NAMES, publish_clips, publish_rankings

ONE, TWO = "0123456789abcdef", "fedcba9876543210"


def test_no_file_is_no_edits_and_the_first_tick_makes_one(tmp_path):
    file = tmp_path / "new" / "my.edits.csv"
    assert load_edits(file).ticks == {}
    saved = save_tick(file, ONE, "keep", "good  \n one")
    assert file.read_text() == f"clip_id,tick,note\n{ONE},keep,good one\n"
    assert saved == load_edits(file)
    assert (saved.tick(ONE), saved.note(ONE), saved.tick(TWO)) == ("keep", "good one", "")


def test_what_a_spreadsheet_writes_is_read(tmp_path):
    file = tmp_path / "edits.csv"
    file.write_bytes(f'\ufeffnote,clip_id,tick\r\n"a, ""b""",{ONE},KEEP\r\n,{TWO}, drop \r\n,,\r\n'.encode())
    found = load_edits(file)
    assert found.ticks == {ONE: ("keep", 'a, "b"'), TWO: ("drop", "")}
    assert found.problems == []


def test_rows_that_mean_nothing_and_further_columns_stay(tmp_path):
    file = tmp_path / "edits.csv"
    file.write_text(f"clip_id,tick,note,who\nabc,keep,,me\n{TWO},maybe,,me\n{ONE},drop,old,me\n")
    found = load_edits(file)
    assert [problem.split(":")[0] for problem in found.problems] == ["row 2", "row 3"]
    save_tick(file, ONE, "keep", "new")
    assert file.read_text() == f"clip_id,tick,note,who\nabc,keep,,me\n{TWO},maybe,,me\n{ONE},keep,new,me\n"
    save_tick(file, ONE, "", "")
    assert file.read_text().endswith(f"{ONE},,,me\n"), "a row with something of the user's stays"


def test_an_id_that_no_clip_can_have_is_named(tmp_path):
    file = tmp_path / "edits.csv"
    file.write_text(f"clip_id,tick\n{'é' * 16},keep\n{ONE.upper()},keep\n{ONE},drop\n", encoding="utf-8")
    found = load_edits(file)
    assert found.ticks == {ONE: ("drop", "")}
    assert len(found.problems) == 2


def test_the_last_of_two_rows_counts_and_is_the_one_that_changes(tmp_path):
    file = tmp_path / "edits.csv"
    file.write_text(f"clip_id,tick\n{ONE},keep\n{ONE},drop\n")
    found = load_edits(file)
    assert found.tick(ONE) == "drop"
    assert "has a row before" in found.problems[0]
    assert save_tick(file, ONE, "keep", "").tick(ONE) == "keep"
    assert file.read_text().splitlines()[1].startswith(f"{ONE},keep")


def test_what_was_written_meanwhile_stays(tmp_path):
    file = tmp_path / "edits.csv"
    save_tick(file, ONE, "keep", "")
    file.write_text(file.read_text() + f"{TWO},drop,by hand\n")
    assert save_tick(file, ONE, "drop", "").ticks == {ONE: ("drop", ""), TWO: ("drop", "by hand")}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello", "has no column clip_id"),
        (b"clip_id;tick\n", "has no column clip_id"),
        (b"clip_id,note\n", "has no column tick"),
        (b"clip_id,tick\n\xff\xfe,keep\n", "is not UTF-8"),
        (b'clip_id,tick\n"abc,keep\n', "is no CSV file"),
    ],
)
def test_a_file_of_another_kind_is_named_and_left_alone(tmp_path, content, words):
    file = tmp_path / "edits.csv"
    file.write_bytes(content)
    for act in (lambda: load_edits(file), lambda: save_tick(file, ONE, "keep", "")):
        with pytest.raises(MotiveError, match=words) as found:
            act()
        assert "subset.edits" in str(found.value)
    assert file.read_bytes() == content


def test_a_note_that_never_ends_is_refused(tmp_path):
    with pytest.raises(MotiveError, match="10001 letters; at most 10000"):
        save_tick(tmp_path / "edits.csv", ONE, "keep", "a" * (MAX_NOTE + 1))


@pytest.fixture
def ws(make_config) -> Workspace:
    ws = Workspace(
        make_config("clips: {source: demo}\nqueries: {source: demo}\nsubset: {share: 0.1}\narms: [full, no_mask, motive, edited]\n")
    )
    publish_clips(ws, NAMES, MAGNITUDE_PX)
    return ws


@pytest.fixture
def order(ws) -> list[str]:
    """The clips as the lead arm's variant ranks them."""
    return publish_rankings(ws)["motive"]


def test_the_arm_is_the_lead_arms_clips_less_the_dropped_with_the_kept(ws, order):
    file = ws.config.edits_file
    assert file == ws.config.file.with_name("motive.edits.csv")
    assert publish_subset(ws, "edited").table("subset")["clip_id"].tolist() == order[:4], "without a file"
    save_tick(file, order[1], "drop", "too dark")
    save_tick(file, order[20], "keep", "")
    save_tick(file, order[9], "keep", "")
    save_tick(file, order[0], "keep", "it is in already")
    save_tick(file, order[30], "drop", "it was not in")
    subset = publish_subset(ws, "edited").table("subset")
    assert subset["clip_id"].tolist() == [order[0], order[2], order[3], order[9], order[20]]
    assert subset["rank"].tolist() == [1, 2, 3, 4, 5]
    left_out = ws.scores.query("SELECT clip_id, rank, reason, detail FROM left_out WHERE arm = 'edited'").fetchall()
    assert left_out == [(order[1], 2, "dropped_by_hand", "too dark")]
    assert publish_subset(ws, "motive").table("subset")["clip_id"].tolist() == order[:4], "no other arm is edited"


def test_ids_that_are_no_clips_are_named_and_none_left_is_an_error(ws, order, caplog):
    file = ws.config.edits_file
    save_tick(file, ONE, "keep", "")
    with caplog.at_level(logging.WARNING, "motive_pipeline"):
        assert ONE not in set(publish_subset(ws, "edited").table("subset")["clip_id"])
    assert f"names 1 clips that are not in the eligible pool: {ONE}" in caplog.text
    for clip_id in order[:4]:
        save_tick(file, clip_id, "drop", "")
    with pytest.raises(GateFailed, match=r"drops all 4 clips and keeps none"):
        publish_subset(ws, "edited")


def test_a_tick_makes_the_edited_arm_stale_and_no_other(ws):
    config = ws.config
    before = {arm: config.fingerprint("curated_subset", arm) for arm in ("full", "motive", "edited")}
    save_tick(config.edits_file, NAMES[0], "keep", "")
    after = {arm: config.fingerprint("curated_subset", arm) for arm in before}
    assert [arm for arm in before if before[arm] != after[arm]] == ["edited"]


def test_the_file_is_where_the_setting_says(make_config, tmp_path):
    config = make_config("clips: {source: demo}\nqueries: {source: demo}\nsubset: {edits: mine/ticks.csv}\n")
    assert config.edits_file == tmp_path / "mine" / "ticks.csv"


def test_several_at_once_lose_no_tick(tmp_path):
    file = tmp_path / "a.edits.csv"
    ids = [f"{number:016x}" for number in range(48)]

    def save(own: list[str]) -> None:
        for clip_id in own:
            save_tick(file, clip_id, "keep", None)

    threads = [threading.Thread(target=save, args=(ids[start::8],)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(load_edits(file).ticks) == ids
    assert [path.name for path in tmp_path.iterdir()] == ["a.edits.csv"], "no lock is left beside it"


def test_what_is_not_given_stays_as_the_file_has_it(tmp_path):
    file = tmp_path / "a.edits.csv"
    save_tick(file, ONE, "drop", None)
    save_tick(file, ONE, None, "shakes")
    assert load_edits(file).ticks == {ONE: ("drop", "shakes")}
    save_tick(file, ONE, "", None)
    assert load_edits(file).ticks == {ONE: ("", "shakes")}
    assert save_tick(file, ONE, None, "").ticks == {}
