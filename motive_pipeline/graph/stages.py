"""Every source and every stage of the pipeline, parents first. Everything that knows the graph derives from these two lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from motive_pipeline.graph.arms import BASE
from motive_pipeline.graph.declare import Lanes, Output, Project, Role, Source, Stage, Switch
from motive_pipeline.graph.trackers import TRACKERS
from motive_pipeline.graph.variants import weighs_loss

CLIP_SOURCE = ("clips.source", "clips.path", "clips.table", "clips.path_column", "clips.caption_column", "clips.demo")
"""Where the clips lie."""

FRAMES = ("clips.num_frames", "clips.min_frames", "clips.fps", "clips.width", "clips.height")
"""The settings that decide the pixels that any stage sees."""

FRAMES_VERSION = 4
"""The version of the code that reads frames. Raise it when a file's frames change under the same settings: every stage that reads them is then
stale. 2: mirrored videos, and B-frames without presentation times. 3: videos that turn interlaced after their first frame. 4: a
crop that only the container states."""

MODEL = ("model.dtype", "model.max_prompt_tokens")
"""How the model computes; its weights enter by content."""

TASK: Mapping[Switch, tuple[str, ...]] = {("model.task", "image_to_video"): ("model.task",)}
"""What the model does, where the config and not the model's files decides it."""

PER_VARIANT = Lanes(argument="variant", of=lambda project: project.variants, settings=lambda project, variant: project.of_variant(variant))
MAPPED_VARIANT = Lanes(argument="variant", of=lambda project: (project.lead_variant,), settings=PER_VARIANT.settings)
PER_ARM = Lanes(argument="arm", of=lambda project: project.arms)
PER_TRAINED_ARM = Lanes(argument="arm", of=lambda project: [arm for arm in project.arms if arm != BASE])


def _choice_of(project: Project, arm: str) -> Mapping[str, object]:
    declared = project.arm(arm)
    edits = {"subset.edits": project.setting("subset.edits")} if declared.takes_edits else {}
    shared = {key: project.of_variant(declared.variant).setting(key) for key in declared.selection.shared_settings()}
    return edits | ({} if declared.rule is None else {"rule": declared.rule}) | declared.selection.settings() | shared


PER_SUBSET = Lanes(argument="arm", of=PER_TRAINED_ARM.of, choice=_choice_of)


def _has_embeddings(project: Project) -> bool:
    return any(project.arm(arm).needs_embeddings for arm in project.arms)


def _has_arm(name: str) -> Callable[[Project], bool]:
    """Whether a project has the arm ``name``."""
    return lambda project: name in project.arms


def _has_comparisons(project: Project) -> bool:
    return bool(project.comparisons)


def _is_not(key: str, value: object) -> Callable[[Project], bool]:
    """Whether a project sets ``key`` to another value."""
    return lambda project: project.setting(key) != value


def _both(one: Callable[[Project], bool], other: Callable[[Project], bool]) -> Switch:
    """Whether both conditions hold."""
    return lambda project: one(project) and other(project)


CHANGED_FRAMES: Mapping[Switch, tuple[str, ...]] = {
    ("clips.policies.hdr", "repair"): ("clips.policies.hdr",),
    _is_not("clips.frame_step", 4): ("clips.frame_step",),
}
"""Settings that decide pixels, too, where they are not the default."""


def _divides_by_moments(project: Project, variant: str) -> bool:
    """Whether the gradients of a variant are divided by the root of their second moments."""
    return "adam" in project.of_variant(variant).setting("influence.preconditioner")


def _uses_adam(project: Project) -> bool:
    return any(_divides_by_moments(project, variant) for variant in project.variants)


def _gradient_reads(*inputs: str, masks: str, role: Role):
    """Latents, masks where the variant weights the role's loss by motion, the model and, with Adam's preconditioner, the second moments."""

    def reads(project: Project, variant: str) -> Iterable[str]:
        yield from inputs
        if weighs_loss(project.of_variant(variant).setting("gradient.mask"), role):
            yield masks
        yield "base_model"
        if _divides_by_moments(project, variant):
            yield "second_moments"

    return reads


def _maps_reads(project: Project, variant: str) -> Iterable[str]:
    yield from ("latents", "query_latents")
    mask = project.of_variant(variant).setting("gradient.mask")
    if weighs_loss(mask, "clip"):
        yield "motion_masks"
    if weighs_loss(mask, "query"):
        yield "query_masks"
    yield from ("base_model", f"projected_gradients/{variant}", f"influence_matrix/{variant}", "eligible_pool")
    if _divides_by_moments(project, variant):
        yield "second_moments"


