"""The history of curations and ``motive diff``: what is kept, what differs between two curations, and why."""

import json
import logging
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from motive_pipeline import cli
from motive_pipeline.curation.compare import compare, find_curation
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.checking import check_store
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.history import History
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.workspace import Workspace
from tests.curation_fixtures import publish_gradients
from tests.eval_fixtures import with_settings

MAIN = "motive"
INPUTS: dict[tuple[Path, str], str] = {}
"""What :func:`curate` has published below a root: only changes are published again."""


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch):
    """These tests cut no power; each of their many publications would wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def put(ws: Workspace, asset: str, table: str, rows: pd.DataFrame) -> None:
    """Publish ``asset`` with these rows as its piece of a score table."""
    piece = asset.split("/")[1] if "/" in asset else table
    frame = rows.reindex(columns=TABLES[table].names)
    ws.publish(asset, content=digest_frame(frame), write=lambda folder: None, started=time.time(), scores={(table, piece): frame})


def curate(ws: Workspace, order: str, num_chosen: int = 2, catalog: str = "abcd", queries: str = "qr", model: str = "m") -> None:
    """One run: catalogs and gradients where they changed, the ranking ``order`` (one letter a clip) and the subsets of two arms."""
    ws.begin_run(digest(time.time_ns()))
    inputs = {"clip_catalog": catalog, "query_catalog": queries, f"projected_gradients/{MAIN}": catalog + model}
    changed = {asset for asset, content in inputs.items() if INPUTS.get((ws.root, asset)) != content}
    INPUTS.update({(ws.root, asset): inputs[asset] for asset in changed})
    if "clip_catalog" in changed:
        put(
            ws,
            "clip_catalog",
            "catalog",
            pd.DataFrame({"clip_id": [*catalog], "path": [f"/clips/{clip}.mp4" for clip in catalog], "flags": ""}),
        )
    if "query_catalog" in changed:
        roles = {"query_id": [*queries, "h"], "path": [*queries, "h"], "role": ["query"] * len(queries) + ["held_out"]}
        put(ws, "query_catalog", "queries", pd.DataFrame(roles))
    if f"projected_gradients/{MAIN}" in changed:
        gradient = np.eye(len(catalog), 8, dtype=np.float32) * len(model)
        publish_gradients(ws, f"projected_gradients/{MAIN}", [f"{ord(clip):016x}" for clip in catalog], gradient, model_hash=model)
    ranks = range(1, len(order) + 1)
    ranking = {"variant": MAIN, "clip_id": list(order), "votes": 1, "mean_influence": [1 / rank for rank in ranks], "rank": ranks}
    put(ws, f"voted_ranking/{MAIN}", "ranking", pd.DataFrame(ranking | {"selected": [rank <= num_chosen for rank in ranks]}))
    for arm, chosen in (("motive", order), ("random", catalog)) if changed else (("motive", order),):
        subset = {"arm": arm, "clip_id": list(chosen[:num_chosen]), "rank": range(1, num_chosen + 1)}
        put(ws, f"curated_subset/{arm}", "subsets", pd.DataFrame(subset))


def remember(history: History, order: str, num_chosen: int = 2, catalog: str = "abcd") -> None:
    """The same run, as the history alone sees it."""
    run, now = digest(time.time_ns()), datetime.now(UTC)
    ranks = range(1, len(order) + 1)
    ranking = pd.DataFrame({"clip_id": [*order], "rank": ranks, "selected": [rank <= num_chosen for rank in ranks]})
    frames = {
        "clip_catalog": pd.DataFrame({"clip_id": [*catalog], "path": [f"/clips/{clip}.mp4" for clip in catalog]}),
        f"voted_ranking/{MAIN}": ranking,
        "curated_subset/motive": ranking[:num_chosen],
        "curated_subset/random": pd.DataFrame({"clip_id": [*catalog[:num_chosen]], "rank": ranks[:num_chosen], "selected": True}),
    }
    for asset, frame in frames.items():
        variant = None if asset in ("clip_catalog", "curated_subset/random") else MAIN
        history.add(asset, frame, run_id=run, data_version=digest_frame(frame), published_at=now, variant=variant, settings={})


@pytest.fixture
def history(tmp_path: Path) -> History:
    """An empty history."""
    return History(tmp_path, keep=100)


def moved(history: History, arm: str = "motive") -> dict[str, tuple]:
    """clip -> what happened to it between the last two curations."""
    found = compare(history, find_curation(history, "previous"), find_curation(history, "latest"))
    (change,) = (each for each in found.arms if each.arm == arm)
    return {clip.clip_id: (clip.change, clip.rank_before, clip.rank_after, clip.why) for clip in change.clips}


def test_equal_content_makes_no_curation_and_a_new_ranking_makes_one(workspace):
    curate(workspace, "abcd")
    before = {file.name: file.read_bytes() for file in workspace.history.folder.iterdir()}
    curate(workspace, "abcd")
    assert {file.name: file.read_bytes() for file in workspace.history.folder.iterdir()} == before
    curate(workspace, "cabd")
    assert workspace.history.curations() == [1, 2]
    assert {file.name: file.read_bytes() for file in workspace.history.folder.iterdir()}.items() >= before.items(), "never rewritten"
    assert moved(workspace.history) == {
        "c": ("entered", 3, 1, "influence moved: rank 3 -> 1"),
        "b": ("left", 2, 3, "influence moved: rank 2 -> 3"),
    }
    assert moved(workspace.history, "random") == {}
    found = workspace.scores.query("SELECT curation, num_clips, came, went FROM curations WHERE arm = 'motive' ORDER BY ALL").fetchall()
    assert found == [(1, 2, None, None), (2, 2, ["c"], ["b"])]
    sql = "SELECT curation, rank FROM ranking_history WHERE clip_id = 'c' ORDER BY ALL"
    assert workspace.scores.query(sql).fetchall() == [(1, 3), (2, 1)]
    sql = "SELECT arm, string_agg(clip_id ORDER BY rank) FROM subset_history GROUP BY arm, curation ORDER BY ALL"
    assert workspace.scores.query(sql).fetchall() == [("motive", "a,b"), ("motive", "c,a"), ("random", "a,b")]


def test_a_file_is_written_some_rows_at_a_time_and_read_whole(history, monkeypatch):
    """The settings stand in every row: a million times two kilobytes are more than Arrow holds in a column."""
    monkeypatch.setattr("motive_pipeline.storage.history._ROWS_AT_ONCE", 2)
    remember(history, "abcde", catalog="abcde")
    catalog, ranking = (
        next(entry for entry in history.entries() if entry.asset == asset) for asset in ("clip_catalog", f"voted_ranking/{MAIN}")
    )
    assert pq.ParquetFile(ranking.file).num_row_groups == 3
    assert ranking.rows()["clip_id"].tolist() == list("abcde")
    assert ranking.rows()["rank"].tolist() == [1, 2, 3, 4, 5]
    assert ranking.rows()["settings"].tolist() == ["{}"] * 5
    assert set(ranking.rows()["variant"]) == {MAIN}
    assert catalog.rows()["variant"].tolist() == [None] * 5, "what is missing is None, as in the other tables"


def test_the_reason_is_what_was_changed(workspace):
    curate(workspace, "abcd")
    later = with_settings(workspace, vote={"percentile": 30.0})
    curate(later, "dabc")
    assert moved(later.history) == {
        "d": ("entered", 4, 1, "vote.percentile 90 -> 30"),
        "b": ("left", 2, 3, "vote.percentile 90 -> 30"),
    }
    curate(later, "cdab", queries="qs")
    assert {why for *_, why in moved(later.history).values()} == {"the set of queries changed"}
    curate(later, "bcda", queries="qs", model="other")
    assert {why for *_, why in moved(later.history).values()} == {"the model changed"}
    found = compare(later.history, 2, 3)
    assert (found.queries_added, found.queries_gone) == ({"s": "s"}, {"r": "r"}), "held-out queries do not vote"


def test_a_clip_that_came_or_went_is_the_reason_itself(history):
    remember(history, "abcd")
    remember(history, "ecbd", catalog="bcde")
    assert moved(history) == {
        "e": ("entered", None, 1, "clip added to the catalog"),
        "c": ("entered", 3, 2, "influence moved: rank 3 -> 2"),
        "a": ("left", 1, None, "clip gone from the catalog"),
        "b": ("left", 2, 3, "influence moved: rank 2 -> 3"),
    }
    remember(history, "ecd", catalog="bcde", num_chosen=3)
    remember(history, "bec", catalog="bcde", num_chosen=3)
    assert moved(history)["b"] == ("entered", None, 1, "not ranked before: it was rejected or had no gradient")
    assert moved(history)["d"] == ("left", 3, None, "no longer ranked: the table `rejects` says why")


def test_a_curation_is_found_by_every_kind_of_name(history):
    for order in ("abcd", "bcda", "cdab"):
        remember(history, order)
    today = datetime.now(UTC).date()
    last = history.state(3)["curated_subset/motive"]
    names = {"1": 1, "latest": 3, "previous": 2, "-1": 2, "-2": 1, str(today): 3, last.run_id[:6]: 3, str(last.published_at): 3}
    assert {name: find_curation(history, name) for name in names} == names
    for unknown in ("4", "0", "-3", "yesterday", str(today - timedelta(days=1)), last.run_id[:3] + "x"):
        with pytest.raises(MotiveError, match=r"there is no curation .* There are 3 \(1 to 3\)"):
            find_curation(history, unknown)


def test_an_empty_history_says_what_to_do(history):
    with pytest.raises(MotiveError, match="`motive run`"):
        find_curation(history, "latest")


def test_only_the_oldest_curations_are_removed_and_never_what_a_kept_one_rests_on(history, caplog):
    caplog.set_level(logging.INFO, "motive_pipeline")
    history.keep = 2
    for order in ("abcd", "bcda", "cdab", "dabc"):
        remember(history, order)
    names = sorted(file.name for file in history.folder.iterdir())
    unchanged = ["000001-clip_catalog.parquet", "000001-curated_subset--random.parquet"]
    assert names == [
        *unchanged,
        *(f"{number:06d}-{asset}--motive.parquet" for number in (3, 4) for asset in ("curated_subset", "voted_ranking")),
    ]
    assert "000001-voted_ranking--motive.parquet" in caplog.text
    assert "storage.keep_curations" in caplog.text
    assert history.curations() == [3, 4]
    assert moved(history, "random") == {}
    with pytest.raises(MotiveError, match="2 \\(3 to 4\\)"):
        find_curation(history, "1")


def test_the_command_prints_words_a_table_and_json(workspace, monkeypatch, capsys):
    curate(workspace, "abcd")
    later = with_settings(workspace, vote={"percentile": 30.0})
    curate(later, "dabce", catalog="abcde")
    monkeypatch.setattr(cli, "load_config", lambda: later.config)
    assert cli.main(["diff", "-1", "latest"]) == 0
    said = capsys.readouterr().out
    assert "setting: vote.percentile 90 -> 30" in said
    assert "clips added: 1 (/clips/e.mp4)" in said
    assert "motive: 2 -> 2 clips; 1 entered, 1 left" in said
    assert "random: the same 2 clips" in said
    (line,) = (line for line in said.splitlines() if line.split()[:1] == ["entered"])
    assert line.split() == ["entered", "d", "4", "1", *["vote.percentile", "90", "->", "30"], "/clips/d.mp4"]
    assert cli.main(["diff", "--json", "1", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["from"]["curation"], told["to"]["curation"], told["clips"]) == (1, 2, {"added": {"e": "/clips/e.mp4"}, "gone": {}})
    assert told["settings"] == [{"setting": "vote.percentile", "before": 90.0, "after": 30.0}]
    assert told["arms"][0]["clips"][0]["why"] == "vote.percentile 90 -> 30"
    assert cli.main(["diff", "9"]) == 1
    assert "there is no curation '9'" in capsys.readouterr().err


def test_results_older_than_the_history_are_its_first_curation(workspace):
    curate(workspace, "abcd")
    for file in workspace.history.folder.iterdir():
        file.unlink()
    curate(workspace, "dabc")
    assert workspace.history.curations() == [1, 2]
    assert moved(workspace.history)["d"][:3] == ("entered", 4, 1)
    found = compare(workspace.history, 1, 2)
    assert "before the history began" in str(found.before)


def test_verify_finds_a_damaged_file_and_the_history_goes_on_without_it(workspace):
    curate(workspace, "abcd")
    curate(workspace, "dabc")
    victim = workspace.history.folder / "000001-voted_ranking--motive.parquet"
    content = bytearray(victim.read_bytes())
    assert not check_store(workspace).problems
    content[-9 - int.from_bytes(content[-8:-4], "little")] ^= 1  # the last byte before the footer
    victim.write_bytes(bytes(content))
    (problem,) = check_store(workspace).problems
    assert problem.startswith(f"{victim} is damaged")
    assert workspace.scores.query("SELECT DISTINCT curation FROM ranking_history").fetchall() == [(2,)]
    assert workspace.scores.query("SELECT count(*) FROM subset_history").fetchall() == [(6,)]


def test_a_damaged_file_stops_no_run_and_is_named(workspace, monkeypatch, capsys, caplog):
    curate(workspace, "abcd")
    victim = workspace.history.folder / "000001-voted_ranking--motive.parquet"
    victim.write_bytes(victim.read_bytes()[:100])
    monkeypatch.setattr(cli, "load_config", lambda: workspace.config)
    assert cli.main(["diff", "1", "1"]) == 1
    assert f"{victim} is damaged" in capsys.readouterr().err
    put(workspace, "voted_ranking/motive", "ranking", pd.DataFrame({"variant": ["motive"], "clip_id": ["z"], "rank": 1, "selected": True}))
    assert f"{victim} is damaged" in caplog.text
    assert workspace.scores.query("SELECT clip_id FROM ranking_history").fetchall() == [("z",)]


def test_a_fingerprint_of_runs_has_its_settings_also_after_its_publication_has_gone(workspace):
    curate(workspace, "abcd")
    later = with_settings(workspace, vote={"percentile": 30.0})
    old = later.published("voted_ranking/motive").folder
    curate(later, "dabc")
    sql = """SELECT value FROM runs JOIN run_settings USING (asset, fingerprint) WHERE asset = 'voted_ranking/motive' AND setting = 'vote.percentile'
    ORDER BY started_at"""
    assert later.scores.query(sql).fetchall() == [("90",), ("30",)]
    old.rename(old.parent.parent / "away")
    curate(later, "adbc")
    assert later.scores.query(sql).fetchall() == [("90",), ("30",), ("30",)]


def test_all_runs_of_one_motive_run_are_one_curation(workspace):
    workspace.begin_run("first", goes_on=True)
    curate(workspace, "abcd")
    assert {entry.run_id for entry in workspace.history.entries()} == {"first"}
