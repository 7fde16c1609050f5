"""The names that a config may use: sources, gradient variants, arms, and the dimensions of VBench."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from motive_pipeline.errors import did_you_mean
from motive_pipeline.graph.arms import ARMS
from motive_pipeline.graph.trackers import TRACKERS

SourceName = Literal[
    "demo", "folder", "zip", "webdataset", "csv", "json", "jsonl", "parquet", "videofolder", "openvid", "vidgen", "4dnex", "cosmos",
    "video2dataset", "diffsynth", "diffusion_pipe", "musubi", "finetrainers", "ai_toolkit", "simpletuner", "videox_fun", "fastvideo",
    "nemo", "videotuna", "open_sora", "open_sora_plan", "ltx",
]  # fmt: skip
"""How clips are laid out on disk. docs/data.md shows each layout."""

Variant = str
"""The name of a gradient variant."""

NewName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]{0,39}$")]
"""The name that a config gives to a variant or an arm; it becomes part of asset keys and folder names."""


def _one_of(names: Collection[str], what: str) -> AfterValidator:
    """A check that a name is one of ``names``, which are looked at when a config is read."""

    def check(name: str) -> str:
        if name in names:
            return name
        raise ValueError(f"there is no {what} {name!r}.{did_you_mean(name, names)} There are: {', '.join(map(repr, names))}")

    return AfterValidator(check)


ArmName = Annotated[str, _one_of(ARMS, "arm")]
"""The name of an arm (graph/arms.py)."""

TrackerName = Annotated[str, _one_of(TRACKERS, "tracker")]
"""The name of a tracker (graph/trackers.py)."""

DEFAULT_ARMS: tuple[ArmName, ...] = ("base", "full", "random", "motion_magnitude", "no_mask", "motive")
"""The default of ``arms``."""

COMPARED_BY_PEOPLE: tuple[ArmName, ...] = ("base", "random", "full", "no_mask")
"""The arms that people compare with the lead arm by default: those of the paper's own study."""

FLOW_HISTOGRAM = "flow_histogram"
"""The ``embedding.encoder`` that needs no weights."""

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
