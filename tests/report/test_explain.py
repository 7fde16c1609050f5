"""``motive explain``: why a clip was (not) chosen, in numbers that agree with the tables, on a page that is safe and needs nothing else."""

import base64
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image

from motive_pipeline import cli
from motive_pipeline.curation.pool import load_pool
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.files.hash_memory import ID_DIGITS
from motive_pipeline.motion.field import MotionField
from motive_pipeline.report import explain_page
from motive_pipeline.report.explain import arms_containing, nearest_by_gradient, query_summary, standing
from motive_pipeline.report.explain_page import write_explanation
from motive_pipeline.report.frames_sheet import shown_frames, strips
from motive_pipeline.report.gallery import Gallery
from motive_pipeline.report.lookup import KnownClip, find_clip, load_known_clips
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.workspace import Reject
from tests.browser import page_shown_whole
from tests.clip_fixtures import catalogued, project, write_project, write_video
from tests.eval_fixtures import copied, republish
from tests.report.test_report import HOSTILE, Page


@pytest.fixture(scope="module")
def ranking(evaluated):
    return evaluated.published("voted_ranking/motive").table("ranking")


@pytest.fixture(scope="module")
def queries(evaluated):
    return evaluated.published("query_catalog").table("queries").set_index("query_id")


def page_of(ws, name: str, folder: Path) -> tuple[str, str]:
    """(HTML, what the terminal says)."""
    file, text = write_explanation(ws, name, file=folder / "page.html")
    return file.read_text(encoding="utf-8"), text


def test_a_clips_standing_is_the_rankings_and_its_votes_are_those_of_the_queries(evaluated, ranking):
    for variant in ("motive", "no_mask"):
        table = evaluated.published(f"voted_ranking/{variant}").table("ranking")
        for row in table.itertuples():
            found = standing(evaluated, variant, row.clip_id)
            assert (found.rank, found.votes, found.is_chosen) == (row.rank, row.votes, row.selected)
            assert sum(each.votes for each in found.by_query) == row.votes
            assert np.mean([each.influence for each in found.by_query]) == pytest.approx(row.mean_influence)
            assert (found.num_clips, found.num_chosen) == (9, 3)
            assert found.last_votes == table["votes"][2]
    assert standing(evaluated, "motive", "0" * 16) is None
    assert len(ranking) == 9


def test_influence_and_place_are_the_score_tables(evaluated, ranking):
    clip_id = ranking["clip_id"][4]
    rows = evaluated.scores.query(f"SELECT query_id, influence, rank FROM influence WHERE variant = 'motive' AND clip_id = '{clip_id}'")
    expected = {query_id: (influence, rank) for query_id, influence, rank in rows.fetchall()}
    found = {each.query_id: (each.influence, each.place) for each in standing(evaluated, "motive", clip_id).by_query}
    assert found == {query_id: (pytest.approx(influence), rank) for query_id, (influence, rank) in expected.items()}


def test_a_querys_ends_are_the_highest_and_the_lowest_of_its_row(evaluated, queries):
    query_id = queries.query("role == 'query'").index[0]
    group = zarr.open_group(evaluated.published("influence_matrix/motive").path, mode="r")
    row = np.asarray(group["influence"])[[bytes(each).decode() for each in np.asarray(group["query_id"])].index(query_id)]
    by_clip = dict(zip(load_pool(evaluated).astype(str).tolist(), row.tolist(), strict=True))
    found = query_summary(evaluated, query_id, count=3)
    ordered = sorted(by_clip.items(), key=lambda pair: -pair[1])
    assert found.best == ordered[:3]
    assert found.worst == ordered[::-1][:3]
    assert found.num_votes == sum(influence > found.threshold for influence in by_clip.values())
    assert (found.num_clips, found.num_chosen) == (9, 3)
    both_ends = query_summary(evaluated, query_id, count=8)
    assert len(both_ends.best) == len(both_ends.worst) == 4, "no clip stands at both ends"


