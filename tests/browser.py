"""A real browser and the real Dagster UI, as ``make dev`` starts it: for the tests of the UI and for the pictures in ``docs/``."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.ports import free_port

ROOT = Path(__file__).parent.parent
NAMES = ("chromium", "chromium-browser", "google-chrome")
MISSING = f"no browser on the PATH ({', '.join(NAMES)}); on Debian: apt-get install chromium fonts-dejavu-core"
ARGUMENTS = [
    "--no-sandbox",  # it does not start as root otherwise; the only pages it opens are ours
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
CONTRAST = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number)
    const light = (rgb) => rgb.map((c) => c / 255).map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0)
    const above = (node) => node ? [node, ...above(node.parentElement)] : []
    const ground = (node) => {
        const painted = above(node).map((each) => getComputedStyle(each).backgroundColor).find((colour) => !colour.endsWith(', 0)'))
        return channels(painted || 'rgb(255, 255, 255)')
    }
    const isText = (node) => node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())
    return [...document.querySelectorAll('body *:not(script, style)')].filter(isText).map((node) => {
        const style = getComputedStyle(node)
        const opacity = above(node).reduce((product, each) => product * getComputedStyle(each).opacity, 1)
        const under = ground(node)
        const ink = channels(node.closest('svg') ? style.fill : style.color).map((c, i) => opacity * c + (1 - opacity) * under[i])
        const pair = [light(ink), light(under)].sort((a, b) => b - a)
        return [node.id || node.tagName, node.textContent.trim().slice(0, 40), (pair[0] + 0.05) / (pair[1] + 0.05)]
    })
}"""
"""The id or the tag of an element, its text, and the contrast of the text with what lies under it, for every text that is shown."""
CRAMPED = """() => {
    const found = []
    const wide = document.scrollingElement.scrollWidth
    if (wide > innerWidth) found.push(`the page is ${wide} px wide in a window of ${innerWidth} px`)
    const name = (node) => `${node.id || node.className || node.tagName}: ${node.textContent.trim().slice(0, 30)}`
    const scrolls = (node) => node && (['auto', 'scroll'].includes(getComputedStyle(node).overflowX) || scrolls(node.parentElement))
    for (const node of document.querySelectorAll('p, td, tbody th, dd, dt, li, h1, h2, h3, label, summary, figcaption')) {
        const text = node.innerText?.trim() ?? ''
        const style = getComputedStyle(node)
        if (!node.checkVisibility() || text.length < 20 || style.position === 'absolute') continue
        const room = node.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight)
        const letters = room / parseFloat(style.fontSize) * 2
        if (node.clientWidth && letters < 8) found.push(`${letters.toFixed(1)} letters a line in ${name(node)}`)
    }
    for (const node of document.querySelectorAll('button, select, input, textarea')) {
        if (!node.checkVisibility()) continue
        const box = node.getBoundingClientRect()
        const isOut = (box.left < -0.5 || box.right > innerWidth + 0.5) && !scrolls(node.parentElement)
        const isCut = node.tagName === 'BUTTON' && getComputedStyle(node).textOverflow !== 'ellipsis' && (node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1)
        if (box.width && (isOut || isCut)) found.push(`${isOut ? 'out of the window' : 'cut off'}: ${name(node)}`)
    }
    return found
}"""
"""What does not fit a narrow window: a page that is wider, a column of text with less than eight letters a line (the heads of columns of numbers may
break), a control that is out of sight or whose text is cut off."""
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
MIN_CONTRAST = 4.5  # WCAG 2.1, level AA
STARTED_WITHIN_S = 180.0
STOPPED_WITHIN_S = 10.0


def chromium() -> str | None:
    """The path of an installed Chromium or Chrome; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """The installed Chromium, headless.

    Raises:
        FileNotFoundError: there is none.
    """
    executable = chromium()
    if executable is None:
        raise FileNotFoundError(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def page_shown_whole(browser: Browser, file: Path, *, width: int, num_images: int, **context) -> Page:
    """The page at ``file`` in a window of ``width`` pixels, in which every image is there and nothing is cut off or cramped; it said nothing and asked for nothing
    outside itself."""
    page = browser.new_page(viewport={"width": width, "height": 900}, **context)
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    sizes = page.evaluate("[...document.images].map(image => [image.complete, image.naturalWidth, image.clientWidth])")
    assert len(sizes) == num_images
    assert all(complete and natural > 0 and shown > 20 for complete, natural, shown in sizes)
    assert cramped(page) == []
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in asked)
    return page


def cramped(page: Page) -> list[str]:
    """What does not fit the window; see :data:`CRAMPED`."""
    return page.evaluate(CRAMPED)


def low_contrast(page: Page) -> list[tuple[str, str, float]]:
    """The texts of a page that are harder to read than they may be."""
    found = page.evaluate(CONTRAST)
    assert len(found) > 5, "no text was found"
    return [each for each in found if each[2] < MIN_CONTRAST]


@contextmanager
def dagster_ui(config: Path, home: Path, log: Path) -> Iterator[str]:
    """Dagster's UI and daemon for ``config`` on the instance in ``home``, on a free port; gives the address.

    What they print goes to ``log``.
    """
    environment = {**os.environ, "MOTIVE_CONFIG": str(config), "DAGSTER_HOME": str(home), "PYTHONWARNINGS": "ignore"}
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(ROOT / "workspace.yaml"), "-h", "127.0.0.1", "-p", str(port)]
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_it_answers(address, process, log)
        yield address
    finally:
        _stop_group(process)


def _stop_group(process: subprocess.Popen) -> None:
    """End a process that leads a group, and all that it started (webserver, daemon, code server, runs)."""
    os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOPPED_WITHIN_S
    try:
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def _wait_until_it_answers(address: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"dagster dev ended with code {process.returncode}:\n{log.read_text()[-4000:]}")
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=5).close()
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"dagster dev did not answer within {STARTED_WITHIN_S:.0f} s:\n{log.read_text()[-4000:]}")
