"""What `motive run` costs when nothing has changed, at a catalog of many clips: start-up, looking at the files, asking what is stale.

    python -m benchmarks.noop_run [--clips 10000] [--rounds 3]
    python -m benchmarks.noop_run --clips 20 --all       # every asset materialized: what the number of assets costs
    python -m benchmarks.noop_run --clips 100000 --scan  # only the look at the files

The clips are copies of one tiny film, told apart by some bytes behind its end (a `free` box, which every reader skips). Without `--all` only
the catalogs are materialized, since ten thousand gradients take hours on a CPU: a run that finds nothing stale looks at every file, and
asks Dagster about every asset, but opens no row. "Start-up" is a process that imports Dagster, loads this code location and opens its
instance, and does nothing else. Times are wall time, with processor time behind them: the one to trust on a machine that does other work.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from benchmarks.common import Cost, measured
from motive_pipeline.catalog.scan import scan
from motive_pipeline.config import load_config
from motive_pipeline.demo.generator import render_clip, sample_spec
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.sources.configured import clip_source
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.encode import write_mp4

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


def timed(*command: str) -> Cost:
    """What a process of its own costs."""
    before, started = _children_cpu_s(), time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Cost(seconds=time.perf_counter() - started, cpu_s=_children_cpu_s() - before)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rescan(file: Path) -> tuple[Cost, int]:
    """What looking at all clips again costs, in this process, and how many files were read for it."""
    ws = Workspace(load_config(file))
    found = []
    cost = measured(lambda: found.append(scan(clip_source(ws), HashMemory(ws.state))))
    return cost, found[0].num_hashed


def shown(cost: Cost) -> str:
    """Wall time and processor time."""
    return f"{cost.seconds:.2f} s ({cost.cpu_s:.2f})"


def main() -> None:
    """Print one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--all", action="store_true", help="materialize every asset")
    parser.add_argument("--scan", action="store_true", help="run nothing, only look at the files")
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
            first = (
                rescan(file)[0] if arguments.scan else timed("-m", "motive_pipeline.cli", "run", "--config", str(file), "--quiet", *select)
            )
            print(f"first {'look' if arguments.scan else 'run'}: {shown(first)}", flush=True)
        for _ in range(arguments.rounds):
            again, num_hashed = rescan(file)
            print(f"re-scan {shown(again)} = {arguments.clips / again.seconds:.0f} files/s ({num_hashed} read again)", flush=True)
            if arguments.scan:
                continue
            start_up = timed("-c", f"import os; os.environ['MOTIVE_CONFIG'] = {str(file)!r}; {START_UP}")
            noop = timed("-m", "motive_pipeline.cli", "run", "--config", str(file), "--quiet", *select)
            beyond = Cost(seconds=noop.seconds - start_up.seconds, cpu_s=noop.cpu_s - start_up.cpu_s)
            print(f"no-op run {shown(noop)}, start-up {shown(start_up)}, beyond it {shown(beyond)}", flush=True)
    finally:
        if arguments.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