def test_a_held_out_query_asks_for_nothing(evaluated, queries):
    assert query_summary(evaluated, queries.query("role == 'held_out'").index[0], count=3) is None


def test_the_nearest_clips_are_those_with_the_highest_cosine_of_the_gradients(evaluated, ranking):
    group = zarr.open_group(evaluated.published("projected_gradients/motive").path, mode="r")
    rows = np.asarray(group["gradient"])[:, :256].astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    ids = [bytes(clip_id).decode() for clip_id in np.asarray(group["clip_id"])]
    for place, clip_id in enumerate(ids):
        expected = sorted((-float(rows[place] @ rows[other]), ids[other]) for other in range(9) if other != place)[:6]
        found = nearest_by_gradient(evaluated, clip_id)
        assert [near for near, _ in found] == [near for _, near in expected]
        assert [cosine for _, cosine in found] == pytest.approx([-cosine for cosine, _ in expected], abs=1e-5)


def test_the_arms_that_train_on_it_are_named(evaluated, ranking):
    best = ranking["clip_id"][0]
    assert {"full", "motive"} <= set(arms_containing(evaluated, best))
    assert "motive" not in arms_containing(evaluated, ranking["clip_id"][8])


def test_it_is_found_by_id_prefix_path_name_and_content(evaluated, ranking, tmp_path):
    known = load_known_clips(evaluated)
    clip_id = ranking["clip_id"][2]
    path = Path(evaluated.published("clip_catalog").table("catalog").set_index("clip_id").at[clip_id, "path"])
    copy = shutil.copy(path, tmp_path / "another name.mp4")
    for name in (clip_id, clip_id[:9], str(path), path.name, str(copy)):
        assert find_clip(known, name).clip_id == clip_id, name
    assert digest_file(path)[:ID_DIGITS] == clip_id


def test_what_is_unknown_or_may_mean_several_is_an_error_that_helps():
    known = [
        KnownClip(clip_id="abcd000000000001", paths=["/a/cat.mp4"], roles=frozenset({"clip"})),
        KnownClip(clip_id="abcd000000000002", paths=["/b/cat.mp4", "/b/copy of cat.mp4"], roles=frozenset({"clip"})),
    ]
    for name in ("abcd", "cat.mp4"):
        with pytest.raises(MotiveError, match=r"matches 2 clips; give the whole id or the path:\n  abcd000000000001  /a/cat\.mp4\n  abcd0"):
            find_clip(known, name)
    assert find_clip(known, "/b/copy of cat.mp4").clip_id == "abcd000000000002"
    with pytest.raises(
        MotiveError, match=r"no clip or query is called 'cut\.mp4'\. Similar names: cat\.mp4.*motive sql.*list them all, 2 clips"
    ):
        find_clip(known, "cut.mp4")
    with pytest.raises(MotiveError, match="no clip or query is called 'abc'"):
        find_clip(known, "abc")


def test_a_chosen_clips_page_says_why(evaluated, ranking, tmp_path):
    html, text = page_of(evaluated, ranking["clip_id"][0], tmp_path)
    assert f"Chosen: rank 1 of 9, of which the first 3 are chosen; {ranking['votes'][0]} of 2 queries vote for it" in text
    assert "Without the mask (the variant no_mask): rank" in text
    assert "Used for training by: full pool" in text
    shown = " ".join(Page(html).text.split())
    for sentence in text.splitlines()[1:]:
        assert sentence in shown
    for words in ("Influence by query", "mask on the latent grid", "8 x 8 cells", "The nearest clips", "motion.floor_px"):
        assert words in shown, words
    assert sum(tag == "img" for tag, _ in Page(html).tags) == 3 + 4 + 6, "maps, strips, nearest clips"


