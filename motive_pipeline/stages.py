"""Every stage of the pipeline: which settings it depends on, and the version of its code.

A stage's fingerprint is made of these two and of nothing else. What comes from upstream enters per row, by content.
Raise ``version`` when a change to the code changes what the stage computes; leave it when it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the pipeline.

    ``settings`` are the dotted keys (or whole sections) of the config that decide what a row holds. ``gates`` are those that decide what
    is published, or whether anything may be, and leave the rows as they are; what a row's own key holds (``keys.py``) stands there, too.
    ``when`` holds settings that count only while another has a value: ``{(key, value): settings}``. ``version`` is the version of its code.
    """

    settings: tuple[str, ...] = ()
    when: Mapping[tuple[str, object], tuple[str, ...]] = field(default_factory=dict)
    gates: tuple[str, ...] = ()
    version: int = 1


CLIP_SOURCE = ("clips.source", "clips.path", "clips.table", "clips.path_column", "clips.caption_column", "clips.demo")
"""Where the clips lie."""

FRAMES = ("clips.num_frames", "clips.min_frames", "clips.fps", "clips.width", "clips.height")
"""What decides the pixels that any stage sees (video/decode.py)."""

TONE_MAPPED: Mapping[tuple[str, object], tuple[str, ...]] = {("clips.policies.hdr", "repair"): ("clips.policies.hdr",)}
"""The one policy that decides pixels, too."""

MODEL = ("model.dtype", "model.max_prompt_tokens")
"""How the model computes; its weights enter by content."""

STAGES: dict[str, Stage] = {
    "clip_files": Stage(settings=CLIP_SOURCE),
    "query_files": Stage(settings=("queries", "clips.demo")),
    "base_encoders": Stage(settings=("model.path", "model.revision")),
    "base_model": Stage(settings=("model.path", "model.revision")),
    "clip_catalog": Stage(gates=(*CLIP_SOURCE, "clips.max_reject_share", "clips.policies.no_caption")),
    "query_catalog": Stage(gates=("queries", "clips.demo", "clips.policies.no_caption")),
    "latents": Stage(
        settings=(*FRAMES, *MODEL, "engine.threads"),
        when={("engine.keep_latents", False): ("engine.keep_latents",), **TONE_MAPPED},
        gates=("clips.max_reject_share", "clips.policies"),
    ),
    "clip_looks": Stage(settings=FRAMES, when=TONE_MAPPED),
    "motion_masks": Stage(
        settings=(*FRAMES, "motion.tracker", "motion.preset", "motion.reference", "motion.floor_px", "motion.min_side_px"),
        when={
            **TONE_MAPPED,
            ("motion.camera", "subtract"): ("motion.camera",),
            ("motion.camera", "downweight"): ("motion.camera",),
            ("motion.cuts", "skip"): ("motion.cuts",),
            ("motion.tracker", "alltracker"): ("motion.weigh_by", "motion.alltracker", "engine.threads"),
        },
        gates=("motion.max_reject_share",),
    ),
    "second_moments": Stage(
        settings=("gradient.parameters", "model.expert", "engine.threads", *MODEL),
        when={("influence.preconditioner", "adam"): ("influence.adam_state", "influence.adam_clips", "influence.adam_seed")},
        version=2,
    ),
    "gradient": Stage(
        settings=(
            "gradient.timestep",
            "gradient.noise_seed",
            "gradient.num_noises",
            "gradient.projection",
            "gradient.proj_seed",
            "gradient.store_dim",
            "gradient.frame_norm",
            "gradient.parameters",
            "model.expert",
            "engine.threads",
            *MODEL,
        ),
        when={("influence.preconditioner", "adam"): ("influence.preconditioner", "influence.adam_eps")},
        gates=("gradient.max_reject_share",),
        version=2,
    ),
    "eligible_pool": Stage(),
    "influence_matrix": Stage(
        settings=("influence.proj_dim", "influence.similarity"),
        when={("influence.preconditioner", "trak"): ("influence.preconditioner", "influence.trak_lambda")},
    ),
    "voted_ranking": Stage(settings=("vote", "subset.share")),
    # Which encoder it is, and what it is given, stand in a row's key.
    "embeddings": Stage(settings=(*FRAMES, "engine.threads"), when=TONE_MAPPED, gates=("embedding", "clips.max_reject_share")),
    "curated_subset": Stage(settings=("subset",)),
    # finetune.micro_batch_size and engine.threads change the last bits of a training, so they count.
    "finetuned_checkpoint": Stage(
        settings=(
            "finetune.seeds",
            "finetune.steps",
            "finetune.batch_size",
            "finetune.micro_batch_size",
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
    ),
    "generated_videos": Stage(settings=("generate", "engine.threads", *FRAMES, *MODEL), version=3),
    "eval_scores": Stage(
        settings=("engine.threads", *MODEL),
        gates=("evaluate", "gradient.timestep", "gradient.noise_seed", "gradient.frame_norm"),  # the causal check's draws and loss
        version=3,
    ),
    "preference_files": Stage(settings=("preference.results_path",)),
    "preference_bundle": Stage(
        settings=(
            "preference.comparisons",
            "preference.prompt_limit",
            "preference.pairs_per_rater",
            "preference.plans",
            "preference.catch_share",
            "preference.seed",
            "preference.question",
        )
    ),
    "preference_study": Stage(
        settings=("preference.min_catch_share", "preference.exclude_failed", "evaluate.bootstrap_samples"), version=2
    ),
    "vbench": Stage(settings=("engine.threads",)),  # rows of eval_scores; package, weights and device stand in their keys
    "rejected_clips": Stage(),
    "eval_report": Stage(settings=("evaluate.bootstrap_samples", "arms"), version=2),
}
