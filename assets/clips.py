"""Observed sources, catalogs, latents, rejects."""

import dagster as dg

from assets.resources import clips_and_queries, stage_asset
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Workspace

GROUP = "clips"


def source_assets(workspace: Workspace) -> list[dg.SourceAsset]:
    """Files and weights, which live outside Dagster: their data version is a hash of their content."""

    def observed(name: str, description: str, kinds: set[str]) -> dg.SourceAsset:
        @dg.observable_source_asset(
            name=name,
            group_name="sources",
            description=description,
            tags={f"dagster/kind/{kind}": "" for kind in kinds},
            required_resource_keys={"alive"},
        )
        def source(context: dg.OpExecutionContext) -> dg.ObserveResult:
            from motive_pipeline.catalog.scan import observe_clip_files, observe_query_files
            from motive_pipeline.evaluation.preference.results import observe_preference_files
            from motive_pipeline.models.load import observe_base_encoders, observe_base_model

            observe = {
                "clip_files": observe_clip_files,
                "query_files": observe_query_files,
                "base_encoders": observe_base_encoders,
                "base_model": observe_base_model,
                "preference_files": observe_preference_files,
            }[name]
            try:
                version, facts = observe(workspace)
            except MotiveError as error:
                raise dg.Failure(description=str(error), allow_retries=False) from error
            return dg.ObserveResult(data_version=dg.DataVersion(version), metadata=facts)

        return source

    return [
        observed("clip_files", "The training clips and their captions, as they lie in `clips.path`.", {"video"}),
        observed("query_files", "The query clips that show the wanted motion, and the held-out ones.", {"video"}),
        observed(
            "base_encoders", "The part of the base model that encodes clips and captions: VAE, text encoder, tokenizer.", {"huggingface"}
        ),
        observed("base_model", "Weights and configuration of the model that is attributed and fine-tuned.", {"huggingface"}),
        observed("preference_files", "The result files that people sent back from the preference study.", {"json"}),
    ]


def clip_assets(config: Config) -> list[dg.AssetsDefinition]:
    """Catalogs and latents of clips and queries, and the rejects of all stages."""

    def catalog(kind: str, description: str) -> dg.AssetsDefinition:
        name = f"{kind}_catalog"
        return stage_asset(
            config,
            name,
            stage=name,
            group=GROUP,
            kinds={"parquet"},
            deps=[f"{kind}_files"],
            description=description,
            publish=f"clips.catalog:publish_{name}",
        )

    embeddings = ["embeddings", "query_embeddings"] if "embedding" in config.arms else []
    gradients = [f"{name}/{variant}" for variant in config.variants for name in ("projected_gradients", "query_gradients")]
    return [
        catalog("clip", "One row for each distinct clip: identity by content, caption, frames, rate, size, sources."),
        catalog("query", "One row for each query clip and each held-out query clip."),
        *clips_and_queries(
            config,
            {
                "latents": "VAE latents and prompt embeddings of every clip: the cache that no change of mask, timestep or projection touches.",
                "query_latents": "VAE latents and prompt embeddings of queries and held-out queries.",
            },
            stage="latents",
            group=GROUP,
            kinds={"zarr", "torch"},
            publish="clips.latents:publish_latents",
        ),
        stage_asset(
            config,
            "rejected_clips",
            stage="rejected_clips",
            group=GROUP,
            kinds={"parquet", "html"},
            deps=["clip_catalog", "query_catalog", "latents", "query_latents", "motion_masks", "query_masks", *embeddings, *gradients],
            description="Every file that some stage could not use, with the stage, a reason code and a sentence.",
            publish="clips.rejected:publish_rejected",
        ),
    ]