def _second_moments_reads(project: Project, _: str) -> Iterable[str]:
    yield "base_model"
    if project.setting("influence.adam_state") is None:
        yield "latents"


def _checkpoint_reads(project: Project, arm: str) -> Iterable[str]:
    yield from (f"curated_subset/{arm}", "latents", "base_model")
    if project.setting("finetune.eval_every") is not None:  # a training is watched on the queries, which does not change it
        yield from ("query_catalog", "query_latents", "query_masks")


def _videos_reads(project: Project, arm: str) -> Iterable[str]:
    yield "base_model" if arm == BASE else f"finetuned_checkpoint/{arm}"
    if project.setting("generate.prompts") is None:
        yield "query_catalog"


def _scores_reads(_: Project, arm: str) -> Iterable[str]:
    yield f"generated_videos/{arm}"
    if arm != BASE:
        yield f"finetuned_checkpoint/{arm}"
    yield from ("base_model", "query_catalog", "query_latents", "query_masks")


def _bundle_reads(project: Project, _: str) -> Iterable[str]:
    return [f"generated_videos/{arm}" for arm in sorted({arm for pair in project.comparisons for arm in pair})]


def _pool_reads(project: Project, _: str) -> Iterable[str]:
    return _keys(project, lambda stage, output: output.screens_clips)


def _rejected_reads(project: Project, _: str) -> Iterable[str]:
    return _keys(project, lambda stage, output: stage.rejects)


def _audit_reads(project: Project, _: str) -> Iterable[str]:
    for variant in project.variants:
        yield from (f"{asset}/{variant}" for asset in ("projected_gradients", "query_gradients", "influence_matrix", "voted_ranking"))
    yield from ("latents", "query_latents", "motion_masks", "query_masks", "query_catalog", "eligible_pool", "base_model")
    if _uses_adam(project):
        yield "second_moments"


def _audits(check: str) -> Switch:
    """Whether a project asks for a costly check of the audit."""
    return lambda project: check in project.setting("audit.checks")


def _report_reads(project: Project, _: str) -> Iterable[str]:
    return [*_keys(project, lambda stage, output: output.reports), "base_model"]


def _keys(project: Project, wanted) -> list[str]:
    """The keys of the outputs that ``wanted(stage, output)`` names, in the order of the list."""
    return [
        f"{output.name}/{lane}" if lane else output.name
        for stage in STAGES.values()
        if stage.exists(project)
        for output in stage.outputs
        if wanted(stage, output)
        for lane in (stage.lanes.of(project) if stage.lanes else ("",))
    ]


def _tracker_kinds(project: Project) -> frozenset[str]:
    return frozenset({"parquet", TRACKERS[project.setting("motion.tracker")].kind})


def _encoder_kinds(project: Project) -> frozenset[str]:
    return frozenset({"parquet"} | ({"opencv"} if project.setting("embedding.encoder") == "flow_histogram" else {"torch", "huggingface"}))


DRAWS: Mapping[Switch, tuple[str, ...]] = {
    ("gradient.draws", None): ("gradient.timestep", "gradient.num_noises"),
    _is_not("gradient.draws", None): ("gradient.draws", "gradient.draw_timesteps", "gradient.draw_shift"),
    _is_not("gradient.expert", None): ("gradient.expert",),
    _is_not("gradient.draws_at_once", 1): ("gradient.draws_at_once",),  # a batch changes the last bits
}
"""The settings that decide the (timestep, noise) draws of attribution, besides the first noise seed."""

