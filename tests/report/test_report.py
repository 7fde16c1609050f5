"""The report: one page that needs nothing else, the same numbers everywhere, and words that say what the numbers allow."""

import functools
import json
import math
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from motive_pipeline.attribution.influence_set import load_influence
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.bootstrap import Estimate
from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.study import publish_preference_study
from motive_pipeline.evaluation.stage import publish_eval_scores
from motive_pipeline.evaluation.vbench.dimensions import VBENCH_METRICS
from motive_pipeline.graph import ARMS as ARM_NAMES
from motive_pipeline.graph.metrics import DYNAMIC, FLICKERING, HELD_OUT_DROP, HISTOGRAM, METRICS
from motive_pipeline.report.gallery import Gallery
from motive_pipeline.report.participants import clip_participants, query_participants
from motive_pipeline.report.pictures import MAX_FRAMES, animation, latent_frame
from motive_pipeline.report.stage import publish_report
from motive_pipeline.report.summary import summary
from motive_pipeline.report.tables import format_estimate, format_number, plain_text
from motive_pipeline.report.training_curves import load_curves
from motive_pipeline.report.verdict import verdict
from motive_pipeline.storage.workspace import Reject
from motive_pipeline.training.finetune import load_records
from tests.browser import PHONE, cramped, low_contrast
from tests.eval_fixtures import copied, republish, several_trainings, with_harmful_clips, with_settings
from tests.preference_fixtures import drop, edit_publication, result_of

LONG = "a" * 300
HOSTILE_NAME = '<svg onload=alert(3)> [x](javascript:y) `z` & it\'s "one".mp4'
ARMS = "The arms side by side"
HOSTILE = "<script>alert(1)</script> | <img src=x onerror=alert(2)> 'quoted' \"twice\" \u202e [link](javascript:x) `code`\nsecond line"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._in = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._in.append(tag)

    def handle_endtag(self, tag):
        if tag in self._in:
            while self._in.pop() != tag:
                pass

    def handle_data(self, data):
        if "style" not in self._in:
            self.text += data + " "


