"""How each metric is displayed: title, unit, decimals, and its meaning in one sentence. A new metric needs an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from motive_pipeline.evaluation.flow_distance import FRECHET, HISTOGRAM
from motive_pipeline.evaluation.metrics import DYNAMIC, FLICKERING, SMOOTHNESS, Metric
from motive_pipeline.evaluation.values import HELD_OUT_DROP, IN_SAMPLE_DROP, QUERY_MOTION
from motive_pipeline.evaluation.vbench.dimensions import DIMENSIONS


@dataclass(frozen=True, kw_only=True)
class Style:
    """How a metric is displayed: title, unit, factor from the stored value, decimals, and its meaning in one sentence."""

    title: str
    unit: str
    factor: float
    decimals: int
    meaning: str


STYLES: Mapping[Metric, Style] = {
    HELD_OUT_DROP: Style(
        title="held-out loss drop",
        unit="%",
        factor=1.0,
        decimals=2,
        meaning="how far the motion-weighted loss on held-out queries fell below the base model's; higher is better",
    ),
    IN_SAMPLE_DROP: Style(
        title="in-sample loss drop",
        unit="%",
        factor=1.0,
        decimals=2,
        meaning="how far the motion-weighted loss on the queries themselves fell (in-sample, since there are no held-out queries); higher is better",
    ),
    QUERY_MOTION: Style(
        title="shows the query motion",
        unit="% of videos",
        factor=100.0,
        decimals=1,
        meaning="videos in which optical flow shows the queries' motion; higher is better",
    ),
    HISTOGRAM: Style(
        title="distance from the queries' flow histogram",
        unit="0 to 1",
        factor=1.0,
        decimals=3,
        meaning="share of a video's motion whose direction or speed differs from the query videos' average; lower is better",
    ),
    FRECHET: Style(
        title="Fréchet distance of flow",
        unit="sides/s",
        factor=1.0,
        decimals=3,
        meaning="Fréchet distance between an arm's videos and the query videos in speed and change of speed by direction, in shorter sides of the "
        "picture a second, over all videos of a training together; lower is better",
    ),
    DYNAMIC: Style(
        title="dynamic degree",
        unit="% of videos",
        factor=100.0,
        decimals=1,
        meaning="videos that move at all, by VBench's rule on DIS flow (a stand-in; VBench uses RAFT)",
    ),
    SMOOTHNESS: Style(
        title="motion smoothness",
        unit="0 to 1",
        factor=1.0,
        decimals=4,
        meaning="how well odd frames can be interpolated from their neighbours by DIS (a stand-in; VBench uses AMT-S); also near 1 for a still video",
    ),
    FLICKERING: Style(
        title="temporal flickering",
        unit="0 to 1",
        factor=1.0,
        decimals=4,
        meaning="1 minus the mean difference of consecutive frames (VBench's own formula); 1 for a still video",
    ),
    **{
        dimension.metric: Style(
            title=f"{dimension.name.replace('_', ' ')}, VBench",
            unit="% of videos" if dimension.name == "dynamic_degree" else "0 to 1",
            factor=100.0 if dimension.name == "dynamic_degree" else 1.0,
            decimals=1 if dimension.name == "dynamic_degree" else 4,
            meaning=f"{dimension.meaning} (VBench itself)",
        )
        for dimension in DIMENSIONS.values()
    },
}
