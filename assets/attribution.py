"""One chain for each gradient variant: projected gradients of clips and queries, and their influence matrix."""

import dagster as dg

from assets.resources import stage_asset
from motive_pipeline.config import Config, Variant

GROUP = "attribution"


def attribution_assets(config: Config) -> list[dg.AssetsDefinition]:
    """The chains of all variants that the arms need, and what they share."""
    return [*_second_moments(config), *(asset for variant in config.variants for asset in _chain(config, variant))]


def _second_moments(config: Config) -> list[dg.AssetsDefinition]:
    """What Adam's preconditioner divides by, when it is chosen; all variants share it."""
    if config.influence.preconditioner != "adam":
        return []
    from_file = config.influence.adam_state is not None
    return [
        stage_asset(
            config,
            "second_moments",
            stage="second_moments",
            group=GROUP,
            kinds={"safetensors", "torch"},
            deps=["base_model", *([] if from_file else ["latents"])],
            description="The mean square of each parameter's gradient, which influence.preconditioner: adam divides by.",
            publish="attribution.second_moments:publish_second_moments",
            auto=config.schedule.auto_heavy,
        )
    ]


def _chain(config: Config, variant: Variant) -> list[dg.AssetsDefinition]:
    masked = variant == "motive"
    loss = "motion-weighted loss" if masked else "plain loss, no mask"

    def gradients(name: str, role: str, deps: list[str], description: str) -> dg.AssetsDefinition:
        return stage_asset(
            config,
            f"{name}/{variant}",
            stage="gradient",
            group=GROUP,
            kinds={"zarr", "torch"},
            deps=[*deps, "base_model", *(["second_moments"] if config.influence.preconditioner == "adam" else [])],
            description=description,
            publish="attribution.stage:publish_gradients",
            auto=config.schedule.auto_heavy,
            variant=variant,
            role=role,
        )

    clips = gradients(
        "projected_gradients",
        "clip",
        ["latents", *(["motion_masks"] if masked else [])],
        f"One gradient of the {loss} for each clip, projected, unit length.",
    )
    queries = gradients(
        "query_gradients",
        "query",
        ["query_catalog", "query_latents", *(["query_masks"] if masked else [])],
        f"One gradient of the {loss} for each query, projected as the clips' are.",
    )
    influence = stage_asset(
        config,
        f"influence_matrix/{variant}",
        stage="influence_matrix",
        group=GROUP,
        kinds={"zarr", "parquet"},
        deps=[f"projected_gradients/{variant}", f"query_gradients/{variant}"],
        description="Influence of every clip on every query: the cosine of their projected gradients (METHOD: eq. 10).",
        publish="attribution.influence:publish_influence",
        variant=variant,
    )
    return [clips, queries, influence]
