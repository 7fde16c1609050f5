"""Influence, vote, selection and the score table at a million clips, against the least that could be done.

    python benchmarks/influence_scale.py [--clips N] [--queries Q] [--threads T] [--folder DIR] [--json]

Two ratios. ``curation``: influence from Zarr on disk to a matrix on disk, vote, ranking and selection, against reading the same array block
by block and multiplying each block once in float32. ``table``: writing the ``influence`` score table (ranks included) as Parquet, against
DuckDB's own COPY of the same rows from a table of its own. Each part runs in a process of its own, so that its peak memory is its own;
files are in the page cache, for both sides. The parts of a ratio alternate, and the fastest of ``--rounds`` counts.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zarr

PROJ_DIM = 512
ROWS = 4096
LIMITS = {"curation": ("ours_curation", "bare_curation", 1.5), "table": ("ours_table", "bare_table", 1.3)}


def main() -> None:
    options = parse_options()
    if options.part:
        print(json.dumps(run_part(options.part, options.folder, options.threads)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_gradients(folder / "gradients", options.clips, options.queries)
        parts = [measured(part, folder, options) for _ in range(options.rounds) for part in PARTS]
    report(parts, options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the temporary files lie (about 8 KB a clip)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_gradients(folder: Path, num_clips: int, num_queries: int) -> None:
    """Random unit rows in the format of the gradient stage: chunks of 4096 x 512, not compressed."""
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    random = np.random.default_rng(0)
    for name, count in (("query", num_queries), ("clip", num_clips)):
        ids = np.array([f"{number:016x}".encode() for number in np.sort(random.permutation(count * 16)[:count])], dtype="S16")
        group.create_array(f"{name}_id", data=ids, compressors=None)
        rows = group.create_array(name, shape=(count, PROJ_DIM), dtype="float32", chunks=(min(ROWS, count), PROJ_DIM), compressors=None)
        for start in range(0, count, ROWS):
            block = random.standard_normal((min(ROWS, count - start), PROJ_DIM), dtype=np.float32)
            rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)


def measured(part: str, folder: Path, options: argparse.Namespace) -> dict[str, float | str]:
    """Seconds and peak memory of a part, run in a process of its own."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder), "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    if not options.json:
        print(f"  {part}: {result['seconds']:.2f} s, peak {result['peak_mb']:.0f} MB", file=sys.stderr)
    return {"part": part, **result}


def run_part(part: str, folder: Path, threads: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)
    seconds = PARTS[part](folder, threads)
    return {"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def bare_curation(folder: Path, threads: int) -> float:
    """Read the array and multiply it once by the queries."""
    import torch

    del threads
    group = zarr.open_group(folder / "gradients", mode="r")
    clips = group["clip"]
    queries = torch.from_numpy(group["query"][:])
    influence = torch.empty(len(queries), ROWS)
    started = time.perf_counter()
    for start in range(0, clips.shape[0], ROWS):
        block = torch.from_numpy(clips[start : start + ROWS])
        torch.mm(queries, block.T, out=influence[:, : len(block)])
    return time.perf_counter() - started


def ours_curation(folder: Path, threads: int) -> float:
    """Influence to a matrix on disk, vote, ranking, and the ids of the clips chosen."""
    from motive_pipeline.attribution.influence import InfluenceMatrix
    from motive_pipeline.attribution.tiles import stream_influence, tile_clips
    from motive_pipeline.curation.vote import majority_vote, matrix_blocks, num_selected, ranking_order

    group = zarr.open_group(folder / "gradients", mode="r")
    started = time.perf_counter()
    matrix = InfluenceMatrix(folder / "matrix", group["query_id"][:], group["clip_id"][:], {})
    width = tile_clips(group["clip"], PROJ_DIM)
    matrix.fill(stream_influence(group["query"][:], group["clip"], clips_per_tile=width, threads=threads))
    content = matrix.content()
    clip_ids = group["clip_id"][:]
    order = ranking_order(majority_vote(matrix_blocks(matrix.group, clip_ids), 90.0))
    chosen = clip_ids[order[: num_selected(len(clip_ids), 0.1)]]
    seconds = time.perf_counter() - started
    print(f"{len(chosen)} chosen, content {content}", file=sys.stderr)
    return seconds


def ours_table(folder: Path, threads: int) -> float:
    """The score table from the matrix on disk."""
    from motive_pipeline.attribution.influence_table import write_influence_table

    del threads
    matrix = zarr.open_group(folder / "matrix", mode="r")
    started = time.perf_counter()
    write_influence_table(folder / "ours.parquet", "motive", matrix)
    return time.perf_counter() - started


def bare_table(folder: Path, threads: int) -> float:
    """DuckDB's COPY of the same rows, which lie in a table of its own."""
    import duckdb

    source = folder / "rows.duckdb"
    fresh = not source.exists()
    with duckdb.connect(str(source), config={"threads": threads}) as connection:
        if fresh:
            connection.execute(f"CREATE TABLE influence AS FROM read_parquet('{folder / 'ours.parquet'}')")
            connection.execute("CHECKPOINT")
        connection.execute("SELECT sum(rank), max(influence), min(clip_id), min(query_id), min(variant) FROM influence").fetchall()
        started = time.perf_counter()
        connection.execute(f"COPY influence TO '{folder / 'duckdb.parquet'}' (FORMAT parquet)")
        return time.perf_counter() - started


PARTS: dict[str, Callable[[Path, int], float]] = {
    "bare_curation": bare_curation,
    "ours_curation": ours_curation,
    "ours_table": ours_table,
    "bare_table": bare_table,
}


def report(parts: list[dict], options: argparse.Namespace) -> None:
    best = {part: min((run for run in parts if run["part"] == part), key=lambda run: run["seconds"]) for part in PARTS}
    rows = []
    for name, (ours, bare, limit) in LIMITS.items():
        ratio = best[ours]["seconds"] / best[bare]["seconds"]
        rows.append({"what": name, "ratio": round(ratio, 3), "at_most": limit, "ours": best[ours], "bare": best[bare]})
    if options.json:
        print(json.dumps({"clips": options.clips, "queries": options.queries, "threads": options.threads, "rows": rows}))
        return
    print(f"{options.clips} clips x {options.queries} queries x {PROJ_DIM}, {options.threads} threads")
    for row in rows:
        ours, bare = row["ours"], row["bare"]
        print(
            f"{row['what']:9} {row['ratio']:6.2f} (at most {row['at_most']})   ours {ours['seconds']:.2f} s, {ours['peak_mb']:.0f} MB"
            f"   bare {bare['seconds']:.2f} s, {bare['peak_mb']:.0f} MB"
        )


if __name__ == "__main__":
    main()
