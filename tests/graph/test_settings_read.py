"""What the code of a stage reads of the settings is what its fingerprint covers: otherwise a change would leave old results fresh."""

from collections import defaultdict
from contextlib import contextmanager

import pytest

from motive_pipeline.config import Config, parse_config
from motive_pipeline.config.section import Section
from motive_pipeline.graph import STAGES
from motive_pipeline.models import folder, memory_limit
from motive_pipeline.storage.workspace import Workspace
from tests.eval_fixtures import SETTINGS

EVERY_ARM = """
arms: [base, full, without_harmful, random, motion_magnitude, embedding, flow_similarity, untrained, bottom, no_mask, motive, edited, {name: own, variant: quick, rule: mean_influence}]
variants: {quick: {draws: 2, mask: query, preconditioner: [adam, trak], combine: mean_cosine, percentile: 80}}
influence: {proj_dim: 256, preconditioner: adam, adam_clips: 2}
preference: {comparisons: [[motive, base]]}
"""

HOW_AND_WHERE = (
    "storage", "schedule", "engine", "model.device", "model.path", "model.revision", "model.adapter", "gradient.checkpointing", "gradient.deterministic",
    "finetune.checkpointing", "finetune.checkpoint_every", "finetune.eval_every", "variants_",
)  # fmt: skip
"""Where things lie, how the work is done, whether a training is watched, and which variants there are: each has assets of its own. The weights of a
model and its adapter count by content."""

BY_CONTENT = {
    "second_moments": {"preference.comparisons"},  # the tests' type checks look at every property of a project
    "clip_catalog": {"queries.demo"},  # the demo's clips are made for its queries; the files enter by content
    "motion_masks": {"model.task"},  # only whether the model can do that
    "latents": {"model.expert"},  # loading a model names its denoiser, which encodes nothing
    "generated_videos": {"model.expert", "clips.policies.hdr", "clips.frame_step"},  # the checkpoint enters by content; its videos are no HDR and whole
    "eval_scores": {"clips", "queries.demo.motion", "queries.source"},  # videos and queries, whose frames it reads, enter by content
    "preference_bundle": {"clips"},  # likewise
    "preference_study": {"preference.results_path"},  # the result files enter by content
    "attribution_audit": {"gradient", "influence"},  # the gradients and the influence that it audits enter by content
    "eval_report": {"clips", "queries", "embedding", "model", "vote", "subset", "evaluate", "gradient", "influence", "motion", "finetune",
                    "generate", "preference", "arms_"},  # it prints the settings of what it shows
    "rejected_clips": {"clips", "queries"},
}  # fmt: skip
"""Settings that a stage reads and that reach its result through what it reads from upstream: a change makes that stale first."""


@contextmanager
def recorded(monkeypatch, config: Config):
    """Which leaves of the settings are read inside the block, by dotted key; reading all for a fingerprint does not count, nor
    for a prediction of memory or a check of timesteps, which refuse work and change none."""
    names = {id(config): ""}

    def name_all(section, prefix: str) -> None:
        for key in type(section).model_fields:
            value = section.__dict__[key]
            if isinstance(value, Section):
                names[id(value)] = f"{prefix}{key}."
                name_all(value, f"{prefix}{key}.")

    name_all(config, "")
    for variant in config.variants[1:]:
        name_all(config.of_variant(variant), "")
    read: set[str] = set()
    quiet = [0]

    def get(section, key):
        value = object.__getattribute__(section, key)
        if not quiet[0] and id(section) in names and key in type(section).model_fields and not isinstance(value, Section):
            read.add(names[id(section)] + key)
        return value

    def quietly(function):
        def run(*arguments, **named):
            quiet[0] += 1
            try:
                return function(*arguments, **named)
            finally:
                quiet[0] -= 1

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Section, "__getattribute__", get, raising=False)
        of_checks = [(memory_limit, "model_shape"), (memory_limit, "stage_need"), (folder, "_require_timesteps")]
        of_fingerprints = [(Config, "row_fingerprint"), (Config, "fingerprint"), (Workspace, "provenance"), (Section, "model_dump")]
        for owner, name in [*of_fingerprints, *of_checks]:
            patch.setattr(owner, name, quietly(getattr(owner, name)))
        yield read


@pytest.fixture
def whole(tmp_path, tiny_model) -> Workspace:
    text = SETTINGS.format(model=tiny_model, num_held_out=2).replace("influence: {proj_dim: 256}\n", "") + EVERY_ARM
    return Workspace(parse_config(text, tmp_path / "motive.yaml"))


@pytest.mark.slow
def test_no_stage_reads_a_setting_that_its_fingerprint_does_not_cover(whole, monkeypatch):
    read: dict[str, set[str]] = defaultdict(set)
    for asset in whole.graph.assets.values():
        with recorded(monkeypatch, whole.config) as found:
            asset.publish(whole)
        read[asset.stage.name] |= found
    assert "gradient.timestep" in read["gradient"], "reading is noticed"
    uncovered = {}
    for stage, keys in read.items():
        declared = STAGES[stage]
        covered = {
            *declared.settings, *declared.publish_settings, *HOW_AND_WHERE, *BY_CONTENT.get(stage, ()),
            *(key for switch, further in declared.when.items() for key in (*(() if callable(switch) else switch[:1]), *further)),
        }  # fmt: skip
        left = {key for key in keys if not any(key == one or key.startswith(f"{one}.") for one in covered)}
        if left:
            uncovered[stage] = sorted(left)
    assert not uncovered, "\n".join(f"{stage} reads {', '.join(keys)}" for stage, keys in uncovered.items())