FRESH_ADAPTER: Mapping[Switch, tuple[str, ...]] = {("gradient.parameters", "adapter"): ("finetune.lora",)}
"""The settings of a LoRA that is attributed before it is trained."""

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="clip_files",
            description="The training clips and their captions, as they lie in `clips.path`.",
            kinds=frozenset({"video"}),
            settings=CLIP_SOURCE,
            observe="motive_pipeline.catalog.scan:observe_clip_files",
            taken_in_by="clip_catalog",
            change="the clips have changed",
        ),
        Source(
            name="query_files",
            description="The query clips that show the wanted motion, and the held-out ones.",
            kinds=frozenset({"video"}),
            settings=("queries", "clips.demo"),
            observe="motive_pipeline.catalog.scan:observe_query_files",
            taken_in_by="query_catalog",
            change="the queries have changed",
        ),
        Source(
            name="base_encoders",
            description="The part of the base model that encodes clips and captions: VAE, text encoder, tokenizer.",
            kinds=frozenset({"huggingface"}),
            settings=("model.path", "model.revision"),
            observe="motive_pipeline.models.load:observe_base_encoders",
            taken_in_by="latents",
            change="VAE, text encoder or tokenizer replaced",
        ),
        Source(
            name="base_model",
            description="Weights and configuration of the model that is attributed and fine-tuned.",
            kinds=frozenset({"huggingface"}),
            settings=("model.path", "model.revision", "model.adapter"),
            observe="motive_pipeline.models.load:observe_base_model",
            taken_in_by="projected_gradients/motive",
            change="weights replaced",
        ),
        Source(
            name="preference_files",
            description="The result files that people sent back from the preference study.",
            kinds=frozenset({"json"}),
            settings=("preference.results_path",),
            observe="motive_pipeline.evaluation.preference.results:observe_preference_files",
            taken_in_by="preference_study",
            change="result files of raters came, went or changed",
        ),
    )
}
"""Files and weights outside the pipeline, by name."""

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="clip_catalog",
            version=4,
            publish_settings=(*CLIP_SOURCE, "clips.max_reject_share", "clips.policies.no_caption"),
            publish="motive_pipeline.catalog.stage:publish_clip_catalog",
            group="clips",
            rejects=True,
            reject_limit="clips.max_reject_share",
            outputs=(
                Output(
                    name="clip_catalog",
                    description="One row for each distinct clip: identity by content, caption, frames, rate, size, sources.",
                    reads=("clip_files",),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="query_catalog",
            version=4,
            publish_settings=("queries", "clips.demo", "clips.policies.no_caption"),
            publish="motive_pipeline.catalog.stage:publish_query_catalog",
            group="clips",
            rejects=True,
            outputs=(
                Output(
                    name="query_catalog",
                    description="One row for each query clip and each held-out query clip.",
                    reads=("query_files",),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="latents",
            settings=(*FRAMES, *MODEL, "engine.threads"),
            reads_frames=True,
            when={("engine.keep_latents", False): ("engine.keep_latents",), **CHANGED_FRAMES, **TASK},
            publish_settings=("clips.max_reject_share", "queries.max_reject_share", "clips.policies"),
            publish="motive_pipeline.latents.stage:publish_latents",
            rows="motive_pipeline.latents.stage:latent_rows",
            group="clips",
            kinds=frozenset({"parquet", "torch"}),
            by_rows=True,
            on_device=True,
            rejects=True,
            reject_limit="clips.max_reject_share",
            outputs=(
                Output(
                    name="latents",
                    description="VAE latents and prompt embeddings of every clip: the cache that no change of mask, timestep or projection touches.",
                    reads=("clip_catalog", "base_encoders"),
                    role="clip",
                    screens_clips=True,
                    reports=True,
                ),
                Output(
                    name="query_latents",
                    description="VAE latents and prompt embeddings of queries and held-out queries.",
                    reads=("query_catalog", "base_encoders"),
                    role="query",
                    reports=True,
                ),
            ),
        ),
        Stage(name="perceptual_hashes", settings=FRAMES, when=CHANGED_FRAMES, reads_frames=True),
        Stage(
            name="motion_masks",
            reads_frames=True,
            settings=(*FRAMES, "motion.tracker", "motion.preset", "motion.reference", "motion.floor_px", "motion.min_side_px"),
            when={
                **CHANGED_FRAMES,
                ("motion.camera", "subtract"): ("motion.camera",),
                ("motion.camera", "downweight"): ("motion.camera",),
                ("motion.cuts", "skip"): ("motion.cuts",),
                **{("motion.tracker", tracker.name): tracker.settings for tracker in TRACKERS.values()},
            },
            publish_settings=("motion.max_reject_share", "motion.still_px", "queries.max_reject_share"),
            publish="motive_pipeline.motion.stage:publish_motion_masks",
            rows="motive_pipeline.motion.stage:mask_rows",
            group="motion",
            kinds=_tracker_kinds,
            by_rows=True,
            rejects=True,
            reject_limit="motion.max_reject_share",
            outputs=(
                Output(
                    name="motion_masks",
                    description="Motion mask and mean motion magnitude of every clip.",
                    reads=("clip_catalog", "base_encoders"),
                    role="clip",
                    screens_clips=True,
                    reports=True,
                ),
                Output(
                    name="query_masks",
                    description="Motion mask of every query and held-out query; one without motion is rejected.",
                    reads=("query_catalog", "base_encoders"),
                    role="query",
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="embeddings",
            settings=(*FRAMES, "engine.threads"),
            reads_frames=True,
            when=CHANGED_FRAMES,
            publish_settings=(
                "embedding",
                "clips.max_reject_share",
                "queries.max_reject_share",
            ),  # the encoder, and what it is given, stand in a row's key
            publish="motive_pipeline.curation.embeddings:publish_embeddings",
            rows="motive_pipeline.curation.embeddings:embedding_rows",
            kinds=_encoder_kinds,
            exists=_has_embeddings,
            by_rows=True,
            rejects=True,
            reject_limit="clips.max_reject_share",
            outputs=(
                Output(
                    name="embeddings",
                    description="The embedding of every clip: what it is without any gradient.",
                    reads=("clip_catalog",),
                    role="clip",
                    screens_clips=True,
                    reports=True,
                ),
                Output(
                    name="query_embeddings",
                    description="The embedding of every query and held-out query.",
                    reads=("query_catalog",),
                    role="query",
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="second_moments",
            settings=("gradient.parameters", "model.expert", "engine.threads", *MODEL),
            when={_uses_adam: ("influence.adam_state", "influence.adam_clips", "influence.adam_seed"), **FRESH_ADAPTER, **TASK},
            version=2,
            publish="motive_pipeline.attribution.second_moments:publish_second_moments",
            group="attribution",
            kinds=frozenset({"safetensors", "torch"}),
            exists=_uses_adam,
            heavy=True,
            on_device=True,
            outputs=(
                Output(
                    name="second_moments",
                    description="The mean square of each parameter's gradient, which influence.preconditioner: adam divides by.",
                    reads=_second_moments_reads,
                ),
            ),
        ),
        Stage(
            name="gradient",
            settings=(
                "gradient.noise_seed",
                "gradient.projection",
                "gradient.proj_seed",
                "gradient.store_dim",
                "gradient.frame_norm",
                "gradient.parameters",
                "model.expert",
                "engine.threads",
                *MODEL,
            ),
            when={
                **DRAWS,
                _is_not("gradient.combine", "mean_gradient"): ("gradient.combine",),
                **FRESH_ADAPTER,
                **TASK,
                ("influence.preconditioner", "adam"): ("influence.adam_eps",),
            },
            # the mask itself stands in a row's key
            publish_settings=("gradient.mask", "gradient.max_reject_share", "queries.max_reject_share"),
            version=2,
            publish="motive_pipeline.attribution.stage:publish_gradients",
            rows="motive_pipeline.attribution.stage:gradient_rows",
            group="attribution",
            kinds=frozenset({"zarr", "torch"}),
            lanes=PER_VARIANT,
            by_rows=True,
            on_device=True,
            heavy=True,
            rejects=True,
            reject_limit="gradient.max_reject_share",
            outputs=(
                Output(
                    name="projected_gradients",
                    description="One gradient of the loss (motion-weighted where the variant says so) for each clip, projected, unit length.",
                    reads=_gradient_reads("latents", masks="motion_masks", role="clip"),
                    looks_up=("clip_catalog",),
                    role="clip",
                ),
                Output(
                    name="query_gradients",
                    description="One gradient of the loss for each query, projected as the clips' are.",
                    reads=_gradient_reads("query_catalog", "query_latents", masks="query_masks", role="query"),
                    role="query",
                ),
            ),
        ),
        Stage(
            name="influence_matrix",
            settings=("influence.proj_dim", "influence.similarity"),
            when={("influence.preconditioner", "trak"): ("influence.preconditioner", "influence.trak_lambda")},
            publish="motive_pipeline.attribution.influence:publish_influence",
            group="attribution",
            kinds=frozenset({"zarr", "parquet"}),
            lanes=PER_VARIANT,
            outputs=(
                Output(
                    name="influence_matrix",
                    description="Influence of every clip on every query: the cosine of their projected gradients (Wu et al., eq. 10).",
                    reads=lambda _, variant: (f"projected_gradients/{variant}", f"query_gradients/{variant}"),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="eligible_pool",
            version=2,
            publish="motive_pipeline.curation.pool:publish_eligible_pool",
            outputs=(
                Output(
                    name="eligible_pool",
                    description="The clips that every stage before attribution accepted; all arms draw from it.",
                    reads=_pool_reads,
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="influence_maps",
            settings=(
                "gradient.noise_seed",
                "gradient.frame_norm",
                "gradient.parameters",
                "influence.similarity",
                "model.expert",
                "engine.threads",
                *MODEL,
            ),
            when={**DRAWS, ("influence.preconditioner", "adam"): ("influence.adam_eps",), **FRESH_ADAPTER, **TASK},
            publish_settings=("gradient.mask", "influence.preconditioner"),  # the mask stands in a row's key; a note speaks of the kernel
            publish="motive_pipeline.evaluation.influence_maps:publish_influence_maps",
            group="evaluation",
            kinds=frozenset({"parquet", "torch"}),
            lanes=MAPPED_VARIANT,
            by_rows=True,
            on_device=True,
            heavy=True,
            outputs=(
                Output(
                    name="influence_maps",
                    description="Where and when in a clip its influence arises, for the clips at both ends of each query's row.",
                    reads=_maps_reads,
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="voted_ranking",
            settings=("vote", "subset.share"),
            publish="motive_pipeline.curation.vote:publish_ranking",
            lanes=PER_VARIANT,
            outputs=(
                Output(
                    name="voted_ranking",
                    description="Clips by the number of queries that put them above their own percentile (Wu et al., eq. 18).",
                    reads=lambda _, variant: (f"influence_matrix/{variant}", "eligible_pool"),
                    looks_up=lambda _, variant: (f"projected_gradients/{variant}",),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="curated_subset",
            settings=("subset",),
            when={  # these arms vote, too, by features that they compute themselves
                _has_embeddings: ("vote.percentile",),
                _has_arm("flow_similarity"): ("vote.percentile", *FRAMES, "clips.policies.hdr"),
                _both(_has_arm("flow_similarity"), _is_not("clips.frame_step", 4)): ("clips.frame_step",),
                _has_arm("untrained"): ("vote.percentile", "gradient", "influence.proj_dim", "model.expert", "engine.threads", *MODEL),
                **FRESH_ADAPTER,
                **TASK,
            },
            publish="motive_pipeline.curation.arms:publish_subset",
            lanes=PER_SUBSET,
            outputs=(
                Output(
                    name="curated_subset",
                    description="The clips that the arm trains on, best first.",
                    reads=lambda project, arm: ("eligible_pool", *project.arm(arm).chooses_by),
                    looks_up=("clip_catalog", "motion_masks"),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="finetuned_checkpoint",
            # where they say what trainings did before they existed, these do not count, so that no training is repeated
            when={
                _is_not("finetune.warmup_steps", None): ("finetune.warmup_steps",),
                _is_not("finetune.sampling", "uniform"): ("finetune.sampling",),
                _is_not("finetune.timesteps", "independent"): ("finetune.timesteps",),
                _is_not("finetune.ema", None): ("finetune.ema",),
                _is_not("finetune.lora", None): ("finetune.lora",),
                _is_not("finetune.optimizer", "adamw"): ("finetune.optimizer",),
                _is_not("finetune.command", None): ("finetune.command", "finetune.command_layout", "finetune.command_checkpoint"),
                **TASK,
            },
            settings=(
                "finetune.seeds",
                "finetune.steps",
                "finetune.batch_size",
                "finetune.micro_batch_size",  # like engine.threads it changes the last bits of a training
                "finetune.learning_rate",
                "finetune.weight_decay",
                "finetune.betas",
                "finetune.clip_norm",
                "finetune.warmup_share",
                "finetune.schedule",
                "finetune.caption_dropout",
                "finetune.shift",
                "model.expert",
                "engine.threads",
                *MODEL,
            ),
            version=2,
            publish="motive_pipeline.training.finetune:publish_checkpoint",
            group="training",
            kinds=frozenset({"torch", "huggingface"}),
            lanes=PER_TRAINED_ARM,
            on_device=True,
            heavy=True,
            outputs=(
                Output(
                    name="finetuned_checkpoint",
                    description="The base model after the same number of AdamW steps as every other arm, on this arm's subset.",
                    reads=_checkpoint_reads,
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="generated_videos",
            settings=("generate", "engine.threads", *FRAMES, *MODEL),
            when=TASK,
            version=3,
            publish="motive_pipeline.training.generate:publish_videos",
            group="training",
            kinds=frozenset({"video", "torch"}),
            lanes=PER_ARM,
            on_device=True,
            heavy=True,
            outputs=(
                Output(
                    name="generated_videos",
                    description="Videos of the same prompts and seeds for every arm.",
                    reads=_videos_reads,
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="eval_scores",
            settings=("model.expert", "engine.threads", *MODEL),
            when=TASK,
            publish_settings=(
                "evaluate",
                "gradient.frame_norm",
            ),  # the causal check's loss
            version=4,
            publish="motive_pipeline.evaluation.stage:publish_eval_scores",
            group="evaluation",
            lanes=PER_ARM,
            on_device=True,
            heavy=True,
            outputs=(
                Output(
                    name="eval_scores",
                    description="Metrics of the generated videos, and the loss on held-out queries.",
                    reads=_scores_reads,
                    reports=True,
                ),
            ),
        ),
        Stage(name="vbench", settings=("engine.threads",)),  # package, weights and device stand in a row's key
        Stage(
            name="preference_bundle",
            settings=(
                "preference.comparisons",
                "preference.prompt_limit",
                "preference.pairs_per_rater",
                "preference.plans",
                "preference.catch_share",
                "preference.seed",
                "preference.question",
            ),
            version=2,
            publish="motive_pipeline.evaluation.preference.bundle:publish_preference_bundle",
            group="evaluation",
            kinds=frozenset({"html", "video"}),
            exists=_has_comparisons,
            heavy=True,
            outputs=(
                Output(
                    name="preference_bundle",
                    description="A page with pairs of videos, blind, to be handed to people; the key to it lies outside.",
                    reads=_bundle_reads,
                ),
            ),
        ),
        Stage(
            name="preference_study",
            settings=("preference.min_catch_share", "preference.exclude_failed", "evaluate.bootstrap_samples"),
            version=3,
            publish="motive_pipeline.evaluation.preference.study:publish_preference_study",
            group="evaluation",
            exists=_has_comparisons,
            outputs=(
                Output(
                    name="preference_study",
                    description="Wins, ties and losses of the arms in people's votes, with intervals, and who was left out.",
                    reads=("preference_bundle", "preference_files"),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="rejected_clips",
            publish="motive_pipeline.catalog.rejects:publish_rejected",
            group="clips",
            kinds=frozenset({"parquet", "html"}),
            outputs=(
                Output(
                    name="rejected_clips",
                    description="Every file that some stage could not use, with the stage, a reason code and a sentence.",
                    reads=_rejected_reads,
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="audit_rows", settings=("model.expert", "engine.threads", *MODEL), when={**FRESH_ADAPTER, **TASK}
        ),  # draws, subsets and trainings stand in a row's key
        Stage(
            name="attribution_audit",
            settings=("model.expert", "engine.threads", *FRAMES, *MODEL),
            reads_frames=True,
            when={
                _audits("lds"): ("finetune", "evaluate.held_out_draws", "evaluate.bootstrap_samples"),
                _audits("leave_group_out"): ("finetune", "evaluate.held_out_draws"),
                _has_arm("flow_similarity"): ("arms",),  # then the control is that of the whole pool
                _has_arm("untrained"): ("arms",),
                **CHANGED_FRAMES,
                **TASK,
            },
            publish_settings=("audit", "vote", "subset.share", "lead_arm", "clips.source", "queries.source"),
            version=3,
            publish="motive_pipeline.evaluation.audit.stage:publish_audit",
            group="evaluation",
            kinds=frozenset({"parquet", "torch"}),
            on_device=True,
            heavy=True,
            outputs=(
                Output(
                    name="attribution_audit",
                    description="How far the attribution can be trusted: projection, draws, queries, controls, leakage and, where asked, what training shows.",
                    reads=_audit_reads,
                    looks_up=("clip_catalog",),
                    reports=True,
                ),
            ),
        ),
        Stage(
            name="eval_report",
            settings=("evaluate.bootstrap_samples", "arms", "lead_arm"),
            version=6,
            publish="motive_pipeline.report.stage:publish_report",
            group="evaluation",
            kinds=frozenset({"html", "markdown"}),
            heavy=True,
            outputs=(
                Output(
                    name="eval_report",
                    description="Which clips teach the motion, and whether training on them helped: one page, with its evidence.",
                    reads=_report_reads,
                ),
            ),
        ),
    )
}
"""The stages, by name, parents first."""
