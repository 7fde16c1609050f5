"""The eligible pool, the vote of the queries, and the subset of each arm."""

import dagster as dg

from assets.resources import stage_asset
from motive_pipeline.config import FLOW_HISTOGRAM, Config

GROUP = "curation"


SUBSET_RULES: dict[str, tuple[list[str], str]] = {
    "full": ([], "The whole eligible pool."),
    "random": ([], "A seeded random share of the eligible pool."),
    "motion_magnitude": (["motion_masks"], "The clips that move most, by mean optical-flow magnitude."),
    "embedding": (
        ["embeddings", "query_embeddings", "query_catalog"],
        "The clips with most votes when the queries vote by the similarity of embeddings.",
    ),
    "bottom": (["voted_ranking/motive"], "The clips with the most negative influence, averaged over the queries."),
    "no_mask": (["voted_ranking/no_mask"], "The clips with most votes when the loss is not weighted by motion."),
    "motive": (["voted_ranking/motive"], "The clips with most votes under the motion-weighted loss."),
}
"""What each arm's subset is chosen from, beside the eligible pool, and its rule in words."""


def curation_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Embeddings where an arm asks for them, pool, rankings of all variants, subsets of all arms but ``base``."""
    embeddings = _embeddings(config) if "embedding" in config.arms else []
    pool = stage_asset(
        config,
        "eligible_pool",
        stage="eligible_pool",
        group=GROUP,
        kinds={"parquet"},
        deps=[
            "latents",
            "motion_masks",
            *(["embeddings"] if embeddings else []),
            *(f"projected_gradients/{variant}" for variant in config.variants),
        ],
        description="The clips that every stage accepted; all arms draw from it.",
        publish="curation.pool:publish_eligible_pool",
    )
    rankings = [
        stage_asset(
            config,
            f"voted_ranking/{variant}",
            stage="voted_ranking",
            group=GROUP,
            kinds={"parquet"},
            deps=[f"influence_matrix/{variant}", "eligible_pool"],
            description="Clips by the number of queries that put them above their own percentile (METHOD: eq. 18).",
            publish="curation.vote:publish_ranking",
            variant=variant,
        )
        for variant in config.variants
    ]
    subsets = [
        stage_asset(
            config,
            f"curated_subset/{arm}",
            stage="curated_subset",
            group=GROUP,
            kinds={"parquet"},
            deps=["eligible_pool", *SUBSET_RULES[arm][0]],
            description=SUBSET_RULES[arm][1],
            publish="curation.arms:publish_subset",
            arm=arm,
        )
        for arm in config.arms
        if arm != "base"
    ]
    return [*embeddings, pool, *rankings, *subsets]


def _embeddings(config: Config) -> list[dg.AssetsDefinition]:
    return [
        stage_asset(
            config,
            key,
            stage="embeddings",
            group=GROUP,
            kinds={"zarr"} | ({"opencv"} if config.embedding.encoder == FLOW_HISTOGRAM else {"torch", "huggingface"}),
            deps=[catalog],
            description=description,
            publish="curation.embeddings:publish_embeddings",
            role=role,
        )
        for key, catalog, role, description in (
            ("embeddings", "clip_catalog", "clip", "The embedding of every clip: what it is without any gradient."),
            ("query_embeddings", "query_catalog", "query", "The embedding of every query and held-out query."),
        )
    ]
