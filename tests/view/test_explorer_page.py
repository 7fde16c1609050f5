"""The page of `motive view` in a real browser: what a person sees and does, with captions that attack, and with no request that leaves the machine."""

import threading
import time
from contextlib import contextmanager

import pytest

from motive_pipeline.curation.edits import save_tick
from motive_pipeline.view.serve import serve
from motive_pipeline.view.viewer import Viewer
from tests.browser import cramped, low_contrast
from tests.eval_fixtures import copied
from tests.report.test_report import HOSTILE

LONG = "a caption that never ends " * 400
WAIT_MS = 15_000


@contextmanager
def served(ws):
    """The address of a viewer of ``ws``, which lasts as long as the tests."""
    found = []
    threading.Thread(target=serve, args=(Viewer(ws),), kwargs={"port": None, "opened": found.append}, daemon=True).start()
    while not found:
        time.sleep(0.01)
    yield found[0]


@pytest.fixture(scope="module")
def ws(evaluated, tmp_path_factory, tiny_model):
    """A project whose clips have hostile captions and file names; one of its videos has gone."""
    ws = copied(evaluated, tmp_path_factory.mktemp("page"), tiny_model)
    catalog = ws.scores.query("SELECT * FROM catalog ORDER BY clip_id").df()
    catalog["caption"] = [HOSTILE, LONG, "\u202eright to left", '"><img src=x onerror=alert(4)>', *catalog["caption"].tolist()[4:]]
    catalog.loc[4, "path"] = "/clips/<img src=x onerror=alert(5)>'\".mp4"
    ws.scores.publish({("catalog", "catalog"): catalog})
    return ws


@pytest.fixture(scope="module")
def address(ws):
    with served(ws) as address:
        yield address


class Tab:
    """A page of the browser, and what it said and asked for."""

    def __init__(self, browser, address: str, **options) -> None:
        self.page = browser.new_page(**({"viewport": {"width": 1280, "height": 860}} | options))
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.set_default_timeout(WAIT_MS)
        self.page.goto(address)
        self.page.wait_for_selector("#grid .tile")
        self.home = address.partition("/?")[0]

    def until(self, expression: str) -> None:
        """Wait until the expression holds. The page's own policy forbids the browser driver's way to wait."""
        deadline = time.monotonic() + WAIT_MS / 1000
        while not self.page.evaluate(expression):
            assert time.monotonic() < deadline, expression
            time.sleep(0.05)

    def names(self) -> list[str]:
        """The file names in the list, in its order."""
        places = self.page.evaluate(
            "[...document.querySelectorAll('#grid .tile')].map(tile => [+tile.getAttribute('aria-posinset'), tile.dataset.id])"
        )
        return [clip_id for _, clip_id in sorted(places)]

    def pictures(self) -> int:
        """How many pictures are shown."""
        return self.page.evaluate(
            "[...document.querySelectorAll('#grid .tile img')].filter(image => image.complete && image.naturalWidth > 0).length"
        )

    def close(self) -> None:
        """Close the page. It never asked for anything elsewhere, and no text of others ran."""
        assert [url for url in self.asked if not url.startswith((self.home, "data:", "blob:"))] == []
        assert [text for text in self.said if "404" not in text and "WebGL" not in text and "GL Driver" not in text] == []
        self.page.close()


@pytest.fixture
def tab(browser, address):
    tab = Tab(browser, address)
    yield tab
    tab.close()


def test_clips_are_shown_as_loops_and_what_attacks_is_text(tab, ws):
    page = tab.page
    assert page.evaluate("location.search") == "", "the token is not left in the address"
    tab.until("document.querySelectorAll('#grid .tile .why').length === 1")
    tab.until("[...document.querySelectorAll('#grid .tile img')].every(image => image.complete && image.naturalWidth)")
    assert tab.pictures() == 8
    assert "missing file" in page.locator("#grid .why").inner_text()
    ranked = ws.published("voted_ranking/motive").table("ranking")["clip_id"].tolist()
    assert tab.names() == ranked
    assert page.locator("#grid .tile.chosen").count() == 3
    text = page.locator("#grid").inner_text()
    for words in ("<script>alert(1)</script>", '"><img src=x onerror=alert(4)>', "<img src=x onerror=alert(5)>"):
        assert words in text
    assert page.locator("#grid script, #grid img[onerror]").count() == 0


