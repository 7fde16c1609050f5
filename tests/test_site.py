"""The site of the docs (`make docs`): it builds without a broken link, asks nothing of other servers, and its search works from a folder."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_readme_is_the_first_page_and_its_links_lead_into_the_site(site: Path):
    first = (site / "index.html").read_text(encoding="utf-8")
    assert "Which of your training clips" in first
    assert 'href="tutorial_own_clips.html"' in first
    assert 'href="examples/public_api.ipynb.html"' in first
    assert 'src="strip.png"' in first
    assert "gigabytes (1e9 bytes)" in (site / "motive.yaml.html").read_text(encoding="utf-8")
    assert not list(site.rglob("*.py"))


def test_the_interface_is_described_from_its_docstrings(site: Path):
    page = (site / "reference.html").read_text(encoding="utf-8")
    assert "One storage root, read-only." in page
    assert ":::" not in page
    assert ":meth:" not in page


def test_no_page_asks_another_server_and_the_search_works_without_one(site: Path, browser):
    asked: list[str] = []
    page = browser.new_page()
    try:
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index.html", "architecture.html", "reference.html", "method.html"):
            page.goto((site / name).as_uri())
            page.wait_for_timeout(300)
        page.click(".md-search__input")
        page.locator(".md-search__input").press_sequentially("percentile")
        page.locator(".md-search-result__item").first.wait_for(timeout=20_000)
    finally:
        page.close()
    assert asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
