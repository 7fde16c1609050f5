"""The ground truth of the demo data: which motion each generated clip shows, and on which background."""

from __future__ import annotations

import pandas as pd

from motive_pipeline.demo.folder import demo_folder
from motive_pipeline.evaluation.ground_truth import GroundTruth
from motive_pipeline.storage.workspace import Workspace


def demo_query_motion(ws: Workspace) -> str:
    """The motion that every query of the demo shows."""
    return ws.config.queries.demo.motion


def demo_truth(ws: Workspace) -> GroundTruth:
    """The ground truth of the demo's clips and queries."""
    table = pd.read_parquet(demo_folder(ws) / "truth.parquet")
    pool = table.query("role == 'clip'").drop_duplicates("clip_id").set_index("clip_id")
    queries = table.query("role == 'query'")
    return GroundTruth(
        motion=pd.Series(pool["motion"]),
        background=pd.Series(pool["background_colour"]),
        query_motion=demo_query_motion(ws),
        query_backgrounds=frozenset(queries["background_colour"].astype(str)),
        is_confounded=ws.config.clips.demo.split == "confound",
    )