def test_a_clips_drawer_has_its_video_its_influence_and_a_link_to_its_explanation(tab, ws):
    page = tab.page
    first = tab.names()[0]
    page.locator(f"#grid .tile[data-id='{first}']").click()
    page.wait_for_selector("#drawer table")
    tab.until("document.querySelector('#drawer video')?.readyState >= 2")
    assert page.locator("#drawer tbody tr").count() == 2, "one row for each query"
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Why it was (not) chosen").click()
    explained = opened.value
    explained.wait_for_selector("#votes")
    assert "Chosen: rank 1 of 9" in explained.locator(".verdict").inner_text()
    explained.close()
    page.keyboard.press("Escape")
    assert page.locator("#drawer").is_hidden()


def test_it_works_with_the_keyboard_alone(tab, ws):
    page = tab.page
    tab.page.keyboard.press("ArrowRight")
    tab.until("document.activeElement.getAttribute('aria-posinset') === '2'")
    tab.page.keyboard.press("ArrowDown")
    tab.page.keyboard.press("Home")
    tab.until("document.activeElement.getAttribute('aria-posinset') === '1'")
    first = tab.names()[0]
    page.keyboard.press("d")
    tab.until(f"document.querySelector('.tile[data-id=\"{first}\"] .badge')?.textContent === 'drop'")
    page.keyboard.press("Enter")
    page.wait_for_selector("#drawer #ticks")
    assert page.get_by_role("button", name="drop", exact=True).get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    page.keyboard.press("d")
    tab.until("!document.querySelector('#grid .badge')")
    page.keyboard.press("/")
    page.keyboard.type("script")
    tab.until("document.getElementById('count').textContent === '1 of 9 clips'")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog[open] kbd").count() > 8
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert ws.config.edits_file.read_text().splitlines() == ["clip_id,tick,note"]


def test_filters_order_and_chips(tab, ws):
    page = tab.page
    page.select_option("#by-arm", "in motive")
    tab.until("document.getElementById('count').textContent === '3 of 9 clips'")
    page.select_option("#sort", "motion_magnitude_px")
    rows = ws.scores.query(
        "SELECT clip_id FROM clips JOIN subsets USING (clip_id) WHERE arm = 'motive' ORDER BY motion_magnitude_px DESC"
    ).df()
    tab.until(f"[...document.querySelectorAll('#grid .tile')].map(tile => tile.dataset.id).join() === '{','.join(rows['clip_id'])}'")
    page.locator("#chips .chip").click()
    tab.until("document.getElementById('count').textContent === '9 of 9 clips'")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert download.value.suggested_filename == "clips.csv"


def test_the_slider_shows_at_once_what_comes_and_goes(tab):
    page = tab.page
    tab.until("document.querySelector('#choice .big')?.textContent === '3'")
    page.locator("#share").fill("0.6")
    tab.until("document.querySelector('#choice .big')?.textContent === '5'")
    page.locator("#choice tr", has_text="motive").get_by_role("button").first.click()
    tab.until("document.getElementById('count').textContent === '2 of 9 clips'")
    assert page.locator("#grid .tile.chosen").count() == 0
    page.get_by_role("button", name="As published").click()
    tab.until("document.querySelector('#choice .big')?.textContent === '3'")


def test_clips_play_in_step_with_their_masks(tab):
    page = tab.page
    names = tab.names()
    for clip_id in [name for name in names if page.locator(f".tile[data-id='{name}'] .why").count() == 0][:3]:
        page.locator(f"#grid .tile[data-id='{clip_id}']").focus()
        page.keyboard.press("c")
    page.keyboard.press("p")
    page.wait_for_selector("dialog[open] video")
    tab.until(
        "[...document.querySelectorAll('dialog video')].length >= 2 && [...document.querySelectorAll('dialog video')].every(video => video.currentTime > 0.1)"
    )
    times = page.evaluate("[...document.querySelectorAll('dialog video')].map(video => [video.currentTime, video.duration])")
    apart = [min(abs(time - times[0][0]), times[0][1] - abs(time - times[0][0])) for time, _ in times]
    assert max(apart) < 0.25, times
    page.locator("dialog").get_by_role("button", name="Masks").click()
    tab.until("[...document.querySelectorAll('dialog video')].every(video => video.src.endsWith('/mask') && video.readyState >= 2)")
    page.keyboard.press("Escape")


def test_queries_stand_beside_their_best_and_worst_clips(tab, ws):
    page = tab.page
    page.click("#tab-queries")
    tab.until("document.querySelectorAll('#panel .query .cards .tile').length === 32")
    best = ws.scores.query("SELECT clip_id FROM influence WHERE variant = 'motive' ORDER BY query_id, rank LIMIT 1").fetchall()[0][0]
    assert page.locator("#panel .query .cards .tile").first.get_attribute("data-id") == best


