"""``motive plan``: what a run would do, why, and what it would cost. Computes nothing."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from motive_pipeline.commands.options import count, positive
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import Graph, Role
from motive_pipeline.visible_text import tell

if TYPE_CHECKING:  # it imports Dagster
    from assets.plan import Planned

SECONDS_AN_HOUR = 3600
CATALOGS: Mapping[str, Role] = {"clip_catalog": "clip", "query_catalog": "query"}
"""The assets that read every file whole, for its hash, and what the files hold."""


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``plan`` to the command line."""
    parser = command("plan", plan, "Show what a run would do, why, and what it would cost. Computes nothing.")
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of a table")
    parser.add_argument("--compare", action="store_true", help="set what the last run was expected to take against what it took")
    parser.add_argument("--select", metavar="ASSETS", help="only these, in Dagster's selection syntax, as for `motive run`")
    parser.add_argument("--workers", type=count, default=1, metavar="K", help="wall time if so many shards or workers share the rows")
    parser.add_argument("--price-per-hour", type=positive, metavar="P", help="what a machine costs an hour, in any currency")
    parser.add_argument(
        "--clips", type=count, metavar="N", help="with --gpu: what N clips will cost, without the clips or the model at hand"
    )
    parser.add_argument("--gpu", metavar="NAME", help="with --clips: the GPU, for instance H100")
    parser.add_argument("--queries", type=count, default=8, metavar="N", help="with --clips: the number of queries (default: 8)")
    parser.add_argument("--held-out", type=count, default=8, metavar="N", help="with --clips: the number of held-out queries (default: 8)")


def plan(config: Config, arguments: argparse.Namespace) -> int:
    """Print what would run, and the bill."""
    if arguments.compare:
        return _compare(config, arguments)
    if arguments.clips is not None or arguments.gpu is not None:
        return _plan_ahead(config, arguments)
    from assets.plan import plan as planned_now
    from assets.plan import selected

    planned = planned_now(config, None if arguments.select is None else selected(config, arguments.select))
    if arguments.json:
        print(json.dumps([vars(asset) for asset in planned]))
        return 0
    if not planned:
        tell("nothing is stale")
        return 0
    width = max(len(asset.asset) for asset in planned)
    for asset in planned:
        rows = "" if asset.rows is None else f"{asset.rows} rows"
        cost = "no estimate yet" if asset.seconds is None else f"about {asset.seconds:.0f} s"
        if arguments.price_per_hour is not None:
            cost += f" {'' if asset.seconds is None else f'{arguments.price_per_hour * asset.seconds / SECONDS_AN_HOUR:,.2f}':>10}"
        tell(f"{'runs' if asset.certain else 'may run':7}  {asset.asset:{width}}  {rows:>10}  {cost:>15}  {'; '.join(asset.reasons)}")
    graph = Graph(config)
    for line in bill_lines(planned, graph, workers=arguments.workers, price_per_hour=arguments.price_per_hour):
        tell(line)
    for line in traffic_lines(config, planned, graph):
        tell(line)
    _tell_memory(config)
    return 0


def bill_lines(planned: Sequence[Planned], graph: Graph, *, workers: int, price_per_hour: float | None) -> Iterator[str]:
    """The sums over all assets whose cost is known: time with its interval, device-hours, disk; with several workers the wall time, and what it costs.

    Workers share the rows of stages that shards compute. The rest runs on one machine, while the others are given back: more workers cost no more.
    """
    known = [asset for asset in planned if asset.seconds is not None]
    if not known:
        if price_per_hour is not None or workers > 1:
            yield "no bill yet: nothing was measured. `motive plan --clips N --gpu NAME` reckons one from the model's shape."
        return
    seconds, hours, disk_mb = (_sum(known, name) for name in ("seconds", "device_hours", "disk_mb"))
    yield f"in total at most about {seconds:.0f} s, {hours:.3f} device-hours and {disk_mb:.1f} MB, {estimated_from(known)}"
    low_s, high_s = _sum(known, "low_s"), _sum(known, "high_s")
    yield f"by the spread of runs (20 % to each side of fewer than three, a factor of 2 without any) between {low_s:.0f} and {high_s:.0f} s"
    if workers > 1:
        shared = _sum([asset for asset in known if graph.asset(asset.asset).stage.rows is not None], "seconds")
        yield f"with {workers} workers about {shared / workers + seconds - shared:.0f} s: they share {shared:.0f} s of rows, and one machine does the rest"
    if price_per_hour is not None:
        money, low, high = (price_per_hour * each / SECONDS_AN_HOUR for each in (seconds, low_s, high_s))
        yield f"at {price_per_hour:g} an hour about {money:,.2f} (between {low:,.2f} and {high:,.2f})"
    if unknown := [asset.asset for asset in planned if asset.seconds is None]:
        yield f"not in these sums, as nothing was measured: {', '.join(unknown)}"


