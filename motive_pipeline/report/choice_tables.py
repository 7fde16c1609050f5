"""The report's tables on the chosen clips: precision against the ground truth, and length and motion beside the pool."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from motive_pipeline.curation.pool import load_pool
from motive_pipeline.evaluation.controls import Precision
from motive_pipeline.evaluation.ground_truth import GroundTruth
from motive_pipeline.latents.stage import LatentSet
from motive_pipeline.report.tables import (
    Number,
    Table,
    arm_name,
    format_number,
)
from motive_pipeline.storage.workspace import Workspace


def precision_table(precision: Sequence[Precision], truth: GroundTruth, *, lead: str) -> tuple[Table, list[Number]]:
    """The table of precision and lure of each choice of clips, and its numbers."""
    rows, numbers = [], []
    columns = ["precision", "lure"] if truth.lure else ["precision"]
    for choice in precision:
        cells = [
            Number(
                table="precision",
                row=choice.name,
                column=column,
                value=getattr(choice, column),
                ci_low=math.nan,
                ci_high=math.nan,
                num=choice.num_clips,
                unit="% of clips",
                shown=format_number(100 * getattr(choice, column), 1),
                source=f"curated_subset/{choice.name}" if choice.kind == "arm" else "eligible_pool",
            )
            for column in columns
        ]
        numbers += cells
        rows.append([arm_name(choice.name), choice.kind, *(cell.shown for cell in cells), str(choice.num_clips)])
    table = Table(
        key="precision",
        title="Precision against the ground truth, next to the controls",
        columns=["choice", "kind", *(f"{column} (% of clips)" for column in columns), "clips"],
        rows=rows,
        caption=f"Precision: chosen clips that show “{truth.query_motion}”{' and are no lures' if truth.lure else ''}. "
        + (f"Lure: {truth.lure}. " if truth.lure else "")
        + "Chance is the whole pool. Controls use no trained model.",
        strong_rows=frozenset(position for position, choice in enumerate(precision) if choice.name == lead),
        words=frozenset({1}),
    )
    return table, numbers


def lengths_table(ws: Workspace) -> tuple[Table, list[Number]]:
    """The table of mean length and motion magnitude of the pool and of each arm's clips, and its numbers."""
    index = LatentSet(ws, "clip").index
    length = pd.Series(index["num_frames"].to_numpy(np.float64), index=index["clip_id"].astype(str))
    magnitude = ws.published("motion_masks").table("index")
    motion_px = pd.Series(magnitude["motion_magnitude_px"].to_numpy(np.float64), index=magnitude["clip_id"].astype(str))
    rows, numbers = [], []
    choosing = [arm for arm in ws.config.arms if arm not in ("base", "full")]
    for name, clip_ids in [("pool", load_pool(ws).astype(str).tolist()), *((arm, chosen_clips(ws, arm)) for arm in choosing)]:
        cells = [
            Number(
                table="lengths", row=name, column=column, value=float(values.loc[clip_ids].mean()), ci_low=math.nan, ci_high=math.nan,
                num=len(clip_ids), unit=unit, shown=format_number(float(values.loc[clip_ids].mean()), decimals),
                source="eligible_pool" if name == "pool" else f"curated_subset/{name}",
            )
            for column, unit, values, decimals in (("length", "frames", length, 1), ("motion_magnitude", "px", motion_px, 3))
        ]  # fmt: skip
        numbers += cells
        rows.append([arm_name(name), str(len(clip_ids)), *(cell.shown for cell in cells)])
    table = Table(
        key="lengths",
        title="The chosen clips beside the pool",
        columns=["choice", "clips", "mean length (frames)", "mean motion magnitude (px)"],
        rows=rows,
        caption=f"Longer clips have less noisy gradients and therefore somewhat larger cosines. If the clips of {arm_name(ws.config.lead_arm)} are much longer than the pool's, "
        "the choice may depend on length as well as on motion. The same holds for motion magnitude: influence should not just find the fastest clips."
        + "".join(f" {arm_name(arm)}: {ws.config.arm(arm).description}" for arm in choosing if ws.config.arm(arm).selection),
        strong_rows=frozenset(position for position, row in enumerate(rows) if row[0] == arm_name(ws.config.lead_arm)),
    )
    return table, numbers


def chosen_clips(ws: Workspace, arm: str) -> list[str]:
    """The ids of the clips in an arm's subset."""
    return ws.published(f"curated_subset/{arm}").table("subset")["clip_id"].astype(str).tolist()
