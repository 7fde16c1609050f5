"""Dagster's asset checks: figures beside an asset, for a person to see.

Belongs here: what only shows. Does not belong here: what must stop the pipeline, which is a gate inside the stage.
"""

from collections.abc import Callable

import dagster as dg
import numpy as np

from assets.names import asset_key
from motive_pipeline.catalog.accounting import accounted, num_lost
from motive_pipeline.config import Config
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.storage.zarr_groups import array_of, open_group

CheckOutcome = tuple[bool, dict[str, float | int | str]]


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
    return rejects.empty, {"clips": len(catalog.table("catalog")), "rejected": len(rejects), **reasons}


def _accounted(_: Workspace, catalog: Publication) -> CheckOutcome:
    figures = accounted(catalog)
    return num_lost(figures) == 0, {**figures}


def _captions(_: Workspace, catalog: Publication) -> CheckOutcome:
    captions = catalog.table("catalog")["caption"].tolist()
    without = sum(not str(caption or "").strip() for caption in captions)
    return without == 0, {"clips": len(captions), "without caption": without}


def _moving(workspace: Workspace, masks: Publication) -> CheckOutcome:
    index = masks.table("index")
    magnitude_px = index["motion_magnitude_px"].to_numpy()
    still = float(np.mean(index["motion_peak_px"].to_numpy() < workspace.config.motion.still_px))
    return still <= 0.5, {"share that stands still": still, "median magnitude, px": float(np.median(magnitude_px))}


def _unit(_: Workspace, gradients: Publication) -> CheckOutcome:
    array = array_of(open_group(gradients.path), "gradient")
    lengths = np.concatenate([np.linalg.norm(np.asarray(array[i : i + 4096]), axis=1) for i in range(0, array.shape[0], 4096)])
    zero = lengths == 0
    wrong = int((~zero & (np.abs(lengths - 1) > 1e-4)).sum())
    return wrong == 0, {"rows": len(lengths), "zero rows": int(zero.sum()), "rows of another length": wrong}


def _in_pool(workspace: Workspace, subset: Publication) -> CheckOutcome:
    chosen = subset.table("subset")["clip_id"].tolist()
    pool = set(workspace.published("eligible_pool").table("pool")["clip_id"])
    outside = sum(clip not in pool for clip in chosen)
    return outside == 0 and len(set(chosen)) == len(chosen), {"clips": len(chosen), "outside the pool": outside}
