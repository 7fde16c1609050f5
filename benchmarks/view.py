"""What the explorer (`motive view`) costs with many clips, beside what DuckDB and numpy take for the same work alone.

    python -m benchmarks.view [--clips 100000] [--queries 50] [--no-browser] [--json]

Gradients are random; influence, ranking and subsets are made by the real stages, and every clip is a video of its own (one small film, each copy with other bytes
behind its end). The server is asked over HTTP by this process. Memory of the browser is the proportional share (PSS) of all Chromium processes, less that of the same
browser with an empty page.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import psutil

from motive_pipeline.config import parse_config
from motive_pipeline.curation.arms import publish_subset
from motive_pipeline.curation.edits import Edits
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.clip_view import ClipView
from motive_pipeline.view.serve import serve
from motive_pipeline.view.snapshot import open_snapshot
from motive_pipeline.view.viewer import Viewer

SETTINGS = """
arms: [base, full, random, motion_magnitude, motive]
clips: {source: demo, num_frames: 17, width: 64, height: 64}
queries: {source: demo}
gradient: {store_dim: 64}
influence: {proj_dim: 64}
"""
WIDTH = 64
ROUNDS = 5
WORDS = ["a", "red", "blue", "ball", "wave", "falls", "turns", "slowly", "over", "water", "sand", "dog", "runs", "behind", "the", "tree"]


def write_root(folder: Path, num_clips: int, num_queries: int) -> Workspace:
    """A root with this many clips, up to its subsets."""
    from motive_pipeline.attribution.influence import publish_influence
    from motive_pipeline.curation.vote import publish_ranking
    from motive_pipeline.video.encode import write_mp4
    from tests.curation_fixtures import publish_gradients, unit_rows

    rng = np.random.default_rng(0)
    ws = Workspace(parse_config(SETTINGS, folder / "motive.yaml"))
    film = folder / "film.mp4"
    square = np.zeros((17, 64, 64, 3), np.uint8)
    for frame in range(17):
        square[frame, 20:40, frame * 2 : frame * 2 + 20] = (200, 120, 40)
    write_mp4(film, square, 16)
    ids, paths = _copies(film, folder / "clips", num_clips)
    captions = [" ".join(words) for words in rng.choice(WORDS, (num_clips, 12))]
    magnitude = rng.gamma(2.0, 1.0, num_clips)
    catalog = pd.DataFrame({
        "clip_id": ids, "path": paths, "caption": captions, "num_frames": 17, "fps": 16.0, "width": 64, "height": 64, "duration_s": 1.0625,
        "source": "demo", "flags": "", "aesthetic_score": rng.normal(5, 1, num_clips), "motion_score": rng.random(num_clips), "published": "", "disagrees": "",
    })  # fmt: skip
    queries = pd.DataFrame({"query_id": [f"{number:016x}" for number in range(num_queries)], "path": paths[:num_queries], "caption": "a query", "category": [WORDS[number % 8] for number in range(num_queries)], "role": "query"})  # fmt: skip
    _publish(ws, "clip_catalog", {"catalog": catalog}, {("catalog", "catalog"): catalog})
    _publish(ws, "query_catalog", {"queries": queries}, {("queries", "queries"): queries})
    _publish(ws, "motion_masks", {"index": pd.DataFrame({"clip_id": ids, "motion_magnitude_px": magnitude})},
             {("motion", "motion"): pd.DataFrame({"clip_id": ids, "motion_magnitude_px": magnitude})})  # fmt: skip
    _publish(ws, "latents", {"index": pd.DataFrame({"clip_id": ids})}, {})
    _publish(ws, "eligible_pool", {"pool": pd.DataFrame({"clip_id": ids})}, {})
    publish_gradients(ws, "projected_gradients/motive", ids, unit_rows(num_clips, WIDTH), chunk=4096)
    publish_gradients(ws, "query_gradients/motive", queries["query_id"].tolist(), unit_rows(num_queries, WIDTH, seed=1))
    publish_influence(ws, "motive")
    publish_ranking(ws, "motive")
    for arm in ("full", "random", "motion_magnitude", "motive"):
        publish_subset(ws, arm)
    return ws


def _copies(film: Path, folder: Path, count: int) -> tuple[list[str], list[str]]:
    """Ids and paths of copies of a film, in the order of their ids."""
    content = film.read_bytes()
    folder.mkdir()
    found = []
    for number in range(count):
        own = content + number.to_bytes(8, "little")
        path = folder / f"{number:06d}.mp4"
        path.write_bytes(own)
        found.append((hashlib.sha256(own).hexdigest()[:16], str(path)))
    ids, paths = zip(*sorted(found), strict=True)
    return list(ids), list(paths)


def _publish(ws: Workspace, asset: str, tables: dict[str, pd.DataFrame], scores: dict[tuple[str, str], Any]) -> None:
    def write(folder: Path) -> None:
        for name, table in tables.items():
            table.to_parquet(folder / f"{name}.parquet")

    ws.publish(asset, content=asset, write=write, started=time.time(), scores=scores)


def seconds(act: Callable[[], object], rounds: int = ROUNDS) -> float:
    """The median time of ``act``."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return median(times)


