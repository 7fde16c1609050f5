"""Take the pictures in ``docs/`` again from a project whose graph has run: ``python -m tests.ui_pictures [motive.yaml]``.

Nothing of the project changes: the UI runs on its instance with a copy of its settings, and the stale badge comes from another
``vote.percentile`` in that copy.
"""

import argparse
import io
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from PIL import Image
from playwright.sync_api import Browser, FloatRect, Locator, Page, expect

from assets.instance import instance_folder
from motive_pipeline.config import load_config
from motive_pipeline.storage.workspace import Workspace
from tests.browser import dagster_ui, open_browser

DOCS = Path(__file__).parent.parent / "docs"
TIMEOUT_MS = 60_000
COLOURS = 256
CHOSEN = "curated_subset/motive"
STALE = "voted_ranking/motive"
COMPACT_NODES = 'localStorage.setItem(\'asset-node-facets\', \'["unsynced-tag", "status", "kind-tag"]\')'


def main() -> None:
    """Write ``lanes.png``, ``graph.png``, ``asset.png``, ``stale.png``, ``report.png`` and, of it, ``strip.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, nargs="?", default=Path("motive.yaml"))
    parser.add_argument("--to", type=Path, default=DOCS, help="folder of the pictures")
    arguments = parser.parse_args()
    arguments.to.mkdir(parents=True, exist_ok=True)
    config = load_config(arguments.config.resolve())
    report = Workspace(config).published("eval_report").path / "report.html"
    expect.set_options(timeout=TIMEOUT_MS)
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser, copy_at_rest(config.file) as copy:
        with new_page(browser, 1100, 1400) as page:
            page.goto(report.as_uri())
            save(page.screenshot(), arguments.to / "report.png")
            save(page.locator(".query").first.screenshot(), arguments.to / "strip.png")
        with dagster_ui(copy, instance_folder(config), Path(folder) / "dagster.log") as ui:
            with new_page(browser, 2600, 1400) as page:
                save(lanes(page, ui), arguments.to / "lanes.png")
            with new_page(browser, 3600, 4400) as page:  # in a smaller one the nodes shrink to their names
                save(graph(page, ui), arguments.to / "graph.png")
            with new_page(browser, 1300, 900) as page:
                save(asset(page, ui), arguments.to / "asset.png")
            change(copy, "vote", "percentile", config.vote.percentile - 5)
            with new_page(browser, 1900, 1800) as page:
                save(stale(page, ui), arguments.to / "stale.png")


@contextmanager
def copy_at_rest(file: Path) -> Iterator[Path]:
    """A copy of a config beside it (so that relative paths mean the same), in which nothing recomputes by itself."""
    copy = file.with_name(f".{file.stem}.pictures.yaml")
    copy.write_bytes(file.read_bytes())
    change(copy, "schedule", "automate", False)
    change(copy, "schedule", "watch", False)
    try:
        yield copy
    finally:
        copy.unlink()


def change(file: Path, section: str, key: str, value: float | bool) -> None:
    """Set one value of a config file."""
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings.setdefault(section, {})[key] = value
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")


@contextmanager
def new_page(browser: Browser, width: int, height: int) -> Iterator[Page]:
    """A fresh page of that many CSS pixels."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.set_default_timeout(TIMEOUT_MS)
    yield context.new_page()
    context.close()


def save(picture: bytes, file: Path) -> None:
    """Write a screenshot as a PNG of few colours."""
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    print(f"{file}: {few.width} x {few.height}, {file.stat().st_size / 1000:.0f} kB")


def lanes(page: Page, ui: str) -> bytes:
    """The whole graph, folded into its lanes."""
    page.goto(f"{ui}/asset-groups")
    nodes = page.locator("foreignObject")
    expect(nodes.filter(has_text="evaluation")).to_contain_text(re.compile(r"\d"))
    expect(nodes.get_by_text("fetching")).to_have_count(0)  # until it is known how many of its assets are materialized
    return page.screenshot(clip=around(nodes))


def graph(page: Page, ui: str) -> bytes:
    """What leads from the files to the clips that MOTIVE chooses, lane by lane."""
    page.add_init_script(COMPACT_NODES)
    page.goto(f"{ui}/assets/{CHOSEN}?view=lineage&lineageScope=upstream&lineageDepth=10")
    wait_for_nodes(page)
    return page.screenshot(clip=around(page.locator("foreignObject")))


def wait_for_nodes(page: Page) -> None:
    """Until the graph is drawn and every node knows its status."""
    expect(page.locator("foreignObject").get_by_text("Materialized").first).to_be_visible()
    expect(page.locator("foreignObject").get_by_text("Loading")).to_have_count(0)


def around(shapes: Locator, margin: float = 8) -> FloatRect:
    """The rectangle that holds all ``shapes``, and a little more."""
    boxes = [box for shape in shapes.all() if (box := shape.bounding_box())]
    left, top = min(box["x"] for box in boxes) - margin, min(box["y"] for box in boxes) - margin
    right = max(box["x"] + box["width"] for box in boxes) + margin
    bottom = max(box["y"] + box["height"] for box in boxes) + margin
    return {"x": left, "y": top, "width": right - left, "height": bottom - top}


def asset(page: Page, ui: str) -> bytes:
    """The page of ``motion_masks`` with its picture open."""
    page.goto(f"{ui}/assets/motion_masks")
    row = page.get_by_role("row").filter(has=page.get_by_role("cell", name="preview", exact=True))
    row.get_by_text("[Show Markdown]").click()
    picture = page.get_by_role("dialog").get_by_role("img", name="preview")
    expect(picture).to_be_visible()
    page.wait_for_function("picture => picture.complete && picture.naturalWidth > 0", arg=picture.element_handle())
    return page.screenshot(animations="disabled")


def stale(page: Page, ui: str) -> bytes:
    """The neighbours of a ranking whose setting has changed, with the badges of all that reads it."""
    page.goto(f"{ui}/asset-groups")
    page.get_by_role("button", name="Reload definitions").click()
    expect(page.get_by_text("Definitions reloaded").first).to_be_visible()
    page.add_init_script(COMPACT_NODES)
    page.goto(f"{ui}/assets/{STALE}?view=lineage&lineageScope=neighbors")
    wait_for_nodes(page)
    expect(page.locator("foreignObject").get_by_text("Unsynced (1)").first).to_be_visible()
    return page.screenshot(clip=around(page.locator("foreignObject")))


if __name__ == "__main__":
    main()