def test_a_page_says_if_its_result_is_plumbing_only(evaluated, ranking, tmp_path, monkeypatch):
    monkeypatch.setattr(explain_page, "plumbing_notes", lambda config: ["Plumbing only."])
    _, text = write_explanation(evaluated, ranking["clip_id"][0], file=tmp_path / "page.html", compute_maps=False)
    assert text.endswith("Plumbing only.")
    assert "Plumbing only." in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_clip_that_was_not_chosen_is_set_beside_the_last_one_that_was(evaluated, ranking, tmp_path):
    _, text = page_of(evaluated, ranking["clip_id"][8], tmp_path)
    assert text.splitlines()[1].startswith("Not chosen: rank 9 of 9")
    assert f"the last chosen clip has {ranking['votes'][2]} (" in text


def test_a_clips_page_shows_where_its_influence_arises(evaluated, ranking, queries, tmp_path):
    html, text = page_of(evaluated, ranking["clip_id"][4], tmp_path)
    shown = " ".join(Page(html).text.split())
    assert re.search(r"Best half: \d\.\d\d to \d\.\d\d s, mean influence [+−]\d\.\d{4} there and [+−]\d\.\d{4} over the whole clip\.", text)
    assert "Where and when the influence arises" in shown
    assert "mean of all queries" in shown
    for path in queries.query("role == 'query'")["path"]:
        assert Path(path).name in shown
    assert sum(tag == "svg" for tag, _ in Page(html).tags) == 3, "a curve over time for each map"