def server_figures(ws: Workspace, num_queries: int) -> Iterator[tuple[str, float, float | None]]:
    """(what, seconds, seconds of the floor) of the server's own work."""
    import duckdb

    from motive_pipeline.curation.vote import num_selected, threshold

    yield "open the root's scores", seconds(lambda: open_snapshot(ws), 3), None
    seen, edits = open_snapshot(ws), Edits(file=ws.root)
    query = f"influence:{1:016x}"
    views = {
        "order by rank": {"sort": "rank:motive"},
        "order by influence on a query": {"sort": query, "descending": True},
        "two words, range, order by influence": {"sort": query, "text": "red dog", "ranges": {"aesthetic_score": [4.5, None]}},
        "arm and range of votes, order by motion": {"sort": "motion_magnitude_px", "arm": "random", "ranges": {"votes:motive": [1, None]}},
    }
    columns = seen.rows("SELECT * FROM clips ORDER BY n LIMIT 1")[0]
    floor = {
        "order by rank": "SELECT n FROM clips ORDER BY rank_0",
        "order by influence on a query": "SELECT n FROM clips ORDER BY influence DESC",
        "two words, range, order by influence": "SELECT n FROM clips WHERE contains(words, 'red') AND contains(words, 'dog') AND aesthetic_score >= 4.5 ORDER BY influence",
        "arm and range of votes, order by motion": "SELECT n FROM clips WHERE list_contains(arms, 'random') AND votes_0 >= 1 ORDER BY motion_magnitude_px",
    }
    assert {"rank_0", "votes_0"} <= set(columns)
    alone = duckdb.connect()
    with seen._connection.cursor() as cursor:
        alone.register("from_clips", cursor.sql("SELECT * FROM clips ORDER BY n").to_arrow_table())
    alone.register("influence", pd.DataFrame({"n": np.arange(len(seen.clip_id_N)), "influence": seen.influence("motive", query[10:])}))
    alone.execute("CREATE TABLE clips AS SELECT * FROM from_clips JOIN influence USING (n)").fetchall()
    for name, view in views.items():
        parsed = ClipView.parse(view)

        def ours(parsed: ClipView = parsed) -> None:
            seen._orders.clear()
            seen.page(seen.order(parsed, edits)[:100], ["rank:motive"], "")

        yield f"{name}, first 100 rows", seconds(ours), seconds(lambda name=name: alone.execute(floor[name]).fetchnumpy())
    ballot = seen.ballots["motive"]
    percentiles = iter(np.linspace(1, 99, 400))
    for num_clips in (10_000, len(ballot.clip_id_N)):
        part = type(ballot)(influence_QN=np.ascontiguousarray(ballot.influence_QN[:, :num_clips]), query_ids=ballot.query_ids, clip_id_N=ballot.clip_id_N[:num_clips], num_pool=num_clips, rule="vote", percentile=90.0)  # fmt: skip

        def counted(matrix: np.ndarray = part.influence_QN) -> None:
            percentile = float(next(percentiles))
            votes = sum((row > threshold(row, percentile)).astype(np.int64) for row in matrix)
            np.argpartition(-votes, num_selected(len(votes), 0.1) - 1)

        yield (
            f"slider: {num_clips} clips x {num_queries} queries, a new percentile",
            seconds(lambda part=part: part.choice(share=0.1, percentile=float(next(percentiles)))),
            seconds(counted),
        )


