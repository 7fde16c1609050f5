"""How the arms are trained and compared: ``finetune``, ``generate``, ``evaluate`` and ``preference``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from motive_pipeline.config.names import NON_COMMERCIAL, VBENCH_DIMENSIONS, VBenchDimension
from motive_pipeline.config.section import Section, Share, require_regular_expression

ATTENTION_AND_FEED_FORWARD = r".*\.(to_q|to_k|to_v|to_out\.0|ffn?\.net\.0\.proj|ffn?\.net\.2)"
"""The Linear layers of attention and feed-forward by diffusers' names, in every family."""


class Lora(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the layers whose names the regular expression ``targets`` matches whole."""

    rank: Annotated[int, Field(ge=1, le=4096)] = 32
    alpha: Annotated[float, Field(gt=0)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: str = ATTENTION_AND_FEED_FORWARD

    @field_validator("targets")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return require_regular_expression(value)

    @property
    def scale_alpha(self) -> float:
        """``alpha``, by default the rank: then the product of the adapters is added as it is."""
        return float(self.rank) if self.alpha is None else self.alpha


class Finetune(Section):
    seeds: Annotated[int, Field(ge=1, le=100)] = 1
    steps: Annotated[int, Field(ge=1)] = 1000
    batch_size: Annotated[int, Field(ge=1)] = 8
    micro_batch_size: Annotated[int, Field(ge=1)] | None = None
    lora: Lora | None = None
    optimizer: Literal["adamw", "adamw8bit"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] | None = None
    schedule: Literal["constant", "cosine"] = "constant"
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    shift: Annotated[float, Field(gt=0)] = 3.0
    sampling: Literal["uniform", "logit_normal"] = "uniform"
    timesteps: Literal["independent", "stratified"] = "independent"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    eval_every: Annotated[int, Field(ge=1)] | None = None
    checkpointing: bool = False
    checkpoint_every: Annotated[int, Field(ge=1)] | None = 100


class Generate(Section):
    prompts: Path | None = None
    videos_per_prompt: Annotated[int, Field(ge=1)] = 1
    num_steps: Annotated[int, Field(ge=1)] = 50
    guidance: Annotated[float, Field(ge=1)] = 5.0
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
        """``weights``, else VBench's own folder: ``$VBENCH_CACHE_DIR``, else ``~/.cache/vbench``."""
        return self.weights or Path(os.environ.get("VBENCH_CACHE_DIR") or "~/.cache/vbench").expanduser().absolute()


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


class Preference(Section):
    """The preference study: people watch two arms' videos side by side and choose the one they like better."""

    comparisons: tuple[tuple[str, str], ...] | None = None
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
    def _different(cls, value: tuple[tuple[str, str], ...] | None) -> tuple[tuple[str, str], ...] | None:
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
