"""A project whose clips and queries have latents and masks, over a small random model: what the gradient pass starts from."""

from __future__ import annotations

import shutil
from pathlib import Path

from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.storage.workspace import Workspace
from tests.clip_fixtures import project, write_project
from tests.tiny_wan import save_tiny_wan

SETTINGS = {"gradient": {"store_dim": 1024}, "motion": {"min_side_px": 0}, "influence": {"proj_dim": 256}}


def write_prepared_project(folder: Path) -> Path:
    """Clips, queries and a model at ``folder``, run up to latents and masks."""
    write_project(folder)
    save_tiny_wan(folder / "wan")
    publish_upstream(workspace(folder))
    return folder


def workspace(folder: Path, **sections) -> Workspace:
    """The project at ``folder`` with other settings in some sections."""
    merged = {name: values | sections.get(name, {}) for name, values in SETTINGS.items()}
    model = {"path": str(folder / "wan"), "max_prompt_tokens": 8} | sections.pop("model", {})
    return project(folder, **(sections | merged), model=model)


def publish_upstream(ws: Workspace) -> None:
    """Everything that gradients are computed from."""
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    for role in ("clip", "query"):
        publish_latents(ws, role=role)
        publish_motion_masks(ws, role=role)


def add_clip(folder: Path, ws: Workspace) -> None:
    """One more clip, up to its latents and mask."""
    shutil.copyfile(folder / "queries/slide/query_0.mp4", folder / "clips/new.mp4")
    (folder / "clips/new.txt").write_text("a new one")
    publish_upstream(ws)
