"""motive.yaml -> frozen, validated sections, and one fingerprint per stage.

Defaults that come from the method (METHOD.md) stand here; ``motive.yaml`` comments every key.
Importing this module is cheap: neither torch nor diffusers is touched.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from motive_pipeline.errors import ConfigError
from motive_pipeline.stages import STAGES

Share = Annotated[float, Field(gt=0.0, le=1.0)]
RejectShare = Annotated[float, Field(ge=0.0, le=1.0)]
FrameCount = Annotated[int, Field(ge=1, le=100_000)]

Variant = Literal["motive", "no_mask"]
Arm = Literal["base", "full", "random", "motion_magnitude", "embedding", "bottom", "no_mask", "motive"]
Source = Literal[
    "demo", "folder", "zip", "webdataset", "csv", "json", "jsonl", "parquet", "videofolder", "openvid", "vidgen", "4dnex", "cosmos",
    "video2dataset", "diffsynth", "diffusion_pipe", "musubi", "finetrainers", "ai_toolkit", "simpletuner", "videox_fun", "fastvideo",
    "nemo", "videotuna", "open_sora", "open_sora_plan", "ltx",
]  # fmt: skip
"""How clips are laid out (clips/layouts.py; docs/data.md shows each)."""
TRAK_MAX_DIM = 8192
ALL_ARMS: tuple[Arm, ...] = get_args(Arm)
"""Every arm there is, in the order in which tables show them."""

VBenchDimension = Literal[
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "motion_smoothness",
    "dynamic_degree",
    "aesthetic_quality",
    "imaging_quality",
]
VBENCH_DIMENSIONS: tuple[VBenchDimension, ...] = get_args(VBenchDimension)
VBENCH_VIDEOS_PER_PROMPT = 5
NON_COMMERCIAL: tuple[VBenchDimension, ...] = ("motion_smoothness", "imaging_quality")
"""Dimensions of VBench whose networks may not be used commercially (AMT-S; MUSIQ of pyiqa)."""
ARMS: tuple[Arm, ...] = ("base", "full", "random", "motion_magnitude", "no_mask", "motive")
"""The arms that are compared where a config does not say."""

FLOW_HISTOGRAM = "flow_histogram"
"""``embedding.encoder`` that needs no weights."""
COMPARED_BY_PEOPLE: tuple[Arm, ...] = ("base", "random", "full", "no_mask")
"""The arms that people compare MOTIVE with unless the settings say otherwise: those of the method's own study."""


def _require_power_of_two(value: int) -> int:
    if value & (value - 1):
        raise ValueError(f"must be a power of two, for instance {2 ** (value.bit_length() - 1)}")
    return value


def _timesteps(value: object) -> float | tuple[float, ...]:
    listed = list(value) if isinstance(value, list | tuple) else [value]
    numbers = [float(each) for each in listed if isinstance(each, int | float) and not isinstance(each, bool) and 0 < each < 1000]
    if not numbers or len(numbers) < len(listed) or len(set(numbers)) < len(numbers):
        raise ValueError("must be a number above 0 and below 1000, or a list of different ones, for instance [250, 500, 750]")
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


Timesteps = Annotated[float | tuple[float, ...], PlainValidator(_timesteps), PlainSerializer(lambda value: value)]
"""One timestep or several; validated and written as a whole, since a union would tell two errors for one mistake."""


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Storage(Section):
    root: Path = Path("motive_data")
    state: Path | None = None


def _require_table_used(source: str, table: Path | None, column: str | None) -> None:
    if source in ("demo", "folder", "zip", "webdataset", "ai_toolkit", "video2dataset") and (table or column):
        raise ValueError(f"source: {source} reads no table, so table, path_column and caption_column mean nothing; name another source")


class DemoClips(Section):
    seed: Annotated[int, Field(ge=0)] = 0
    split: Literal["plain", "confound"] = "confound"
    num_clips: Annotated[int, Field(ge=9, le=100_000)] = 320


Repair = Literal["repair", "reject"]
Accept = Literal["accept", "reject"]


