"""``motive rank``: from the files to one ranking and its subset, and no further. No other variant is computed, and nothing is trained."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from motive_pipeline.commands.exporting import add_layout_options, print_export
from motive_pipeline.commands.options import require_variant
from motive_pipeline.commands.planning import estimated_from
from motive_pipeline.commands.running import print_assets, warn_of_lost_queries
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # every command would wait for these imports
    import pandas as pd

    from assets.plan import Planned
    from motive_pipeline.storage.workspace import Workspace

SHOWN_CLIPS = 10


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What ``motive rank`` makes: the ranking of ``variant`` and the subset of ``arm``; one of them may be None, not both."""

    variant: str | None
    arm: str | None

    @property
    def assets(self) -> list[str]:
        """The assets that the run ends with."""
        ranking = [] if self.variant is None else [f"voted_ranking/{self.variant}"]
        return ranking if self.arm is None else [*ranking, f"curated_subset/{self.arm}"]


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``rank`` to the command line."""
    parser = command(
        "rank", rank, "Rank the clips: from the files to one ranking and its subset, without any training. Prints the cost first."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--arm", metavar="NAME", help="the arm whose choice is made (default: lead_arm)")
    which.add_argument("--variant", metavar="NAME", help="the gradient variant that ranks (default: that of the arm)")
    parser.add_argument("--dry-run", action="store_true", help="only print the cost")
    parser.add_argument("--export", metavar="FOLDER", help="then write the chosen clips to this new or empty folder; needs --for")
    add_layout_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress lines")


def rank(config: Config, arguments: argparse.Namespace) -> int:
    """Print the cost, run, print the first clips, and export them if asked to."""
    from assets.plan import plan
    from assets.run_stale import run_stale
    from motive_pipeline.storage.workspace import Workspace

    goal = goal_of(config, arm=arguments.arm, variant=arguments.variant)
    workspace = Workspace(config)
    _require_exportable(workspace, goal, arguments)
    assets = Graph(config).with_ancestors(goal.assets)
    tell(f"{' and '.join(goal.assets)}: {cost_line(plan(config, assets))}", flush=True)
    if arguments.dry_run:
        return 0
    started = time.monotonic()
    report = run_stale(config, assets)
    print_assets(report, time.monotonic() - started)
    warn_of_lost_queries(workspace)
    if not report.ok:
        return 1
    for line in result_lines(Workspace(config), goal):
        tell(line)
    if arguments.export is not None:
        assert goal.arm is not None
        print_export(Workspace(config), goal.arm, arguments.export, arguments)
    return 0


def goal_of(config: Config, *, arm: str | None, variant: str | None) -> Goal:
    """What is asked for: by default the lead arm's.

    Raises:
        MotiveError: there is no such arm or variant, or the arm is the base model.
    """
    if variant is not None:
        require_variant(config, variant)
        arms = [name for name in config.arms if config.arm(name).can_lead and config.arm(name).variant == variant]
        return Goal(variant=variant, arm=config.lead_arm if config.lead_arm in arms else next(iter(arms), None))
    declared = config.arm(arm or config.lead_arm)
    if declared.choose is None:
        others = [name for name in config.arms if name != declared.name]
        raise MotiveError(f"--arm {arm}: it trains on nothing, so it chooses no clips. Name another: {', '.join(others)}")
    return Goal(variant=declared.variant, arm=declared.name)


def cost_line(planned: Sequence[Planned]) -> str:
    """What ``planned`` would compute at most, in one line: rows, time, device-hours and disk, as far as earlier runs and published rates tell."""
    if not planned:
        return "nothing is stale"
    rows = {asset.asset: asset.rows for asset in planned if asset.rows}
    words = [_count(len(planned), "stale asset")]
    if rows:
        words.append(f"{_count(sum(rows.values()), 'row')} ({', '.join(f'{asset} {count}' for asset, count in rows.items())})")
    known = [asset for asset in planned if asset.seconds is not None]
    if known:
        seconds, hours, disk_mb = (sum(getattr(asset, name) or 0.0 for asset in known) for name in ("seconds", "device_hours", "disk_mb"))
        words.append(f"at most about {seconds:.0f} s, {hours:.3f} device-hours and {disk_mb:.1f} MB, {estimated_from(known)}")
    unknown = [asset.asset for asset in planned if asset.seconds is None]
    if unknown:
        words.append(f"no estimate yet for {'any of them' if not known else ', '.join(unknown)}")
    return "; ".join(words)


def result_lines(ws: Workspace, goal: Goal) -> list[str]:
    """The first clips of the ranking (where the arm has an order of its own: of the subset), and where ranking and subset lie."""
    ranking = None if goal.variant is None else ws.published(f"voted_ranking/{goal.variant}")
    subset = None if goal.arm is None else ws.published(f"curated_subset/{goal.arm}")
    tables = [found.table(name) for found, name in ((ranking, "ranking"), (subset, "subset")) if found is not None]
    lines = []
    if ranking is not None:
        file = ranking.data_folder / "ranking.parquet"
        lines.append(f"{_count(len(tables[0]), 'clip')} ranked by {ranking.facts['queries']} queries: {file}")
    if subset is not None:
        lines.append(f"{_count(len(tables[-1]), 'clip')} chosen by the arm {goal.arm}: {subset.data_folder / 'subset.parquet'}")
    shown = tables[0]
    if goal.arm is not None and not ws.config.arm(goal.arm).can_lead:
        shown = tables[-1] if ranking is None else tables[-1].merge(tables[0].drop(columns="rank"), on="clip_id", how="left")
    return [*_table_lines(ws, shown.head(SHOWN_CLIPS)), *lines, "`motive explain CLIP` says why a clip was or was not chosen"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _table_lines(ws: Workspace, first: pd.DataFrame) -> list[str]:
    """``first`` as aligned columns, with the path of each clip."""
    first = first.merge(ws.published("clip_catalog").table("catalog")[["clip_id", "path"]], on="clip_id")
    if "votes" not in first:
        return [f"{'rank':>4}  path", *(f"{row['rank']:4d}  {row['path']}" for row in first.to_dict("records"))]
    rows = (f"{row['rank']:4d}  {row['votes']:5.0f}  {row['mean_influence']:+14.4f}  {row['path']}" for row in first.to_dict("records"))
    return [f"{'rank':>4}  {'votes':>5}  {'mean influence':>14}  path", *rows]


def _require_exportable(workspace: Workspace, goal: Goal, arguments: argparse.Namespace) -> None:
    """Check the options of the export before any work.

    Raises:
        MotiveError: they do not go together, or the folder cannot take the export.
    """
    if (arguments.export is None) != (arguments.trainer is None):
        raise MotiveError("--export FOLDER and --for TRAINER belong together: where the clips go, and in which layout.")
    if arguments.export is None:
        return
    if goal.arm is None:
        raise MotiveError(
            f"--export: no arm takes the first clips of the variant {goal.variant}, so there is no subset to write. Add one to `arms`: "
            f"{{name: my_{goal.variant}, variant: {goal.variant}}}"
        )
    from motive_pipeline.export.subset import require_target

    require_target(workspace, goal.arm, Path(arguments.export), arguments.trainer, videos=arguments.videos, audio=arguments.audio)
