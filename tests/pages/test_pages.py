"""All pages have one design, each holds its own copy of it, and the page of rejects shows what others wrote as text, on wide and on narrow screens."""

import re
from pathlib import Path

import pandas as pd
import pytest

import motive_pipeline
from motive_pipeline.catalog.duplicates import DUPLICATE_COLUMNS
from motive_pipeline.catalog.rejects import page, reason_counts
from motive_pipeline.pages import DESIGN
from motive_pipeline.storage.workspace import REJECT_COLUMNS
from tests.browser import low_contrast, page_shown_whole

PACKAGE = Path(motive_pipeline.__file__).parent
PAGES = [file for file in PACKAGE.rglob("*.html.j2") if "<!doctype html>" in file.read_text(encoding="utf-8")]
STYLES = [file for file in PACKAGE.rglob("*.css") if file != DESIGN]
HOSTILE = """/clips/<script>alert(1)</script>"><img src=x onerror=alert(2)>/a_file_with_a_name_of_more_letters_than_a_phone_is_wide.mp4"""


def test_every_page_includes_the_head_and_the_design_and_defines_no_colours_of_its_own():
    assert {file.name for file in PAGES} == {"report.html.j2", "explain.html.j2", "ask.html.j2", "page.html.j2", "rejected.html.j2"}
    for file in PAGES:
        text = file.read_text(encoding="utf-8")
        assert '{% include "head.html.j2" %}' in text, file
        assert text.index('{% include "design.css" %}') < text.index("</style>"), file
    explorer = (PACKAGE / "view" / "static" / "index.html").read_text(encoding="utf-8")
    assert explorer.index('href="/app/design.css"') < explorer.index('href="/app/explorer.css"')
    for file in [*PAGES, *STYLES]:
        text = file.read_text(encoding="utf-8")
        redefined = re.findall(r"(--(?:paper|ink|soft|line|panel|accent)\b)\s*:|(prefers-color-scheme)|(font-family:\s*system-ui)", text)
        assert redefined == [], file


@pytest.fixture(scope="module")
def rejected(tmp_path_factory) -> Path:
    """The page of three rejects and one pair of clips, with a hostile file name."""
    rejects = pd.DataFrame(
        [
            (HOSTILE, "", "clip_catalog", "not_a_video", "the container cannot be opened"),
            ("/clips/b.mp4", "0123456789abcdef", "latents", "too_short", "9 frames; 17 are needed " * 8),
            ("s3://bucket/c.mp4", "fedcba9876543210", "latents", "too_short", "9 frames"),
        ],
        columns=list(REJECT_COLUMNS),
    )
    pairs = pd.DataFrame(
        [("near_duplicate", "0123456789abcdef", "fedcba9876543210", 3, "/clips/b.mp4", "/clips/d.mp4")], columns=list(DUPLICATE_COLUMNS)
    )
    file = tmp_path_factory.mktemp("pages") / "rejected.html"
    file.write_text(page(rejects, reason_counts(rejects), pairs), encoding="utf-8")
    return file


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_rejects_is_readable_on_wide_and_on_narrow_screens(browser, rejected, scheme):
    for width in (1280, 390):
        shown = page_shown_whole(browser, rejected, width=width, num_images=0, color_scheme=scheme)
        assert low_contrast(shown) == []
        assert shown.get_by_role("table").count() == 3, "still tables for a screen reader, also where rows are shown as blocks"
        assert shown.get_by_role("row").count() == 3 + 4 + 2
        assert HOSTILE in shown.locator("#files").inner_text().replace("\n", "")
        assert shown.get_by_role("link").count() == 4, "no link for what is not on this machine"
        shown.close()


def test_without_rejects_the_page_says_so():
    none = pd.DataFrame(columns=list(REJECT_COLUMNS))
    shown = page(none, [], pd.DataFrame(columns=list(DUPLICATE_COLUMNS)))
    assert "Every file could be used." in shown
    assert "<table" not in shown
