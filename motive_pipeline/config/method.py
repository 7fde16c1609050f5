"""How clips are scored and chosen: ``model``, ``motion``, ``gradient``, ``influence``, ``vote``, ``embedding`` and ``subset``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from motive_pipeline.bucket.address import address_of, path_or_address
from motive_pipeline.config.names import FLOW_HISTOGRAM, TrackerName
from motive_pipeline.config.section import AUTO, DrawTimesteps, Preconditioner, RejectShare, Section, Share, Timesteps, require_power_of_two
from motive_pipeline.config.timesteps import TimestepRange
from motive_pipeline.graph.trackers import TRACKERS
from motive_pipeline.graph.variants import Rule

TRAK_MAX_DIM = 8192
"""The largest ``influence.proj_dim`` with TRAK, whose kernel has proj_dim x proj_dim entries."""

ADAPTER = "adapter"
"""The value of ``gradient.parameters`` that attributes a LoRA's own parameters."""


Expert = Literal["transformer", "transformer_2"]
"""diffusers' names for the denoisers of a model with two: for high noise, and for low noise."""


class Model(Section):
    path: str = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    revision: str | None = None
    adapter: Path | None = None
    task: Literal["auto", "text_to_video", "image_to_video"] = "auto"
    expert: Expert = "transformer"
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "auto"
    max_prompt_tokens: Annotated[int, Field(ge=1, le=4096)] = 512
    _frame_rate: float = PrivateAttr(16.0)
    _cache: Path = PrivateAttr(Path("motive_data/state/cache"))

    @field_validator("path", mode="before")
    @classmethod
    def _no_credentials(cls, value: object) -> object:
        checked = path_or_address(value)
        return str(address_of(checked) or checked) if isinstance(checked, Path) else checked

    @property
    def cache(self) -> Path:
        """The folder on this machine into which a model in object storage is copied."""
        return self._cache

    @property
    def frame_rate(self) -> float:
        """``clips.fps``, which some models are told."""
        return self._frame_rate


class AllTracker(Section):
    variant: Literal["full", "tiny"] = "full"
    repo: Path | None = None
    checkpoint: Path | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    iters: Annotated[int, Field(ge=1, le=64)] = 4


class Motion(Section):
    tracker: TrackerName = "dis"
    preset: Literal["medium", "fast"] = "medium"
    reference: Literal["auto", "first", "previous"] = "auto"
    floor_px: Annotated[float, Field(ge=0)] = 1.0
    still_px: Annotated[float, Field(ge=0)] = 0.15
    min_side_px: Annotated[int, Field(ge=0, le=4096)] = 128
    camera: Literal["keep", "subtract", "downweight"] = "keep"
    cuts: Literal["keep", "skip"] = "keep"
    weigh_by: Literal["none", "visibility", "confidence", "both"] = "none"
    alltracker: AllTracker = AllTracker()
    max_reject_share: RejectShare = 0.25

    @model_validator(mode="after")
    def _possible(self) -> Motion:
        if self.weigh_by != "none" and not TRACKERS[self.tracker].gives_visibility:
            able = " or ".join(f"tracker: {tracker.name}" for tracker in TRACKERS.values() if tracker.gives_visibility)
            raise ValueError(
                f"weigh_by ({self.weigh_by}) needs a tracker that gives visibility and confidence: {able}; with {self.tracker} use weigh_by: none"
            )
        if self.tracker == "alltracker" and self.alltracker.variant == "tiny" and self.alltracker.checkpoint is None:
            raise ValueError("alltracker.variant: tiny needs alltracker.checkpoint, your alltracker_tiny.pth; only the full one is fetched")
        return self