@contextmanager
def served(ws: Workspace) -> Iterator[tuple[str, float]]:
    """(address, seconds until it answers) of a viewer in this process."""
    addresses: list[str] = []
    started = time.perf_counter()
    thread = threading.Thread(target=lambda: serve(Viewer(ws), port=None, opened=addresses.append), daemon=True)
    thread.start()
    while not addresses:
        time.sleep(0.005)
    yield addresses[0], time.perf_counter() - started


def http_figures(address: str, version: str) -> Iterator[tuple[str, float, None]]:
    """Seconds of a whole answer over HTTP."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    opener.open(address).read()
    base = address.partition("/?")[0]
    words = iter(WORDS)

    def ask() -> None:
        view = json.dumps({"sort": f"influence:{2:016x}", "descending": True, "text": next(words)})
        opener.open(f"{base}/api/clips?{urllib.parse.urlencode({'v': version, 'view': view, 'limit': 100})}").read()

    yield "filter by a word and order, over HTTP", seconds(ask), None
    shares = iter(np.linspace(0.01, 0.5, 50))

    def slide() -> None:
        choice = json.dumps({"variant": "motive", "share": float(next(shares)), "percentile": float(next(shares)) * 100})
        opener.open(f"{base}/api/choice?{urllib.parse.urlencode({'v': version, 'choice': choice})}").read()

    yield "slider: every clip, beside every arm, over HTTP", seconds(slide), None


def browser_figures(address: str) -> Iterator[tuple[str, float, str]]:
    """(what, number, unit) of the page in headless Chromium."""
    from tests.browser import open_browser

    with open_browser() as browser:
        empty = browser.new_page()
        empty.goto("about:blank")
        before_mb = _chromium_mb()
        page = browser.new_page(
            viewport={"width": 1280, "height": 860}, bypass_csp=True
        )  # its policy would forbid what waits for a condition
        started = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("#grid .tile")
        yield "first tiles on the page", time.perf_counter() - started, "s"
        page.wait_for_function(
            "[...document.querySelectorAll('#grid .tile img')].filter(image => image.complete && image.naturalWidth).length >= 5"
        )
        yield "first five pictures, made for the first time", time.perf_counter() - started, "s"
        waits = []
        for place in (0.1, 0.5, 0.9, 0.3, 0.7, 1.0):
            started = time.perf_counter()
            page.evaluate("place => { const grid = document.getElementById('grid'); grid.scrollTop = place * grid.scrollHeight }", place)
            page.wait_for_function("place => { const tiles = [...document.querySelectorAll('#grid .tile')]; return tiles.length > 5 && tiles.every(tile => Math.abs(tile.getAttribute('aria-posinset') / tile.getAttribute('aria-setsize') - place) < 0.02) }", arg=place)  # fmt: skip
            waits.append(time.perf_counter() - started)
        yield "from one end of the list to another, until its tiles are there", median(waits), "s"
        page.wait_for_timeout(3000)
        yield "memory of the page after that", _chromium_mb() - before_mb, "MB"
        started = time.perf_counter()
        page.click("#tab-map")
        page.wait_for_selector("#map[data-drawn]", timeout=120_000)
        yield "the map, from the click to the last point", time.perf_counter() - started, "s"
        yield "memory of the page with the map", _chromium_mb() - before_mb, "MB"


def _chromium_mb() -> float:
    children = psutil.Process(os.getpid()).children(recursive=True)
    return sum(child.memory_full_info().pss for child in children if "chrom" in child.name()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    arguments = parser.parse_args()
    lines: list[dict[str, Any]] = []

    def say(what: str, value: float, unit: str, floor: float | None = None) -> None:
        lines.append({"what": what, "value": value, "unit": unit, "floor": floor})
        if not arguments.json:
            beside = "" if floor is None else f"   alone {1000 * floor:8.1f} ms"
            shown = f"{1000 * value:9.1f} ms" if unit == "s" else f"{value:9.1f} {unit}"
            print(f"{what:70} {shown}{beside}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        ws = write_root(Path(folder), arguments.clips, arguments.queries)
        for what, value, floor in server_figures(ws, arguments.queries):
            say(what, value, "s", floor)
        with served(ws) as (address, until):
            say("from the command's work to the first answer", until, "s")
            for what, value, _ in http_figures(address, Viewer(ws).current().version):
                say(what, value, "s")
            if not arguments.no_browser:
                for what, value, unit in browser_figures(address):
                    say(what, value, unit)
    if arguments.json:
        print(json.dumps(lines))


if __name__ == "__main__":
    main()
