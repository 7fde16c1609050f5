"""Scores of each arm, what people prefer, and the report that joins them."""

import dagster as dg

from assets.resources import stage_asset
from motive_pipeline.config import Config

GROUP = "evaluation"


def evaluation_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Scores of all arms, the preference study and the report.

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
            *(["preference_study"] if config.comparisons else []),
        ],
        description="Which clips teach the motion, and whether training on them helped: one page, with its evidence.",
        publish="report.stage:publish_report",
        auto=heavy,
    )
    return [*scores, *_preference_assets(config), report]


def _preference_assets(config: Config) -> list[dg.AssetsDefinition]:
    """The bundle that people vote on, and what their votes say; nothing where there are no two arms to compare."""
    if not config.comparisons:
        return []
    arms = sorted({arm for comparison in config.comparisons for arm in comparison})
    bundle = stage_asset(
        config,
        "preference_bundle",
        stage="preference_bundle",
        group=GROUP,
        kinds={"html", "video"},
        deps=[f"generated_videos/{arm}" for arm in arms],
        description="A page with pairs of videos, blind, to be handed to people; the key to it lies outside.",
        publish="evaluation.preference.bundle:publish_preference_bundle",
        auto=config.schedule.auto_heavy,
    )
    study = stage_asset(
        config,
        "preference_study",
        stage="preference_study",
        group=GROUP,
        kinds={"parquet"},
        deps=["preference_bundle", "preference_files"],
        description="Wins, ties and losses of the arms in people's votes, with intervals, and who was left out.",
        publish="evaluation.preference.study:publish_preference_study",
    )
    return [bundle, study]
