"""The page of the preference study in a real browser: three people vote, and the statistics find their tastes."""

import copy
import functools
import hashlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.results import results_folder
from motive_pipeline.evaluation.preference.study import publish_preference_study
from motive_pipeline.storage.workspace import Workspace
from tests.browser import PHONE, cramped, low_contrast
from tests.preference_fixtures import PROMPTS, choice, published_key, study_workspace

TIMEOUT_MS = 20_000
ANNOUNCED = """
    window.announced = []
    addEventListener('DOMContentLoaded', () => {
        const live = document.getElementById('live')
        new MutationObserver(() => announced.push(live.textContent)).observe(live, {childList: true, characterData: true, subtree: true})
    })
"""
"""Keeps in the page what its live region says, one text after the other."""
KEYS = {"left": "ArrowLeft", "right": "ArrowRight", "tie": "ArrowDown"}


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project whose bundle compares three arms on four prompts: twelve pairs, six of them for each person, and a catch trial."""
    ws = study_workspace(
        tmp_path_factory.mktemp("study"),
        settings="comparisons: [[motive, base], [motive, random], [random, base]], catch_share: 0.2, pairs_per_rater: 6, plans: 3",
    )
    published_key(ws)
    return ws


@pytest.fixture(scope="module")
def key(ws: Workspace) -> Key:
    return Key.of(ws.published("preference_bundle"))


@pytest.fixture(scope="module")
def index(ws: Workspace) -> Path:
    return ws.published("preference_bundle").path / "index.html"


@pytest.fixture
def server(index: Path) -> Iterator[str]:
    """The bundle behind Python's own static server, which knows no byte ranges; its address."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(index.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_address[1]}/"
        served.shutdown()


