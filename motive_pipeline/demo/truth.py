"""The ground truth of the demo data: which motion each generated clip shows. For reports and tests; the method never reads it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from motive_pipeline.clips.sources import demo_folder
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The motion and the background colour of each clip of the pool, by clip_id, and the same of the queries.

    ``is_confounded``: the background colours of the pool go with motions, and the queries carry the colour of another motion, the lure.
    """

    motion: pd.Series
    background: pd.Series
    query_motion: str
    query_backgrounds: frozenset[str]
    is_confounded: bool


def query_motion(ws: Workspace) -> str | None:
    """The motion that every query shows, where it is known: with the demo's queries."""
    return ws.config.queries.demo.motion if ws.config.queries.source == "demo" else None


def load_truth(ws: Workspace) -> Truth | None:
    """The ground truth, or None where there is none: clips or queries are the user's own."""
    motion = query_motion(ws)
    if motion is None or ws.config.clips.source != "demo":
        return None
    table = pd.read_parquet(demo_folder(ws) / "truth.parquet")
    pool = table.query("role == 'clip'").drop_duplicates("clip_id").set_index("clip_id")
    queries = table.query("role == 'query'")
    return Truth(
        motion=pd.Series(pool["motion"]),
        background=pd.Series(pool["background_colour"]),
        query_motion=motion,
        query_backgrounds=frozenset(queries["background_colour"].astype(str)),
        is_confounded=ws.config.clips.demo.split == "confound",
    )
