"""What a person sees and presses in Dagster's UI, and the report, in a real browser on a real project."""

import io
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect

from assets.definitions import build_definitions
from assets.instance import instance_folder
from motive_pipeline.graph import Graph
from tests.browser import dagster_ui
from tests.graph_project import Project

TIMEOUT_MS = 120_000
LANES = ("sources", "clips", "motion", "attribution", "curation", "training", "evaluation")
RANKINGS = {"voted_ranking/motive", "voted_ranking/no_mask"}


@pytest.fixture(scope="module")
def ui(project: Project, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the UI of a project that has run; nothing recomputes in it by itself."""
    project.set("schedule.automate", False)
    project.set("schedule.watch", False)
    log = tmp_path_factory.mktemp("ui") / "dagster.log"
    with dagster_ui(project.file, instance_folder(project.config), log) as address:
        yield address
    del project.settings["schedule"]
    project.save()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page, wide enough that the UI hides nothing."""
    context = browser.new_context(viewport={"width": 1500, "height": 1200})
    context.set_default_timeout(TIMEOUT_MS)
    expect.set_options(timeout=TIMEOUT_MS)
    yield context.new_page()
    context.close()


def open_asset(page: Page, ui: str, asset: str, view: str = "overview") -> None:
    page.goto(f"{ui}/assets/{asset}?view={view}")
    expect(page.get_by_role("tab", name="Overview").first).to_be_visible()


def metadata(page: Page, key: str) -> Locator:
    """The value that the asset's page shows for one metadata key."""
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name=key, exact=True))
    return row.get_by_role("cell").last


def open_dialog(page: Page, key: str) -> Locator:
    """Press "Show Markdown" of one metadata key."""
    metadata(page, key).get_by_text("[Show Markdown]").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Close")).to_be_visible()
    return dialog


def open_lineage(page: Page, ui: str) -> Locator:
    """The global lineage with all lanes folded; gives the graph."""
    page.goto(f"{ui}/asset-groups")
    expect(page.get_by_role("button", name="Materialize all")).to_be_visible()
    return page.locator("foreignObject")


def unsynced_dialog(page: Page, ui: str) -> Locator:
    """What "Materialize unsynced" offers on the global lineage."""
    open_lineage(page, ui)
    page.get_by_role("button", name="Materialize all").locator("xpath=following::button[1]").click()
    page.get_by_text("Materialize unsynced").click()
    return page.get_by_role("dialog")


