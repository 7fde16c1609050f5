"""The folder of the demo data that the settings describe."""

from __future__ import annotations

from pathlib import Path

from motive_pipeline.demo.dataset import VERSION, write_demo
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Workspace


def demo_folder(ws: Workspace) -> Path:
    """The folder below ``<root>/demo`` with the demo data of the current settings. The data are written if they are not there.

    Raises:
        MotiveError: the folder exists, but is not complete.
    """
    clips, queries = ws.config.clips.demo, ws.config.queries.demo
    name = f"v{VERSION}-{clips.split}-seed{clips.seed}-{clips.num_clips}-{queries.motion}-{queries.num_queries}-{queries.num_held_out}"
    try:
        return write_demo(
            ws.root / "demo" / name,
            seed=clips.seed,
            split=clips.split,
            num_clips=clips.num_clips,
            num_queries=queries.num_queries,
            num_held_out=queries.num_held_out,
            query_motion=queries.motion,
        )
    except FileExistsError as error:
        raise MotiveError(f"demo data: {error}") from error
