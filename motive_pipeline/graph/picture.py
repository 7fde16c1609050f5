"""The lineage as a picture: ``python -m motive_pipeline.graph.picture`` prints it for docs/architecture.md."""

from __future__ import annotations

from collections.abc import Iterable

from motive_pipeline.config import load_config
from motive_pipeline.graph.declare import Project
from motive_pipeline.graph.resolve import Graph
from motive_pipeline.graph.stages import SOURCES


def lineage(project: Project) -> str:
    """A Mermaid flow chart of the project's assets, lanes folded into one node; the arrows of the report and of the rejects are left out."""
    assets = Graph(project).assets.values()
    edges = dict.fromkeys(
        (read.split("/")[0], asset.name) for asset in assets if asset.name not in ("eval_report", "rejected_clips") for read in asset.reads
    )
    lanes = {asset.name: asset.stage.lanes.argument for asset in assets if asset.stage.lanes is not None}
    names = dict.fromkeys([*SOURCES, *(asset.name for asset in assets)])
    used = {name for edge in edges for name in edge} | {"eval_report", "rejected_clips"}
    return "\n".join(["flowchart LR", *_nodes([name for name in names if name in used], lanes), *(f"  {a} --> {b}" for a, b in edges)])


def _nodes(names: Iterable[str], lanes: dict[str, str]) -> Iterable[str]:
    for name in names:
        if name in SOURCES:
            yield f"  {name}([{name}])"
        elif name in lanes:
            yield f'  {name}["{name} / {lanes[name]}"]'
        else:
            yield f"  {name}[{name}]"


if __name__ == "__main__":
    print(lineage(load_config()))
