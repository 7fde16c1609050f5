"""One fine-tuned checkpoint for each arm, and the videos it generates."""

import dagster as dg

from assets.resources import stage_asset
from motive_pipeline.config import Config

GROUP = "training"


def training_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Checkpoints of all arms but ``base``, and the videos of all arms."""
    heavy = config.schedule.auto_heavy
    checkpoints = [
        stage_asset(
            config,
            f"finetuned_checkpoint/{arm}",
            stage="finetuned_checkpoint",
            group=GROUP,
            kinds={"torch", "huggingface"},
            deps=[f"curated_subset/{arm}", "latents", "base_model"],
            description="The base model after the same number of AdamW steps as every other arm, on this arm's subset.",
            publish="training.finetune:publish_checkpoint",
            auto=heavy,
            arm=arm,
        )
        for arm in config.arms
        if arm != "base"
    ]
    videos = [
        stage_asset(
            config,
            f"generated_videos/{arm}",
            stage="generated_videos",
            group=GROUP,
            kinds={"video", "torch"},
            deps=["base_model" if arm == "base" else f"finetuned_checkpoint/{arm}", "query_catalog"],
            description="Videos of the same prompts and seeds for every arm.",
            publish="training.generate:publish_videos",
            auto=heavy,
            arm=arm,
        )
        for arm in config.arms
    ]
    return [*checkpoints, *videos]
