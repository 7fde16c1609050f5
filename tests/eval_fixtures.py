"""A whole small project for the tests of evaluation: the real stages on nine generated clips and a random model."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd

from motive_pipeline.config import parse_config
from motive_pipeline.evaluation.audit.table import audit_frame
from motive_pipeline.evaluation.loss_drop import loss_drop_rows
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.workspace import Workspace

SETTINGS = """
clips: {{source: demo, num_frames: 17, width: 64, height: 64, demo: {{num_clips: 9, split: confound}}}}
queries: {{source: demo, demo: {{num_queries: 2, num_held_out: {num_held_out}}}}}
model: {{path: {model}, dtype: float32, max_prompt_tokens: 8}}
motion: {{min_side_px: 64}}
gradient: {{store_dim: 256}}
influence: {{proj_dim: 256}}
subset: {{share: 0.34}}
finetune: {{steps: 1, batch_size: 1, learning_rate: 1.0e-3}}
generate: {{num_steps: 1, guidance: 1.0, batch_size: 4}}
evaluate: {{bootstrap_samples: 100, held_out_draws: 2}}
engine: {{threads: 1}}
"""


def open_workspace(folder: Path, model: Path, num_held_out: int = 2) -> Workspace:
    """The workspace at ``folder``, with the settings of these tests."""
    return Workspace(parse_config(SETTINGS.format(model=model, num_held_out=num_held_out), folder / "motive.yaml"))


def publish_upstream(ws: Workspace) -> None:
    """Everything before ``eval_scores``, by the real stages."""
    for asset in ws.graph.assets.values():
        if asset.name not in ("eval_scores", "eval_report"):
            asset.publish(ws)


def copied(ws: Workspace, folder: Path, model: Path) -> Workspace:
    """A copy of the project that a test may change."""
    shutil.copytree(ws.root, folder / ws.root.name)
    return open_workspace(folder, model)


def with_settings(ws: Workspace, **sections) -> Workspace:
    """The same project under other settings, whole sections of them."""
    config = type(ws.config).model_validate(ws.config.model_dump(by_alias=True) | sections)
    config._file = ws.config.file
    return Workspace(config)


def republish(ws: Workspace, asset: str, **tables: pd.DataFrame) -> None:
    """Publish ``asset`` anew: the files it has, with some of its tables replaced."""
    old = ws.published(asset)

    def write(folder: Path) -> None:
        shutil.copytree(old.path, folder, dirs_exist_ok=True)
        for name, table in tables.items():
            table.to_parquet(folder / f"{name}.parquet", index=False)

    content = "".join(digest_frame(table) for table in tables.values())
    ws.publish(asset, content=content, write=write, started=time.time(), facts=old.facts)


def several_trainings(ws: Workspace, gain: dict[str, float], num_trainings: int = 3) -> None:
    """Scores as if each arm had this many trainings and twice the held-out queries, with these gains in loss (percentage points) and little luck."""
    rng = np.random.default_rng(0)
    for arm in ws.config.arms:
        scores = ws.published(f"eval_scores/{arm}")
        trainings = range(1 if arm == "base" else num_trainings)
        videos, losses, flow = (
            pd.concat([scores.table(name).assign(training=training) for training in trainings]) for name in ("per_video", "causal", "flow")
        )
        losses = pd.concat([losses, losses.assign(query_id=losses["query_id"].str[::-1])], ignore_index=True)
        losses["drop_percent"] = gain.get(arm, 0.0) + 0.1 * rng.normal(size=len(losses))
        drop = audit_frame(list(loss_drop_rows(arm, losses, num_samples=100)))
        republish(ws, f"eval_scores/{arm}", per_video=videos, causal=losses, flow=flow, loss_drop=drop)


def with_harmful_clips(ws: Workspace, num_harmful: int = 2) -> None:
    """Rankings whose ``num_harmful`` lowest mean influences are below zero: those of a model with random weights are all above it."""
    for variant in ws.config.variants:
        ranking = ws.published(f"voted_ranking/{variant}").table("ranking")
        lowest = sorted(ranking["mean_influence"])
        moved = ranking.assign(mean_influence=ranking["mean_influence"] - (lowest[num_harmful - 1] + lowest[num_harmful]) / 2)
        republish(ws, f"voted_ranking/{variant}", ranking=moved)
        ws.scores.publish({("ranking", variant): moved.assign(variant=variant)})
