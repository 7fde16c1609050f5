"""All sections of ``motive.yaml`` together, the rules that hold between sections, and what follows from several of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import PrivateAttr, field_validator, model_validator

from motive_pipeline.config.auditing import Audit
from motive_pipeline.config.comparison import Evaluate, Finetune, Generate, Preference
from motive_pipeline.config.data import Clips, Queries, Storage
from motive_pipeline.config.method import TRAK_MAX_DIM, Embedding, Gradient, Influence, Model, Motion, Subset, Vote
from motive_pipeline.config.names import COMPARED_BY_PEOPLE, DEFAULT_ARMS, VBENCH_VIDEOS_PER_PROMPT, ArmName, Variant
from motive_pipeline.config.running import Engine, Schedule
from motive_pipeline.config.section import Section
from motive_pipeline.graph.arms import ARMS, variants_of


class Settings(Section):
    """Every setting of one project. :class:`~.fingerprints.Config` adds the fingerprints of the stages."""

    _file: Path = PrivateAttr(default=Path("motive.yaml"))

    storage: Storage = Storage()
    clips: Clips
    queries: Queries
    model: Model = Model()
    motion: Motion = Motion()
    gradient: Gradient = Gradient()
    influence: Influence = Influence()
    vote: Vote = Vote()
    arms: tuple[ArmName, ...] = DEFAULT_ARMS
    embedding: Embedding = Embedding()
    subset: Subset = Subset()
    finetune: Finetune = Finetune()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()
    audit: Audit = Audit()
    preference: Preference = Preference()
    engine: Engine = Engine()
    schedule: Schedule = Schedule()

    @field_validator("arms")
    @classmethod
    def _arms(cls, value: tuple[ArmName, ...]) -> tuple[ArmName, ...]:
        if "motive" not in value:
            raise ValueError("must contain motive (the arm this pipeline exists for)")
        if len(set(value)) != len(value):
            raise ValueError("must not name an arm twice")
        return tuple(arm for arm in ARMS if arm in value)

    @model_validator(mode="after")
    def _across(self) -> Settings:
        self._require_fitting_influence()
        for pair in self.preference.comparisons or ():
            if missing := [arm for arm in pair if arm not in self.arms]:
                raise ValueError(f"preference.comparisons names {missing[0]}, which is not among arms ({', '.join(self.arms)})")
        is_standard = self.evaluate.backend == "vbench" and self.evaluate.vbench.suite == "standard"
        if is_standard and (self.generate.prompts is None or self.generate.videos_per_prompt != VBENCH_VIDEOS_PER_PROMPT):
            raise ValueError(
                "evaluate.vbench.suite: standard needs VBench's own prompts in generate.prompts (`motive fetch vbench` writes the file) and "
                f"generate.videos_per_prompt: {VBENCH_VIDEOS_PER_PROMPT}; with suite: custom any prompts are measured"
            )
        return self

    def _require_fitting_influence(self) -> None:
        if self.influence.proj_dim > self.gradient.store_dim:
            raise ValueError(
                f"influence.proj_dim ({self.influence.proj_dim}) must not be above gradient.store_dim "
                f"({self.gradient.store_dim}): it reads a prefix of what is stored"
            )
        if self.influence.preconditioner == "adam" and self.gradient.projection == "factored":
            raise ValueError(
                "influence.preconditioner: adam divides every entry of a weight's gradient, which gradient.projection: factored never "
                "forms; use fastfood, countsketch or exact"
            )
        if self.influence.preconditioner == "trak" and self.gradient.projection == "exact":
            raise ValueError(
                "influence.preconditioner: trak needs a kernel of proj_dim x proj_dim, and gradient.projection: exact keeps every entry; "
                "use fastfood, countsketch or factored"
            )
        if self.influence.preconditioner == "trak" and self.influence.proj_dim > TRAK_MAX_DIM:
            raise ValueError(
                f"influence.proj_dim ({self.influence.proj_dim}) must not be above {TRAK_MAX_DIM} with influence.preconditioner: trak, "
                "whose kernel has proj_dim x proj_dim entries"
            )

    @property
    def comparisons(self) -> tuple[tuple[ArmName, ArmName], ...]:
        """The pairs of arms that people compare: ``preference.comparisons``, by default MOTIVE with each of the usual others in ``arms``."""
        if self.preference.comparisons is not None:
            return self.preference.comparisons
        return tuple(("motive", other) for other in COMPARED_BY_PEOPLE if other in self.arms)

    @property
    def file(self) -> Path:
        """The YAML file that this config was read from."""
        return self._file

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The gradient variants that the arms need: always ``motive``, and first."""
        return variants_of(self.arms)

    @property
    def min_frames(self) -> int:
        """The fewest frames a clip may give: ``clips.min_frames``, by default ``clips.num_frames``."""
        return self.clips.min_frames or self.clips.num_frames

    def setting(self, dotted: str) -> Any:
        """The value at ``section.key`` (or a whole section) as plain JSON types."""
        value: Any = self.model_dump(mode="json")
        for part in dotted.split("."):
            value = value[part]
        return value
