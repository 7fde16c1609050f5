"""The metrics: numbers that compare the arms. To add one for videos, write its entry here and the function that measures it.

A measuring function takes a :class:`~motive_pipeline.evaluation.metrics.Video` and gives its value. The scores, their intervals, the paired
differences and the report derive from the entry. A metric without ``measure`` is not measured on single videos: the loss of the causal check,
or what compares a video with the queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Backend = Literal["exact", "dis", "vbench"]


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a metric is displayed: title, unit, factor from the stored value, decimals, and its meaning in one sentence."""

    title: str
    unit: str
    decimals: int
    meaning: str
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: its name (a VBench dimension id, or our own name), its backend, the range of its values, and how it is displayed.

    ``backend`` says what a value comes from: ``exact`` the formula that defines it, ``vbench`` VBench itself, ``dis`` a stand-in on DIS optical
    flow. ``measure`` is the dotted name of the measuring function, for a metric of single videos. Raise ``version`` when that function changes
    its values.
    """

    name: str
    backend: Backend
    style: Style
    bounds: tuple[float, float] | None = (0.0, 1.0)
    lower_is_better: bool = False
    measure: str | None = None
    version: int = 1

    @property
    def label(self) -> str:
        """The name with its backend, for instance ``dynamic_degree[dis]``; an exact metric has no mark."""
        return self.name if self.backend == "exact" else f"{self.name}[{self.backend}]"


def _listed(*metrics: Metric) -> dict[str, Metric]:
    return {metric.label: metric for metric in metrics}


INTERVAL_VERSION = 2
"""Raise when the intervals of the scores change (``evaluation/bootstrap.py``): every score is then published again, and no row is computed again."""

CAUSAL_VERSION = 2
"""Raise when the causal check records something else (``evaluation/causal.py``): its losses are then computed and every score is published again, and
no video is measured again. 2: the plain loss beside the motion-weighted one."""

METRICS: dict[str, Metric] = _listed(
    Metric(
        name="held_out_loss_drop",
        backend="exact",
        bounds=None,
        style=Style(
            title="held-out loss drop",
            unit="%",
            decimals=2,
            meaning="how far the motion-weighted loss on held-out queries fell below the base model's; higher is better",
        ),
    ),
    Metric(
        name="in_sample_loss_drop",
        backend="exact",
        bounds=None,
        style=Style(
            title="in-sample loss drop",
            unit="%",
            decimals=2,
            meaning="how far the motion-weighted loss on the queries themselves fell (in-sample, since there are no held-out queries); higher is better",
        ),
    ),
    Metric(
        name="query_motion_share",
        backend="dis",
        style=Style(
            title="shows the query motion",
            unit="% of videos",
            factor=100.0,
            decimals=1,
            meaning="videos in which optical flow shows the queries' motion; higher is better",
        ),
    ),
    Metric(
        name="flow_histogram_distance",
        backend="dis",
        lower_is_better=True,
        style=Style(
            title="distance from the queries' flow histogram",
            unit="0 to 1",
            decimals=3,
            meaning="share of a video's motion whose direction or speed differs from the query videos' average; lower is better",
        ),
    ),
    Metric(
        name="flow_frechet_distance",
        backend="dis",
        bounds=(0.0, math.inf),
        lower_is_better=True,
        style=Style(
            title="Fréchet distance of flow",
            unit="sides/s",
            decimals=3,
            meaning="Fréchet distance between an arm's videos and the query videos in speed and change of speed by direction, in shorter sides of "
            "the picture a second, over all videos of a training together; lower is better",
        ),
    ),
    Metric(
        name="dynamic_degree",
        backend="dis",
        measure="motive_pipeline.evaluation.metrics:measure_dynamic_degree",
        style=Style(
            title="dynamic degree",
            unit="% of videos",
            factor=100.0,
            decimals=1,
            meaning="videos that move at all, by VBench's rule on DIS flow (a stand-in; VBench uses RAFT)",
        ),
    ),
    Metric(
        name="motion_smoothness",
        backend="dis",
        measure="motive_pipeline.evaluation.metrics:measure_motion_smoothness",
        style=Style(
            title="motion smoothness",
            unit="0 to 1",
            decimals=4,
            meaning="how well odd frames can be interpolated from their neighbours by DIS (a stand-in; VBench uses AMT-S); also near 1 for a still video",
        ),
    ),
    Metric(
        name="temporal_flickering",
        backend="exact",
        measure="motive_pipeline.evaluation.metrics:measure_temporal_flickering",
        style=Style(
            title="temporal flickering",
            unit="0 to 1",
            decimals=4,
            meaning="1 minus the mean difference of consecutive frames (VBench's own formula); 1 for a still video",
        ),
    ),
)
"""Every metric but VBench's own, by label, in the order of the report."""

HELD_OUT_DROP = METRICS["held_out_loss_drop"]
IN_SAMPLE_DROP = METRICS["in_sample_loss_drop"]
QUERY_MOTION = METRICS["query_motion_share[dis]"]
HISTOGRAM = METRICS["flow_histogram_distance[dis]"]
FRECHET = METRICS["flow_frechet_distance[dis]"]
DYNAMIC = METRICS["dynamic_degree[dis]"]
SMOOTHNESS = METRICS["motion_smoothness[dis]"]
FLICKERING = METRICS["temporal_flickering"]


def video_metrics() -> list[Metric]:
    """The metrics that are measured on single videos."""
    return [metric for metric in METRICS.values() if metric.measure is not None]


def video_metric_versions() -> dict[str, int]:
    """Label -> version of each of them: what decides the values of one video."""
    return {metric.label: metric.version for metric in video_metrics()}