class Gradient(Section):
    timestep: Timesteps = AUTO
    expert: Expert | None = None
    noise_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    num_noises: Annotated[int, Field(ge=1, le=1000)] = 1
    draws: Annotated[int, Field(ge=1, le=1000)] | None = None
    draw_timesteps: DrawTimesteps = "stratified"
    draw_shift: Annotated[float, Field(gt=0)] = 3.0
    draws_at_once: Annotated[int, Field(ge=1, le=1000)] = 1
    combine: Literal["mean_gradient", "mean_cosine"] = "mean_gradient"
    mask: Literal["both", "query", "none"] = "both"
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
        return require_power_of_two(value)

    @model_validator(mode="after")
    def _even(self) -> Gradient:
        if self.draws is not None and not isinstance(self.draw_timesteps, str) and self.draws % len(_listed(self.draw_timesteps)):
            raise ValueError(
                f"draws ({self.draws}) must be a multiple of the number of draw_timesteps ({len(_listed(self.draw_timesteps))}), so that each "
                "timestep is drawn equally often"
            )
        if self.draws is None and self.combine == "mean_cosine":
            raise ValueError("combine: mean_cosine averages over draws; say how many with draws, for instance draws: 4")
        return self

    @property
    def num_draws(self) -> int:
        """How many (timestep, noise) draws a gradient is averaged over."""
        return self.draws or self.num_noises * (1 if self.timestep == AUTO else len(_listed(self.timestep)))

    def timesteps(self, within: TimestepRange) -> tuple[float, ...]:
        """``timestep`` as a tuple, also when it is one number; ``auto`` as the usual one of ``within``."""
        return (within.usual,) if self.timestep == AUTO else _listed(self.timestep)

    def spread_timesteps(self, within: TimestepRange) -> tuple[float, ...]:
        """The timestep of each of the ``draws``.

        ``stratified``: spread evenly as training draws them within the range, 1000 s u / (1 + (s - 1) u) with s = ``draw_shift``, at the middles u of
        ``draws`` equal parts. A list is repeated.
        """
        draws = self.draws or 0
        if not isinstance(self.draw_timesteps, str):
            return _listed(self.draw_timesteps) * (draws // len(_listed(self.draw_timesteps)))
        first, last = (_unshifted(end / 1000.0, self.draw_shift) for end in (within.low, within.high))
        places = [first + (last - first) * (index + 0.5) / draws for index in range(draws)]
        return tuple(1000.0 * self.draw_shift * place / (1.0 + (self.draw_shift - 1.0) * place) for place in places)


def _unshifted(sigma: float, shift: float) -> float:
    """The u whose shift s u / (1 + (s - 1) u) is ``sigma``."""
    return sigma / (shift - (shift - 1.0) * sigma)


def _listed(timesteps: float | tuple[float, ...]) -> tuple[float, ...]:
    return timesteps if isinstance(timesteps, tuple) else (timesteps,)


class Influence(Section):
    proj_dim: Annotated[int, Field(ge=2)] = 512
    similarity: Literal["cosine", "dot"] = "cosine"
    preconditioner: Preconditioner = "none"
    adam_state: Path | None = None
    adam_clips: Annotated[int, Field(ge=1)] = 64
    adam_seed: Annotated[int, Field(ge=0)] = 0
    adam_eps: Annotated[float, Field(gt=0, le=1)] = 1e-3
    trak_lambda: Annotated[float, Field(gt=0)] = 1.0

    @field_validator("proj_dim")
    @classmethod
    def _power_of_two(cls, value: int) -> int:
        return require_power_of_two(value)

    @property
    def uses_adam(self) -> bool:
        """Whether gradients are divided by the root of Adam's second moment."""
        return "adam" in self.preconditioner

    @property
    def uses_trak(self) -> bool:
        """Whether the inner product is that of TRAK's kernel."""
        return "trak" in self.preconditioner


class Vote(Section):
    percentile: Annotated[float, Field(ge=0, lt=100)] = 90.0
    rule: Rule = "vote"

    @field_validator("percentile")
    @classmethod
    def _per_cent(cls, value: float) -> float:
        if 0 < value < 1:
            raise ValueError(f"is in per cent, 0 or from 1 up to below 100. Did you mean {value * 100:g}?")
        return value


class Embedding(Section):
    encoder: str = FLOW_HISTOGRAM
    revision: str | None = None
    num_frames: Annotated[int, Field(ge=1, le=1000)] = 8


class Subset(Section):
    share: Share = 0.10
    seed: Annotated[int, Field(ge=0)] = 0
    edits: Path | None = None
