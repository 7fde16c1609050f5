"""All sections of ``motive.yaml`` together, the rules that hold between sections, and what follows from several of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, PrivateAttr, field_validator, model_validator

from motive_pipeline.config.auditing import Audit
from motive_pipeline.config.comparison import Evaluate, Finetune, Generate, Lora, Preference
from motive_pipeline.config.data import Clips, Queries, Storage
from motive_pipeline.config.method import ADAPTER, TRAK_MAX_DIM, Embedding, Gradient, Influence, Model, Motion, Subset, Vote
from motive_pipeline.config.names import COMPARED_BY_PEOPLE, DEFAULT_ARMS, VBENCH_VIDEOS_PER_PROMPT, NewName, Variant
from motive_pipeline.config.running import Engine, Schedule
from motive_pipeline.config.section import AUTO, Section
from motive_pipeline.config.variants import ArmEntry, Overrides, VariantArm, VariantSections, variant_sections
from motive_pipeline.errors import MotiveError, did_you_mean
from motive_pipeline.graph.arms import ARMS, Arm, arm_of_variant
from motive_pipeline.graph.variants import LEAD, MAIN_VARIANT, VARIANTS

S = TypeVar("S", bound="Settings")


class Settings(Section):
    """Every setting of one project. :class:`~.fingerprints.Config` adds the fingerprints of the stages."""

    _file: Path = PrivateAttr(default=Path("motive.yaml"))
    _text: str = PrivateAttr(default="")
    _arms: dict[str, Arm] = PrivateAttr(default_factory=dict)
    _variants: dict[Variant, VariantSections] = PrivateAttr(default_factory=dict)
    _lead_variant: Variant = PrivateAttr(default=MAIN_VARIANT)

    storage: Storage = Storage()
    clips: Clips
    queries: Queries
    model: Model = Model()
    motion: Motion = Motion()
    gradient: Gradient = Gradient()
    influence: Influence = Influence()
    vote: Vote = Vote()
    variants_: dict[NewName, Overrides] = Field(default={}, alias="variants")
    arms_: tuple[ArmEntry, ...] = Field(default=DEFAULT_ARMS, alias="arms")
    lead_arm: str = "motive"
    embedding: Embedding = Embedding()
    subset: Subset = Subset()
    finetune: Finetune = Finetune()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()
    audit: Audit = Audit()
    preference: Preference = Preference()
    engine: Engine = Engine()
    schedule: Schedule = Schedule()

    @field_validator("arms_")
    @classmethod
    def _distinct_arms(cls, value: tuple[ArmEntry, ...]) -> tuple[ArmEntry, ...]:
        names = [arm.name if isinstance(arm, VariantArm) else arm for arm in value]
        if "motive" not in names:
            raise ValueError("must contain motive (the arm this pipeline exists for)")
        if len(set(names)) != len(names):
            raise ValueError("must not name an arm twice")
        if taken := [arm.name for arm in value if isinstance(arm, VariantArm) and arm.name in ARMS]:
            raise ValueError(f"{taken[0]} is the name of a built-in arm; give the arm another name")
        return (*(arm for arm in ARMS if arm in value), *(arm for arm in value if isinstance(arm, VariantArm)))

    @field_validator("variants_")
    @classmethod
    def _own_variants(cls, value: dict[Variant, Overrides]) -> dict[Variant, Overrides]:
        if MAIN_VARIANT in value:
            raise ValueError(
                f"{MAIN_VARIANT} is what the sections gradient, influence and vote say; change it there, or give the variant another name"
            )
        return value

    @model_validator(mode="after")
    def _across(self) -> Settings:
        self.model._frame_rate = self.clips.fps  # a model is loaded by its own section alone
        for entry in self.arms_:
            self._arms[entry if isinstance(entry, str) else entry.name] = self._arm_of(entry)
        self._lead_variant = self._variant_of_lead()
        for name, arm in self._arms.items():
            if arm.variant == LEAD:
                selection = self._arms[self.lead_arm].selection if arm.takes_edits else arm.selection
                self._arms[name] = replace(arm, variant=self.lead_variant, selection=selection)
        own = VariantSections(gradient=self.gradient, influence=self.influence, vote=self.vote)
        _require_fitting(own)
        for name in self.variants[1:]:
            sections = variant_sections(name, own, {**VARIANTS.get(name, {}), **self.variants_.get(name, {})})
            _require_fitting(sections, f"variants.{name}: ")
            self._variants[name] = sections
        for pair in self.preference.comparisons or ():
            if missing := [arm for arm in pair if arm not in self.arms]:
                raise ValueError(f"preference.comparisons names {missing[0]}, which is not among arms ({', '.join(self.arms)})")
        if self.model.adapter is not None and self.finetune.lora is None:
            raise ValueError(
                "model.adapter is trained on as a LoRA: set finetune.lora: {} (the adapter keeps its own rank, scale and layers)"
            )
        if self.finetune.lora is None and self.gradient.parameters == ADAPTER:
            raise ValueError(
                f"gradient.parameters: {ADAPTER} (of {', '.join(self.variants)}) attributes a LoRA, and there is none: set finetune.lora, for instance {{rank: 32}}"
            )
        for name in self.variants:
            own = self.of_variant(name)
            if own.influence.uses_adam and own.gradient.expert not in (None, self.model.expert):
                raise ValueError(
                    f"gradient.expert: {own.gradient.expert} (of {name}) has no second moments, which are those of model.expert ({self.model.expert}); "
                    "influence.preconditioner: adam needs them"
                )
        is_standard = self.evaluate.backend == "vbench" and self.evaluate.vbench.suite == "standard"
        if is_standard and (self.generate.prompts is None or self.generate.videos_per_prompt != VBENCH_VIDEOS_PER_PROMPT):
            raise ValueError(
                "evaluate.vbench.suite: standard needs VBench's own prompts in generate.prompts (`motive fetch vbench` writes the file) and "
                f"generate.videos_per_prompt: {VBENCH_VIDEOS_PER_PROMPT}; with suite: custom any prompts are measured"
            )
        return self

    def _arm_of(self, entry: str | VariantArm) -> Arm:
        if isinstance(entry, str):
            return ARMS[entry]
        known = [*VARIANTS, *(name for name in self.variants_ if name not in VARIANTS)]
        if entry.variant not in known:
            raise ValueError(
                f"the arm {entry.name} chooses by the variant {entry.variant!r}, which there is not."
                f"{did_you_mean(entry.variant, known)} There are: {', '.join(known)}"
            )
        return arm_of_variant(entry.name, entry.variant, entry.rule, entry.selection)

    def _variant_of_lead(self) -> Variant:
        """The variant of ``lead_arm``. Raises ValueError if it is no arm that can lead."""
        fitting = {name: arm.variant for name, arm in self._arms.items() if arm.can_lead and arm.variant is not None}
        if self.lead_arm not in fitting:
            why = (
                "is not among arms"
                if self.lead_arm not in self._arms
                else "does not choose from a variant's ranking by the ranking's own rule"
            )
            raise ValueError(f"lead_arm: {self.lead_arm} {why}. It can be {', '.join(fitting)}")
        return fitting[self.lead_arm]

    @property
    def lead_variant(self) -> Variant:
        """The gradient variant whose ranking the lead arm takes its clips from."""
        return self._lead_variant

    @property
    def comparisons(self) -> tuple[tuple[str, str], ...]:
        """The pairs of arms that people compare: ``preference.comparisons``, by default the lead arm with each of the usual others in ``arms``."""
        if self.preference.comparisons is not None:
            return self.preference.comparisons
        return tuple((self.lead_arm, other) for other in COMPARED_BY_PEOPLE if other in self.arms and other != self.lead_arm)

    @property
    def file(self) -> Path:
        """The YAML file that this config was read from."""
        return self._file

    @property
    def text(self) -> str:
        """What that file held when it was read."""
        return self._text

    @property
    def edits_file(self) -> Path:
        """The file of a person's ticks, which the arm ``edited`` honours: ``subset.edits``, by default ``<name>.edits.csv`` beside the config ``<name>.yaml``."""
        return self.subset.edits or self.file.with_name(f"{self.file.stem}.edits.csv")

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of the arms, in the order in which tables show them."""
        return tuple(self._arms)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``.

        Raises:
            MotiveError: ``arms`` has no such arm.
        """
        if name not in self._arms:
            raise MotiveError(f"there is no arm {name!r}.{did_you_mean(name, self.arms)} There are: {', '.join(self.arms)}")
        return self._arms[name]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The gradient variants to compute: ``motive`` always, and first; those that the arms need; those that the section ``variants`` names."""
        needed = {arm.variant for arm in self._arms.values() if arm.variant is not None} | self.variants_.keys()
        return (
            MAIN_VARIANT,
            *(name for name in VARIANTS if name in needed and name != MAIN_VARIANT),
            *(name for name in self.variants_ if name not in VARIANTS),
        )

    def of_variant(self: S, name: Variant) -> S:
        """The settings as they are for a variant: its own sections ``gradient``, ``influence`` and ``vote``, all else as here."""
        if name == MAIN_VARIANT:
            return self
        own = self._variants[name]
        return self.model_copy(update={key: getattr(own, key) for key in VariantSections.model_fields})

    def on_device(self: S, device: str) -> S:
        """The settings for the process of one of ``engine.devices``: the model is there, and the processes share the machine's decode workers."""
        workers = self.engine.num_decode_workers
        share = min(workers, max(1, workers // len(self.engine.all_devices)))
        engine = self.engine.model_copy(update={"devices": (), "decode_workers": share})
        return self.model_copy(update={"model": self.model.model_copy(update={"device": device}), "engine": engine})

    def in_cluster(self: S) -> S:
        """The settings for a job of the cluster, which is on a machine of it."""
        return self.model_copy(update={"engine": self.engine.model_copy(update={"address": AUTO})})

    def on_worker(self: S, state: Path) -> S:
        """The settings for a worker of a Ray cluster: it works alone, and keeps what only it needs in the folder ``state`` of its node. Of a root in a bucket
        every node has a working copy, at the same place."""
        engine = self.engine
        spare = max(1, (engine.workers.cpus or engine.threads) - engine.threads)
        update = {"kind": "local", "decode_workers": spare if engine.decode_workers is None else engine.decode_workers}
        own: dict[str, Any] = {"engine": engine.model_copy(update=update)}
        if self.storage.address is None:
            own["storage"] = self.storage.model_copy(update={"state": state})
        return self.model_copy(update=own)

    @property
    def attributed_model(self) -> Model:
        """The section ``model`` with the expert that gradients are taken of: ``gradient.expert``, by default ``model.expert``, which is trained."""
        return self.model if self.gradient.expert is None else self.model.model_copy(update={"expert": self.gradient.expert})

    @property
    def fresh_adapter(self) -> Lora | None:
        """The adapter that is attributed before it is trained (``gradient.parameters: adapter`` without ``model.adapter``); None where none is."""
        return self.finetune.lora if self.gradient.parameters == ADAPTER and self.model.adapter is None else None

    @property
    def min_frames(self) -> int:
        """The fewest frames a clip may give: ``clips.min_frames``, by default ``clips.num_frames``."""
        return self.clips.min_frames or self.clips.num_frames

    def setting(self, dotted: str) -> Any:
        """The value at ``section.key`` (or a whole section) as plain JSON types."""
        value: Any = self.model_dump(mode="json", by_alias=True)
        for part in dotted.split("."):
            value = value[part]
        return value


def _require_fitting(variant: VariantSections, where: str = "") -> None:
    """Raise ValueError if the variant's sections do not go together. ``where`` names the variant."""
    gradient, influence = variant.gradient, variant.influence
    if influence.proj_dim > gradient.store_dim:
        raise ValueError(
            f"{where}influence.proj_dim ({influence.proj_dim}) must not be above gradient.store_dim "
            f"({gradient.store_dim}): it reads a prefix of what is stored"
        )
    if influence.uses_adam and gradient.projection == "factored":
        raise ValueError(
            f"{where}influence.preconditioner: adam divides every entry of a weight's gradient, which gradient.projection: factored never "
            "forms; use fastfood, countsketch or exact"
        )
    if influence.uses_trak and gradient.projection == "exact":
        raise ValueError(
            f"{where}influence.preconditioner: trak needs a kernel of proj_dim x proj_dim, and gradient.projection: exact keeps every entry; "
            "use fastfood, countsketch or factored"
        )
    if influence.uses_trak and influence.proj_dim > TRAK_MAX_DIM:
        raise ValueError(
            f"{where}influence.proj_dim ({influence.proj_dim}) must not be above {TRAK_MAX_DIM} with influence.preconditioner: trak, "
            "whose kernel has proj_dim x proj_dim entries"
        )
    if gradient.combine == "mean_cosine" and influence.similarity == "dot":
        raise ValueError(f"{where}gradient.combine: mean_cosine averages cosines, so influence.similarity must be cosine")
    if gradient.combine == "mean_cosine" and gradient.projection == "exact":
        raise ValueError(
            f"{where}gradient.combine: mean_cosine keeps a gradient for each draw, which gradient.projection: exact would keep whole"
        )
