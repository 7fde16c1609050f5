"""`motive view`, asked as its page asks: what it shows is what is published, and nobody else may ask."""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from starlette.testclient import TestClient

from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Reject
from motive_pipeline.view.asking import file_name
from motive_pipeline.view.serve import build_app
from motive_pipeline.view.viewer import Viewer
from tests.eval_fixtures import copied, open_workspace, republish, with_harmful_clips, with_settings
from tests.report.test_report import HOSTILE
from tests.view.explorer_fixtures import ADDRESS, PORT, TOKEN, Explorer


@pytest.fixture(scope="module")
def ws(evaluated, tmp_path_factory, tiny_model):
    return copied(evaluated, tmp_path_factory.mktemp("explorer"), tiny_model)


@pytest.fixture(scope="module")
def explorer(ws):
    return Explorer(ws)


@pytest.fixture(scope="module")
def clips(ws) -> pd.DataFrame:
    return ws.scores.query("SELECT * FROM clips ORDER BY clip_id").df()


@pytest.fixture(scope="module")
def query(ws) -> str:
    return load_influence(ws, "motive").query_ids[0]


def test_nobody_sees_anything_without_the_token_or_by_another_host(explorer):
    app = build_app(explorer.viewer, token=TOKEN, port=PORT)
    stranger = TestClient(app, base_url=ADDRESS)
    for path in ("/", "/api/meta", "/app/main.js", "/report/report.html", "/tiles/0000000000000000/loop", "/?token=wrong", "/?token="):
        answer = stranger.get(path)
        assert answer.status_code == 403, path
        assert "token is wrong or missing" in answer.json()["error"]
    for host in ("evil.example", "evil.example:8700", "127.0.0.1", "127.0.0.1:8701", "127.0.0.1.evil.example:8700", ""):
        assert stranger.get(f"/?token={TOKEN}", headers={"Host": host}).status_code == 403, host
    assert stranger.get(f"/?token={TOKEN}", headers={"Host": f"localhost:{PORT}"}).status_code == 200
    stranger.cookies.clear()
    stranger.cookies.set(f"motive-view-token-{PORT}", "wrong")
    assert stranger.get("/api/meta").status_code == 403


def test_the_first_visit_leaves_a_cookie_that_no_script_and_no_other_site_gets(explorer):
    answer = TestClient(explorer.client.app, base_url=ADDRESS).get(f"/?token={TOKEN}")
    assert answer.headers["set-cookie"] == f"motive-view-token-{PORT}={TOKEN}; Path=/; HttpOnly; SameSite=Strict"
    assert "set-cookie" not in explorer.client.get("/").headers


def test_pages_may_load_nothing_from_elsewhere(explorer):
    for path in ("/", "/app/map.html", "/report/report.html", "/preference/index.html", "/api/meta"):
        headers = explorer.client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'"), path
        assert not re.search(r"https?:|\*", policy), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    assert "unsafe" not in explorer.client.get("/").headers["content-security-policy"].partition("script-src")[2].partition(";")[0]


def test_only_its_own_page_may_change_anything(explorer):
    body = {"id": "0" * 16, "tick": "keep", "note": ""}
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {}):
        assert explorer.client.post("/api/edits", json=body, headers=headers).status_code == 403
    assert explorer.client.put("/api/edits", json=body, headers={"Origin": ADDRESS}).status_code == 405


def test_every_clip_is_there_with_its_figures(explorer, ws, clips):
    columns = ("motion_magnitude_px", "votes:motive", "rank:motive", "rank:no_mask", "mean_influence:motive")
    rows = explorer.clips(column=columns)
    assert [row["id"] for row in rows] == clips["clip_id"].tolist()
    for variant in ("motive", "no_mask"):
        ranking = ws.published(f"voted_ranking/{variant}").table("ranking").set_index("clip_id")
        assert [row["values"][f"rank:{variant}"] for row in rows] == ranking.loc[clips["clip_id"], "rank"].tolist()
    assert [row["values"]["motion_magnitude_px"] for row in rows] == pytest.approx(clips["motion_magnitude_px"].tolist())
    assert explorer.meta["num_clips"] == len(clips) == 9
    subset = set(ws.published("curated_subset/motive").table("subset")["clip_id"])
    assert {row["id"] for row in rows if "motive" in row["arms"]} == subset


