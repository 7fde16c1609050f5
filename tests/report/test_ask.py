"""``motive ask``: which video is meant and its caption, both ends of the clips, a page that is safe and needs nothing else, and a copy on request."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from motive_pipeline import cli
from motive_pipeline.errors import MotiveError
from motive_pipeline.report.ask import Answer, answer
from motive_pipeline.report.ask_page import write_answer
from motive_pipeline.report.keep_query import keep_query, kept_at
from motive_pipeline.report.named_video import find_video
from motive_pipeline.storage.workspace import Workspace
from tests.browser import page_shown_whole
from tests.clip_fixtures import moving_square, project, write_project, write_video
from tests.eval_fixtures import copied, republish
from tests.report.test_report import HOSTILE, Page


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """A video of nobody's, with a caption that attacks and is made of two lines."""
    file = write_video(tmp_path_factory.mktemp("mine") / "new <b>.mp4", moving_square(30, step_px=1.5, width=64, height=64, seed=3))
    file.with_suffix(".txt").write_text(HOSTILE)
    return file


@pytest.fixture(scope="module")
def found(evaluated, video) -> Answer:
    """The answer about that video."""
    return answer(evaluated, find_video(evaluated, str(video)), "motive", top=3)


def samples(ws: Workspace) -> tuple[Path, list[dict]]:
    """The folder of the lead arm's samples, and their records."""
    publication = ws.published("generated_videos/motive")
    return publication.data_folder, publication.table("videos").to_dict("records")


def test_a_generated_sample_is_named_by_arm_and_file_or_by_its_path_and_its_prompt_is_known(evaluated, monkeypatch):
    data, rows = samples(evaluated)
    row = rows[-1]
    short = f"generated_videos/motive/{row['prompt_index']:04d}-{row['n']}.mp4"
    whole = data / row["file"]
    monkeypatch.chdir(evaluated.root.parent)
    for name in (
        short,
        f"generated_videos/motive/{row['file']}",
        str(whole),
        str(whole.relative_to(evaluated.root)),
        os.path.relpath(whole),
    ):
        named = find_video(evaluated, name)
        assert (named.clip.file.path.resolve(), named.caption) == (whole.resolve(), " ".join(row["prompt"].split())), name
        assert named.caption_from == "the prompt that it was generated from"
        assert named.own_name == f"motive-seed-0-{row['prompt_index']}-{row['n']}.mp4"
    assert find_video(evaluated, short, caption="mine").caption == "mine"


def test_the_caption_is_the_given_one_then_the_sidecars_then_the_catalogs(evaluated, video, tmp_path):
    named = find_video(evaluated, str(video))
    assert (named.caption, named.caption_from) == (" ".join(HOSTILE.split()), "new <b>.txt")
    given = find_video(evaluated, str(video), caption=" two\n words ")
    assert (given.caption, given.caption_from) == ("two words", "--caption")
    clip = evaluated.published("clip_catalog").table("catalog").iloc[0]
    copy = str(shutil.copy(clip["path"], tmp_path / "copy.mp4"))
    known = find_video(evaluated, copy)
    assert (known.clip.clip_id, known.caption, known.caption_from) == (clip["clip_id"], clip["caption"], "the same content in clip_catalog")
    (tmp_path / "copy.json").write_text(json.dumps({"prompt": "as the sources read it"}))
    assert find_video(evaluated, copy).caption == "as the sources read it"
    bare = str(shutil.copy(video, tmp_path / "bare.mp4"))
    assert (find_video(evaluated, bare).caption, find_video(evaluated, bare).caption_from) == ("", "")


