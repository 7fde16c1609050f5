"""The table of docs/scaling.md: time, bytes and memory of each stage for 1, 10 and 100 million clips, from measured constants.

    python -m benchmarks.scale_on_paper [--config configs/wan2.1-t2v-1.3b.yaml] [--gpu H200] [--queries 50] [--clips 1000000 10000000 100000000]

Nothing is run: a constant is multiplied by the number of clips (or by its square, where the row store looks at every commit at each commit). What was measured at
a million clips is extended in proportion beyond, which nobody has measured.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import common
from benchmarks.cluster_sim import Constants
from motive_pipeline.config import Config, load_config
from motive_pipeline.models.chips import Chip, chip_named
from motive_pipeline.outlook import VIDEO_BYTES_A_PIXEL, Workload, outlook

ENGINE = Constants(row_s=1.0)
"""Of the driver; the row's time is not used."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One machine, a million clips; docs/performance.md has the commands."""

    catalog_files_a_s: float = 225.0
    """``catalog_rate``: files read, hashed and probed by one process."""
    unchanged_file_s: float = 8.8 / 100_000
    """``noop_run --scan``."""
    listed_clip_bytes: float = (1095 - 144) * 1e6 / 1e6
    """``million_rows``, step ``listing``: what a run holds of each clip before its first row."""
    influence_entry_s: float = 29.6 / 50e6
    """The same, step ``influence`` (512 entries a gradient; matrix, hash, ranks and table), for each clip and query. Wall time; 24.2 s of processor time."""
    influence_table_bytes: float = 25.3
    """The same: of the Parquet table, for each clip and query."""
    vote_clip_s: float = 13.2 / 1e6
    """The same, step ``vote``."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table: what it is, its value for each number of clips, and what the value rests on."""

    what: str
    values: Sequence[str]
    source: str


def lines(config: Config, chip: Chip, sizes: Sequence[int], num_queries: int, found: Measured) -> Iterator[Line]:
    """The whole table."""
    clips = config.clips
    video_bytes = VIDEO_BYTES_A_PIXEL * clips.num_frames * clips.height * clips.width
    yield _line("clips read and hashed", sizes, lambda n: shown_bytes(n * video_bytes), "0.02 bytes a pixel and frame, assumed")
    yield _line("catalog, one process", sizes, lambda n: shown_s(n / found.catalog_files_a_s), "`catalog_rate`")
    yield _line("a second look at unchanged files", sizes, lambda n: shown_s(n * found.unchanged_file_s), "`noop_run --scan`")
    yield _line("memory of a run that lists them", sizes, lambda n: shown_bytes(n * found.listed_clip_bytes), "`million_rows`, `listing`")
    costs = [outlook(config, chip, Workload(num_clips=n, num_queries=num_queries)).ranking for n in sizes]
    for place, stage in enumerate(("latents", "gradients")):
        each = [cost[place] for cost in costs]
        how = "measured" if each[0].is_measured else "reckoned"
        yield Line(what=f"{stage}, GPU time", values=[f"{cost.device_hours:,.0f} h" for cost in each], source=f"`motive plan`, {how}")
        yield Line(what=f"{stage}, stored", values=[shown_bytes(cost.disk_gb * 1e9) for cost in each], source="shapes")
    yield _line("driver, answers", sizes, lambda n: shown_s(n * ENGINE.driver_row_s), "`cluster_constants driver`")
    yield _line("writer, commits of 32 gradients", sizes, lambda n: shown_s(commits_s(n, 32)), "`cluster_constants commits`")
    yield _line("the same, 512 a commit", sizes, lambda n: shown_s(commits_s(n, 512)), "the same")
    yield _line("influence matrix", sizes, lambda n: shown_bytes(4.0 * n * num_queries), "float32, clips x queries")
    yield _line("influence, with ranks and table", sizes, lambda n: shown_s(n * num_queries * found.influence_entry_s), "`million_rows`")
    yield _line("its Parquet table", sizes, lambda n: shown_bytes(n * num_queries * found.influence_table_bytes), "`million_rows`")
    yield _line("vote and ranking", sizes, lambda n: shown_s(n * found.vote_clip_s), "`million_rows`")


def commits_s(num_rows: int, commit_rows: int) -> float:
    """What the commits of a stage take in all."""
    return num_rows * (ENGINE.commit_row_s + ENGINE.commit_s / commit_rows)


def _line(what: str, sizes: Sequence[int], value: Callable[[int], str], source: str) -> Line:
    return Line(what=what, values=[value(size) for size in sizes], source=source)


def shown_s(seconds: float) -> str:
    """A time in its nearest unit."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def shown_bytes(size: float) -> str:
    """A size in its nearest unit."""
    for unit, power in (("PB", 15), ("TB", 12), ("GB", 9)):
        if size >= 10**power:
            return f"{size / 10**power:.3g} {unit}"
    return f"{size / 1e6:.0f} MB"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=common.REPOSITORY / "configs" / "wan2.1-t2v-1.3b.yaml")
    parser.add_argument("--gpu", default="H200")
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--clips", type=int, nargs="*", default=[1_000_000, 10_000_000, 100_000_000])
    options = parser.parse_args()
    print("| | " + " | ".join(f"{size:,}" for size in options.clips) + " | from |")
    print("|---|" + "---:|" * len(options.clips) + "---|")
    for line in lines(load_config(options.config), chip_named(options.gpu), options.clips, options.queries, Measured()):
        print(f"| {line.what} | {' | '.join(line.values)} | {line.source} |")


if __name__ == "__main__":
    main()