def test_every_column_orders_the_clips_and_those_without_a_value_come_last(explorer, ws, clips, query):
    influence = load_influence(ws, "motive")
    by_clip = dict(zip(influence.clip_ids, influence.query(query).tolist(), strict=True))
    for descending in (False, True):
        expected = sorted(by_clip, key=lambda clip_id: (-by_clip[clip_id] if descending else by_clip[clip_id], clip_id))
        assert explorer.ids(sort=f"influence:{query}", descending=descending) == expected
    for column in explorer.meta["columns"]:
        key = column["key"]
        if key in ("name", "caption"):
            assert len(explorer.ids(sort=key)) == 9
            continue
        rows = explorer.clips(column=(key,), sort=key, descending=True)
        values = [row["values"][key] for row in rows]
        there = [value for value in values if value is not None]
        assert there == sorted(there, reverse=True), key
        assert values[len(there) :] == [None] * (9 - len(there))
    assert explorer.ask("/api/clips", view={"sort": "clip_id; DROP TABLE clips"}).status_code == 400
    assert explorer.ask("/api/clips", view={"sort": "influence:' OR 1=1"}).status_code == 400


def test_a_clip_without_a_rank_is_the_last_in_both_directions(ws, tmp_path, tiny_model, clips):
    root = copied(ws, tmp_path, tiny_model)
    ranking = root.scores.query("SELECT * FROM ranking WHERE variant = 'motive' ORDER BY rank").df()
    absent = ranking["clip_id"][4]
    root.scores.publish({("ranking", "motive"): ranking[ranking["clip_id"] != absent]})
    own = Explorer(root)
    rest = [clip_id for clip_id in ranking["clip_id"] if clip_id != absent]
    assert own.ids(sort="rank:motive") == [*rest, absent]
    assert own.ids(sort="rank:motive", descending=True) == [*rest[::-1], absent]


def test_filters_keep_what_they_name_and_hold_together(explorer, ws, clips):
    word = clips["caption"][0].split()[2]
    expected = clips[clips["caption"].str.contains(word) | clips["path"].str.contains(word)]["clip_id"].tolist()
    assert explorer.ids(text=word.upper()) == expected
    middle = float(clips["motion_magnitude_px"].median())
    both = clips[clips["caption"].str.contains(word) & (clips["motion_magnitude_px"] >= middle)]["clip_id"].tolist()
    assert explorer.ids(text=word, ranges={"motion_magnitude_px": [middle, None]}) == both
    chosen = set(ws.published("curated_subset/motive").table("subset")["clip_id"])
    assert set(explorer.ids(arm="motive")) == chosen
    assert set(explorer.ids(arm="motive", in_arm=False)) == set(clips["clip_id"]) - chosen
    assert explorer.ids(source=["demo"]) == clips["clip_id"].tolist()
    assert explorer.ids(source=["'; DROP TABLE clips; --"]) == []
    flag = clips["flags"][0][0]
    assert explorer.ids(flag=[flag]) == clips[[flag in flags for flags in clips["flags"]]]["clip_id"].tolist()
    assert explorer.ids(text="%") == explorer.ids(text="_%_") == []


def test_a_category_is_that_of_the_query_that_the_clip_helps_most(explorer, ws, clips):
    influence = load_influence(ws, "motive")
    matrix = np.concatenate(list(influence.blocks()))
    categories = ws.published("query_catalog").table("queries").set_index("query_id")["category"]
    best = [categories[influence.query_ids[place]] for place in matrix.argmax(axis=0)]
    for category in explorer.meta["categories"]:
        assert explorer.ids(category=[category]) == [clip for clip, own in zip(influence.clip_ids, best, strict=True) if own == category]


def test_pages_of_rows_join_to_the_whole_list(explorer, query):
    view = {"sort": f"influence:{query}", "descending": True}
    whole = explorer.ids(**view)
    parts = [explorer.get("/api/clips", view=view, offset=start, limit=4) for start in (0, 4, 8, 12)]
    assert [row["id"] for part in parts for row in part["rows"]] == whole
    assert {part["total"] for part in parts} == {9}