def test_what_is_no_video_is_named_with_what_to_do(evaluated, video, tmp_path):
    text, badly = tmp_path / "notes.txt", tmp_path / "bad.mp4"
    text.write_text("no video")
    shutil.copy(video, badly)
    badly.with_suffix(".txt").write_bytes(b"\xff\xfe\xff")
    cases = {
        "no/such.mp4": "there is no such file, neither as .*no/such.mp4 nor as .*no/such.mp4. Name a video, or a generated sample as",
        str(tmp_path): "is a folder. Name one video",
        str(text): "is no video by its name. Videos end in .mp4, ",
        str(badly): "bad.mp4: bad_caption: the caption file bad.txt",
        "generated_videos/motive/99-0.mp4": r"the arm motive has no such sample of training 0\. It has \d+ \(seed-0/0-0\.mp4",
        "generated_videos/motif/0-0.mp4": "there is no asset 'generated_videos/motif' under these settings",
    }
    for name, words in cases.items():
        with pytest.raises(MotiveError, match=words):
            find_video(evaluated, name)
    assert find_video(evaluated, str(badly), caption="given").caption == "given"
    with pytest.raises(MotiveError, match="--caption has 70000 bytes; at most 65536"):
        find_video(evaluated, str(video), caption="x" * 70_000)
    with pytest.raises(MotiveError, match="--caption is not valid UTF-8"):
        find_video(evaluated, str(video), caption="\udcff")


def test_both_ends_are_those_of_the_influences_with_place_and_percentile(found, evaluated):
    order = np.argsort(-found.influence.influence_N, kind="stable")
    ids = found.influence.clip_id_N.astype(str)
    assert [each.clip_id for each in found.best] == ids[order[:3]].tolist()
    assert [each.clip_id for each in found.worst] == ids[order[::-1][:3]].tolist()
    assert ([each.place for each in found.best], [each.place for each in found.worst]) == ([1, 2, 3], [9, 8, 7])
    rows = evaluated.scores.query("SELECT clip_id, influence FROM influence WHERE variant = 'motive'").fetchall()
    for each in (*found.best, *found.worst):
        on_queries = [influence for clip_id, influence in rows if clip_id == each.clip_id]
        assert len(on_queries) == found.influence.num_queries == 2
        assert each.percentile == 50.0 * sum(influence < each.influence for influence in on_queries)
    assert {each.percentile for each in (*found.best, *found.worst)} - {0.0}, "an attribution in which no query is lower would show nothing"


def test_a_training_clip_is_its_own_best_clip_and_is_called_one(evaluated):
    path = evaluated.published("clip_catalog").table("catalog")["path"].iloc[4]
    own = answer(evaluated, find_video(evaluated, path), "motive", top=1)
    assert own.best[0].clip_id == own.video.clip.clip_id
    assert own.best[0].influence == pytest.approx(1.0, abs=1e-6)
    assert "The video is itself one of the training clips." in own.notes


def test_clips_outside_of_the_pool_are_left_out(evaluated, found, tmp_path, tiny_model, video):
    ws = copied(evaluated, tmp_path, tiny_model)
    pool = ws.published("eligible_pool").table("pool")
    republish(ws, "eligible_pool", pool=pool.query(f"clip_id != '{found.best[0].clip_id}'"))
    smaller = answer(ws, find_video(ws, str(video)), "motive", top=1)
    assert (smaller.best[0].clip_id, smaller.num_clips) == (found.best[1].clip_id, 8)


