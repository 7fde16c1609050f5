"""What it takes to get at a video that lies as bytes in a Parquet file, by the size of its row groups.

    python -m benchmarks.parquet_videos [--videos 200] [--megabytes 2] [--groups 10 100]

The bytes are noise, which does not compress, as videos do not. The files lie in the page cache. In order: as the rows are hashed. By chance: as the
stages read clips, in the order of their ids.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.files.parquet_column import cell_name, read_cell


def milliseconds(file: Path, rows: Sequence[int]) -> float:
    """For one of ``rows``, on average."""
    started = time.perf_counter()
    for row in rows:
        read_cell(file, cell_name("video", row))
    return 1000 * (time.perf_counter() - started) / len(rows)


def main() -> None:
    """Print a line for each size of row group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=2.0)
    parser.add_argument("--groups", type=int, nargs="+", default=[10, 100])
    arguments = parser.parse_args()
    noise = np.random.default_rng(0)
    cells = [{"bytes": noise.bytes(round(arguments.megabytes * 1e6)), "path": f"{number}.mp4"} for number in range(arguments.videos)]
    rows = range(1, arguments.videos + 1)
    by_chance = random.Random(0).sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as name:
        for size in arguments.groups:
            file = Path(name, f"{size}.parquet")
            pq.write_table(pa.Table.from_pylist([{"video": cell} for cell in cells]), file, row_group_size=size)
            in_order_ms, by_chance_ms = milliseconds(file, rows), milliseconds(file, by_chance)
            print(f"row groups of {size}: {in_order_ms:.1f} ms a video in order, {by_chance_ms:.1f} ms by chance", flush=True)


if __name__ == "__main__":
    main()