@pytest.mark.parametrize(
    ("view", "words"),
    [
        ("[1]", "view must be a JSON object"),
        ("{", "view is no JSON"),
        ('{"colour": 1}', "unknown key 'colour'"),
        ('{"ranges": {"fps": [1]}}', r"view.ranges.fps must be \[lowest, highest\]"),
        ('{"ranges": {"fps": ["a", 1]}}', "'a' is not a number"),
        ('{"ranges": {"fps": [NaN, 1]}}', "nan is not a number"),
        ('{"tick": "maybe"}', "view.tick: 'maybe' is none of keep, drop"),
        ('{"flag": "cut"}', "view.flag must be a list of texts"),
        ('{"text": "' + "a" * 1001 + '"}', "view.text has 1001 letters"),
        ('{"selection": "s99"}', "no longer known"),
        ('{"choice": {"variant": "motive", "share": 0, "percentile": 90}}', "choice.share: 0.0 is not above 0"),
        ('{"choice": {"variant": "motive", "share": 1, "percentile": 101}}', "choice.percentile: 101.0 is not from 0 to 100"),
        ('{"choice": {"variant": "none", "share": 1, "percentile": 1}}', "no influence of a variant 'none'"),
        ('{"choice": {"variant": "motive", "share": 1, "percentile": 1, "part": "came", "arm": "x"}}', "no subset of an arm 'x'"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_named(explorer, view, words):
    answer = explorer.ask("/api/clips", view=view)
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"])


def test_the_slider_at_the_published_settings_chooses_what_is_published(explorer, ws):
    for variant in ("motive", "no_mask"):
        choice = {"variant": variant, "share": explorer.meta["share"], "percentile": 90}
        found = explorer.get("/api/choice", choice=choice)
        beside = next(each for each in found["arms"] if each["arm"] == variant)
        assert (beside["came"], beside["went"], beside["both"]) == (0, 0, found["num_chosen"])
        assert set(explorer.ids(choice=choice)) == set(ws.published(f"curated_subset/{variant}").table("subset")["clip_id"])


def test_the_slider_chooses_what_a_run_under_these_settings_would(explorer, ws, tmp_path, tiny_model):
    share, percentile = 0.6, 40.0
    changed = copied(ws, tmp_path, tiny_model)
    changed = with_settings(changed, subset={"share": share}, vote={"percentile": percentile})
    for asset in ("voted_ranking/motive", "curated_subset/motive"):
        changed.graph.asset(asset).publish(changed)
    expected = set(changed.published("curated_subset/motive").table("subset")["clip_id"])
    before = set(ws.published("curated_subset/motive").table("subset")["clip_id"])
    choice = {"variant": "motive", "share": share, "percentile": percentile, "arm": "motive"}
    found = explorer.get("/api/choice", choice=choice)
    assert found["num_chosen"] == len(expected) == 5
    assert set(explorer.ids(choice=choice | {"part": "chosen"})) == expected
    assert set(explorer.ids(choice=choice | {"part": "came"})) == expected - before
    assert set(explorer.ids(choice=choice | {"part": "went"})) == before - expected
    beside = next(each for each in found["arms"] if each["arm"] == "motive")
    assert (beside["came"], beside["went"]) == (len(expected - before), len(before - expected))


def test_a_selection_filters_the_list(explorer, clips):
    answer = explorer.post("/api/selection", {"v": explorer.meta["version"], "n": [4, 2, 2]})
    assert answer.json()["total"] == 2
    assert explorer.ids(selection=answer.json()["selection"]) == [clips["clip_id"][2], clips["clip_id"][4]]
    for wrong in ([9], [-1], ["1"], [True], None):
        assert explorer.post("/api/selection", {"v": explorer.meta["version"], "n": wrong}).status_code == 400


def test_a_clips_details_are_those_of_the_tables(explorer, ws, clips):
    clip_id = clips["clip_id"][3]
    about = explorer.get(f"/api/clips/{clip_id}")
    assert about["caption"] == clips["caption"][3]
    rows = ws.scores.query(f"SELECT query_id, influence FROM influence WHERE variant = 'motive' AND clip_id = '{clip_id}'").fetchall()
    assert {each["query"]: each["influence"] for each in about["influence"]} == pytest.approx(dict(rows))
    assert about["influence"] == sorted(about["influence"], key=lambda each: -each["influence"])
    assert explorer.ask("/api/clips/0000000000000000").status_code == 400


def test_tiles_are_loops_made_once_and_kept(explorer, clips):
    clip_id = clips["clip_id"][0]
    pictures = {kind: explorer.client.get(f"/tiles/{clip_id}/{kind}") for kind in ("loop", "still", "mask")}
    shown = {kind: Image.open(io.BytesIO(answer.content)) for kind, answer in pictures.items()}
    assert {kind: picture.n_frames for kind, picture in shown.items()} == {"loop": 17, "still": 1, "mask": 17}
    difference = np.abs(np.asarray(shown["mask"].convert("RGB"), int) - np.asarray(shown["loop"].convert("RGB"), int))
    assert difference.max() > 40, "the mask shows"
    files = {file: file.stat().st_mtime_ns for file in explorer.viewer.folder.rglob("*.webp")}
    assert explorer.client.get(f"/tiles/{clip_id}/loop").content == pictures["loop"].content
    assert {file: file.stat().st_mtime_ns for file in explorer.viewer.folder.rglob("*.webp")} == files
    assert explorer.client.get(f"/tiles/{clip_id}/evil").status_code == 400
    assert explorer.client.get("/tiles/..%2f..%2fetc/loop").status_code in (400, 404)


def test_videos_come_by_ranges(explorer, clips, query):
    for clip_id in (clips["clip_id"][0], query):
        for kind in ("original", "scored", "mask"):
            whole = explorer.client.get(f"/videos/{clip_id}/{kind}")
            assert whole.headers["content-type"] == "video/mp4"
            part = explorer.client.get(f"/videos/{clip_id}/{kind}", headers={"Range": "bytes=4-11"})
            assert part.status_code == 206
            assert part.content == whole.content[4:12]
            assert whole.content[4:8] == b"ftyp"


def test_ticks_are_kept_in_the_users_file_and_filter_the_list(ws, tmp_path, tiny_model, clips):
    own = Explorer(copied(ws, tmp_path, tiny_model))
    kept, dropped = clips["clip_id"][5], clips["clip_id"][1]
    note = 'shakes, "a lot"\nand <b>blurs</b>'
    assert own.post("/api/edits", {"id": kept, "tick": "keep", "note": note}).json()["note"] == 'shakes, "a lot" and <b>blurs</b>'
    own.post("/api/edits", {"id": dropped, "tick": "drop", "note": ""})
    file = tmp_path / "motive.edits.csv"
    assert pd.read_csv(file)["clip_id"].tolist() == [kept, dropped]
    assert own.ids(tick="keep") == own.ids(tick="noted") == [kept]
    assert own.ids(tick="drop") == [dropped]
    assert set(own.ids(tick="none")) == set(clips["clip_id"]) - {kept, dropped}
    own.post("/api/edits", {"id": dropped, "tick": "", "note": ""})
    assert own.ids(tick="drop") == []
    for wrong in (
        {"id": "f" * 16, "tick": "keep", "note": ""},
        {"id": kept, "tick": "yes", "note": ""},
        {"id": kept, "note": 3},
        {"id": kept},
        [1],
    ):
        assert own.post("/api/edits", wrong).status_code == 400
    assert own.get("/api/edits")["ticks"] == {kept: {"tick": "keep", "note": 'shakes, "a lot" and <b>blurs</b>'}}


def test_two_viewers_of_one_file_of_ticks_keep_each_others(ws, tmp_path, tiny_model, clips):
    folder = copied(ws, tmp_path, tiny_model)
    one, other = Explorer(folder), Explorer(folder)
    clip = clips["clip_id"][0]
    before = one.get("/api/version")["edits"]
    one.post("/api/edits", {"id": clip, "tick": "drop"})
    assert one.get("/api/version")["edits"] not in ("", before), "an open page of the other viewer sees that the file has changed"
    assert other.post("/api/edits", {"id": clip, "note": "shakes"}).json()["tick"] == "drop"
    assert one.get("/api/edits")["ticks"] == {clip: {"tick": "drop", "note": "shakes"}}


def test_an_edits_file_with_ids_of_another_root_is_kept_and_named(ws, tmp_path, tiny_model, clips):
    root = copied(ws, tmp_path, tiny_model)
    file = tmp_path / "motive.edits.csv"
    file.write_text("clip_id,tick,note,mine\nffffffffffffffff,drop,elsewhere,x\nnonsense,keep,,\n")
    own = Explorer(root)
    notes = " ".join(own.meta["notes"])
    assert "motive.edits.csv has ids that are no clips of this root; they are kept: ffffffffffffffff." in notes
    assert "row 3: clip_id 'nonsense'" in notes
    own.post("/api/edits", {"id": clips["clip_id"][0], "tick": "keep", "note": ""})
    assert file.read_text().splitlines() == [
        "clip_id,tick,note,mine",
        "ffffffffffffffff,drop,elsewhere,x",
        "nonsense,keep,,",
        f"{clips['clip_id'][0]},keep,,",
    ]
    file.write_text("no table at all")
    assert "has no column clip_id" in " ".join(own.get("/api/meta")["notes"])
    assert own.post("/api/edits", {"id": clips["clip_id"][0], "tick": "drop", "note": ""}).status_code == 409
    assert file.read_text() == "no table at all"
    assert len(own.ids()) == len(clips), "the clips are shown all the same"
    assert own.ask("/api/clips", view={"tick": "keep"}).status_code == 409


def test_the_present_view_comes_as_csv_and_as_parquet(explorer, query):
    view = {"sort": f"influence:{query}", "descending": True, "arm": "full"}
    wanted = explorer.ids(**view)
    csv = pd.read_csv(io.BytesIO(explorer.ask("/download/clips.csv", view=view).content))
    parquet = pd.read_parquet(io.BytesIO(explorer.ask("/download/clips.parquet", view=view).content))
    assert csv["clip_id"].tolist() == parquet["clip_id"].tolist() == wanted
    assert parquet[f"influence:{query}"].is_monotonic_decreasing
    assert {"path", "caption", "flags", "arms", "rank:motive", "tick", "note"} <= set(csv.columns)
    assert explorer.ask("/download/clips.exe").status_code == 400


def test_published_pages_and_explanations_are_served_and_nothing_else_is(explorer, ws, clips):
    shown = {"report/report.html": "eval_report", "preference/index.html": "preference_bundle"}
    assert [page["address"] for page in explorer.meta["pages"]] == [page for page, asset in shown.items() if ws.has_published(asset)]
    page = explorer.client.get("/preference/index.html")
    assert page.status_code == 200
    video = re.search(r'"videos":\["([^"]+)"', page.text).group(1)
    assert explorer.client.get(f"/preference/videos/{video}", headers={"Range": "bytes=0-3"}).status_code == 206
    for path in (
        "/preference/../../publication.json",
        "/preference/..%2fpublication.json",
        "/preference/..%2frejects.parquet",
        "/preference/videos",
        "/app/..%2fguard.py",
        "/app/nothing.js",
    ):
        assert explorer.client.get(path).status_code in (400, 404, 409), path
    explained = explorer.client.get(f"/explain/{clips['clip_id'][0]}")
    assert "Influence by query" in explained.text
    assert "sandbox" in explained.headers["content-security-policy"]
    assert explorer.client.get("/explain/not-a-clip").status_code == 400


def test_rejects_and_harmful_clips_have_their_tabs(ws, tmp_path, tiny_model, clips):
    root = copied(ws, tmp_path, tiny_model)
    with_harmful_clips(root)
    old = root.published("clip_catalog")
    names = ["/clips/a <b>.mp4", "/clips/b.mp4"]
    root.publish(
        "clip_catalog", content="other", started=0.0, facts=old.facts,
        write=lambda folder: shutil.copytree(old.path, folder, dirs_exist_ok=True),
        rejects=[Reject(path=name, clip_id="", stage="clip_catalog", reason=reason, detail="it is <i>no</i> video") for name, reason in zip(names, ("not_a_video", "too_short"), strict=True)],
    )  # fmt: skip
    own = Explorer(root)
    harmful = root.scores.query("SELECT clip_id FROM harmful WHERE variant = 'motive' ORDER BY rank").df()["clip_id"].tolist()
    assert len(harmful) == own.meta["num_harmful"] == 2
    assert own.ids(harmful=True, sort="harmful") == harmful
    assert own.meta["num_rejects"] == 2
    assert [row["path"] for row in own.get("/api/rejects")["rows"]] == names
    assert [row["path"] for row in own.get("/api/rejects", reason="too_short")["rows"]] == names[1:]
    assert [row["path"] for row in own.get("/api/rejects", text="<B>")["rows"]] == names[:1]


def test_a_video_that_has_gone_or_changed_is_named_in_its_tile(ws, tmp_path, tiny_model):
    root = copied(ws, tmp_path, tiny_model)
    table = root.published("clip_catalog").table("catalog")
    table.loc[0, "path"] = str(tmp_path / "gone.mp4")
    shutil.copy(table["path"][2], tmp_path / "other.mp4")
    table.loc[1, "path"] = str(tmp_path / "other.mp4")
    republish(root, "clip_catalog", catalog=table)
    root.scores.publish({("catalog", "catalog"): root.scores.query("SELECT * FROM catalog").df().merge(table[["clip_id", "path"]], on="clip_id").assign(path=lambda rows: rows["path_y"])})  # fmt: skip
    own = Explorer(root)
    shutil.rmtree(own.viewer.folder, ignore_errors=True)  # a kept tile shows what was catalogued
    for place, words in ((0, "missing file: the file has gone"), (1, "changed since catalog")):
        for address in (f"/tiles/{table['clip_id'][place]}/loop", f"/videos/{table['clip_id'][place]}/scored"):
            answer = own.client.get(address)
            assert answer.status_code == 404
            assert words in answer.json()["error"]


def test_captions_that_attack_or_never_end_are_data(ws, tmp_path, tiny_model):
    root = copied(ws, tmp_path, tiny_model)
    catalog = root.scores.query("SELECT * FROM catalog ORDER BY clip_id").df()
    long = "very long " * 1000
    catalog["caption"] = [long, HOSTILE] + ["x"] * (len(catalog) - 2)
    root.scores.publish({("catalog", "catalog"): catalog})
    own = Explorer(root)
    rows = own.clips()
    assert len(rows[0]["caption"]) == 400
    assert own.get(f"/api/clips/{rows[0]['id']}")["caption"] == long
    assert own.get(f"/api/clips/{rows[1]['id']}")["caption"] == HOSTILE
    assert own.ask("/api/clips").headers["content-type"] == "application/json"
    assert own.ids(text="<script>alert(1)</script>") == [rows[1]["id"]]


def test_a_page_left_open_while_a_run_publishes_goes_on_and_is_told(ws, tmp_path, tiny_model):
    root = copied(ws, tmp_path, tiny_model)
    own = Explorer(root)
    before, ids = own.meta["version"], own.ids(sort="rank:motive")
    assert own.get("/api/version")["version"] == before
    ranking = root.published("voted_ranking/motive").table("ranking")
    root.scores.publish({("ranking", "motive"): ranking.assign(variant="motive", rank=ranking["rank"].tolist()[::-1])})
    after = own.get("/api/version")["version"]
    assert after != before
    assert own.ids(sort="rank:motive") == ids, "the page still sees its own version"
    own.meta = own.get("/api/meta")
    assert own.meta["version"] == after
    assert own.ids(sort="rank:motive") == ids[::-1]
    answer = own.client.get("/api/clips", params={"v": "never"})
    assert answer.status_code == 410
    assert "reload" in answer.json()["error"]


def test_a_run_that_changes_nothing_makes_no_new_version(ws, tmp_path, tiny_model):
    root = copied(ws, tmp_path, tiny_model)
    own = Explorer(root)
    root.graph.asset("voted_ranking/motive").publish(root)
    assert len(root.scores.query("SELECT * FROM runs WHERE asset = 'voted_ranking/motive'").fetchall()) == 2
    assert own.get("/api/version")["version"] == own.meta["version"]


def test_a_root_without_scores_says_what_to_do(tmp_path, tiny_model):
    with pytest.raises(MotiveError, match=r"no scores below .* yet\. Run `motive run` first"):
        Viewer(open_workspace(tmp_path, tiny_model))


def test_a_root_that_cannot_be_written_is_shown(ws, monkeypatch):
    monkeypatch.setattr("motive_pipeline.view.viewer.atomic.is_writable", lambda folder: False)
    own = Explorer(ws)
    assert not own.viewer.folder.is_relative_to(ws.root)
    assert own.client.get(f"/tiles/{own.ids()[0]}/still").status_code == 200


def test_the_map_has_a_place_for_each_clip_that_has_a_gradient(explorer, clips):
    found = explorer.get("/api/map", space="gradients", colour="mean_influence:motive")
    assert found["n"] == list(range(9))
    assert len(found["x"]) == len(found["y"]) == len(found["colour"]) == 9
    assert (found["method"], found["is_final"]) == ("components", True), "too few clips for a better layout"
    assert explorer.meta["spaces"] == ["gradients"]
    assert explorer.get("/api/map", known="components")["n"] == found["n"], "it is final, so there is nothing to wait for"
    filtered = explorer.get("/api/map", view={"arm": "motive"}, colour="mean_influence:motive")
    assert len(filtered["n"]) == len(filtered["colour"]) == 3
    assert set(filtered["n"]) == {row["n"] for row in explorer.clips(arm="motive")}
    assert explorer.get("/api/map", view={"text": "no clip has these words"})["n"] == []
    assert explorer.ask("/api/map", space="embeddings").status_code == 400
    assert explorer.ask("/api/map", space="../x").status_code == 400


def test_own_clips_on_the_tiny_model_are_said_to_be_plumbing(ws):
    viewer = Viewer(ws)
    snapshot = viewer.current()
    assert viewer.notes(snapshot) == []
    own = ws.config.model_copy(update={"clips": ws.config.clips.model_copy(update={"source": "folder"}), "model": ws.config.model.model_copy(update={"path": "tiny"})})  # fmt: skip
    viewer.ws = type("Own", (), {"config": own})()
    assert viewer.notes(snapshot)[0].startswith("Plumbing only")


def test_json_answers_hold_no_nan(explorer):
    text = explorer.ask("/api/clips", view={}, column=[column["key"] for column in explorer.meta["columns"]]).text
    assert "NaN" not in text
    json.loads(text, parse_constant=pytest.fail)


def test_looking_changes_nothing_but_caches(ws, tmp_path, tiny_model):
    root = copied(ws, tmp_path, tiny_model)

    def marks() -> dict[str, tuple[int, int]]:
        files = (file for file in tmp_path.rglob("*") if file.is_file() and not file.is_relative_to(root.state))
        return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in files}

    before = marks()
    own = Explorer(root)
    clip_id = own.ids(text="disc")[0]
    for address in (f"/tiles/{clip_id}/mask", f"/videos/{clip_id}/scored", f"/explain/{clip_id}", "/preference/index.html", "/api/edits"):
        assert own.client.get(address).status_code == 200, address
    for address in ("/api/map", "/download/clips.csv", "/api/rejects"):
        assert own.ask(address).status_code == 200, address
    assert marks() == before
    assert {file.name for file in (root.state / "view").iterdir()} == {"tiles", "videos", "explain"}


def test_a_dropped_video_is_answered_as_motive_ask_does(ws, tmp_path, tiny_model):
    root = copied(ws, tmp_path, tiny_model)
    own = Explorer(root)
    catalog = root.published("query_catalog").table("queries").set_index("query_id")
    query_id = load_influence(root, "motive").query_ids[0]
    content = Path(catalog.at[query_id, "path"]).read_bytes()
    parameters = {"name": "../../<b>my & video</b>.mp4"}
    assert own.client.post("/api/ask", params=parameters, content=content).status_code == 403
    answer = own.client.post("/api/ask", params=parameters, content=content, headers={"Origin": ADDRESS})
    assert answer.status_code == 200, answer.text
    page = own.client.get(answer.json()["page"])
    assert "sandbox" in page.headers["content-security-policy"]
    best = own.ids(sort=f"influence:{query_id}", descending=True)[0]
    name = root.scores.query(f"SELECT path FROM clips WHERE clip_id = '{best}'").fetchall()[0][0].rpartition("/")[2]
    assert page.text.index(name) < page.text.index("no. 2 "), "the best clip for the query comes first"
    assert "<b>my" not in page.text
    assert [path.name for path in (own.viewer.folder / "asked").iterdir()] == [answer.json()["page"].rpartition("/")[2]], (
        "the video is deleted"
    )
    nothing = own.client.post("/api/ask", params={"name": "a.mp4"}, content=b"x" * 50, headers={"Origin": ADDRESS})
    assert nothing.status_code == 409
    assert "a.mp4" in nothing.json()["error"]
    assert own.client.get("/asked/..%2f..%2fmotive.yaml").status_code in (400, 404)


@pytest.mark.parametrize(("given", "name"), [("a b.mp4", "a b.mp4"), ("/etc/passwd", "passwd"), ("..\\..\\x.mp4", "x.mp4"), ("...", "video"), ("", "video"), ("-rf.mp4", "rf.mp4"), ("\u6f22" * 99 + ".mp4", "_" * 96 + ".mp4"), ("\u202e<i>.mp4", "__i_.mp4")])  # fmt: skip
def test_a_dropped_file_gets_a_plain_name(given, name):
    assert file_name(given) == name
