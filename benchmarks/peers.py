"""Ours beside the libraries that exist: the same clips, the same model and the same loss of each clip through TRAK, dattri and bergson.

    python -m venv /tmp/peers
    /tmp/peers/bin/pip install -c constraints.txt -e . traker==0.3.2 dattri==0.3.0 bergson==2.5.1
    /tmp/peers/bin/pip uninstall -y torchvision torchaudio      # built for another torch, and transformers fails to import with them
    python -m benchmarks.peers --python /tmp/peers/bin/python [--clips 64] [--rounds 3] [--sides ...] [--json]

The model is gradient_pass.py's (11.4 M parameters, 720 tokens), on a CPU. Each side runs over all clips in a process of its own, all in the
peers' environment and with one thread; in each round they follow one another. Sides that draw a dense 11.4 M x 512 matrix take minutes and
run in the first round only. Quality: cosines of the clips with 8 queries against the whole gradients' (common.py). A peer that fails is
shown with its last words. peer_sides.py says what of each library is called.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import common
from benchmarks.common import Cost, Line
from benchmarks.gradient_pass import NUM_QUERIES, PROJECTIONS, exact_cosines

OURS = tuple(name for name in ("fastfood", "factored") if name in PROJECTIONS)
FAST_PEERS = ("dattri-logra", "bergson")
DENSE_PEERS = ("trak", "dattri", "bergson-global")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers (default: this one)")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=[*FAST_PEERS, *DENSE_PEERS], help="peers to run (default: all)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.set_num_threads(1)
        exact_QN = exact_cosines(common.build_model(torch.device("cpu")), common.drawn_clips(arguments.clips + NUM_QUERIES))
        rounds = [one_round(number, folder, arguments) for number in range(arguments.rounds)]
        found = {side: common.quality(cosines_of(folder, side), exact_QN) for side, run in rounds[0].items() if "failed" not in run}
    lines = [line for peer in arguments.sides for line in lines_of(peer, rounds, found, arguments.clips)]
    given = f"{arguments.clips} clips and {NUM_QUERIES} queries, {common.NUM_TOKENS} tokens"
    title = f"{given}, spread of the exact cosines {exact_QN.std():.3f}"
    common.report(title, lines, as_json=arguments.json)


def one_round(number: int, folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each side cost, by side; every other round goes backwards."""
    sides = [*OURS, *(side for side in arguments.sides if number == 0 or side not in DENSE_PEERS)]
    return {side: run_side(side, folder, arguments) for side in (sides if number % 2 == 0 else reversed(sides))}


def run_side(side: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own; ``failed`` holds its last words if it died."""
    command = [arguments.python, "-W", "ignore", "-m", "benchmarks.peer_sides", side, "--folder", str(folder)]
    command += ["--clips", str(arguments.clips + NUM_QUERIES)]
    environment = {**os.environ, "PYTHONPATH": str(common.REPOSITORY), "OMP_NUM_THREADS": "1", "TMPDIR": str(folder)}
    done = subprocess.run(command, cwd=common.REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode < 0:
        return {"failed": f"killed by signal {-done.returncode}, as for want of memory"}
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": said[-1] if said else f"exit code {done.returncode}"}
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"  {side}: {result['seconds']:.1f} s, {result['cpu_s']:.1f} s of processor time, {result['peak_mb']:.0f} MB", file=sys.stderr)
    return result


def cosines_of(folder: Path, side: str) -> np.ndarray:
    """Cosines [query, clip] of the features that ``side`` wrote; the queries come first."""
    rows = np.load(folder / f"{side}.npy")
    return common.cosines(rows[:NUM_QUERIES], rows[NUM_QUERIES:])


def lines_of(peer: str, rounds: list[dict[str, dict[str, Any]]], found: dict[str, common.Quality], num_clips: int) -> list[Line]:
    """Each of our projections beside one peer."""
    if "failed" in rounds[0][peer]:
        return [Line(what="ours", against=peer, ratio=float("nan"), details={"does not run": rounds[0][peer]["failed"]})]
    both = [number for number in range(len(rounds)) if peer in rounds[number]]
    lines = []
    for own in OURS:
        pairs = [(rounds[number][own], rounds[number][peer]) for number in both]
        costs = [tuple(Cost(seconds=run["seconds"], cpu_s=run["cpu_s"]) for run in pair) for pair in pairs]
        ratios = common.ratios([a for a, _ in costs], [b for _, b in costs])
        seconds = tuple(common.median_s([pair[side] for pair in costs]) / (num_clips + NUM_QUERIES) for side in (0, 1))
        details = {
            f"{name} of {side}": value
            for side in (own, peer)
            for name, value in {"entries": rounds[0][side]["entries"], **asdict(found[side])}.items()
        }
        peak = pairs[0][0]["peak_mb"], pairs[0][1]["peak_mb"]
        lines.append(Line(what=own, against=peer, **ratios, at_most=1.0, seconds=seconds, peak_mb=peak, details=details))
    return lines


if __name__ == "__main__":
    main()
