"""The ground truth of the demo data: which motion each generated clip shows, and which clips lure a method away from it."""

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
    motion, wanted = pd.Series(pool["motion"]), demo_query_motion(ws)
    split = ws.config.clips.demo.split
    if split == "confound":
        is_lure = pd.Series(pool["background_colour"].isin(queries["background_colour"]) & (motion != wanted))
        return GroundTruth(
            motion=motion, query_motion=wanted, is_lure=is_lure, lure="clips with the queries' background colour and another motion"
        )
    if split == "spoiled":
        is_lure = pd.Series(pool["flaw"].notna())
        flaws = "clips of the queries' motion that flicker, jump, move too fast or have a wrong caption"
        return GroundTruth(motion=motion, query_motion=wanted, is_lure=is_lure, lure=flaws)
    return GroundTruth(motion=motion, query_motion=wanted)