def test_without_maps_no_model_is_loaded(evaluated, ranking, tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.evaluation.map_rows.load_attributed_model", None)
    monkeypatch.setattr("motive_pipeline.report.explain_maps.MapSet.get", lambda *_: None)
    html = write_explanation(evaluated, ranking["clip_id"][4], file=tmp_path / "page.html", compute_maps=False)[0].read_text()
    assert "3 of 3 influence maps are not computed yet, and --no-maps was given." in html
    assert "Where and when" not in html


def test_a_model_that_no_longer_fits_the_gradients_is_named_instead_of_maps(evaluated, ranking, tmp_path, monkeypatch):
    monkeypatch.setattr("motive_pipeline.evaluation.map_rows.model_hash", lambda _: "0" * 64)
    monkeypatch.setattr("motive_pipeline.report.explain_maps.MapSet.get", lambda *_: None)
    html, text = page_of(evaluated, ranking["clip_id"][4], tmp_path)
    assert "Chosen" in text or "Not chosen" in text
    assert re.search(
        r"No influence map: the model .* is not the one that the published gradients were made with \(hash 0{12} instead of", text
    )
    assert "Run `motive run` to compute the gradients again, or set model.path" in text
    assert "Where and when" not in html


def test_queries_have_a_page_too(evaluated, queries, tmp_path):
    html, text = page_of(evaluated, queries.query("role == 'query'").index[0], tmp_path)
    assert re.search(r"A query\. It votes for \d of 9 clips, those with an influence above [+−]0\.\d{4}; of the 3 chosen", text)
    assert "What this query votes for" in html
    html, text = page_of(evaluated, queries.query("role == 'held_out'").index[0], tmp_path)
    assert "It does not vote" in text
    assert "What this query votes for" not in html


def test_the_page_fetches_nothing_and_runs_nothing(evaluated, ranking, queries, tmp_path):
    for name in (ranking["clip_id"][0], queries.query("role == 'query'").index[0]):
        html, _ = page_of(evaluated, name, tmp_path)
        for tag, attributes in Page(html).tags:
            assert tag not in ("script", "link", "iframe", "object", "embed", "base"), tag
            for attribute in ("src", "href", "srcset"):
                assert attributes.get(attribute, "data:image/webp;base64,").startswith("data:image/webp;base64,")
        assert "default-src 'none'" in html


@pytest.fixture(scope="module")
def hostile(evaluated, ranking, tmp_path_factory, tiny_model):
    """A project whose captions are hostile."""
    ws = copied(evaluated, tmp_path_factory.mktemp("hostile"), tiny_model)
    for asset, table in (("clip_catalog", "catalog"), ("query_catalog", "queries")):
        republish(ws, asset, **{table: ws.published(asset).table(table).assign(caption=HOSTILE, category=HOSTILE)})
    return ws


def test_captions_are_shown_and_never_act(hostile, ranking, queries, tmp_path):
    for name in (ranking["clip_id"][0], queries.query("role == 'query'").index[0]):
        html, _ = page_of(hostile, name, tmp_path)
        assert "<script>" not in html
        assert "onerror=alert(2)>" not in html
        assert "<script>alert(1)</script>" in Page(html).text, "shown as text"
        images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
        assert all(set(attributes) <= {"src", "width", "height", "alt", "title"} for attributes in images)


def test_a_browser_shows_the_page_whole_on_wide_and_on_narrow_screens(browser, hostile, ranking, tmp_path):
    file, _ = write_explanation(hostile, ranking["clip_id"][0], file=tmp_path / "page.html")
    for width in (1280, 390):
        page = page_shown_whole(browser, file, width=width, num_images=13)
        assert page.locator("h1").inner_text().endswith(".mp4")


def test_the_command_writes_below_the_root_and_an_unknown_name_ends_with_1(evaluated, ranking, capsys, monkeypatch, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    monkeypatch.setattr(cli, "load_config", lambda: ws.config)
    clip_id = ranking["clip_id"][1]
    assert cli.main(["explain", clip_id[:8]]) == 0
    out = capsys.readouterr().out
    page = ws.root / "explain" / f"{clip_id}.html"
    assert out.splitlines()[-1] == f"Page: {page}"
    assert page.is_file()
    assert cli.main(["explain", clip_id, "--no-maps", "--out", str(tmp_path / "deep" / "x.html")]) == 0
    assert (tmp_path / "deep" / "x.html").is_file()
    capsys.readouterr()
    assert cli.main(["explain", "no such clip"]) == 1
    assert "motive: no clip or query is called 'no such clip'" in capsys.readouterr().err


def test_a_clip_is_explained_where_only_the_lead_arms_ranking_was_made(evaluated, ranking, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    shutil.rmtree(ws.root / "published" / "voted_ranking" / "no_mask")
    file, text = write_explanation(ws, ranking["clip_id"][0], file=tmp_path / "page.html", compute_maps=False)
    assert "Chosen: rank 1 of 9" in text
    assert "Without the mask" not in text + file.read_text(encoding="utf-8")


def test_a_clip_whose_file_has_gone_is_explained_without_pictures(evaluated, ranking, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    clip_id = ranking["clip_id"][8]
    table = ws.published("clip_catalog").table("catalog")
    table.loc[table["clip_id"] == clip_id, "path"] = str(tmp_path / "gone.mp4")
    republish(ws, "clip_catalog", catalog=table)
    html, text = page_of(ws, clip_id, tmp_path)
    assert "Not chosen: rank 9" in text
    assert "No pictures:" in html


def test_a_decoder_that_dies_on_a_clip_costs_its_pictures_and_not_the_process(evaluated, ranking, tmp_path, tiny_model, strange_workers):
    ws = copied(evaluated, tmp_path, tiny_model)
    clip_id = ranking["clip_id"][8]
    table = ws.published("clip_catalog").table("catalog")
    found = table["clip_id"] == clip_id
    shutil.copy(table.loc[found, "path"].item(), tmp_path / "crash.mp4")
    table.loc[found, "path"] = str(tmp_path / "crash.mp4")
    republish(ws, "clip_catalog", catalog=table)
    assert "No pictures: the process that read it died (signal SIGABRT)" in page_of(ws, clip_id, tmp_path)[0]
    with pytest.raises(GateFailed, match=r"crash\.mp4 can no longer be read .the process that read it died"):
        Gallery(ws, None).clip(clip_id, [])


def test_a_file_that_was_rejected_is_explained_by_the_stage_and_the_reason(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"<html>404</html>")
    old = ws.published("clip_catalog")
    ws.publish(
        "clip_catalog", content="other", started=0.0,
        write=lambda folder: shutil.copytree(old.path, folder, dirs_exist_ok=True),
        rejects=[Reject(path=str(broken), clip_id="", stage="clip_catalog", reason="not_a_video", detail="it is <b>a web page</b>")],
    )  # fmt: skip
    html, text = page_of(ws, "broken.mp4", tmp_path)
    assert "Rejected by clip_catalog: not_a_video: it is <b>a web page</b>" in text
    assert "No influence map: clip_catalog rejected the clip, so there is no gradient to break down." in text
    assert "<b>" not in html
    evil = broken.with_name("evil\x1b[2J\n\u202e.mp4")
    ws.publish(
        "clip_catalog", content="hostile", started=0.0,
        write=lambda folder: shutil.copytree(old.path, folder, dirs_exist_ok=True),
        rejects=[Reject(path=str(evil), clip_id="", stage="clip_catalog", reason="not_a_video", detail="no \x1b]0;video\x07")],
    )  # fmt: skip
    _, text = page_of(ws, evil.name, tmp_path)
    assert r"evil\x1b[2J\x0a\u202e.mp4" in text, "a terminal shows the name and does not obey it"
    assert r"not_a_video: no \x1b]0;video\x07" in text
    assert all(line.isprintable() for line in text.split("\n"))


def test_without_a_ranking_it_says_what_to_run(tmp_path):
    write_project(tmp_path)
    write_video(tmp_path / "clips" / "other.mp4", np.zeros((9, 48, 64, 3), dtype=np.uint8))
    with pytest.raises(MotiveError, match=r"voted_ranking/motive has not been materialized.*motive run"):
        write_explanation(catalogued(project(tmp_path)), "other.mp4")


@pytest.mark.parametrize(("num_frames", "expected"), [(1, [0]), (5, [0, 4]), (17, [0, 4, 8, 12, 16]), (81, [0, 16, 32, 48, 64, 80])])
def test_the_frames_shown_are_spread_over_the_clip_and_end_a_latent_frame_each(num_frames, expected):
    assert shown_frames(num_frames, 4) == expected


def test_the_rows_of_a_clip_show_magnitude_weight_and_cells_where_they_lie():
    frames = np.full((5, 32, 64, 3), 100, dtype=np.uint8)
    magnitude = np.zeros((5, 32, 64), dtype=np.float32)
    magnitude[:, :16, :32] = 3.0
    field = MotionField(magnitude_THW=magnitude, weight_THW=magnitude / 3, magnitude_px=0.75, peak_px=3.0)
    mask = np.zeros((2, 2, 4), dtype=np.float32)
    mask[1, 1, 3] = 1.0
    found = strips(frames, field, mask, 4)
    assert [strip.title for strip in found] == ["frames", "magnitude", "mask on pixels", "mask on the latent grid"]
    assert "3.00 px" in found[1].note
    rows = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(strip.picture.uri.partition(",")[2]))).convert("RGB")).astype(int)
        for strip in found
    ]
    assert all(row.shape == (96, 2 * 192 + 4, 3) for row in rows)
    second = 196
    assert rows[1][20, second + 20].sum() > 400 > 60 > rows[1][80, second + 150].sum()
    assert rows[2][20, second + 20, 0] > rows[2][20, second + 20, 2] + 80
    assert abs(rows[2][80, second + 150, 0] - rows[2][80, second + 150, 2]) < 12
    assert rows[3][80, second + 170, 0] > rows[3][80, second + 170, 2] + 80
    assert abs(rows[3][80, second + 120, 0] - rows[3][80, second + 120, 2]) < 12, "cells have sharp edges"
    assert abs(rows[3][80, 170, 0] - rows[3][80, 170, 2]) < 12, "the first latent frame is another"
