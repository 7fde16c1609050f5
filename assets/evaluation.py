"""Scores of each arm, and the report that joins them."""

import dagster as dg

from assets.resources import stage_asset
from motive_pipeline.config import Config

GROUP = "evaluation"


def evaluation_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Scores of all arms and the report.

    By themselves they recompute only where training and generation do: they would join new subsets with old trainings.
    """
    heavy = config.schedule.auto_heavy
    scores = [
        stage_asset(
            config,
            f"eval_scores/{arm}",
            stage="eval_scores",
            group=GROUP,
            kinds={"parquet"},
            deps=[
                f"generated_videos/{arm}",
                *([] if arm == "base" else [f"finetuned_checkpoint/{arm}"]),
                *("base_model", "query_catalog", "query_latents", "query_masks"),
            ],
            description="Metrics of the generated videos, and the loss on held-out queries.",
            publish="evaluation.stage:publish_eval_scores",
            auto=heavy,
            arm=arm,
        )
        for arm in config.arms
    ]
    report = stage_asset(
        config,
        "eval_report",
        stage="eval_report",
        group=GROUP,
        kinds={"html", "markdown"},
        deps=[
            *(f"{name}/{arm}" for arm in config.arms for name in ("eval_scores", "generated_videos")),
            *(f"curated_subset/{arm}" for arm in config.arms if arm != "base"),
            *(f"{name}/{variant}" for variant in config.variants for name in ("influence_matrix", "voted_ranking")),
            *("clip_catalog", "query_catalog", "latents", "query_latents", "motion_masks", "query_masks"),
            *(("embeddings", "query_embeddings") if "embedding" in config.arms else ()),
            *("eligible_pool", "rejected_clips", "base_model"),
        ],
        description="Which clips teach the motion, and whether training on them helped: one page, with its evidence.",
        publish="evaluation.report:publish_report",
        auto=heavy,
    )
    return [*scores, report]