def test_the_page_shows_loops_runs_nothing_and_fetches_nothing(evaluated, found, tmp_path):
    html = write_answer(evaluated, found, file=tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 3 + 3
    assert "<script>" not in html
    assert "<script>alert(1)</script>" in page.text, "shown as text"
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base"), tag
        for attribute in ("src", "href", "srcset"):
            assert attributes.get(attribute, "data:image/webp;base64,").startswith("data:image/webp;base64,")
    assert "default-src 'none'" in html
    shown = " ".join(page.text.split())
    for words in ("new <b>.mp4", "caption from: new <b>.txt", "no. 1 ·", "no. 9 ·", "9 clips were compared", "of the queries", " vote"):
        assert words in shown, words


def test_a_browser_shows_the_page_whole_on_wide_and_on_narrow_screens(browser, evaluated, found, tmp_path):
    file = write_answer(evaluated, found, file=tmp_path / "page.html")
    for width in (1280, 390):
        page = page_shown_whole(browser, file, width=width, num_images=7)
        assert page.locator("h1").inner_text() == "new <b>.mp4"


def test_a_clip_whose_file_has_gone_costs_its_picture_and_not_the_answer(evaluated, found, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    catalog = ws.published("clip_catalog").table("catalog")
    gone = catalog["clip_id"] == found.best[1].clip_id
    republish(ws, "clip_catalog", catalog=catalog.assign(path=catalog["path"].mask(gone, "/gone.mp4")))
    html = write_answer(ws, found, file=tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No picture of no. 2: /gone.mp4 can no longer be read" in Page(html).text
    assert sum(tag == "img" for tag, _ in Page(html).tags) == 6


def test_the_command_prints_both_ends_or_json_and_writes_the_page_below_the_root(
    evaluated, found, video, capsys, monkeypatch, tmp_path, tiny_model
):
    ws = copied(evaluated, tmp_path, tiny_model)
    monkeypatch.setattr(cli, "load_config", lambda: ws.config)
    assert cli.main(["ask", str(video), "--top", "2"]) == 0
    out = capsys.readouterr().out
    page = ws.root / "ask" / f"{found.video.clip.clip_id}-motive.html"
    assert out.splitlines()[-1] == f"Page: {page}"
    assert page.is_file()
    for each in (*found.best[:2], *found.worst[:2]):
        line = next(line for line in out.splitlines() if line.endswith(each.path))
        assert line.split()[:3] == [str(each.place), f"{each.influence:+.4f}", f"{each.percentile:.0f}"]
    assert cli.main(["ask", str(video), "--json", "--variant", "no_mask", "--out", str(tmp_path / "deep" / "x.html")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["variant"], told["clips"], told["page"], told["kept"]) == ("no_mask", 9, str(tmp_path / "deep" / "x.html"), None)
    assert [each["place"] for each in (*told["best"], *told["worst"])] == [1, 2, 3, 4, 9, 8, 7, 6]
    assert (tmp_path / "deep" / "x.html").is_file()
    assert cli.main(["ask", str(video), "--variant", "no_mack"]) == 1
    assert "--variant no_mack: there is no such variant. Did you mean 'no_mask'?" in capsys.readouterr().err


def test_a_lead_ranking_is_not_needed(evaluated, video, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    for asset in ("voted_ranking", "query_masks"):
        shutil.rmtree(ws.root / "published" / asset)
    found = answer(ws, find_video(ws, str(video)), "motive", top=1)
    assert sum(tag == "img" for tag, _ in Page(write_answer(ws, found).read_text(encoding="utf-8")).tags) == 3


def test_keep_copies_video_and_caption_into_the_folder_of_the_queries_and_never_over_a_file(tmp_path, video):
    write_project(tmp_path)
    ws = project(tmp_path)
    named = find_video(ws, str(video))
    before = sorted((tmp_path / "queries").rglob("*"))
    target = kept_at(ws, named)
    assert sorted((tmp_path / "queries").rglob("*")) == before, "only keep_query() changes anything"
    keep_query(named, target)
    assert target == tmp_path / "queries" / "new <b>.mp4"
    assert (target.read_bytes(), find_video(ws, str(target)).caption) == (video.read_bytes(), named.caption)
    assert sorted(path.name for path in set((tmp_path / "queries").rglob("*")) - set(before)) == ["new <b>.mp4", "new <b>.txt"]
    with pytest.raises(MotiveError, match=r"--keep: .*new <b>\.mp4 exists"):
        kept_at(ws, named)
    target.unlink()
    with pytest.raises(MotiveError, match=r"--keep: .*new <b>\.txt exists"):
        kept_at(ws, named)


def test_keep_refuses_what_no_folder_of_queries_could_take(evaluated, ws, video, tmp_path):
    with pytest.raises(MotiveError, match=r"queries\.source: demo reads none"):
        kept_at(evaluated, find_video(evaluated, str(video)))
    with pytest.raises(MotiveError, match=r"the same content is a held-out query already: .*held\.mp4"):
        kept_at(ws, find_video(ws, str(tmp_path / "held_out" / "held.mp4")))
    with pytest.raises(MotiveError, match="--keep copies whole files"):
        kept_at(ws, find_video(ws, f"{video}#t=0,1"))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        archive.write(video, "inner.mp4")
    with pytest.raises(MotiveError, match="--keep copies whole files"):
        kept_at(ws, find_video(ws, f"{tmp_path / 'some.zip'}!/inner.mp4"))