class Policies(Section):
    """What happens to a clip that can be used, but is not as clips should be; a flag says so wherever it is used."""

    alpha: Accept = "accept"
    frozen: Accept = "accept"
    hdr: Literal["accept", "repair", "reject"] = "accept"
    hidden_cut: Accept = "accept"
    interlaced: Repair = "repair"
    no_caption: Accept = "accept"
    non_square_pixels: Repair = "repair"
    rotated: Repair = "repair"
    time_repaired: Repair = "repair"
    truncated: Accept = "accept"
    upscaled: Accept = "accept"
    variable_rate: Repair = "repair"


class Clips(Section):
    source: Source = "folder"
    path: Path | None = None
    table: Path | None = None
    path_column: str | None = None
    caption_column: str | None = None
    num_frames: FrameCount = 81
    min_frames: FrameCount | None = None
    fps: Annotated[float, Field(gt=0, le=1000)] = 16.0
    width: Annotated[int, Field(ge=16, le=16384)] = 832
    height: Annotated[int, Field(ge=16, le=16384)] = 480
    max_reject_share: RejectShare = 0.25
    policies: Policies = Policies()
    demo: DemoClips = DemoClips()

    @field_validator("num_frames", "min_frames")
    @classmethod
    def _four_n_plus_one(cls, value: int | None) -> int | None:
        if value is not None and value % 4 != 1:
            raise ValueError(f"must be 4n+1 (1, 5, 9, ... 81); the nearest below is {value - (value - 1) % 4}")
        return value

    @field_validator("width", "height")
    @classmethod
    def _multiple_of_16(cls, value: int) -> int:
        if value % 16:
            raise ValueError(f"must be a multiple of 16 (the VAE's 8 times the transformer's patch of 2); try {value // 16 * 16}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Clips:
        if self.source != "demo" and self.path is None and self.table is None:
            raise ValueError(f"path is needed with source: {self.source} (the folder that holds your videos)")
        _require_table_used(self.source, self.table, self.path_column or self.caption_column)
        if self.min_frames is not None and self.min_frames > self.num_frames:
            raise ValueError(f"min_frames ({self.min_frames}) must not be above num_frames ({self.num_frames})")
        return self


class DemoQueries(Section):
    motion: Literal["right", "left", "up", "down", "grow", "shrink", "bounce", "sway"] = "sway"
    num_queries: Annotated[int, Field(ge=1)] = 8
    num_held_out: Annotated[int, Field(ge=0)] = 8


class Queries(Section):
    source: Source = "folder"
    path: Path | None = None
    table: Path | None = None
    path_column: str | None = None
    caption_column: str | None = None
    held_out_path: Path | None = None
    held_out_table: Path | None = None
    demo: DemoQueries = DemoQueries()

    @model_validator(mode="after")
    def _complete(self) -> Queries:
        if self.source != "demo" and self.path is None and self.table is None:
            raise ValueError(f"path is needed with source: {self.source} (the folder that holds your query videos)")
        _require_table_used(self.source, self.table or self.held_out_table, self.path_column or self.caption_column)
        return self


class Model(Section):
    path: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    revision: str | None = None
    expert: Literal["transformer", "transformer_2"] = "transformer"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "auto"
    max_prompt_tokens: Annotated[int, Field(ge=1, le=4096)] = 512


class AllTracker(Section):
    variant: Literal["full", "tiny"] = "full"
    repo: Path | None = None
    checkpoint: Path | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    iters: Annotated[int, Field(ge=1, le=64)] = 4

    def content(self) -> dict[str, Any]:
        """What decides the network: its code and weights by content (by path while they are not there), variant and iterations."""
        from motive_pipeline.pinned import ALLTRACKER, code_content, file_content

        code, weights = ALLTRACKER.code.content, ALLTRACKER.files["alltracker.pth"].sha256
        if self.repo is not None:
            code = code_content(self.repo) if self.repo.is_dir() else str(self.repo)
        if self.checkpoint is not None:
            weights = file_content(self.checkpoint) if self.checkpoint.is_file() else str(self.checkpoint)
        return {"variant": self.variant, "iters": self.iters, "repo": code, "checkpoint": weights}


class Motion(Section):
    tracker: Literal["dis", "alltracker"] = "dis"
    preset: Literal["medium", "fast"] = "medium"
    reference: Literal["auto", "first", "previous"] = "auto"
    floor_px: Annotated[float, Field(ge=0)] = 1.0
    min_side_px: Annotated[int, Field(ge=0, le=4096)] = 128
    camera: Literal["keep", "subtract", "downweight"] = "keep"
    cuts: Literal["keep", "skip"] = "keep"
    weigh_by: Literal["none", "visibility", "confidence", "both"] = "none"
    alltracker: AllTracker = AllTracker()
    max_reject_share: RejectShare = 0.25

    @model_validator(mode="after")
    def _possible(self) -> Motion:
        if self.weigh_by != "none" and self.tracker == "dis":
            raise ValueError(
                f"weigh_by ({self.weigh_by}) needs a tracker that tells visibility and confidence: tracker: alltracker; dis takes weigh_by: none"
            )
        if self.tracker == "alltracker" and self.alltracker.variant == "tiny" and self.alltracker.checkpoint is None:
            raise ValueError("alltracker.variant: tiny needs alltracker.checkpoint, your alltracker_tiny.pth; only the full one is fetched")
        return self


class Gradient(Section):
    timestep: Timesteps = 500
    noise_seed: Annotated[int, Field(ge=0)] = 0
    num_noises: Annotated[int, Field(ge=1, le=1000)] = 1
    projection: Literal["fastfood", "countsketch", "factored", "exact"] = "fastfood"
    proj_seed: Annotated[int, Field(ge=0)] = 0
    store_dim: Annotated[int, Field(ge=2, le=2**20)] = 2048
    frame_norm: Literal["per_frame", "paper_literal"] = "per_frame"
    parameters: str = "all"
    checkpointing: bool | Literal["full"] = False
    deterministic: bool = True
    max_reject_share: RejectShare = 0.25

    @field_validator("store_dim")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return _require_power_of_two(value)

    @property
    def timesteps(self) -> tuple[float, ...]:
        """``timestep``, as a list also when it is one."""
        return self.timestep if isinstance(self.timestep, tuple) else (self.timestep,)


class Influence(Section):
    proj_dim: Annotated[int, Field(ge=2)] = 512
    similarity: Literal["cosine", "dot"] = "cosine"
    preconditioner: Literal["none", "adam", "trak"] = "none"
    adam_state: Path | None = None
    adam_clips: Annotated[int, Field(ge=1)] = 64
    adam_seed: Annotated[int, Field(ge=0)] = 0
    adam_eps: Annotated[float, Field(gt=0, le=1)] = 1e-3
    trak_lambda: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("proj_dim")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return _require_power_of_two(value)


class Vote(Section):
    percentile: Annotated[float, Field(ge=0, lt=100)] = 90.0


class Embedding(Section):
    encoder: str = FLOW_HISTOGRAM
    revision: str | None = None
    num_frames: Annotated[int, Field(ge=1, le=1000)] = 8


class Subset(Section):
    share: Share = 0.10
    seed: Annotated[int, Field(ge=0)] = 0


class Finetune(Section):
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 8
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    schedule: Literal["constant", "cosine"] = "constant"
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shift: Annotated[float, Field(gt=0)] = 3.0
    checkpointing: bool = False


class Generate(Section):
    prompts: Path | None = None
    videos_per_prompt: Annotated[int, Field(ge=1)] = 1
    num_steps: Annotated[int, Field(ge=1)] = 50
    guidance: Annotated[float, Field(ge=0)] = 5.0
    seed: Annotated[int, Field(ge=0)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 1


class VBench(Section):
    dimensions: Annotated[tuple[VBenchDimension, ...], Field(min_length=1)] = VBENCH_DIMENSIONS
    suite: Literal["custom", "standard"] = "custom"
    python: Path | None = None
    weights: Path | None = None
    accept_noncommercial: bool = False
    accept_other_weights: bool = False
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    timeout_s: Annotated[float, Field(gt=0)] = 7200.0

    @field_validator("dimensions")
    @classmethod
    def _once(cls, value: tuple[VBenchDimension, ...]) -> tuple[VBenchDimension, ...]:
        if len(set(value)) != len(value):
            raise ValueError("must not name a dimension twice")
        return tuple(name for name in VBENCH_DIMENSIONS if name in value)

    @property
    def weights_folder(self) -> Path:
        """``weights``, else where VBench itself keeps them: ``$VBENCH_CACHE_DIR``, else ``~/.cache/vbench``."""
        return self.weights or Path(os.environ.get("VBENCH_CACHE_DIR") or "~/.cache/vbench").expanduser().absolute()

    def content(self) -> dict[str, Any]:
        """What decides the numbers; of the weights, which may be gigabytes, size and time of each file."""
        found = sorted(path for pattern in ("*.pt", "*.pth") for path in self.weights_folder.rglob(pattern) if path.is_file())
        stats = [[path.relative_to(self.weights_folder).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in found]
        kept = self.model_dump(mode="json", exclude={"weights", "timeout_s"})
        return kept | {"weights": stats}


class Evaluate(Section):
    backend: Literal["standin", "vbench"] = "standin"
    bootstrap_samples: Annotated[int, Field(ge=100)] = 2000
    held_out_draws: Annotated[int, Field(ge=1)] = 8
    vbench: VBench = VBench()

    @model_validator(mode="after")
    def _licences(self) -> Evaluate:
        closed = [name for name in NON_COMMERCIAL if name in self.vbench.dimensions]
        if self.backend == "vbench" and closed and not self.vbench.accept_noncommercial:
            raise ValueError(
                f"vbench.accept_noncommercial = False: {' and '.join(closed)} run networks that may not be used commercially (AMT-S is "
                "CC BY-NC 4.0, pyiqa's MUSIQ PolyForm Noncommercial 1.0.0). Set it to true if your use is not commercial, or leave "
                f"{'them' if len(closed) > 1 else 'it'} out of vbench.dimensions"
            )
        return self

    def content(self) -> dict[str, Any]:
        """What decides what is published; VBench's settings only where it runs."""
        vbench = {"vbench": self.vbench.content()} if self.backend == "vbench" else {}
        return self.model_dump(mode="json", exclude={"vbench"}) | vbench


class Preference(Section):
    """The preference study: people who see two arms' videos side by side and say which they like better."""

    comparisons: tuple[tuple[Arm, Arm], ...] | None = None
    prompt_limit: Annotated[int, Field(ge=1)] | None = None
    pairs_per_rater: Annotated[int, Field(ge=1, le=1000)] = 50
    plans: Annotated[int, Field(ge=1, le=1000)] = 24
    catch_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    seed: Annotated[int, Field(ge=0)] = 0
    question: Annotated[str, Field(min_length=1, max_length=300)] = "In which video do things move better?"
    results_path: Path | None = None
    min_catch_share: Share = 0.75
    exclude_failed: bool = True

    @field_validator("comparisons")
    @classmethod
    def _different(cls, value: tuple[tuple[Arm, Arm], ...] | None) -> tuple[tuple[Arm, Arm], ...] | None:
        if value is None:
            return None
        if not value:
            raise ValueError("must name at least one pair of arms, for instance [[motive, base]], or be null")
        for first, second in value:
            if first == second:
                raise ValueError(f"must pair different arms, not {first} with itself")
        if len({frozenset(pair) for pair in value}) < len(value):
            raise ValueError("must not name a pair of arms twice (the order does not matter)")
        return value


class Engine(Section):
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    commit_rows: Annotated[int, Field(ge=1)] = 32
    commit_s: Annotated[float, Field(gt=0)] = 60.0
    decode_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    decode_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    keep_latents: bool = True

    @property
    def num_decode_workers(self) -> int:
        """``decode_workers``, or one for each core but one, at least one and at most eight."""
        return min(8, max(1, (os.cpu_count() or 1) - 1)) if self.decode_workers is None else self.decode_workers


class Schedule(Section):
    watch: bool = True
    automate: bool = True
    watch_interval_s: Annotated[int, Field(ge=1)] = 5
    settle_s: Annotated[float, Field(ge=0)] = 2.0
    cron: str | None = None
    auto_heavy: bool = False

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise ValueError('must have five fields (minute hour day month weekday), for instance "0 3 * * *"')
        return value


class Config(Section):
    """Every setting of one project."""

    _file: Path = PrivateAttr(default=Path("motive.yaml"))

    storage: Storage = Storage()
    clips: Clips
    queries: Queries
    model: Model = Model()
    motion: Motion = Motion()
    gradient: Gradient = Gradient()
    influence: Influence = Influence()
    vote: Vote = Vote()
    arms: tuple[Arm, ...] = ARMS
    embedding: Embedding = Embedding()
    subset: Subset = Subset()
    finetune: Finetune = Finetune()
    generate: Generate = Generate()
    evaluate: Evaluate = Evaluate()
    preference: Preference = Preference()
    engine: Engine = Engine()
    schedule: Schedule = Schedule()

    @field_validator("arms")
    @classmethod
    def _arms(cls, value: tuple[Arm, ...]) -> tuple[Arm, ...]:
        if "motive" not in value:
            raise ValueError("must contain motive (the arm this pipeline exists for)")
        if len(set(value)) != len(value):
            raise ValueError("must not name an arm twice")
        return tuple(arm for arm in ALL_ARMS if arm in value)

    @model_validator(mode="after")
    def _across(self) -> Config:
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

    @property
    def comparisons(self) -> tuple[tuple[Arm, Arm], ...]:
        """The pairs of arms that people compare: ``preference.comparisons``, else MOTIVE with those of the usual others that there are."""
        if self.preference.comparisons is not None:
            return self.preference.comparisons
        return tuple(("motive", other) for other in COMPARED_BY_PEOPLE if other in self.arms)

    @property
    def file(self) -> Path:
        """The YAML file this config came from."""
        return self._file

    @property
    def variants(self) -> tuple[Variant, ...]:
        """The gradient variants that the arms need: ``motive`` always, ``no_mask`` where that arm is on."""
        return ("motive", "no_mask") if "no_mask" in self.arms else ("motive",)

    @property
    def min_frames(self) -> int:
        """Fewest frames a clip may give; ``num_frames`` unless ``clips.min_frames`` says less."""
        return self.clips.min_frames or self.clips.num_frames

    def setting(self, dotted: str) -> Any:
        """The value at ``section.key`` (or a whole section) as plain JSON types."""
        value: Any = self.model_dump(mode="json")
        for part in dotted.split("."):
            value = value[part]
        return value

    def stage_settings(self, stage: str) -> dict[str, Any]:
        """The settings that decide what a row of ``stage`` holds, by dotted key.

        Of the file of prompts and of AllTracker's code and weights their content counts; of the file of Adam's state, which may be as large
        as the model, its size and time.
        """
        further = [key for (switch, value), keys in STAGES[stage].when.items() if self.setting(switch) == value for key in keys]
        settings = {key: self.setting(key) for key in (*STAGES[stage].settings, *further)}
        if "preference.comparisons" in settings:
            settings["preference.comparisons"] = [list(pair) for pair in self.comparisons]
        if settings.get("influence.adam_state") is not None and (file := Path(settings["influence.adam_state"])).is_file():
            settings["influence.adam_state"] = [str(file), file.stat().st_size, file.stat().st_mtime_ns]
        if "motion.alltracker" in settings:
            settings["motion.alltracker"] = self.motion.alltracker.content()
        if "generate" in settings and self.generate.prompts is not None and self.generate.prompts.is_file():
            settings["generate"]["prompts"] = hashlib.sha256(self.generate.prompts.read_bytes()).hexdigest()
        return settings

    def stage_gates(self, stage: str) -> dict[str, Any]:
        """The settings that only decide whether ``stage`` may publish, by dotted key.

        Of an encoder's folder the names, sizes and times of its files count: whether it has changed must not take reading it.
        """
        gates = {key: self.setting(key) for key in STAGES[stage].gates}
        if "embedding" in gates and (folder := Path(self.embedding.encoder)).is_dir():
            stats = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
            gates["embedding"]["encoder"] = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        return gates | ({"evaluate": self.evaluate.content()} if "evaluate" in gates else {})

    def row_fingerprint(self, stage: str) -> str:
        """16 hex digits over what decides a row: the stage's settings and its code version; nothing from upstream."""
        return _fingerprint(stage, self.stage_settings(stage))

    def fingerprint(self, stage: str) -> str:
        """16 hex digits over all settings of the stage, gates included, and its code version."""
        return _fingerprint(stage, self.stage_settings(stage) | self.stage_gates(stage))


def _fingerprint(stage: str, settings: dict[str, Any]) -> str:
    body = {"stage": stage, "version": STAGES[stage].version, "settings": settings}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def load_config(path: Path | str | None = None) -> Config:
    """The config at ``path``, else ``$MOTIVE_CONFIG``, else ``motive.yaml`` in the working folder.

    Relative paths inside the file are taken from the file's own folder.

    Raises:
        ConfigError: no such file, no YAML, an unknown key, or a value that is not allowed; the message lists all of them.
    """
    file = Path(path or os.environ.get("MOTIVE_CONFIG") or "motive.yaml").expanduser().resolve()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the config {file}: {error.strerror}. Name one with --config or MOTIVE_CONFIG.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text ({error}). Save the file as UTF-8.") from error
    return parse_config(text, file)


def parse_config(text: str, file: Path) -> Config:
    """``text`` as the content of ``file``; see :func:`load_config`."""
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: expected sections such as 'clips:' at the top level, found {type(raw).__name__}")
    raw = {key: ({} if value is None and key in Config.model_fields else value) for key, value in raw.items()}
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(_explain(error, file)) from error
    config = _resolve_paths(config, file.parent)
    config._file = file
    return config


def _resolve_paths(config: Config, base: Path) -> Config:
    """The config with every path absolute; ``storage.state`` defaults to ``<root>/state``."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else Path(os.path.abspath(base / path.expanduser()))

    root = absolute(config.storage.root)
    assert root is not None
    storage = Storage(root=root, state=absolute(config.storage.state) or root / "state")
    vbench = config.evaluate.vbench
    model, embedding = config.model, config.embedding
    if embedding.encoder.startswith((".", "/", "~")) or (embedding.encoder != FLOW_HISTOGRAM and (base / embedding.encoder).is_dir()):
        embedding = embedding.model_copy(update={"encoder": str(absolute(Path(embedding.encoder)))})
    if model.path.startswith((".", "/", "~")) or (base / model.path).is_dir():
        model = model.model_copy(update={"path": str(absolute(Path(model.path)))})
    return config.model_copy(
        update={
            "storage": storage,
            "model": model,
            "embedding": embedding,
            "clips": config.clips.model_copy(update={name: absolute(getattr(config.clips, name)) for name in ("path", "table")}),
            "queries": config.queries.model_copy(
                update={name: absolute(getattr(config.queries, name)) for name in ("path", "table", "held_out_path", "held_out_table")}
            ),
            "motion": config.motion.model_copy(
                update={
                    "alltracker": config.motion.alltracker.model_copy(
                        update={name: absolute(getattr(config.motion.alltracker, name)) for name in ("repo", "checkpoint")}
                    )
                }
            ),
            "influence": config.influence.model_copy(update={"adam_state": absolute(config.influence.adam_state)}),
            "generate": config.generate.model_copy(update={"prompts": absolute(config.generate.prompts)}),
            "preference": config.preference.model_copy(update={"results_path": absolute(config.preference.results_path)}),
            "evaluate": config.evaluate.model_copy(
                update={
                    "vbench": config.evaluate.vbench.model_copy(
                        update={"python": absolute(vbench.python), "weights": absolute(vbench.weights)}
                    )
                }
            ),
        }
    )


def _explain(error: ValidationError, file: Path) -> str:
    """All mistakes of a config in one message: key, value, what is allowed."""
    lines = [f"{file}: {error.error_count()} setting(s) cannot be used:"]
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"]) or "(file)"
        if problem["type"] == "extra_forbidden":
            lines.append(f"  {key}: unknown key.{_nearest(problem['loc'])}")
        elif problem["type"] == "missing":
            lines.append(f"  {key}: missing, and it has no default")
        else:
            value = problem["input"] if not isinstance(problem["input"], dict | BaseModel) else None
            shown = f" = {value!r}" if value is not None else ""
            lines.append(f"  {key}{shown}: {problem['msg'].removeprefix('Value error, ')}")
    return "\n".join(lines)


def _nearest(loc: tuple[int | str, ...]) -> str:
    """A suggestion for an unknown key: the closest name in the same section, else all names there."""
    section: type[BaseModel] = Config
    for part in loc[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        section = annotation
    names = list(section.model_fields)
    close = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else f" Allowed here: {', '.join(names) or 'nothing'}."
