"""The true motion of clips whose source knows it: what reports and controls compare choices with. The method never reads it.

A source that knows the truth registers its functions in :data:`LABELLED_SOURCES` by dotted name. They are imported when they are used, so
nothing here depends on a source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from motive_pipeline.graph import resolve_dotted
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class GroundTruth:
    """The motion of each clip of the pool, by clip_id, and that of the queries.

    ``is_lure`` says of each clip whether it is one that a method may be led to by something else than what it ought to look at; ``lure`` says in words what
    these clips are. None and empty where the pool has no lures.
    """

    motion: pd.Series
    query_motion: str
    is_lure: pd.Series | None = None
    lure: str = ""


@dataclass(frozen=True)
class RecognizedMotion:
    """The motion that a classifier recognizes in a video.

    ``coherence`` is the share of all motion that the label explains (0 to 1); ``speed_px`` per frame is the mean of each pair's fastest 5 %.
    """

    label: str
    coherence: float
    speed_px: float


@dataclass(frozen=True, kw_only=True)
class LabelledSource:
    """Functions of a source that knows its clips' motion, each as ``module:function``.

    ``truth`` takes the workspace and returns a :class:`GroundTruth`; ``query_motion`` takes the workspace and returns the motion that every
    query shows; ``classifier`` takes uint8 RGB frames and returns a :class:`RecognizedMotion`.
    """

    truth: str
    query_motion: str
    classifier: str


LABELLED_SOURCES: dict[str, LabelledSource] = {
    "demo": LabelledSource(
        truth="motive_pipeline.demo.truth:demo_truth",
        query_motion="motive_pipeline.demo.truth:demo_query_motion",
        classifier="motive_pipeline.demo.motion_class:motion_class",
    )
}
"""By the name of the source in the config."""


def load_truth(ws: Workspace) -> GroundTruth | None:
    """The ground truth, or None: clips and queries do not both come from one labelled source."""
    return resolve_dotted(LABELLED_SOURCES[ws.config.clips.source].truth)(ws) if has_truth(ws) else None


def has_truth(ws: Workspace) -> bool:
    """Whether clips and queries come from one labelled source."""
    source = ws.config.clips.source
    return source in LABELLED_SOURCES and source == ws.config.queries.source


def query_motion(ws: Workspace) -> str | None:
    """The motion that every query shows, or None where the queries' source does not know it."""
    source = LABELLED_SOURCES.get(ws.config.queries.source)
    return None if source is None else resolve_dotted(source.query_motion)(ws)


def recognize_motion(source: str, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> RecognizedMotion:
    """The motion that the classifier of the labelled source ``source`` recognizes in a video.

    Raises:
        ValueError: the video is too short.
    """
    return resolve_dotted(LABELLED_SOURCES[source].classifier)(frames_THWC)