def traffic_lines(config: Config, planned: Sequence[Planned], graph: Graph) -> Iterator[str]:
    """What ``planned`` would read of clips in object storage, a line for each setting that names some."""
    from motive_pipeline.sources.bucket_source import bytes_to_read

    assets = [graph.asset(asset.asset) for asset in planned]
    reading: Counter[Role] = Counter()
    for asset in assets:
        own: Role | None = asset.role if asset.stage.reads_frames else None
        role = CATALOGS.get(asset.key) or own
        if role is not None:
            reading[role] += 1
    for what, num_bytes, total in bytes_to_read(config, reading):
        yield f"{what}: about {num_bytes / 1e9:.2f} GB are read from there, of {total / 1e9:.2f} GB of clips"


def estimated_from(planned: Sequence[Planned]) -> str:
    """On what the estimates rest."""
    are_measured = {asset.is_measured for asset in planned}
    if are_measured == {True}:
        return "estimated from earlier runs"
    published = "published rates, as nothing was measured here yet"
    return (
        f"estimated from {published}"
        if are_measured == {False}
        else f"estimated from earlier runs and, where there were none, from {published}"
    )


def _compare(config: Config, arguments: argparse.Namespace) -> int:
    """Print the last run's forecast beside what it took."""
    from motive_pipeline.bill import compared, comparison_lines
    from motive_pipeline.storage.workspace import Workspace

    at, assets = compared(Workspace(config))
    if arguments.json:
        print(json.dumps([asdict(each) for each in assets]))
        return 0
    for line in comparison_lines(at, assets):
        tell(line)
    return 0


def _sum(planned: Sequence[Planned], name: str) -> float:
    return sum(getattr(asset, name) or 0.0 for asset in planned)


def _tell_memory(config: Config) -> None:
    """Print what each stage needs on the device that the config names; nothing for a model whose shape is not known."""
    from motive_pipeline.models.load import require_device
    from motive_pipeline.models.memory import STAGES
    from motive_pipeline.models.memory_limit import device_memory, stage_need
    from motive_pipeline.models.read_shapes import model_shape

    shape = model_shape(config.model)
    if shape is None:
        return
    require_device(config.model.device)
    have_gb, device, on_gpu = device_memory(config.model.device)
    for stage in STAGES:
        tell(f"memory of {stage_need(shape, config, stage, have_gb=have_gb, device=device, on_gpu=on_gpu)}")


def _plan_ahead(config: Config, arguments: argparse.Namespace) -> int:
    """Print memory, device-hours and disk of the config on a GPU, from shapes alone."""
    from motive_pipeline.models.chips import CHIPS, chip_named
    from motive_pipeline.outlook import Workload, outlook, outlook_text

    if arguments.clips is None or arguments.gpu is None:
        missing = "--clips N" if arguments.clips is None else f"--gpu NAME (one of {', '.join(CHIPS)})"
        raise MotiveError(f"motive plan: {missing} is missing. Give both, as in: motive plan --clips 10000 --gpu H100")
    if arguments.select is not None:
        raise MotiveError(
            "motive plan: --select chooses among the assets of a project; with --clips and --gpu there is none. Leave it out."
        )
    chip = chip_named(arguments.gpu)
    workload = Workload(num_clips=arguments.clips, num_queries=arguments.queries, num_held_out=arguments.held_out)
    found = outlook(config, chip, workload)
    if arguments.json:
        print(json.dumps([vars(cost) for cost in found.everything]))
        return 0
    tell(outlook_text(found, chip, workload))
    for name, costs in (("rank only", found.ranking), ("everything", found.everything)):
        hours = sum(cost.device_hours for cost in costs)
        if arguments.workers > 1:
            shared = sum(cost.device_hours for cost in costs if cost.stage in ("latents", "gradients"))
            tell(
                f"{name} with {arguments.workers} workers: about {shared / arguments.workers + hours - shared:,.1f} hours, of which they share the rows alone"
            )
        if arguments.price_per_hour is not None:
            tell(f"{name} at {arguments.price_per_hour:g} an hour: about {arguments.price_per_hour * hours:,.2f}")
    return 0
