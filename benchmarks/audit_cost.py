"""What the audit's checks that always run cost, against the gradient passes over the pool that they judge.

    python -m benchmarks.audit_cost [--num-clips 1000] [--arms motive] [--threads 1] [--folder DIR] [--json]

All assets that the audit rests on are made for clips of the demo in a folder (of the demo itself the truth is known, and the controls are those of the whole
pool), then the audit, in one process. ``--arms motive`` is the hardest case: one variant, one pass a clip. The audit may cost at most 5 % of the gradients at
1,000 clips. It takes samples, so at more clips the share falls.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

from benchmarks import common
from benchmarks.common import Cost, Line
from motive_pipeline.config import load_config
from motive_pipeline.demo.dataset import write_demo
from motive_pipeline.storage.workspace import Workspace

AT_MOST = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=1000)
    parser.add_argument("--arms", nargs="+", default=["motive"], help="the first is the lead arm; motive must be among them")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the temporary files lie (100 KB a clip)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        costs = costs_in(Path(folder), arguments.num_clips, arguments.arms, arguments.threads)
    title = f"{arguments.num_clips} clips of the demo, {', '.join(arguments.arms)}, {arguments.threads} thread(s)"
    common.report(title, [line_of(costs)], as_json=arguments.json)


def costs_in(folder: Path, num_clips: int, arms: list[str], threads: int) -> dict[str, Cost]:
    """What the audit and each asset that it is made from cost, in a project in ``folder``."""
    drawn = write_demo(folder / "drawn", split="spoiled", num_clips=num_clips)
    settings = common.demo_settings(seed=0, split="spoiled", overrides={"engine.threads": threads})
    settings["clips"] |= {"source": "folder", "path": str(drawn / "clips")}
    settings["queries"] |= {"source": "folder", "path": str(drawn / "queries"), "held_out_path": str(drawn / "held_out")}
    settings |= {"storage": {"root": "data"}, "arms": arms, "lead_arm": arms[0]}
    file = folder / "motive.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ws = Workspace(load_config(file))
    costs = {}
    for key in ws.graph.with_ancestors(["attribution_audit"]):
        costs[key] = common.measured(lambda key=key: ws.graph.asset(key).publish(ws))
        print(f"  {key}: {costs[key].seconds:.1f} s ({costs[key].cpu_s:.1f} of processor time)", file=sys.stderr)
    return costs


def line_of(costs: dict[str, Cost]) -> Line:
    """The audit against the gradients of all variants."""
    passes = [cost for key, cost in costs.items() if key.startswith("projected_gradients/")]
    gradients = Cost(seconds=sum(cost.seconds for cost in passes), cpu_s=sum(cost.cpu_s for cost in passes))
    audit = costs["attribution_audit"]
    return Line(
        what="the audit",
        against="the gradients of all variants",
        **common.ratios([audit], [gradients]),
        at_most=AT_MOST,
        seconds=(audit.seconds, gradients.seconds),
    )


if __name__ == "__main__":
    main()
