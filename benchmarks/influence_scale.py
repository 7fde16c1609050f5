"""Influence, vote, selection and the score table at a million clips, against the least that could be done.

    python -m benchmarks.influence_scale [--clips N] [--queries Q] [--threads T] [--rounds 3] [--folder DIR] [--json]

Curation: influence from Zarr on disk to a matrix on disk, vote, ranking and selection, against reading the same array block by block with zarr
and multiplying each block once in float32.
Table: writing the ``influence`` score table (ranks included) as Parquet, against DuckDB's own COPY of the same rows from a table of its own.
Each part runs in a process of its own, so that its peak memory is its own; files are in the page cache, for all sides.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import zarr

from benchmarks import common
from benchmarks.common import Cost, Line
from motive_pipeline.storage.zarr_groups import array_of, new_array, new_group, open_group, read_column, read_ids, write_ids

PROJ_DIM = 512
ROWS = 4096
AIMS = {
    "influence + vote + selection": ("ours_curation", "bare_curation", "reading the array + one matrix product", 3.0),
    "writing the influence table": ("ours_table", "bare_table", "DuckDB's own COPY of the same rows", 1.3),
}


def main() -> None:
    options = parse_options()
    if options.part:
        print(json.dumps(run_part(options.part, options.folder, options.threads)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        make_gradients(folder / "gradients", options.clips, options.queries)
        rounds = [one_round(number, folder, options) for number in range(options.rounds)]
    title = f"{options.clips:,} clips x {options.queries} queries x {PROJ_DIM}, {options.threads} thread(s)"
    common.report(title, [line_of(what, rounds) for what in AIMS], as_json=options.json)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the temporary files lie (about 8 KB a clip)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def make_gradients(folder: Path, num_clips: int, num_queries: int) -> None:
    """Random unit rows in the format of the gradient stage: chunks of 4096 x 512."""
    group = new_group(folder)
    random = np.random.default_rng(0)
    for name, count in (("query", num_queries), ("clip", num_clips)):
        ids = np.array([f"{number:016x}".encode() for number in np.sort(random.permutation(count * 16)[:count])], dtype="S16")
        write_ids(group, f"{name}_id", ids, name)
        rows = new_array(group, name, shape=(count, PROJ_DIM), dtype="float32", chunks=(ROWS, PROJ_DIM), dims=(name, "proj"))
        for start in range(0, count, ROWS):
            block = random.standard_normal((min(ROWS, count - start), PROJ_DIM), dtype=np.float32)
            rows[start : start + len(block)] = block / np.linalg.norm(block, axis=1, keepdims=True)


def one_round(number: int, folder: Path, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Every part once. The table is written after the matrix it is written from; which side of a line goes first alternates."""
    order = list(PARTS) if number % 2 == 0 else ["ours_curation", "bare_curation", "bare_table", "ours_table"]
    return {part: measured(part, folder, options) for part in order}


def measured(part: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, processor time and peak memory of a part, run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.influence_scale", "--part", part, "--folder", str(folder)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=common.REPOSITORY)
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"  {part}: {result['seconds']:.2f} s, {result['cpu_s']:.2f} s of processor time, {result['peak_mb']:.0f} MB", file=sys.stderr)
    return result


def run_part(part: str, folder: Path, threads: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(threads)
    cost = common.measured(PARTS[part](folder, threads))
    return {"seconds": cost.seconds, "cpu_s": cost.cpu_s, "peak_mb": common.peak_rss_mb()}


def bare_curation(folder: Path, threads: int) -> Callable[[], object]:
    """Read the array and multiply it once by the queries."""
    del threads
    clips = zarr.open_group(folder / "gradients", mode="r")["clip"]
    return one_product(folder, clips.shape[0], lambda start, stop: clips[start:stop])


def one_product(folder: Path, num_clips: int, read: Callable[[int, int], np.ndarray]) -> Callable[[], object]:
    import torch

    queries = torch.from_numpy(zarr.open_group(folder / "gradients", mode="r")["query"][:])
    influence = torch.empty(len(queries), ROWS)

    def run() -> None:
        for start in range(0, num_clips, ROWS):
            block = torch.from_numpy(read(start, min(start + ROWS, num_clips)))
            torch.mm(queries, block.T, out=influence[:, : len(block)])

    return run


def ours_curation(folder: Path, threads: int) -> Callable[[], object]:
    """Influence to a matrix on disk, vote, ranking, and the ids of the clips chosen."""
    from motive_pipeline.attribution.influence import InfluenceMatrix
    from motive_pipeline.attribution.influence_set import open_influence
    from motive_pipeline.attribution.tiles import stream_influence, tile_clips
    from motive_pipeline.curation.vote import majority_vote, num_selected, ranking_order

    group = open_group(folder / "gradients")
    shutil.rmtree(folder / "matrix", ignore_errors=True)

    def run() -> np.ndarray:
        clip_ids = read_ids(group, "clip_id")
        matrix = InfluenceMatrix(folder / "matrix", read_ids(group, "query_id"), clip_ids, {})
        clips = array_of(group, "clip")
        matrix.fill(
            stream_influence(
                read_column(group, "query"), clips, slice(0, PROJ_DIM), clips_per_tile=tile_clips(clips, PROJ_DIM), threads=threads
            )
        )
        matrix.content()
        order = ranking_order(majority_vote(open_influence(folder / "matrix").blocks(clip_ids), 90.0))
        return clip_ids[order[: num_selected(len(clip_ids), 0.1)]]

    return run


def ours_table(folder: Path, threads: int) -> Callable[[], object]:
    """The score table from the matrix on disk."""
    from motive_pipeline.attribution.influence_set import open_influence
    from motive_pipeline.attribution.influence_table import write_influence_table

    del threads
    matrix = open_influence(folder / "matrix")
    return lambda: write_influence_table(folder / "ours.parquet", "motive", matrix)


def bare_table(folder: Path, threads: int) -> Callable[[], object]:
    """DuckDB's COPY of the same rows, which lie in a table of its own and have been read once."""
    import duckdb

    source = folder / "rows.duckdb"
    fresh = not source.exists()
    connection = duckdb.connect(str(source), config={"threads": threads})
    if fresh:
        connection.execute(f"CREATE TABLE influence AS FROM read_parquet('{folder / 'ours.parquet'}')")
        connection.execute("CHECKPOINT")
    connection.execute("SELECT sum(rank), max(influence), min(clip_id), min(query_id), min(variant) FROM influence").fetchall()
    return lambda: connection.execute(f"COPY influence TO '{folder / 'duckdb.parquet'}' (FORMAT parquet)")


PARTS: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "bare_curation": bare_curation,
    "ours_curation": ours_curation,
    "ours_table": ours_table,
    "bare_table": bare_table,
}


def line_of(what: str, rounds: list[dict[str, dict[str, float]]]) -> Line:
    ours, bare, against, at_most = AIMS[what]
    costs = [[Cost(seconds=one[part]["seconds"], cpu_s=one[part]["cpu_s"]) for one in rounds] for part in (ours, bare)]
    return Line(
        what=what,
        against=against,
        **common.ratios(*costs),
        at_most=at_most,
        seconds=(common.median_s(costs[0]), common.median_s(costs[1])),
        peak_mb=(median(one[ours]["peak_mb"] for one in rounds), median(one[bare]["peak_mb"] for one in rounds)),
    )


if __name__ == "__main__":
    main()