class Visit:
    """Somebody at the page, with a browser of their own."""

    def __init__(self, browser: Browser, address: str, **context) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, "accept_downloads": True} | context)
        self.context.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(ANNOUNCED)
        self.page.goto(address)

    def tab(self) -> "Visit":
        """Another tab of this person's browser, at the same page."""
        other = copy.copy(self)
        other.page, other.complaints = self.context.new_page(), []
        other.page.on("pageerror", lambda error: other.complaints.append(str(error)))
        other.page.goto(self.page.url)
        return other

    def start(self) -> None:
        self.page.get_by_role("button", name="Start", exact=True).click()

    def announced(self, text: str) -> None:
        """Wait until a screen reader was told this; the next announcement may follow in a third of a second."""
        self.page.wait_for_function("text => announced.some(said => said.includes(text))", arg=text)

    def until_seen(self) -> None:
        """Wait until the pair was shown once, to the end."""
        expect(self.page.locator("#left")).to_have_attribute("aria-disabled", "false")

    def vote(self, pressed: str, *, by_key: bool = False) -> None:
        """Choose, and wait for what comes next."""
        place = self.page.locator("#place").inner_text()
        self.until_seen()
        if by_key:
            self.page.keyboard.press(KEYS[pressed])
        else:
            self.page.locator(f"#{pressed}").click()
        self.page.wait_for_function(
            "place => document.getElementById('trial').hidden || document.getElementById('place').innerText !== place", arg=place
        )

    def save(self, folder: Path) -> dict:
        """Press "Save the file", put it where results are put, and read it."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name="Save the file").click()
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / download.value.suggested_filename
        download.value.save_as(file)
        return json.loads(file.read_text(encoding="utf-8"))

    def close(self) -> None:
        self.context.close()


def likes(*order: str):
    """A taste that ranks the arms; equal names in one string are a tie."""

    def taste(first: str, second: str, prompt: str) -> str:
        return "first" if order.index(first) < order.index(second) else "second"

    return taste


def prefers_motive(first: str, second: str, prompt: str) -> str:
    """MOTIVE before everything, no difference between the others."""
    return "tie" if "motive" not in (first, second) else "first" if first == "motive" else "second"


TASTES = (likes("motive", "random", "base"), likes("motive", "random", "base"), prefers_motive)


@pytest.mark.slow
def test_three_people_vote_and_the_statistics_recover_their_tastes(browser, ws, key, index):
    for number, taste in enumerate(TASTES):
        visit = Visit(browser, f"{index.as_uri()}?rater={number + 1}")
        visit.start()
        for trial in key.plan(number):
            visit.vote(choice(key, trial, taste), by_key=number == 1)
        expect(visit.page.locator("#outcome")).to_contain_text("You have answered all")
        saved = visit.save(results_folder(ws))
        assert saved["plan"] == number
        assert visit.complaints == []
        visit.close()
    study = publish_preference_study(ws)
    assert len(study.rejects()) == 0, study.rejects()["detail"].tolist()
    found = study.table("preference").set_index(["arm_a", "arm_b"])
    assert found.loc[("motive", "base"), "win_rate"] == found.loc[("motive", "random"), "win_rate"] == 1.0
    others = found.loc[("random", "base")]
    assert others["losses"] == 0
    assert others["wins"] > 0
    assert others["ties"] > 0
    assert study.table("strengths")["arm"].tolist() == ["motive", "random", "base"]
    raters = study.table("raters")
    assert raters["catch_right"].tolist() == raters["catch_seen"].tolist() == [1, 1, 1]
    assert study.table("votes").groupby("rater").size().tolist() == [6, 6, 6]


def test_the_checksum_in_the_page_is_sha256(browser, index):
    visit = Visit(browser, index.as_uri())
    for text in ("", "abc", "schr\u00e4g \U0001f408\n" * 9, "x" * 55, "x" * 56, "x" * 64, "0123456789" * 100):
        assert visit.page.evaluate("text => sha256(text)", text) == hashlib.sha256(text.encode()).hexdigest()
    visit.close()


def test_nothing_counts_before_both_videos_were_seen_to_the_end(browser, index):
    visit = Visit(browser, index.as_uri())
    # a clip of a third of a second is over before a test can press a button, so it runs slower here
    visit.page.evaluate(
        """() => {
            const load = PairPlayer.prototype.load
            PairPlayer.prototype.load = function (video, name) { video.defaultPlaybackRate = 0.0625; return load.call(this, video, name) }
        }"""
    )
    visit.start()
    expect(visit.page.locator("#pause")).to_contain_text("Pause")
    visit.page.locator("#left").click(force=True)  # Playwright itself would wait for the button
    visit.page.keyboard.press("ArrowRight")
    visit.page.keyboard.press("ArrowDown")
    expect(visit.page.locator("#place")).to_have_text("Pair 1 of 7")
    expect(visit.page.locator("#left")).to_have_attribute("aria-disabled", "true")
    expect(visit.page.get_by_role("status")).to_have_text("Watch both to the end once, then choose.")
    assert visit.page.evaluate("result().votes") == []
    visit.page.evaluate("now.player.videos.forEach(video => { video.playbackRate = 4 })")
    visit.vote("left")
    assert [vote["choice"] for vote in visit.page.evaluate("result().votes")] == ["left"]
    visit.close()


@pytest.fixture
def half_done(browser, server) -> Iterator[Visit]:
    """A visit that answered two pairs, which the browser kept. The page comes from a server: on a busy machine about one Chromium in twenty keeps
    nothing for pages of the ``file`` scheme until it is started again (seen in 6 of 113; 0 of 43 over http)."""
    visit = Visit(browser, server)
    visit.start()
    visit.vote("left")
    visit.vote("tie")
    yield visit
    visit.close()


def test_answers_survive_a_reload_and_half_a_study_can_be_saved_and_gone_on_with(half_done, tmp_path):
    visit = half_done
    rater = visit.page.evaluate("state.rater")
    visit.page.reload()
    expect(visit.page.get_by_text("Welcome back: 2 of 7 pairs are answered.")).to_be_visible()
    visit.page.get_by_role("button", name="Go on").click()
    expect(visit.page.locator("#place")).to_have_text("Pair 3 of 7")
    visit.page.get_by_role("button", name="Stop and save").click()
    saved = visit.save(tmp_path)
    assert saved["rater"] == rater
    assert [vote["choice"] for vote in saved["votes"]] == ["left", "tie"]
    visit.page.get_by_role("button", name="Go on").click()
    visit.page.get_by_role("button", name="One pair back").click()
    expect(visit.page.locator("#tie")).to_have_class("chosen")
    visit.vote("right")
    assert [vote["choice"] for vote in visit.page.evaluate("result().votes")] == ["left", "right"], "a slip can be mended"
    visit.page.reload()
    visit.page.once("dialog", lambda dialog: dialog.accept())
    visit.page.get_by_role("button", name="Start over as another person").click()
    assert visit.page.evaluate("state.rater") != rater


def test_two_tabs_share_the_answers_and_the_later_answer_to_a_pair_counts(half_done, tmp_path):
    first = half_done
    second = first.tab()
    second.page.get_by_role("button", name="Go on").click()
    second.vote("right")
    expect(first.page.locator("#progress")).to_have_js_property("value", 3)
    first.page.locator("#back").click()
    first.vote("right")  # pair 2, a tie until now; what comes next is pair 4, as the other tab has answered pair 3
    expect(first.page.locator("#place")).to_have_text("Pair 4 of 7")
    first.vote("left")
    expect(second.page.locator("#progress")).to_have_js_property("value", 4)
    second.vote("tie")
    for each, number in ((first, 1), (second, 2)):
        each.page.get_by_role("button", name="Stop and save").click()
        saved = each.save(tmp_path)
        assert saved["saved"] == number
        assert [vote["choice"] for vote in saved["votes"]][:3] == ["left", "right", "right"]
    assert first.complaints == second.complaints == []


def test_an_answer_that_another_tab_overwrote_is_written_again(half_done):
    """Two tabs that write in the same moment: the one that has read the storage before the other wrote leaves that answer out."""
    tab = half_done.tab()
    tab.page.evaluate("const lost = stored(); delete lost.votes[1]; lost.votes[2] = { choice: 'tie', plays: 1, ms: 5, order: 3 }; "
                      "localStorage.setItem(memory, JSON.stringify(lost))")  # fmt: skip
    half_done.page.wait_for_function("() => Object.keys(stored().votes).length === 3")
    assert half_done.page.evaluate("result().votes.map(vote => vote.choice)") == ["left", "tie", "tie"]


def test_a_tab_follows_another_person_who_starts_over_and_writes_no_answer_of_the_person_before(half_done):
    first = half_done
    second = first.tab()
    second.page.once("dialog", lambda dialog: dialog.accept())
    second.page.get_by_role("button", name="Start over as another person").click()
    expect(first.page.get_by_role("button", name="Start", exact=True)).to_be_visible()
    assert first.page.evaluate("state") == second.page.evaluate("state") == second.page.evaluate("stored()")


def test_the_whole_study_can_be_done_with_the_keyboard_alone(browser, index, tmp_path):
    visit = Visit(browser, index.as_uri())
    press = visit.page.keyboard.press
    press("Tab")
    press("Enter")
    for pressed in ("left", "right", "tie", "left", "right", "tie"):
        visit.vote(pressed, by_key=True)
    press("Backspace")
    expect(visit.page.locator("#place")).to_have_text("Pair 6 of 7")
    visit.vote("left", by_key=True)
    press(" ")
    expect(visit.page.locator("#pause")).to_contain_text("Play")
    press("ArrowUp")
    expect(visit.page.locator("#pause")).to_contain_text("Pause")
    visit.vote("left", by_key=True)
    expect(visit.page.get_by_role("button", name="Save the file")).to_be_focused()
    with visit.page.expect_download() as download:
        press("Enter")
    saved = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert [vote["choice"] for vote in saved["votes"]] == ["left", "right", "tie", "left", "right", "left", "left"]
    visit.close()


def test_on_a_phone_both_videos_and_the_choices_fit_the_screen(browser, index):
    visit = Visit(browser, index.as_uri(), viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True, device_scale_factor=2)
    visit.page.get_by_role("button", name="Start", exact=True).tap()
    visit.until_seen()
    visit.page.locator("#caption").evaluate("(part) => { part.textContent = 'a dog runs over a green meadow, '.repeat(20) }")
    boxes = [visit.page.locator(name).bounding_box() for name in ("#video-0 video", "#video-1 video", "#left", "#tie", "#right")]
    for box in boxes:
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 740
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"], "one above the other"
    assert min(box["height"] for box in boxes[2:]) >= 44
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
    visit.page.set_viewport_size({"width": 740, "height": 360})
    hint, choices = (visit.page.locator(name).bounding_box() for name in ("#hint", ".choices"))
    assert hint["y"] + hint["height"] <= choices["y"] + 1, "held sideways, the choices leave the hint in sight"
    visit.page.locator("#tie").tap()
    expect(visit.page.locator("#place")).to_have_text("Pair 2 of 7")
    visit.close()


def test_on_a_phone_no_button_is_cut_off(browser, index):
    visit = Visit(
        browser, index.as_uri(), viewport=PHONE["viewport"]
    )  # no touch screen: the keys are named on the buttons where there is room
    assert cramped(visit.page) == []
    visit.start()
    for width in (390, 320):
        visit.page.set_viewport_size({"width": width, "height": 844})
        assert cramped(visit.page) == []
        assert visit.page.get_by_role("group", name="Your choice").get_by_role("button").count() == 3
    visit.close()


def test_a_plain_static_server_will_do_and_the_videos_loop_in_step(browser, server):
    visit = Visit(browser, server)
    visit.start()
    visit.page.locator("#left[aria-disabled=false]").wait_for()
    gaps, plays = visit.page.evaluate(
        """async () => {
            const gaps = []
            while (now.player.plays < 4) {
                const [left, right] = now.player.videos
                if (!left.ended && !right.ended && !left.seeking && !right.seeking) gaps.push(Math.abs(left.currentTime - right.currentTime))
                await new Promise(requestAnimationFrame)
            }
            return [gaps, now.player.plays]
        }"""
    )
    assert plays >= 4
    assert sorted(gaps)[len(gaps) // 2] < 0.1
    visit.vote("tie")
    assert visit.page.evaluate("result().votes")[0]["plays"] >= 4
    assert [line for line in visit.complaints if "favicon" not in line and "404" not in line] == []
    visit.close()


def test_who_asked_for_less_motion_starts_each_pair_by_hand(browser, index):
    visit = Visit(browser, index.as_uri(), reduced_motion="reduce")
    visit.start()
    expect(visit.page.locator("#hint")).to_have_text("Press Play.")
    assert visit.page.evaluate("now.player.videos.map(video => video.paused)") == [True, True]
    visit.page.get_by_role("button", name="Play").click()
    visit.until_seen()
    expect(visit.page.locator("#pause")).to_contain_text("Play")
    visit.vote("left")
    expect(visit.page.locator("#hint")).to_have_text("Press Play.")
    visit.close()


def test_a_video_that_cannot_be_played_is_said_and_skipped(browser, key, index, tmp_path):
    broken = shutil.copytree(index.parent, tmp_path / "bundle")
    name = key.plan(0)[0].left
    (broken / "videos" / name).unlink()
    visit = Visit(browser, f"{(broken / 'index.html').as_uri()}?rater=1")
    visit.start()
    expect(visit.page.locator("#hint")).to_contain_text("cannot be played")
    visit.page.keyboard.press("ArrowLeft")
    visit.page.get_by_role("button", name="Skip this pair").click()
    expect(visit.page.locator("#place")).to_have_text("Pair 2 of 7")
    assert [vote["choice"] for vote in visit.page.evaluate("result().votes")] == ["skip"]
    visit.close()


def test_captions_are_only_text(browser, ws, index):
    visit = Visit(browser, index.as_uri())
    assert sorted(visit.page.evaluate("study.captions")) == sorted(PROMPTS)
    assert visit.page.evaluate("document.querySelectorAll('b, img').length") == 0
    turn = visit.page.evaluate("turns().findIndex(turn => study.captions[turn[2]].includes('<b>'))")
    visit.page.evaluate("turn => open(turn)", turn)
    expect(visit.page.locator("#caption")).to_have_text(PROMPTS[1])
    assert visit.complaints == []
    visit.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_focus_is_seen_and_everything_has_a_name(browser, index, scheme):
    visit = Visit(browser, index.as_uri(), color_scheme=scheme)
    ground = visit.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (ground == "rgb(22, 24, 27)") == (scheme == "dark")
    for go_on in (lambda: None, visit.start, lambda: visit.page.locator("#stop").click()):
        go_on()
        assert low_contrast(visit.page) == []
    visit.page.keyboard.press("Tab")
    assert float(visit.page.evaluate("getComputedStyle(document.activeElement).outlineWidth").removesuffix("px")) >= 2
    visit.page.get_by_role("button", name="Go on").click()
    for name in ("A is better", "No difference", "B is better", "Pause", "From the start", "One pair back", "Stop and save"):
        expect(visit.page.get_by_role("button", name=name)).to_be_visible()
    expect(visit.page.get_by_role("progressbar", name="Pairs answered")).to_be_visible()
    expect(visit.page.get_by_role("status")).to_have_count(1)
    visit.announced("Pair 1 of 7")
    visit.close()