def wait_for(condition: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Return when ``condition`` holds, or after some time in any case: the assertion that follows says what is wrong."""
    end = time.monotonic() + within_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)


def offered(dialog: Locator) -> set[str]:
    """The assets that the dialog of "Materialize unsynced" lists."""
    expect(dialog.get_by_role("button", name="Materialize")).to_be_visible()
    return {(link.get_attribute("href") or "").removeprefix("/assets/") for link in dialog.get_by_role("link").all()}


def test_the_lineage_shows_every_lane_and_unfolded_every_asset(page, ui, project):
    page.set_viewport_size({"width": 1500, "height": 7000})  # the graph fits itself to the width, and leaves out what lies outside
    nodes = open_lineage(page, ui)
    for lane in LANES:
        expect(nodes.get_by_text(lane, exact=True)).to_be_visible()
    page.keyboard.press("Alt+e")
    keys = build_definitions(project.config).resolve_asset_graph().get_all_asset_keys()
    assert len(keys) == 48
    for title, number in Counter(key.path[-1] for key in keys).items():
        expect(nodes.get_by_text(title, exact=True)).to_have_count(number)
    with_lanes = {asset.name for asset in Graph(project.config).assets.values() if asset.lane}
    assert len(with_lanes) > 7
    for name in with_lanes:  # nodes of one lane have one title; a box around the lanes of each asset bears its name
        expect(nodes.get_by_text(name, exact=True)).to_have_count(1)


@pytest.mark.slow
def test_the_runs_of_a_command_are_one_batch_and_appear_in_jobs_and_overview(page, ui, project):
    page.goto(f"{ui}/runs")
    batch = page.get_by_text(re.compile(r"motive/batch: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d everything"))
    expect(batch.first).to_be_visible()
    assert batch.count() > 5
    page.goto(f"{ui}/jobs")
    expect(page.get_by_text(re.compile("ago$")).first).to_be_visible()
    page.goto(f"{ui}/overview/timeline")
    for job in ("everything", "observe"):
        expect(page.get_by_role("link", name=job)).to_be_visible()


@pytest.mark.slow
def test_a_ranking_shows_its_first_clips_with_pictures_and_paths(page, ui, project):
    open_asset(page, ui, "voted_ranking/motive")
    dialog = open_dialog(page, "best_clips")
    best = project.workspace.published("voted_ranking/motive").facts["best_clips"]
    expect(dialog.get_by_role("row")).to_have_count(1 + len(best))
    expect(dialog.locator("td img")).to_have_count(len(best))
    page.wait_for_function(
        "[...document.querySelectorAll('[role=dialog] td img')].every(picture => picture.complete && picture.naturalWidth > 0)"
    )
    row = dialog.get_by_role("row").nth(1)
    expect(row).to_contain_text(best[0]["clip_id"])
    expect(row).to_contain_text(".mp4")
    page.keyboard.press("Escape")
    expect(page.get_by_text("voted_ranking/motive").first).to_be_visible()


@pytest.mark.parametrize(
    ("asset", "number", "expected", "checks"),
    [
        ("clip_catalog", "clips", "18", ("every_clip_has_a_caption", "every_file_is_accounted_for", "every_file_is_usable")),
        ("motion_masks", "clips", "18", ("most_clips_move",)),
        ("projected_gradients/motive", "rows", "18", ("rows_have_unit_length_motive",)),
    ],
)
def test_an_asset_page_shows_picture_numbers_and_checks(page, ui, asset, number, expected, checks):
    open_asset(page, ui, asset)
    expect(metadata(page, number)).to_have_text(expected)
    dialog = open_dialog(page, "preview")
    picture = dialog.get_by_role("img", name="preview")
    expect(picture).to_be_visible()
    page.wait_for_function("picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    assert picture.bounding_box()["width"] <= dialog.bounding_box()["width"]
    open_asset(page, ui, asset, view="checks")
    for check in checks:
        expect(page.get_by_text(check).first).to_be_visible()
    expect(page.get_by_text("Succeeded")).to_have_count(len(checks))


def test_the_page_of_the_report_shows_it_and_says_where_it_lies(page, ui, project):
    open_asset(page, ui, "eval_report")
    where = project.workspace.published("eval_report").path / "report.html"
    expect(metadata(page, "report, with videos")).to_contain_text(str(where))
    expect(metadata(page, "in a browser")).to_contain_text("motive view --config ")
    dialog = open_dialog(page, "report")
    expect(dialog.get_by_role("heading", name="Which clips teach the motion")).to_be_visible()
    expect(dialog.get_by_text("no verdict").first).to_be_visible()


@pytest.mark.slow
def test_a_changed_setting_marks_the_assets_that_use_it_only_and_materialize_runs_it_and_what_follows(page, ui, project):
    before = project.materializations()
    dialog = unsynced_dialog(page, ui)
    expect(dialog.get_by_text("All assets are up to date")).to_be_visible()

    project.set("vote.percentile", 50)
    page.goto(f"{ui}/asset-groups")
    page.get_by_role("button", name="Reload definitions").click()
    expect(page.get_by_text("Definitions reloaded").first).to_be_visible()

    users = {*RANKINGS, "attribution_audit"}  # all that use the setting: the audit tries the vote without single queries
    assert offered(unsynced_dialog(page, ui)) == users
    open_asset(page, ui, "voted_ranking/motive")
    expect(page.get_by_text("Unsynced (1)").first).to_be_visible()
    open_asset(page, ui, "curated_subset/motive")
    expect(page.get_by_text("Latest materialization").first).to_be_visible()
    expect(page.get_by_text("Unsynced")).to_have_count(0)

    unsynced_dialog(page, ui).get_by_role("button", name="Materialize 3 assets").click()
    expect(page.get_by_text("Launched run").first).to_be_visible()
    open_asset(page, ui, "curated_subset/motive")
    expect(page.get_by_text("Unsynced (1)").first).to_be_visible()
    for asset in ("voted_ranking/motive", "attribution_audit"):
        open_asset(page, ui, asset)
        expect(page.get_by_text("Latest materialization").first).to_be_visible()
        expect(page.get_by_text("Unsynced")).to_have_count(0)
    wait_for(lambda: (project.materializations() - before).total() >= len(users))  # an asset that is being made is not shown as unsynced
    assert project.materializations() - before == Counter(users)

    followers = {"curated_subset/motive", "curated_subset/no_mask", "eval_report"}
    assert offered(unsynced_dialog(page, ui)) == followers
    open_asset(page, ui, "curated_subset/motive")
    expect(page.get_by_text("Unsynced (1)").first).to_be_visible()
    page.get_by_role("button", name="Materialize").first.click()
    expect(page.get_by_text("Unsynced")).to_have_count(0)
    wait_for(lambda: (project.materializations() - before).total() > len(users))
    assert project.materializations() - before == Counter([*users, "curated_subset/motive"])


def report_page(browser: Browser, report: Path, **context) -> Page:
    """The report opened from its file; what it asks for and complains about is in ``page.asked`` and ``page.complaints``."""
    page = browser.new_context(viewport={"width": 1200, "height": 1000}, **context).new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(report.as_uri())
    return page


@pytest.fixture
def report(project: Project) -> Path:
    """The report's page on disk."""
    return project.workspace.published("eval_report").path / "report.html"


def test_the_report_opens_from_its_file_without_network_or_errors(browser, report):
    page = report_page(browser, report)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Which clips teach the motion")
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.complaints == []
    # pictures further down load when they are scrolled to
    broken = page.evaluate(
        """async () => {
            const pictures = [...document.images]
            pictures.forEach(picture => { picture.loading = 'eager' })
            await Promise.allSettled(pictures.map(picture => picture.decode()))
            return [pictures.length, pictures.filter(picture => !picture.naturalWidth).length]
        }"""
    )
    assert broken[0] > 0
    assert broken[1] == 0
    page.context.close()


def test_the_report_has_a_dark_dress_and_prints(browser, report, tmp_path):
    def brightness(scheme: str) -> np.ndarray:
        """Of all pixels of the first screen, 0 to 255, sorted; the page is printed on the way."""
        page = report_page(browser, report, color_scheme=scheme)
        screen = Image.open(io.BytesIO(page.screenshot())).convert("L")
        page.pdf(path=tmp_path / f"{scheme}.pdf", format="A4")
        page.context.close()
        return np.sort(np.asarray(screen), axis=None)

    light, dark = brightness("light"), brightness("dark")
    assert np.median(light) > 200 > 100 > light[0]
    assert np.median(dark) < 60 < 180 < dark[-1]
    for printed in tmp_path.glob("*.pdf"):
        assert printed.read_bytes().startswith(b"%PDF")
        assert printed.stat().st_size > 20_000
