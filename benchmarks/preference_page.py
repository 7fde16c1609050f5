"""What the page of the preference study costs in Chromium: memory, and the wait for the next pair, over a whole session.

    python -m benchmarks.preference_page [--pairs 100] [--frames 17] [--json]

A bundle of films of 480 x 832 is made by the real stage, opened from its file in headless Chromium, and voted on to the end, each pair as
soon as the page allows it. The films are a few, copied and told apart by some bytes behind their end; every copy is a file of its own to
the browser. Memory is the proportional share (PSS) of all Chromium processes together, sampled before each vote, beside that of the same
browser with an empty page; the JavaScript heap is what Chromium's own counter says. A stall is a video that waits for data while it plays.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import psutil
from playwright.sync_api import Page

from motive_pipeline.config import parse_config
from motive_pipeline.evaluation.preference.bundle import publish_preference_bundle
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.encode import write_mp4
from tests.browser import open_browser

SETTINGS = """
arms: [base, motive]
clips: {{source: demo, num_frames: {frames}, width: 832, height: 480, fps: 16}}
queries: {{source: demo}}
preference: {{pairs_per_rater: {pairs}, plans: 1, catch_share: 0.02}}
"""
NUM_FILMS = 6
LIMIT_MB = 300.0
WATCH = """() => {
    window.measured = {stalls: 0, waits_ms: [], dropped: 0}
    document.addEventListener('waiting', (event) => { if (event.target.currentTime > 0.05) measured.stalls += 1 }, true)
    const play = PairPlayer.prototype.play
    PairPlayer.prototype.play = async function () {
        const asked = performance.now()
        await play.call(this)
        if (!this.timed) measured.waits_ms.push(performance.now() - asked)
        this.timed = true
    }
    const close = PairPlayer.prototype.close
    PairPlayer.prototype.close = function () {
        for (const video of this.videos) measured.dropped += video.getVideoPlaybackQuality().droppedVideoFrames
        close.call(this)
    }
}"""


def make_bundle(folder: Path, pairs: int, frames: int) -> Path:
    """The page of a study of ``pairs`` pairs."""
    ws = Workspace(parse_config(SETTINGS.format(pairs=pairs, frames=frames), folder / "motive.yaml"))
    films = [_film(folder / f"{number}.mp4", number, frames) for number in range(NUM_FILMS)]
    for first, arm in enumerate(("base", "motive")):
        _publish(ws, arm, pairs, films, first)
    return publish_preference_bundle(ws).path / "index.html"


def _film(file: Path, number: int, frames: int) -> bytes:
    """Noise of several sizes that drifts: it moves everywhere, as real films do at most."""
    rng = np.random.default_rng(number)
    picture = sum(np.kron(rng.integers(0, 80, (480 // size, 832 // size, 3)), np.ones((size, size, 1))) for size in (4, 16, 32)).astype(
        np.uint8
    )
    write_mp4(file, np.stack([np.roll(picture, 4 * frame, axis=1) for frame in range(frames)]), 16, crf=23)
    return file.read_bytes()


def _publish(ws: Workspace, arm: str, count: int, films: list[bytes], first: int) -> None:
    rows = [
        {
            "training": 0,
            "prompt_index": index,
            "n": 0,
            "prompt": f"film number {index}",
            "sampling_seed": index,
            "file": f"seed-0/{index}-0.mp4",
        }
        for index in range(count)
    ]

    def write(folder: Path) -> None:
        (folder / "seed-0").mkdir()
        for row in rows:
            index = row["prompt_index"]
            end = b"\0\0\0\x10free" + f"{arm[0]}{index:07d}".encode()
            (folder / row["file"]).write_bytes(films[(index + first) % len(films)] + end)
        pd.DataFrame(rows).to_parquet(folder / "videos.parquet", index=False)

    ws.publish(f"generated_videos/{arm}", content=arm, write=write, started=time.time())


def chromium_mb() -> float:
    """The proportional share of memory of all processes of the browser that this process started."""
    total = 0
    for process in psutil.Process().children(recursive=True):
        try:
            if "chrom" in process.name():
                total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def heap_mb(page: Page) -> float:
    """Chromium's own figure for the JavaScript heap in use."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    session.detach()
    return metrics["JSHeapUsedSize"] / 1e6


def measure(index: Path) -> dict[str, Any]:
    """Vote through the whole page; what it took."""
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        empty_mb = chromium_mb()
        started = time.perf_counter()
        page.goto(index.as_uri())
        load_ms = 1000 * (time.perf_counter() - started)
        page.evaluate(WATCH)
        page.get_by_role("button", name="Start", exact=True).click()
        total = page.evaluate("turns().length")
        used_mb, heaps_mb = [], []
        for turn in range(total):
            page.locator("#left[aria-disabled=false]").wait_for(timeout=120_000)
            used_mb.append(chromium_mb())
            heaps_mb.append(heap_mb(page))
            page.keyboard.press("ArrowDown")
            if turn + 1 < total:
                page.locator("#place", has_text=f"Pair {turn + 2} of").wait_for(timeout=60_000)
        page.get_by_role("button", name="Save the file").wait_for()
        measured = page.evaluate("measured")
    return {
        "pairs": total,
        "load_ms": load_ms,
        "chromium_mb": max(used_mb),
        "empty_page_mb": empty_mb,
        "page_mb": max(used_mb) - empty_mb,
        "last_less_tenth_mb": used_mb[-1] - used_mb[min(9, total - 1)],
        "js_heap_mb": max(heaps_mb),
        "wait_ms_median": median(measured["waits_ms"]),
        "wait_ms_most": max(measured["waits_ms"]),
        "stalls": measured["stalls"],
        "dropped_frames": measured["dropped"],
    }


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--frames", type=int, default=17, help="of each film, 4n+1, at 16 a second")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        index = make_bundle(Path(folder), arguments.pairs, arguments.frames)
        bundle_s = time.perf_counter() - started
        found = {"bundle_made_s": bundle_s, "bundle_mb": sum(f.stat().st_size for f in index.parent.rglob("*.mp4")) / 1e6, **measure(index)}
    if arguments.json:
        print(json.dumps(found | {"load": os.getloadavg(), "cores": os.cpu_count()}))
        return
    print(f"page of the preference study; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, value in found.items():
        print(f"  {name} {value:.1f}" if isinstance(value, float) else f"  {name} {value}")
    print(f"  memory: {'met' if found['page_mb'] < LIMIT_MB else 'MISSED'} (the page below {LIMIT_MB:.0f} MB, beside the empty browser)")


if __name__ == "__main__":
    main()
