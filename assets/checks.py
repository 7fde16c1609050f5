"""Dagster's asset checks: figures beside an asset, for a person to see.

Belongs here: what only shows. Does not belong here: what must stop the pipeline, which is a gate inside the stage.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import dagster as dg
import numpy as np

from assets.markdown import cell, table
from assets.names import asset_key
from motive_pipeline.catalog.accounting import accounted, num_lost
from motive_pipeline.config import Config
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.storage.zarr_groups import array_of, open_group

CheckOutcome = tuple[bool, dict[str, Any]]
"""Whether the check passed, and its metadata."""

MAX_NAMED = 25
"""Clips that a check names; the figures count all."""

MAX_LETTERS = 400
"""Of each text about a clip."""


def checks(config: Config) -> list[dg.AssetChecksDefinition]:
    """All checks of the graph."""
    return [
        _check("clip_catalog", "every_file_is_usable", "Warns when a file could not be read as a video.", _no_rejects),
        _check("clip_catalog", "every_file_is_accounted_for", "Files = clips + merged duplicates + rejects + not videos.", _accounted),
        _check("clip_catalog", "every_clip_has_a_caption", "Warns when a clip has no caption.", _captions),
        _check("motion_masks", "most_clips_move", "Warns when more than half of the clips do not move at all.", _moving),
        *(
            _check(
                f"projected_gradients/{variant}",
                f"rows_have_unit_length_{variant}",
                "Every row has length 1, or 0 for a zero gradient.",
                _unit,
            )
            for variant in config.variants
        ),
        *(
            _check(f"curated_subset/{arm}", f"lies_in_the_pool_{arm}", "Every chosen clip is in the eligible pool, once.", _in_pool)
            for arm in config.arms
            if arm != "base"
        ),
    ]


def _check(asset: str, name: str, description: str, look: Callable[[Workspace, Publication], CheckOutcome]) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset_key(asset), name=name, description=description, required_resource_keys={"workspace"})
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        workspace: Workspace = context.resources.workspace
        passed, figures = look(workspace, workspace.published(asset))
        return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=figures)

    return check


def _no_rejects(_: Workspace, catalog: Publication) -> CheckOutcome:
    rejects = catalog.rejects()
    reasons = {f"rejected: {reason}": int(count) for reason, count in rejects["reason"].value_counts().items()}
    named = _named(
        ["path", "clip", "reason", "detail"], list(zip(*(rejects[name] for name in ("path", "clip_id", "reason", "detail")), strict=True))
    )
    return rejects.empty, {"clips": len(catalog.table("catalog")), "rejected": len(rejects), **reasons, **named}


def _accounted(_: Workspace, catalog: Publication) -> CheckOutcome:
    figures = accounted(catalog)
    return num_lost(figures) == 0, {**figures}


def _captions(_: Workspace, catalog: Publication) -> CheckOutcome:
    table = catalog.table("catalog")
    without = [
        (clip_id, path)
        for clip_id, path, caption in zip(table["clip_id"], table["path"], table["caption"], strict=True)
        if not str(caption or "").strip()
    ]
    return not without, {"clips": len(table), "without caption": len(without)} | _named(["clip", "path"], without)


def _moving(workspace: Workspace, masks: Publication) -> CheckOutcome:
    index = masks.table("index")
    peaks = zip(index["motion_peak_px"].tolist(), index["clip_id"].tolist(), strict=True)
    still = sorted((peak_px, clip_id) for peak_px, clip_id in peaks if peak_px < workspace.config.motion.still_px)
    share = len(still) / len(index) if len(index) else 0.0
    paths = _paths(workspace, [clip_id for _, clip_id in still[:MAX_NAMED]])
    rows = [(clip_id, path, peak_px) for (peak_px, clip_id), path in zip(still, paths, strict=False)]
    figures = {"share that stands still": share, "median magnitude, px": float(np.median(index["motion_magnitude_px"].to_numpy()))}
    return share <= 0.5, figures | _named(["clip", "path", "motion of the fastest pixels, px"], rows, num_all=len(still))


def _unit(workspace: Workspace, gradients: Publication) -> CheckOutcome:
    group = open_group(gradients.path)
    array, ids = array_of(group, "gradient"), array_of(group, "clip_id")
    lengths = np.concatenate([np.linalg.norm(np.asarray(array[i : i + 4096]), axis=1) for i in range(0, array.shape[0], 4096)])
    zero = lengths == 0
    wrong = np.flatnonzero(~zero & (np.abs(lengths - 1) > 1e-4))
    clip_ids = [bytes(np.asarray(ids[int(row)])).decode() for row in wrong[:MAX_NAMED]]
    rows = zip(clip_ids, _paths(workspace, clip_ids), lengths[wrong].tolist(), strict=False)
    figures = {"rows": len(lengths), "zero rows": int(zero.sum()), "rows of another length": len(wrong)}
    return len(wrong) == 0, figures | _named(["clip", "path", "length"], list(rows), num_all=len(wrong))


def _in_pool(workspace: Workspace, subset: Publication) -> CheckOutcome:
    chosen = subset.table("subset")["clip_id"].tolist()
    pool = set(workspace.published("eligible_pool").table("pool")["clip_id"])
    outside = [clip_id for clip_id in chosen if clip_id not in pool]
    twice = [clip_id for clip_id, count in Counter(chosen).items() if count > 1]
    wrong = [*((clip_id, "outside the pool") for clip_id in outside), *((clip_id, "chosen more than once") for clip_id in twice)]
    rows = [(clip_id, path, what) for (clip_id, what), path in zip(wrong, _paths(workspace, [each for each, _ in wrong]), strict=True)]
    figures = {"clips": len(chosen), "outside the pool": len(outside), "chosen more than once": len(twice)}
    return not wrong, figures | _named(["clip", "path", "what"], rows)


def _paths(workspace: Workspace, clip_ids: Sequence[str]) -> list[str]:
    """The file of each clip; empty for one that the catalog does not have."""
    catalog = workspace.published("clip_catalog").table("catalog").set_index("clip_id")["path"]
    return catalog.reindex(clip_ids).fillna("").astype(str).tolist()


def _named(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, num_all: int | None = None) -> dict[str, Any]:
    """The clips that fail a check as a table, the first ones of many; nothing if there are none. ``num_all``: of how many ``rows`` are the first."""
    if not rows:
        return {}
    total = len(rows) if num_all is None else num_all
    named = table(
        columns, ([cell(value if isinstance(value, float) else str(value)[:MAX_LETTERS]) for value in row] for row in rows[:MAX_NAMED])
    )
    title = "which" if total <= MAX_NAMED else f"which (the first {MAX_NAMED} of {total})"
    return {title: dg.MetadataValue.md(named)}
