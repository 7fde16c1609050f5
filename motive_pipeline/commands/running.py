"""``motive run`` and ``motive demo``: bring assets up to date, and say what became of each."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from motive_pipeline.commands import sharding
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # it imports Dagster
    from assets.run_stale import Report

UNTIL = {
    "catalog": ("clip_catalog", "query_catalog"),
    "ranking": ("voted_ranking",),
    "subset": ("curated_subset",),
    "videos": ("generated_videos",),
    "report": ("eval_report",),
}
"""The words of ``motive run --until`` and the assets (of every variant or arm) that they stand for. Each includes the words before it."""


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``run`` and ``demo`` to the command line."""
    parser = command("run", run, "Bring the assets up to date. Only stale assets run.")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--select", metavar="ASSETS", help="Dagster's selection syntax, for instance '+key:\"voted_ranking/motive\"'")
    which.add_argument(
        "--until", choices=tuple(UNTIL), help="stop after these assets, for all variants and arms; one ranking alone: `motive rank`"
    )
    which.add_argument(
        "--shard",
        type=sharding.share,
        metavar="I/N",
        help="compute the rows of every N-th part of the clips (I from 1), for `motive merge`; needs the catalogs: --until catalog",
    )
    sharding.add_folder_option(parser)
    parser.add_argument("--json", action="store_true", help="print the result of each asset as one line of JSON at the end of stdout")
    parser.add_argument("--quiet", action="store_true", help="no progress lines")
    parser.add_argument("--summary", action="store_true", help="print the report's path, the best clips and the arms at the end")
    demo = command("demo", run, "Run the demo: generated clips and a tiny model. Writes motive.yaml and all results into a folder.")
    demo.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="an empty or new folder (default: the current one)")
    demo.add_argument("--quiet", action="store_true", help="no progress lines")
    demo.set_defaults(prepare=_write_demo, select=None, until=None, shard=None, shards_folder=None, json=False, summary=True)


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Run what is stale; the exit code is 0 if all that was asked for is up to date. With ``--shard``, make the rows of one shard instead."""
    if arguments.shard is not None:
        return sharding.run(config, arguments)
    if arguments.shards_folder is not None:
        raise MotiveError("--shards-folder belongs to --shard I/N (or to `motive merge`).")
    from assets.run_stale import run_stale
    from motive_pipeline.storage.workspace import Workspace

    if arguments.summary and arguments.until not in (None, "report"):
        raise MotiveError(f"--summary is about the report, which --until {arguments.until} leaves out. Use --until report, or none.")
    selection = arguments.select if arguments.until is None else assets_until(Graph(config), arguments.until)
    started = time.monotonic()
    report = run_stale(config, selection)
    print_assets(report, time.monotonic() - started)
    workspace = Workspace(config)
    if arguments.summary and report.ok:
        from motive_pipeline.report.summary import summary

        tell(summary(workspace))
    if arguments.json:
        print(json.dumps({"assets": {name: run.as_json() for name, run in report.assets.items()}}))
    warn_of_lost_queries(workspace)
    return 0 if report.ok else 1


def assets_until(graph: Graph, word: str) -> list[str]:
    """The assets that ``motive run --until WORD`` brings up to date, parents first."""
    words = list(UNTIL)
    wanted = {name for each in words[: words.index(word) + 1] for name in UNTIL[each]}
    return graph.with_ancestors(graph.where(lambda asset: asset.name in wanted))


def print_assets(report: Report, seconds: float) -> None:
    """Print, on stderr, the assets that ran with their times and shares of the time, then the failures."""
    ran = {name: run for name, run in report.assets.items() if run.seconds or run.status in ("failed", "blocked")}
    if not ran:
        tell(f"nothing is stale: {len(report.assets)} assets are up to date ({seconds:.1f} s)", file=sys.stderr)
    else:
        width = max(map(len, ran))
        tell(f"\n{'asset':{width}}  {'status':9}  {'computed':>8} {'reused':>7} {'rejected':>8}  {'seconds':>7}  share", file=sys.stderr)
        for name, run in ran.items():
            share = run.seconds / seconds if seconds else 0.0
            tell(
                f"{name:{width}}  {run.status:9}  {run.rows_computed:8d} {run.rows_reused:7d} {run.rows_rejected:8d}  {run.seconds:7.1f}  {share:5.1%}",
                file=sys.stderr,
            )
        inside = sum(run.seconds for run in ran.values())
        tell(
            f"{'start-up, observing, bookkeeping':{width}}  {'':36}  {seconds - inside:7.1f}  {(seconds - inside) / seconds:5.1%}",
            file=sys.stderr,
        )
        tell(f"{'all':{width}}  {'':36}  {seconds:7.1f}", file=sys.stderr)
    for name, run in report.assets.items():
        if run.status in ("failed", "blocked"):
            tell(f"motive: {name} {run.status}: {run.error}", file=sys.stderr)


def warn_of_lost_queries(workspace) -> None:
    """Say on stderr if queries were rejected."""
    from motive_pipeline.catalog.reject_gate import lost_queries

    if warning := lost_queries(workspace):
        tell(f"motive: warning: {warning}", file=sys.stderr)


def _write_demo(arguments: argparse.Namespace) -> None:
    """Write the demo's settings, and make them those of this process."""
    from motive_pipeline.demo.project import write_demo_config

    if arguments.config:
        raise MotiveError("motive demo has settings of its own. To run others: motive run --config FILE")
    os.environ["MOTIVE_CONFIG"] = str(write_demo_config(Path(arguments.folder)))