@pytest.fixture(scope="module")
def report(evaluated):
    publication = publish_report(evaluated)
    html = (publication.path / "report.html").read_text(encoding="utf-8")
    return publication, html, (publication.path / "report.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def many(evaluated, tmp_path_factory, tiny_model):
    """A project with all that can stand on the page: three trainings an arm, in which MOTIVE beats random, loses to full and is not clearly different from no
    mask; values in the place of VBench's; four people who like MOTIVE better than anything, one of them without looking; captions without a place to break a line."""
    ws = copied(evaluated, tmp_path_factory.mktemp("three"), tiny_model)
    several_trainings(ws, {"full": 4.0, "random": 1.0, "motion_magnitude": 1.0, "no_mask": 3.0, "motive": 3.0})
    key = Key.of(ws.published("preference_bundle"))
    for number in range(4):
        drop(ws, result_of(key, number, lambda first, second, _: "first" if first == "motive" else "tie", is_careless=number == 3))
    publish_preference_study(ws)
    clips, queries = ws.published("clip_catalog").table("catalog"), ws.published("query_catalog").table("queries")
    republish(ws, "clip_catalog", catalog=clips.assign(caption=LONG))
    republish(ws, "query_catalog", queries=queries.assign(caption=LONG, category=LONG))
    for arm in ws.config.arms:
        values = ws.published(f"eval_scores/{arm}").table("per_video")
        exact = values[values["metric"] == FLICKERING.name]
        theirs = [exact.assign(metric=metric.name, backend=metric.backend) for metric in VBENCH_METRICS]
        republish(ws, f"eval_scores/{arm}", per_video=pd.concat([values, *theirs]))
        videos = ws.published(f"generated_videos/{arm}").table("videos")
        republish(ws, f"generated_videos/{arm}", videos=videos.assign(prompt=LONG))
    return ws


@pytest.fixture(scope="module")
def three(many):
    publication = publish_report(many)
    return (
        publication,
        (publication.path / "report.html").read_text(encoding="utf-8"),
        (publication.path / "report.md").read_text(encoding="utf-8"),
    )


def test_the_page_fetches_nothing(report):
    _, html, _ = report
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base"), tag
        for name in ("src", "href", "poster", "data", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/webp;base64,", "#")), value
    assert not re.search(r"(?:https?:)?//[a-z]", re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]*", "", html)), (
        "no address anywhere on the page"
    )
    assert "@import" not in html
    assert len(html.encode()) < 6e6


def test_all_arms_and_controls_are_there(report):
    publication, html, markdown = report
    for name in (
        "base model",
        "full pool",
        "random",
        "most motion",
        "unmasked gradient",
        "MOTIVE",
        "flow similarity",
        "untrained network",
        "chance",
    ):
        assert name in html
        assert name in markdown
    assert {"arms", "differences", "precision", "lengths"} <= set(publication.table("numbers")["table"])


def test_page_markdown_and_table_show_the_same_numbers(report):
    publication, html, markdown = report
    text = Page(html).text
    numbers = publication.table("numbers")
    for number in numbers.itertuples(index=False):
        assert number.shown in text, number
        assert number.shown in markdown, number
    styles = {metric.label: metric.style for metric in (*METRICS.values(), *VBENCH_METRICS)}
    for number in numbers[numbers["table"] == "arms"].itertuples(index=False):
        estimate = Estimate(value=number.value, low=number.ci_low, high=number.ci_high, num_trainings=1, num_prompts=number.num)
        assert number.shown == format_estimate(estimate, styles[number.column])


def test_the_arms_numbers_are_those_of_eval_scores(evaluated, report):
    numbers = report[0].table("numbers")
    for arm in evaluated.config.arms:
        scores = evaluated.published(f"eval_scores/{arm}").table("scores").query("seed == -1")
        shown = numbers[(numbers["table"] == "arms") & (numbers["row"] == arm)]
        assert shown["value"].tolist() == scores["value"].tolist()
        np.testing.assert_array_equal(shown["ci_low"], scores["ci_low"])


def test_one_training_gives_no_verdict(report):
    publication, html, markdown = report
    assert publication.facts["verdict"] == "One training per arm: no verdict"
    assert "One training per arm: no verdict" in html
    assert "One training per arm: no verdict" in markdown
    assert "MOTIVE beats" not in html


@pytest.mark.slow
def test_three_trainings_give_a_verdict_that_names_wins_losses_and_draws(three):
    publication, html, markdown = three
    headline = (
        "On held-out loss drop, MOTIVE beats random and most motion, loses to full pool and is not clearly different from unmasked gradient"
    )
    assert publication.facts["verdict"] == headline
    assert headline in html
    assert headline in markdown
    assert "Each training by itself" in html


def test_the_page_accounts_for_every_file_of_the_source(report):
    for shown in (Page(report[1]).text, report[2].replace("\\", "")):
        found = re.search("The clips.{1,5} source: .*", shown)
        assert found is not None
        assert found[0].partition(": ")[2].strip() == "18 files = 9 clips + 0 merged duplicates + 0 rejects + 9 not videos.", (
            "captions are files, too"
        )


def test_stand_ins_are_labelled_and_never_called_vbench(report):
    text = Page(report[1]).text
    assert "dynamic_degree[dis]" in text
    assert "motion_smoothness[dis]" in text
    assert "stand-in for VBench's" in text


def test_vbenchs_numbers_stand_in_tables_of_their_own(three):
    _, html, markdown = three
    ours, theirs = (
        html.split(f"<h{level}>{title}</h{level}>")[1].split("<table>")[1].split("</table>")[0]
        for level, title in ((2, ARMS), (3, f"{ARMS}: VBench"))
    )
    assert "[vbench]" not in Page(ours.replace("<wbr>", "")).text
    for metric in VBENCH_METRICS:
        assert metric.label in Page(theirs.replace("<wbr>", "")).text
    assert f"## {ARMS}: VBench" in markdown


def test_without_votes_the_report_says_so_in_words(report):
    publication, html, markdown = report
    assert "Nobody has voted yet" in Page(html).text
    assert "Nobody has voted yet" in markdown
    assert "preference" not in set(publication.table("numbers")["table"])


def test_votes_become_a_table_with_wins_ties_losses_and_sentences(many, three):
    publication, html, markdown = three
    text, study = Page(html).text, many.published("preference_study")
    numbers = publication.table("numbers").query("table == 'preference'").set_index(["row", "column"])
    for row in study.table("preference").to_dict("records"):
        for column in ("wins", "ties", "losses", "win_rate"):
            number = numbers.loc[f"{row['arm_a']}/{row['arm_b']}", column]
            assert number["value"] == row[column]
            assert number["shown"] in text
            assert number["shown"] in markdown
    assert "The votes do not show whether people prefer MOTIVE or base model." in text, "four prompts are too few"
    assert "3 raters gave" in text
    assert "1 rater failed the catch trials and is left out." in text
    assert "failed_catch_trials" in text, "among what was left out"
    assert "No file was rejected" not in text
    assert "Computed by people, read from preference_study." in text
    assert "All arms on one scale" in text
    assert "Nobody has voted" not in text


def test_hostile_captions_prompts_and_names_are_only_text(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    ws = with_settings(ws, preference=ws.config.preference.model_copy(update={"question": HOSTILE}))
    clips, queries = ws.published("clip_catalog").table("catalog"), ws.published("query_catalog").table("queries")
    videos = ws.published("generated_videos/base").table("videos")
    named = [str(shutil.copy(path, tmp_path / f"{number} {HOSTILE_NAME}")) for number, path in enumerate(clips["path"])]
    republish(ws, "clip_catalog", catalog=clips.assign(caption=HOSTILE, path=named))
    republish(ws, "query_catalog", queries=queries.assign(caption=HOSTILE, category=HOSTILE))
    republish(ws, "generated_videos/base", videos=videos.assign(prompt=HOSTILE))
    publication = publish_report(ws)
    page = Page((publication.path / "report.html").read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert "<script>alert(1)</script>" in page.text
    assert HOSTILE_NAME in page.text
    assert HOSTILE in page.text.partition("preference.question")[2], "the question, among the settings"
    markdown = (publication.path / "report.md").read_text(encoding="utf-8")
    assert not re.search(r"(?<!\\)<(script|img|svg)", markdown)
    assert "](" not in markdown, "no link and no picture"
    assert "\x1b" not in summary(ws)


def opened(browser, publication, **context):
    """The page in a browser of its own, every part of it unfolded."""
    page = browser.new_context(**context).new_page()
    page.goto((publication.path / "report.html").as_uri())
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true })")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable_on_light_and_dark_ground(browser, three, scheme):
    page = opened(browser, three[0], color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(22, 24, 27)") == (scheme == "dark")
    assert low_contrast(page) == []


def test_on_a_phone_only_tables_and_plots_are_wider_than_the_screen(browser, three):
    page = opened(browser, three[0], **PHONE)
    assert cramped(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("innerWidth") == 390
    table = page.locator("#arms .scroll").first
    table.evaluate("(part) => { part.scrollLeft = 200 }")
    left = table.evaluate("(part) => part.querySelector('tbody th').getBoundingClientRect().left")
    assert left == pytest.approx(table.bounding_box()["x"], abs=1), "the arm's name stays in sight"


WIDTH_OF_A4_PX = round((210 - 2 * 14) / 25.4 * 96)


def test_on_paper_nothing_is_cut_off_or_folded(browser, three):
    page = opened(browser, three[0], viewport={"width": WIDTH_OF_A4_PX, "height": 1000}, color_scheme="dark")
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = false })")
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("[...document.querySelectorAll('details table')].every((table) => table.checkVisibility())")
    wide = "[...document.querySelectorAll('body *')].filter((part) => part.getBoundingClientRect().right > innerWidth + 1)"
    assert page.evaluate(f"{wide}.map((part) => part.outerHTML.slice(0, 80))") == []
    assert low_contrast(page) == []


def test_who_asked_for_less_motion_sees_pictures_that_stand_still(browser, three):
    first = "document.querySelector('#videos img').currentSrc"
    moving = opened(browser, three[0]).evaluate(first)
    still = opened(browser, three[0], reduced_motion="reduce").evaluate(first)
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    frames = [getattr(Image.open(BytesIO(b64decode(source.split(",")[1]))), "n_frames", 1) for source in (moving, still)]
    assert frames == [17, 1]


def test_the_page_can_be_used_with_the_keyboard_alone(browser, three):
    page = opened(browser, three[0], viewport={"width": 390, "height": 844})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#videos"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    scrollers = "[...document.querySelectorAll('.scroll, .plot')].filter((part) => part.tabIndex < 0 || !part.getAttribute('aria-label'))"
    assert page.evaluate(f"{scrollers}.length") == 0


def test_a_video_that_has_gone_stops_the_report_and_is_named(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    name = ws.published("generated_videos/random").table("videos")["file"].iloc[0]
    edit_publication(ws, "generated_videos/random", lambda folder: (folder / name).unlink())
    with pytest.raises(GateFailed, match=rf"random/.*{name} can no longer be read"):
        Gallery(ws, None).prompts(ws.config.arms)


ODD_PROMPT = "a/b \\ \"c\" 'd' & 🐈‍⬛ ../../e"


@pytest.fixture(scope="module")
def odd(evaluated, tmp_path_factory, tiny_model):
    """One query lies in the pool, its clip; the videos of one prompt are lacking in one arm; all prompts but the first are :data:`ODD_PROMPT`."""
    ws = copied(evaluated, tmp_path_factory.mktemp("odd"), tiny_model)
    pool, queries = ws.published("eligible_pool").table("pool"), ws.published("query_catalog").table("queries")
    shared = pool["clip_id"].iloc[0]
    clips = ws.published("clip_catalog").table("catalog").set_index("clip_id")
    extra = queries.iloc[:1].assign(query_id=shared, path=clips.at[shared, "path"])
    republish(ws, "query_catalog", queries=pd.concat([queries, extra]))
    videos = ws.published("generated_videos/random").table("videos")
    republish(ws, "generated_videos/random", videos=videos[videos["prompt_index"] != 1])
    publish_eval_scores(ws, "random")
    for arm in ws.config.arms:
        videos = ws.published(f"generated_videos/{arm}").table("videos")
        republish(
            ws, f"generated_videos/{arm}", videos=videos.assign(prompt=videos["prompt"].where(videos["prompt_index"] == 0, ODD_PROMPT))
        )
    return publish_report(ws), shared


def test_prompts_with_slashes_quotes_and_emoji_are_shown_as_they_are(odd):
    publication, _ = odd
    page = Page((publication.path / "report.html").read_text(encoding="utf-8"))
    assert page.text.count(ODD_PROMPT) >= 2, "above its videos, and in the table of prompts"
    assert "🐈‍⬛" in (publication.path / "report.md").read_text(encoding="utf-8")


def test_an_arm_with_fewer_videos_is_compared_on_the_prompts_it_has_and_pointed_out(odd, report):
    assert "lack a video" not in report[1]
    publication, _ = odd
    html = (publication.path / "report.html").read_text(encoding="utf-8")
    assert "random: 1 of 4 prompts lack a video of some training" in html
    assert "3 to 4 videos an arm" in html
    numbers = publication.table("numbers")
    by_prompt = numbers[numbers["table"] == "by_prompt"]
    assert set(by_prompt.loc[by_prompt["column"] == "random", "row"]) == {"prompt 00000", "prompt 00002", "prompt 00003"}
    assert len(by_prompt[by_prompt["column"] == "full"]) == 4
    of_random = numbers[(numbers["table"] == "differences") & (numbers["row"] == "random")].set_index("column")["num"]
    assert of_random["flow_histogram_distance[dis]"] == of_random["flow_frechet_distance[dis]"] == 3


def test_differences_by_prompt_average_to_those_of_the_arms(three):
    numbers = three[0].table("numbers")
    for table, metric in (("by_query", "held_out_loss_drop"), ("by_prompt", "query_motion_share[dis]")):
        whole = numbers[(numbers["table"] == "differences") & (numbers["column"] == metric)].set_index("row")["value"]
        parts = numbers[numbers["table"] == table].groupby("column")["value"].mean()
        assert parts.to_dict() == pytest.approx(whole.to_dict())
    assert "Prompt by prompt" in three[1]


def test_every_number_has_its_backend_its_count_and_where_it_was_read(three):
    numbers = three[0].table("numbers")
    assert (numbers["num"] > 0).all()
    marked = numbers[numbers["column"].str.contains("[dis]", regex=False)]
    assert set(marked["backend"]) == {"dis"}
    assert set(numbers.loc[numbers["table"].isin(["preference", "strengths"]), "backend"]) == {"people"}
    record = json.loads((three[0].path / "provenance.json").read_text(encoding="utf-8"))
    assert {source for sources in numbers["source"] for source in sources.split(", ")} <= set(record["assets"])
    assert "12 videos an arm, 4 of the base model" in three[1]


def test_where_lower_is_better_a_smaller_distance_wins():
    smaller = Estimate(value=-1.0, low=-1.5, high=-0.5, num_trainings=3, num_prompts=8)
    said = verdict(
        {(HISTOGRAM, rival): smaller for rival in ("embedding", "bottom")},
        [HISTOGRAM],
        lead="motive",
        own={HISTOGRAM: smaller},
        num_trainings=3,
    )
    assert said.headline == "MOTIVE beats nearest embeddings and lowest influence on distance from the queries' flow histogram"


@pytest.mark.slow
def test_a_query_that_is_not_used_is_not_counted_and_is_named(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    slowest = ws.published("query_masks").table("index").nsmallest(1, "motion_peak_px").iloc[0]
    motion = ws.config.motion.model_copy(update={"still_px": slowest["motion_peak_px"] + 1e-6})
    queries = {"max_reject_share": 0.5}
    ws = with_settings(ws, motion=motion, queries=ws.config.queries.model_copy(update=queries))
    keys = list(ws.graph.assets)
    for key in keys[keys.index("query_masks") :]:
        ws.graph.asset(key).publish(ws)
    report = ws.published("eval_report")
    text = Page((report.path / "report.html").read_text(encoding="utf-8")).text
    queries = ws.published("query_catalog").table("queries").set_index("query_id")
    lost = queries.loc[slowest["clip_id"]]
    told = {role: {"query": "2 queries", "held_out": "2 held-out queries"}[role] for role in ("query", "held_out")}
    told[lost["role"]] = f"1 of {told[lost['role']]}"
    assert f"with {told['query']} and chose" in text
    assert f"measured on {told['held_out']}, which" in text
    for shown in (text, (report.path / "report.md").read_text(encoding="utf-8").replace("\\", "")):
        assert "1 query is not used, and the ranking and the scores rest on the others" in shown
        assert f"{told[lost['role']]}: {Path(lost['path']).name} rejected, no_motion" in shown


def test_a_file_that_is_no_video_and_a_clip_without_a_gradient_are_counted_but_did_not_take_part(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    ranking = ws.published("voted_ranking/motive").table("ranking")
    republish(ws, "voted_ranking/motive", ranking=ranking.iloc[:-1])
    assert clip_participants(ws, len(ranking) - 1).told == "8 of 9 training clips"
    used = load_influence(ws, "motive").query_ids
    assert query_participants(ws, "query", used).told == "2 queries"
    assert query_participants(ws, "held_out", []).told.startswith("0 of 2 held-out queries: ")
    catalog = ws.published("query_catalog").table("queries").set_index("query_id")
    still = Reject(path=catalog.at[used[0], "path"], clip_id=used[0], stage="query_masks", reason="no_motion", detail="")
    masks = ws.published("query_masks").table("index")
    left = masks[masks["clip_id"] != used[0]]
    ws.publish("query_masks", content="x", write=lambda to: left.to_parquet(to / "index.parquet"), started=0.0, rejects=[still])
    assert query_participants(ws, "query", used[1:]).told == f"1 of 2 queries: {Path(still.path).name} rejected, no_motion"
    old, broken = ws.published("query_catalog"), ws.config.queries.held_out_path or tmp_path
    unread = [
        Reject(path=str(broken / f"{name}.mp4"), clip_id="", stage="query_catalog", reason="unreadable", detail="") for name in "abcd"
    ]
    ws.publish(
        "query_catalog",
        content="other",
        write=lambda folder: shutil.copytree(old.path, folder, dirs_exist_ok=True) and None,
        started=0.0,
        facts=old.facts,
        rejects=unread,
    )
    expected = "a.mp4 rejected, unreadable; b.mp4 rejected, unreadable; c.mp4 rejected, unreadable; and 1 more"
    assert query_participants(ws, "query", load_influence(ws, "motive").query_ids).told == f"2 of 6 queries: {expected}"


def test_queries_that_lie_in_the_pool_are_pointed_out(odd, report):
    assert "are also clips of the pool" not in report[1]
    publication, shared = odd
    assert f"1 of the queries are also clips of the pool ({shared})" in (publication.path / "report.html").read_text(encoding="utf-8")


def test_the_same_inputs_give_the_same_report(evaluated, report):
    again = publish_report(evaluated)
    assert again.data_version == report[0].data_version
    assert again.preview.stat().st_size > 5000


def test_the_summary_has_the_report_the_best_clips_and_the_arms(evaluated, report):
    text = summary(evaluated)
    assert str(report[0].path / "report.html") in text
    ranking = evaluated.published("voted_ranking/motive").table("ranking")
    num_voted = (ranking["votes"] > 0).sum()
    assert 0 < num_voted < len(ranking)
    assert sum(".mp4" in line for line in text.splitlines()) == num_voted
    for number in report[0].table("numbers").query("table == 'arms'")["shown"]:
        assert number in text


@pytest.mark.slow
def test_a_clip_without_a_vote_is_not_among_the_best(evaluated, tmp_path, tiny_model):
    ws = copied(evaluated, tmp_path, tiny_model)
    ranking = ws.published("voted_ranking/motive").table("ranking")
    republish(ws, "voted_ranking/motive", ranking=ranking.assign(votes=[1] + [0] * 8))
    publication = publish_report(ws)
    text = (publication.path / "report.md").read_text(encoding="utf-8")
    assert "## The best clip" in text
    assert "The best clip by MOTIVE" in summary(ws)
    assert sum(".mp4" in line for line in summary(ws).splitlines()) == 1
    republish(ws, "voted_ranking/motive", ranking=ranking.assign(votes=0))
    publish_report(ws)
    assert "No clip stands out: none has a vote" in summary(ws)
    assert ".mp4" not in summary(ws)


class Tiles(HTMLParser):
    """The pictures of each section: whether they are outlined as chosen, and the file's name below each."""

    def __init__(self, html):
        super().__init__()
        self.names, self._section, self._in_name = {}, "", False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self._section = attributes.get("id", "") if tag == "section" else self._section
        self._in_name = attributes.get("class") == "name"
        if tag == "figure":
            self.names.setdefault(self._section, []).append("")

    def handle_data(self, data):
        if self._in_name:
            self.names[self._section][-1] += data


def test_every_tile_of_a_clip_has_its_files_name(evaluated, report):
    clips, queries = evaluated.published("clip_catalog").table("catalog"), evaluated.published("query_catalog").table("queries")
    named = {Path(path).name for path in (*clips["path"], *queries["path"])}
    found = Tiles(report[1]).names["clips"]
    assert len(found) == 2 * (1 + 4 + 4) + (4 + 4), "each query with its ends, and the ends of all queries"
    assert set(found) <= named


def test_where_no_mean_influence_is_below_zero_the_report_says_so(report):
    for shown in (Page(report[1]).text, report[2]):
        assert "none is below zero: no clip is listed as harmful" in shown
    assert "harmful" not in Tiles(report[1]).names


@pytest.fixture(scope="module")
def watched(evaluated, tmp_path_factory, tiny_model):
    """A project with two harmful clips and the arm without them, whose trainings (but for one arm's) were watched."""
    ws = copied(evaluated, tmp_path_factory.mktemp("watched"), tiny_model)
    with_harmful_clips(ws)
    finetune = ws.config.finetune.model_copy(update={"steps": 2, "eval_every": 1, "seeds": 2, "ema": 0.5})
    ws = with_settings(ws, arms=tuple(arm for arm in ARM_NAMES if arm in (*ws.config.arms, "without_harmful")), finetune=finetune)
    for key, asset in ws.graph.assets.items():
        if asset.lane == "without_harmful" or (asset.name == "finetuned_checkpoint" and asset.lane != "random"):
            ws.graph.asset(key).publish(ws)
    scores = ws.published("eval_scores/without_harmful")
    tables = {name: scores.table(name) for name in ("per_video", "causal", "flow")}
    republish(ws, "eval_scores/without_harmful", **{name: table[table["training"] == 0] for name, table in tables.items()})
    publication = publish_report(ws)
    return ws, publication, (publication.path / "report.html").read_text(encoding="utf-8")


def test_the_harmful_clips_are_shown_the_worst_first(watched):
    ws, publication, html = watched
    worst = ws.published("voted_ranking/motive").table("ranking").sort_values("mean_influence")["clip_id"].head(2)
    paths = ws.published("clip_catalog").table("catalog").set_index("clip_id").loc[worst, "path"]
    assert Tiles(html).names["harmful"] == [Path(path).name for path in paths]
    assert "2 are below zero" in Page(html).text
    markdown = (publication.path / "report.md").read_text(encoding="utf-8").replace("\\", "")
    assert all(f"- {Path(path).name}: mean −" in markdown for path in paths)


def test_the_pool_without_its_worst_is_compared_with_the_full_pool(watched):
    _, publication, html = watched
    numbers = publication.table("numbers")
    drop = "held_out_loss_drop"
    shown = numbers[(numbers["table"] == "without_harmful") & (numbers["column"] == drop)].iloc[0]
    arms = numbers[(numbers["table"] == "arms") & (numbers["column"] == drop)].set_index("row")["value"]
    assert shown["row"] == "full"
    assert shown["value"] == pytest.approx(arms["without_harmful"] - arms["full"])
    assert shown["shown"] in Page(html).text
    assert "Pool without its worst, minus full pool" in html
    assert "“pool without its worst” on 6" in html


def test_the_curves_are_those_of_the_records_and_an_arm_without_one_is_named(watched):
    ws, publication, html = watched
    text = Page(html).text
    numbers = publication.table("numbers").query("table == 'training_curve'").set_index(["row", "column"])
    assert set(numbers.index.get_level_values("row")) == {"0", "1", "2"}
    for arm in ("full", "without_harmful", "motive"):
        records = load_records(ws.published(f"finetuned_checkpoint/{arm}").path)
        mean = np.mean([record["held_out"]["mean_weights_loss"] for record in records], axis=0)
        assert [numbers.loc[(step, arm), "value"] for step in "012"] == pytest.approx(mean.tolist())
        assert all(numbers.loc[(step, arm), "shown"] in text for step in "012")
    assert "No curve of random: trained before finetune.eval_every was set, and not trained again for it." in text
    assert "Dotted: the weights without their running mean." in text


@pytest.fixture(scope="module")
def led_by_another(evaluated, tmp_path_factory, tiny_model):
    """The report of a project whose lead arm is one of its own: 2 draws, ranked by mean influence."""
    ws = copied(evaluated, tmp_path_factory.mktemp("lead"), tiny_model)
    variants = {"two_draws": {"draws": 2, "mask": "query", "rule": "mean_influence"}}
    arms = [*ws.config.arms, {"name": "two", "variant": "two_draws"}]
    ws = with_settings(ws, variants=variants, arms=arms, lead_arm="two")
    for asset in ws.graph.assets.values():
        if asset.lane in ("two_draws", "two") or asset.name in ("preference_bundle", "preference_study", "attribution_audit"):
            asset.publish(ws)
    publication = publish_report(ws)
    return ws, publication, (publication.path / "report.html").read_text(encoding="utf-8")


def test_the_report_is_about_the_lead_arm(led_by_another):
    ws, publication, html = led_by_another
    text = Page(html).text
    assert "two compared 9 training clips with 2 queries and chose 3" in text
    numbers = publication.table("numbers")
    assert set(numbers.loc[numbers["table"] == "differences", "row"]) == set(ws.config.arms) - {"two"}
    by_query = numbers[(numbers["table"] == "by_query") & (numbers["column"] == "motive")].set_index("row")["value"]
    per_arm = {
        arm: numbers[(numbers["table"] == "arms") & (numbers["row"] == arm)].set_index("column")["value"] for arm in ("two", "motive")
    }
    drop = "held_out_loss_drop"
    assert by_query.mean() == pytest.approx(per_arm["two"][drop] - per_arm["motive"][drop])
    assert summary(ws).splitlines()[2].endswith("by two")
    ranking = ws.published("voted_ranking/two_draws").table("ranking")
    assert ranking["mean_influence"].is_monotonic_decreasing
    assert "By mean influence over the queries." in text
    best = ws.published("clip_catalog").table("catalog").set_index("clip_id").loc[ranking["clip_id"][0], "path"]
    assert "votes · rank 1" in text or "vote · rank 1" in text
    assert Path(str(best)).name in text


def test_the_audit_is_about_the_lead_variant(led_by_another):
    audit = led_by_another[0].published("attribution_audit").table("audit")
    assert set(audit.loc[audit["check"].isin(["timestep", "noise", "draws", "precision"]), "variant"]) == {"two_draws"}
    assert audit["variant"].iloc[0] == "two_draws", "it comes first, and the verdict is about it"


def test_the_first_screen_has_the_answer(led_by_another):
    _, _, html = led_by_another
    first_screen = html.partition("<nav>")[0]
    strip = first_screen.partition('class="strip"')[2].partition('<p class="note">')[0]
    assert re.findall(r'class="head">([^<]*)<', strip) == ["base model", "random", "full pool", "two"]
    assert strip.count("<figure") == 3 * 4
    assert "Drop of the loss by arm" in first_screen
    assert first_screen.count('<div class="query">') == 1
    assert first_screen.partition('<div class="query">')[2].count("<figure") == 1 + 3 + 3
    section = html.partition('<section id="clips">')[2].partition("</section>")[0]
    cards = re.findall(r'<span class="name"[^>]*>([^<]*)<', first_screen.partition('<div class="query">')[2])
    assert cards[0] in section, "the first query, among all of them"


def test_curves_over_other_queries_are_not_drawn(watched):
    ws, _, _ = watched
    assert set(load_curves(ws).loss) == {"full", "without_harmful", "motion_magnitude", "no_mask", "motive"}
    evaluate = ws.config.evaluate.model_copy(update={"held_out_draws": 3})
    curves = load_curves(with_settings(ws, evaluate=evaluate))
    assert not curves.loss
    assert not curves.steps
    assert any("watched on other queries or draws than those of now" in note for note in curves.notes)


def test_without_watched_trainings_there_is_no_curve(report):
    assert "finetune.eval_every" not in Page(report[1]).text.partition("Provenance")[0]
    assert "The loss while training" not in report[1]


def test_a_verdict_needs_three_trainings_and_a_rival():
    better = Estimate(value=1.0, low=0.5, high=1.5, num_trainings=3, num_prompts=8)
    found = {(metric, "random"): better for metric in (HELD_OUT_DROP, DYNAMIC)}
    metrics = [HELD_OUT_DROP, DYNAMIC]
    verdict_of = functools.partial(verdict, metrics=metrics, lead="motive_plus", own=dict.fromkeys(metrics, better))
    assert "no verdict" in verdict_of(found, num_trainings=2).headline
    said = verdict_of(found, num_trainings=3)
    assert said.headline == "MOTIVE+ beats random on held-out loss drop"
    assert said.sentences[0].startswith("Held-out loss drop 1.00 [0.50, 1.50] %: better than random.")
    own_arm = verdict_of(found | {(metric, "of_ones_own"): better for metric in metrics}, num_trainings=3)
    assert own_arm.headline == "MOTIVE+ beats random and of_ones_own on held-out loss drop"
    assert verdict_of({}, num_trainings=3).headline == "No verdict: there is no arm to compare MOTIVE+ with"
    few = Estimate(value=1.0, low=math.nan, high=math.nan, num_trainings=3, num_prompts=2)
    said = verdict_of({(metric, "random"): few for metric in metrics}, num_trainings=3)
    assert said.headline == "2 queries or prompts in common: no verdict"
    assert "Fewer than 3 do not show how much they differ" in said.sentences[0]


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "text"),
    [(1.25, 1, False, "1.2"), (-0.04, 1, False, "0.0"), (-0.04, 1, True, "0.0"), (-3.0, 2, True, "−3.00"), (2.0, 0, True, "+2")],
)
def test_numbers_have_real_minus_signs_and_no_negative_zero(value, decimals, signed, text):
    assert format_number(value, decimals, signed=signed) == text


def test_an_estimate_without_interval_has_no_brackets():
    found = Estimate(value=0.5, low=math.nan, high=math.nan, num_trainings=1, num_prompts=1)
    assert format_estimate(found, DYNAMIC.style) == "50.0"


def test_the_mask_follows_the_latent_frames():
    assert [latent_frame(frame, 4) for frame in (0, 1, 4, 5, 8, 16)] == [0, 1, 1, 2, 2, 4]


def test_long_and_large_videos_become_small_loops():
    frames = np.random.default_rng(0).integers(0, 256, (81, 240, 416, 3), dtype=np.uint8)
    loop = animation(frames, 16.0)
    assert (loop.width, loop.height) == (128, 74)
    from base64 import b64decode
    from io import BytesIO

    from PIL import Image

    picture = Image.open(BytesIO(b64decode(loop.uri.split(",")[1])))
    assert picture.n_frames <= MAX_FRAMES


def test_terminal_tables_are_aligned():
    from motive_pipeline.report.tables import Table

    text = plain_text(Table(key="x", title="", columns=["arm", "value"], rows=[["a", "1.0"], ["long name", "10.0"]], caption=""))
    assert len({len(line) for line in text.splitlines()}) == 1