def test_filters_thin_the_queries_and_their_chips_stay_in_sight(tab):
    page = tab.page
    page.click("#tab-queries")
    tab.until("document.querySelectorAll('#panel .query .cards .tile').length === 32")
    page.select_option("#by-arm", "in motive")
    tab.until("document.querySelectorAll('#panel .query .cards .tile').length === 12")
    assert page.locator("#count").is_hidden(), "it counts the list of another tab"
    page.locator("#chips .chip").click()
    tab.until("document.querySelectorAll('#panel .query .cards .tile').length === 32")
    page.fill("#search", "no clip has these words")
    tab.until("[...document.querySelectorAll('#panel .cards')].every(cards => cards.innerText === 'No clip fits all filters.')")


@pytest.mark.slow
def test_filters_thin_the_map_in_the_frame_that_is_there(tab):
    page = tab.page
    page.click("#tab-map")
    page.wait_for_selector("#map[data-drawn]")
    page.evaluate("document.getElementById('map').isTheSame = true")
    note = page.locator("#panel [role=status]")
    assert note.inner_text().startswith("9 clips. ")
    page.select_option("#by-arm", "in motive")
    tab.until("document.querySelector('#panel [role=status]').innerText.startsWith('3 of 9 clips. ')")
    assert page.evaluate("document.getElementById('map').isTheSame")


def test_a_tick_that_another_viewer_saves_appears_on_the_page(tab, ws):
    clip = tab.names()[1]
    save_tick(ws.config.edits_file, clip, "drop", None)
    tab.until(f"document.querySelector('.tile[data-id=\"{clip}\"] .badge')?.textContent === 'drop'")
    save_tick(ws.config.edits_file, clip, "", None)
    tab.until("!document.querySelector('#grid .badge')")


@pytest.mark.slow
def test_the_map_is_drawn_and_a_lasso_lists_its_clips(tab):
    page = tab.page
    page.click("#tab-map")
    page.wait_for_selector("#map[data-drawn]")
    frame = page.frame_locator("#map")
    assert frame.locator(".modebar a, .modebar button").count() > 2
    titles = " ".join(
        frame.locator(".modebar [data-title], .modebar [aria-label]").evaluate_all(
            "nodes => nodes.map(node => node.dataset.title || node.ariaLabel)"
        )
    )
    assert "Share" not in titles
    assert "Plotly" not in titles
    box = page.locator("#map").bounding_box()
    left, top, right, bottom = box["x"] + 8, box["y"] + 30, box["x"] + box["width"] - 90, box["y"] + box["height"] - 8
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom), (left, top)):
        page.mouse.move(x, y, steps=4)
    page.mouse.up()
    page.wait_for_selector("#chips .chip")
    assert page.locator("#chips .chip").inner_text() == "selected on the map"
    tab.until("/^[1-9] of 9 clips$/.test(document.getElementById('count').textContent)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_and_can_be_read(browser, address, scheme):
    tab = Tab(browser, address, viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = tab.page
    assert page.locator("#grid .tile").first.bounding_box()["width"] < 200, "two columns"
    for name in ("clips", "queries", "map", "harmful", "rejects"):
        page.click(f"#tab-{name}")
        assert cramped(page) == [], name
    page.click("#tab-clips")
    page.wait_for_selector("#grid .tile")
    page.click("#open-filters")
    assert page.locator("#sort").is_visible()
    page.keyboard.press("Escape")
    page.locator("#grid .tile").first.click()
    page.wait_for_selector("#drawer table")
    assert page.locator("#drawer").bounding_box()["width"] <= 390
    assert cramped(page) == []
    assert low_contrast(page) == []
    tab.close()


def test_every_control_has_a_name(tab):
    page = tab.page
    page.locator("#grid .tile").first.click()
    page.wait_for_selector("#drawer table")
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, a, video, [role=tab]')].filter(node => node.checkVisibility() && "
        "!(node.innerText?.trim() || node.ariaLabel || node.title || node.labels?.length || node.tagName === 'VIDEO')).map(node => node.outerHTML.slice(0, 90))"
    )
    assert nameless == []


@pytest.mark.slow
def test_a_page_that_was_left_open_offers_to_reload(browser, ws, tmp_path, tiny_model):
    own = copied(ws, tmp_path, tiny_model)
    with served(own) as address:
        tab = Tab(browser, address)
        ranking = own.published("voted_ranking/motive").table("ranking")
        own.scores.publish({("ranking", "motive"): ranking.assign(variant="motive", rank=ranking["rank"].tolist()[::-1])})
        tab.page.wait_for_selector("#newer", timeout=20_000)
        before = tab.names()
        tab.page.get_by_role("button", name="Reload").click()
        tab.until(f"document.querySelector('#grid .tile')?.dataset.id === '{before[-1]}'")
        tab.close()
