"""What `motive run` costs when nothing has changed, at a catalog of many clips: start-up, looking at the files, asking what is stale.

    python -m benchmarks.noop_run [--clips 10000] [--rounds 3]
    python -m benchmarks.noop_run --clips 20 --all       # every asset materialized: what the number of assets costs
    python -m benchmarks.noop_run --clips 100000 --scan  # only looking at the files again, hashed once and unchanged

The clips are copies of one tiny film, told apart by some bytes behind its end (a `free` box, which every reader skips). Without `--all` only
the catalogs are materialized, since ten thousand gradients take hours on a CPU: a run that finds nothing stale looks at every file, and
asks Dagster about every asset, but opens no row. "Start-up" is a process that imports Dagster, loads this code location and opens its
instance, and does nothing else.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from motive_pipeline.clips.demo import render_clip, sample_spec
from motive_pipeline.clips.encode import write_mp4
from motive_pipeline.clips.scan import HashMemory, scan
from motive_pipeline.clips.sources import clip_source
from motive_pipeline.config import load_config
from motive_pipeline.storage.workspace import Workspace

CATALOGS = 'key:"clip_catalog" or key:"query_catalog"'
START_UP = "import sys, assets.definitions as d; from assets.instance import open_instance; open_instance(d.load_config()).dispose()"
PER_FOLDER = 1000


def make_film(file: Path) -> None:
    """A second of a shape that moves."""
    rng = np.random.default_rng(0)
    write_mp4(file, render_clip(sample_spec(rng, motion="right")), 16.0)


def make_clips(folder: Path, count: int) -> None:
    """``count`` films of different content with a caption each, some thousand in a folder."""
    film = folder / "film.mp4"
    folder.mkdir(parents=True)
    make_film(film)
    data = film.read_bytes()
    film.unlink()
    for number in range(count):
        below = folder / f"{number // PER_FOLDER:04d}"
        below.mkdir(exist_ok=True)
        (below / f"{number:07d}.mp4").write_bytes(data + b"\0\0\0\x10free" + number.to_bytes(8, "big"))
        (below / f"{number:07d}.txt").write_text(f"film number {number}", encoding="utf-8")


def make_project(folder: Path, count: int) -> Path:
    """A config over ``count`` clips and two queries."""
    make_clips(folder / "clips", count)
    make_clips(folder / "all_queries", 2)
    file = folder / "project.yaml"
    settings = {
        "clips": {"path": "clips", "num_frames": 17, "width": 64, "height": 64},
        "queries": {"path": "all_queries"},
        "model": {"path": "tiny", "dtype": "float32"},
        "finetune": {"steps": 2, "batch_size": 2},
        "generate": {"num_steps": 2},
        "evaluate": {"bootstrap_samples": 100, "held_out_draws": 2},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def timed(*command: str) -> float:
    """Seconds of a process of its own."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - started


def rescan(file: Path) -> tuple[float, float, int]:
    """(seconds, of them of processor time, files read) of looking at all clips again, in this process."""
    ws = Workspace(load_config(file))
    started, computed = time.perf_counter(), time.process_time()
    found = scan(clip_source(ws), HashMemory(ws.state))
    return time.perf_counter() - started, time.process_time() - computed, found.num_hashed


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="materialize every asset")
    parser.add_argument("--scan", action="store_true", help="no run: hash the files once, then look at them again")
    parser.add_argument("--keep", type=Path, help="make the project here and leave it")
    arguments = parser.parse_args()
    select = [] if arguments.all else ["--select", CATALOGS]
    folder = arguments.keep or Path(tempfile.mkdtemp())
    try:
        file = folder / "project.yaml"
        if not file.exists():
            started = time.perf_counter()
            make_project(folder, arguments.clips)
            print(f"{arguments.clips} clips made in {time.perf_counter() - started:.1f} s", flush=True)
            time.sleep(3)  # a file younger than two seconds is not trusted to be at rest
            if arguments.scan:
                print(f"first scan: {rescan(file)[0]:.1f} s", flush=True)
                for _ in range(arguments.rounds):
                    again, computed, num_hashed = rescan(file)
                    print(f"re-scan {again:.2f} s, {computed:.2f} s of processor time ({num_hashed} read again)", flush=True)
                return
            first = timed("-m", "motive_pipeline.cli", "run", "--config", str(file), "--quiet", *select)
            print(f"first run: {first:.1f} s", flush=True)
        for _ in range(arguments.rounds):
            again, _, num_hashed = rescan(file)
            start_up = timed("-c", f"import os; os.environ['MOTIVE_CONFIG'] = {str(file)!r}; {START_UP}")
            noop = timed("-m", "motive_pipeline.cli", "run", "--config", str(file), "--quiet", *select)
            print(
                f"no-op run {noop:.2f} s, start-up {start_up:.2f} s, beyond it {noop - start_up:.2f} s; "
                f"re-scan {again:.2f} s = {arguments.clips / again:.0f} files/s ({num_hashed} read again)",
                flush=True,
            )
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
