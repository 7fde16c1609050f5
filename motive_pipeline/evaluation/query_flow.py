"""The optical flow of the query videos, with which the flow of generated videos is compared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import GateFailed
from motive_pipeline.evaluation.causal import DIMS
from motive_pipeline.evaluation.flow_distance import FEATURES, flow_row
from motive_pipeline.motion.histogram import sampled_flow
from motive_pipeline.motion.parallel import here_or_spread
from motive_pipeline.motion.stage import MaskSet
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader


@dataclass(frozen=True, kw_only=True)
class QueryFlow:
    """The mean histogram of the query videos, and a table with query_id, pair and the features of each pair of frames."""

    histogram_H: Float[np.ndarray, " H"]
    table: pd.DataFrame


def query_flow(ws: Workspace) -> QueryFlow:
    """The flow of the held-out queries (of the queries if there are none) in which something moves.

    Raises:
        GateFailed: a query can no longer be read.
    """
    masks = MaskSet(ws, "query")
    usable = [clip for clip in catalog_clips(ws, "query") if clip.clip_id in masks]
    queries = [clip for clip in usable if clip.part == "held_out"] or usable
    rule = FrameRule.of(ws.config)
    store = ws.store("eval_scores", DIMS)
    work = [Work(key=digest("query flow", query.clip_id, rule.content()), item=query) for query in queries]
    missing = [piece.item for piece in work if store.find(piece.key) is None]
    with here_or_spread(ws, _flow_of_query, missing) as ready:
        outcome = compute_rows(
            store, work, ready, what="flow of the queries", commit_rows=ws.config.engine.commit_rows, commit_s=ws.config.engine.commit_s
        )
    if outcome.rejects:
        named = [f"{piece.item.location} ({outcome.rejects[piece.key].detail})" for piece in work if piece.key in outcome.rejects]
        raise GateFailed(
            f"eval_scores: {'; '.join(named[:5])} can no longer be read as a query. Run `motive run` to read the changed files."
        )
    refs = [(piece.item.clip_id, outcome.refs[piece.key]) for piece in work]
    tables = [feature_table(store.read(ref, "flow_features")).assign(query_id=clip_id) for clip_id, ref in refs]
    histograms = [store.read(ref, "flow_histogram").astype(np.float64) for _, ref in refs]
    return QueryFlow(histogram_H=np.mean(histograms, axis=0), table=pd.concat(tables, ignore_index=True))


def feature_table(features_KD: Float[np.ndarray, "K D"]) -> pd.DataFrame:
    """One row for each pair of frames: its number and the features."""
    return pd.DataFrame(features_KD, columns=FEATURES).rename_axis("pair").reset_index()


def _flow_of_query(ws: Workspace) -> Callable[[CatalogClip], dict[str, np.ndarray]]:
    rule = FrameRule.of(ws.config)
    return functools.partial(_query_row, read=ClipReader(rule, ws.config.engine), fps=rule.fps)


def _query_row(query: CatalogClip, *, read: ClipReader, fps: float) -> dict[str, np.ndarray]:
    return dict(flow_row(sampled_flow(read(query.file).frames_THWC, fps), fps))
