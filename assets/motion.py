"""Motion masks of clips and queries."""

import dagster as dg

from assets.resources import clips_and_queries
from motive_pipeline.config import Config

GROUP = "motion"


def motion_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Where things move, on the latent grid: weights in [0, 1] from optical flow or a tracker (METHOD: eq. 12-14)."""

    return clips_and_queries(
        config,
        {
            "motion_masks": "Motion mask and mean motion magnitude of every clip.",
            "query_masks": "Motion mask of every query and held-out query; one without motion is rejected.",
        },
        stage="motion_masks",
        group=GROUP,
        kinds={"zarr", "opencv" if config.motion.tracker == "dis" else "torch"},
        publish="motion.stage:publish_motion_masks",
    )
