"""What the wish ``max_similarity`` of an arm costs: the time of the picks from many clips, whose gradients are random, or nearly those of other clips.

python -m benchmarks.similar_clips --clips 100000 --choose 10000 --copies 10
"""

from __future__ import annotations

import argparse
import tempfile
import time
from itertools import repeat
from pathlib import Path

import numpy as np

from motive_pipeline.curation.picking import pick
from motive_pipeline.curation.redundancy import SimilarityLimit


def gradients(file: Path, num_clips: int, proj_dim: int, copies: int) -> np.ndarray:
    """Unit rows in a file, in groups of ``copies`` that are nearly equal."""
    rng = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=(num_clips, proj_dim))
    for start in range(0, num_clips, 4096):
        stop = min(start + 4096, num_clips)
        for row in range(start, stop):
            rows[row] = rng.standard_normal(proj_dim) if row % copies == 0 else rows[row - 1] + 1e-3 * rng.standard_normal(proj_dim)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=100_000)
    parser.add_argument("--choose", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--copies", type=int, default=1, help="clips in a group of near-copies, which lie beside each other in the ranking")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = gradients(Path(folder) / "gradients.npy", arguments.clips, arguments.dim, arguments.copies)
        started = time.perf_counter()
        picked = pick(
            [np.arange(arguments.clips)],
            repeat(0),
            [SimilarityLimit(rows, 0.95)],
            length_N=np.ones(arguments.clips, dtype=np.int64),
            most=arguments.choose,
        )
        seconds = time.perf_counter() - started
    print(f"{len(picked.positions)} chosen, {len(picked.refused)} gave way: {seconds:.1f} s")


if __name__ == "__main__":
    main()
