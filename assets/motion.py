"""Motion masks of clips and queries."""

import dagster as dg

from assets.resources import stage_asset
from motive_pipeline.config import Config

GROUP = "motion"


def motion_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Where things move, on the latent grid: weights in [0, 1] from optical flow (METHOD: eq. 12-14)."""

    def masks(key: str, role: str, catalog: str, description: str) -> dg.AssetsDefinition:
        return stage_asset(
            config,
            key,
            stage="motion_masks",
            group=GROUP,
            kinds={"zarr", "opencv"},
            deps=[catalog, "base_encoders"],
            description=description,
            publish="motion.stage:publish_motion_masks",
            role=role,
        )

    return [
        masks("motion_masks", "clip", "clip_catalog", "Motion mask and mean motion magnitude of every clip."),
        masks("query_masks", "query", "query_catalog", "Motion mask of every query and held-out query; one without motion is rejected."),
    ]
