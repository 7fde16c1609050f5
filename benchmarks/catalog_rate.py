"""Cataloguing a folder of which some files are broken, beside a bare PyAV loop over the same files with the same number of processes.

    python -m benchmarks.catalog_rate [--clips 2000] [--broken 0.05] [--workers 1] [--rounds 3] [--scale 10]

Both sides open each file and decode its first frame. Ours also hashes every file, reads its caption, writes rows and publishes the catalog
with its picture; the bare loop does nothing else and skips what it cannot open. Each round has files of its own content, in the page cache for
both sides; sides take turns at going first. Memory is the resident size of the process and of its workers together, looked at ten times a second; shown is
the largest of each fifth of the run, and the last fifth of every round.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

from motive_pipeline.catalog.stage import publish_clip_catalog
from motive_pipeline.config import load_config
from motive_pipeline.demo.generator import render_clip, sample_spec
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video import worker_pool as workers
from motive_pipeline.video.encode import write_mp4

BARE = """
import sys, av
for path in open(sys.argv[1]).read().split("\\n"):
    try:
        with av.open(path) as container:
            container.streams.video[0].codec_context.thread_count = 1
            next(container.decode(video=0))
    except (av.error.FFmpegError, IndexError, StopIteration):
        pass
"""


def make_files(folder: Path, count: int, broken: float, *, scale: int, round_number: int) -> list[Path]:
    """Copies of one film, told apart by bytes behind its end; every so many is empty, cut (which only reading it whole notices), an error page or noise."""
    import numpy as np

    folder.mkdir(parents=True)
    film = folder / "film.mp4"
    frames = render_clip(sample_spec(np.random.default_rng(0), motion="right"))
    write_mp4(film, frames.repeat(scale, axis=1).repeat(scale, axis=2), 16.0)
    data = film.read_bytes()
    film.unlink()
    every = round(1 / broken) if broken else count + 1
    wrong = [b"", data[: len(data) // 3], b"<html>404</html>" * 99, data[:40] + bytes(len(data))]
    files = []
    for number in range(count):
        bad = number % every == every - 1
        body = wrong[number // every % len(wrong)] if bad else data
        file = folder / f"{number:06d}.mp4"
        file.write_bytes(body + (b"" if bad else b"\0\0\0\x14free" + round_number.to_bytes(4, "big") + number.to_bytes(8, "big")))
        file.with_suffix(".txt").write_text(f"film number {number}", encoding="utf-8")
        files.append(file)
    os.sync()  # or the disk is still writing while the first side runs
    return files


def bare(files: list[Path], num_processes: int, folder: Path) -> float:
    """Seconds of the bare loop, its processes' start included, as ours are."""
    started = time.perf_counter()
    running = []
    for part in range(num_processes):
        listing = folder / f"part{part}.txt"
        listing.write_text("\n".join(map(str, files[part::num_processes])))
        running.append(subprocess.Popen([sys.executable, "-c", BARE, str(listing)], stderr=subprocess.DEVNULL))
    for process in running:
        process.wait()
    return time.perf_counter() - started


def resident_mb() -> float:
    """Resident memory of this process and of its workers."""
    pids = ["self", *(str(worker.pid) for worker in running_workers())]
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(pages) * 4096 / 1e6


def running_workers() -> list[subprocess.Popen]:
    """The processes of the pool that is in use."""
    return [worker._process for pool in POOLS for worker in pool._workers if worker._process is not None]


POOLS: list[workers.DecodePool] = []


class MemoryWatch(threading.Thread):
    """Looks at the resident memory until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._seen_mb: list[float] = []
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.1):
            with contextlib.suppress(FileNotFoundError):  # a worker that has just ended
                self._seen_mb.append(resident_mb())

    def fifths(self) -> list[int]:
        """The largest in each fifth of the time watched (MB)."""
        self._stopped.set()
        self.join()
        count = len(self._seen_mb)
        return [round(max(self._seen_mb[part * count // 5 : (part + 1) * count // 5], default=0)) for part in range(5)]


def ours(folder: Path, num_workers: int) -> tuple[float, int, list[int]]:
    """(seconds, rejected files, resident memory by fifths) of a first catalog, the workers' start included."""
    file = folder / "project.yaml"
    settings = {
        "clips": {"path": "clips", "max_reject_share": 0.9},
        "queries": {"path": "clips"},
        "engine": {"decode_workers": num_workers},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ws = Workspace(load_config(file))
    workers.decode_pool.cache_clear()
    watch = MemoryWatch()
    watch.start()
    started = time.perf_counter()
    POOLS[:] = [workers.decode_pool(num_workers, ws.config.engine.decode_timeout_s)]
    publication = publish_clip_catalog(ws)
    seconds = time.perf_counter() - started
    return seconds, publication.counts.rejected, watch.fifths()


def main() -> None:
    """Print a line for each round, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--broken", type=float, default=0.05)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, default=10, help="times 64 pixels is the films' side; 10 gives as many pixels as 480 x 832")
    arguments = parser.parse_args()
    ratios = []
    memory = []
    for number in range(arguments.rounds):
        folder = Path(tempfile.mkdtemp())
        try:
            files = make_files(folder / "clips", arguments.clips, arguments.broken, scale=arguments.scale, round_number=number)
            bare_s = bare(files, arguments.workers, folder) if number % 2 else 0.0
            ours_s, rejected, fifths = ours(folder, arguments.workers)
            bare_s = bare_s or bare(files, arguments.workers, folder)
        finally:
            for pool in POOLS:
                pool.close()
            shutil.rmtree(folder)
        memory.append(fifths)
        ratios.append(bare_s / ours_s)
        print(
            f"bare {arguments.clips / bare_s:.0f} files/s, ours {arguments.clips / ours_s:.0f} files/s ({rejected} rejected), "
            f"ratio {bare_s / ours_s:.2f}, resident memory by fifths of the run {fifths} MB",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.2f} (ours / bare, of the rate); last fifths {[fifths[-1] for fifths in memory]} MB")


if __name__ == "__main__":
    main()
