"""Publishes ``eval_scores/<arm>``: metrics of every generated video, the causal check, and the arm's scores with intervals."""

from __future__ import annotations

import functools
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motive_pipeline.config import ArmName
from motive_pipeline.engine import Outcome, Work, compute_rows
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.evaluation.audit.table import audit_frame
from motive_pipeline.evaluation.causal import DIMS, causal_check
from motive_pipeline.evaluation.flow_distance import FlowDistances, flow_row, histogram_distance
from motive_pipeline.evaluation.ground_truth import query_motion, recognize_motion
from motive_pipeline.evaluation.loss_drop import loss_drop_rows
from motive_pipeline.evaluation.metrics import Video, measure
from motive_pipeline.evaluation.query_flow import QueryFlow, feature_table, query_flow
from motive_pipeline.evaluation.values import ALL_TRAININGS, score_rows, unit_values
from motive_pipeline.evaluation.vbench.measure import VIDEO_ID_COLUMNS, Measured, measure_videos
from motive_pipeline.evaluation.vbench.record import FILE as VBENCH_RECORD
from motive_pipeline.evaluation.vbench.record import facts_of
from motive_pipeline.graph.metrics import HISTOGRAM, QUERY_MOTION, video_metric_versions, video_metrics
from motive_pipeline.motion.histogram import sampled_flow
from motive_pipeline.motion.parallel import here_or_spread
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file, digest_frame
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace
from motive_pipeline.video.decode import FrameRule, read_clip

STAGE = "eval_scores"
LABEL_BYTES = "S16"


@dataclass(frozen=True, kw_only=True)
class VideoFile:
    """One generated video. ``labelled_by`` is the source whose classifier recognizes its motion, None if there is none."""

    path: Path
    fps: float
    labelled_by: str | None


def publish_eval_scores(ws: Workspace, arm: ArmName) -> Publication:
    """Measure the videos of ``arm`` and the loss of its trainings, and publish ``eval_scores/<arm>``.

    Files: ``per_video.parquet`` (training, prompt_index, n, metric, backend, value, motion_label, motion_coherence), ``causal.parquet``
    (see :func:`~.causal.causal_check`), ``flow.parquet`` and ``query_flow.parquet`` (the features that :mod:`~.flow_distance` compares, a row
    for each pair of frames), ``scores.parquet`` (the rows of the table ``eval_scores``; ``seed`` is the training, -1 all of them) and
    ``loss_drop.parquet`` (its rows of the table ``audit``: the drop of the loss by timestep).
    With ``evaluate.backend: vbench`` VBench's own values are added to the stand-ins', and ``vbench.json`` records their origin.

    Raises:
        GateFailed: a video is missing, listed twice, cannot be read or has a value that is not finite; or the causal check failed.
        MotiveError: VBench is not installed, or failed.
    """
    started = time.time()
    videos = ws.published(f"generated_videos/{arm}")
    queries = query_flow(ws)
    per_video, flow, counts = measured_videos(ws, arm, videos, queries)
    vbench = measure_videos(ws, arm, videos) if ws.config.evaluate.backend == "vbench" else None
    per_video = per_video if vbench is None else _with_vbench(per_video, vbench)
    causal, causal_counts = causal_check(ws, arm)
    num_samples = ws.config.evaluate.bootstrap_samples
    distances = FlowDistances.of({arm: flow}, queries.table, num_samples=num_samples)
    scores = score_rows(unit_values(arm, per_video, causal), arm, num_samples=num_samples, distances=distances)
    drop = audit_frame(list(loss_drop_rows(arm, causal, num_samples=num_samples)))
    tables = {"per_video": per_video, "causal": causal, "flow": flow, "query_flow": queries.table, "scores": scores, "loss_drop": drop}

    def write(folder: Path) -> None:
        for name, table in tables.items():
            write_parquet(table, folder / f"{name}.parquet")
        if vbench is not None:
            atomic.write_json(folder / VBENCH_RECORD, vbench.record)

    all_counts = [counts, causal_counts, *([vbench.counts] if vbench else [])]
    return ws.publish(
        f"eval_scores/{arm}",
        content=digest([digest_frame(table) for table in tables.values()], *([vbench.record] if vbench else [])),
        write=write,
        started=started,
        facts=_facts(scores, per_video) | (facts_of(vbench.record) if vbench else {}),
        counts=RowCounts(computed=sum(each.computed for each in all_counts), reused=sum(each.reused for each in all_counts)),
        scores={("eval_scores", arm): scores, ("audit", f"loss_drop_{arm}"): drop},
    )


def measured_videos(ws: Workspace, arm: str, videos: Publication, queries: QueryFlow) -> tuple[pd.DataFrame, pd.DataFrame, RowCounts]:
    """The tables ``per_video`` and ``flow`` of the published videos, and how many videos were measured now.

    Raises:
        GateFailed: see :func:`publish_eval_scores`.
    """
    table = videos.table("videos")
    _require_unique(arm, table)
    motion = query_motion(ws)
    fps = float(ws.config.clips.fps)
    labelled_by = None if motion is None else ws.config.queries.source
    files = [VideoFile(path=videos.path / str(name), fps=fps, labelled_by=labelled_by) for name in table["file"]]
    _require_files(arm, files)
    rule = FrameRule.of(ws.config)
    keys = [
        digest("video", digest_file(file.path), rule.content(), file.labelled_by is not None, video_metric_versions()) for file in files
    ]
    store = ws.store(STAGE, DIMS)
    work = [Work(key=key, item=file) for key, file in dict(zip(keys, files, strict=True)).items()]
    missing = [piece.item for piece in work if store.find(piece.key) is None]
    with here_or_spread(ws, _video_measure, missing) as ready:
        outcome = compute_rows(
            store, work, ready, what=f"videos of {arm}", commit_rows=ws.config.engine.commit_rows, commit_s=ws.config.engine.commit_s
        )
    _require_all(arm, files, keys, outcome)
    found = [(outcome.refs[key], video) for key, video in zip(keys, table.to_dict("records"), strict=True)]
    per_video = pd.DataFrame([row for ref, video in found for row in _video_rows(store, ref, video, motion, queries)])
    _require_finite(arm, per_video, table)
    flow = [feature_table(store.read(ref, "flow_features")).assign(**_video_ids(video)) for ref, video in found]
    return per_video, pd.concat(flow, ignore_index=True), outcome.counts


def _video_measure(ws: Workspace) -> Callable[[VideoFile], dict[str, np.ndarray]]:
    return functools.partial(measure_video, rule=FrameRule.of(ws.config))


def measure_video(file: VideoFile, rule: FrameRule) -> dict[str, np.ndarray]:
    """One row: the value of each metric by label, ``motion_label`` (bytes, empty without a classifier), ``motion_coherence``, and the flow.

    Raises:
        RejectRow: the video cannot be read, or is too short for a metric.
    """
    frames_THWC = read_clip(file.path, rule).frames_THWC
    try:
        flow_PHW2 = sampled_flow(frames_THWC, file.fps)
        values = measure(Video(frames_THWC=frames_THWC, fps=file.fps, flow_PHW2=flow_PHW2, path=file.path))
        reading = recognize_motion(file.labelled_by, frames_THWC) if file.labelled_by else None
    except ValueError as error:
        raise RejectRow("too_short", str(error)) from error
    row: dict[str, np.ndarray] = {metric.label: np.array(value, np.float64) for metric, value in values.items()}
    row |= flow_row(flow_PHW2, file.fps)
    row["motion_label"] = np.array((reading.label if reading else "").encode("ascii"), LABEL_BYTES)
    row["motion_coherence"] = np.array(reading.coherence if reading else np.nan, np.float64)
    return row


def _video_rows(store: RowStore, ref: RowRef, video: dict[Any, Any], motion: str | None, queries: QueryFlow) -> list[dict[str, Any]]:
    """The rows of ``per_video`` of one video."""
    label = bytes(store.read(ref, "motion_label").item()).decode("ascii")
    values = {metric: float(store.read(ref, metric.label)) for metric in video_metrics()}
    if motion is not None:
        values[QUERY_MOTION] = float(label == motion)
    values[HISTOGRAM] = histogram_distance(store.read(ref, "flow_histogram"), queries.histogram_H)
    read = {"motion_label": label, "motion_coherence": float(store.read(ref, "motion_coherence"))}
    return [
        {**_video_ids(video), "metric": metric.name, "backend": metric.backend, "value": value, **read} for metric, value in values.items()
    ]


def _video_ids(video: dict[Any, Any]) -> dict[str, int]:
    return {name: int(video[name]) for name in ("training", "prompt_index", "n")}


def _with_vbench(per_video: pd.DataFrame, vbench: Measured) -> pd.DataFrame:
    """The stand-ins' rows and VBench's, with the label and coherence of the same video."""
    read = per_video.drop_duplicates(VIDEO_ID_COLUMNS)[[*VIDEO_ID_COLUMNS, "motion_label", "motion_coherence"]]
    return pd.concat([per_video, pd.DataFrame(vbench.table.merge(read, on=VIDEO_ID_COLUMNS)[list(per_video.columns)])], ignore_index=True)


def _require_unique(arm: str, table: pd.DataFrame) -> None:
    which = ["training", "prompt_index", "n"]
    if table.empty:
        raise GateFailed(f"generated_videos/{arm} holds no video")
    doubled = table.loc[table.duplicated(which, keep=False), "file"].tolist()
    if doubled:
        raise GateFailed(f"generated_videos/{arm} lists the same video of the same training twice: {', '.join(doubled[:4])}")


def _require_files(arm: str, files: list[VideoFile]) -> None:
    missing = [file.path for file in files if not file.path.is_file()]
    if missing:
        raise GateFailed(
            f"generated_videos/{arm}: {len(missing)} of {len(files)} videos are missing, {missing[0]} first. Materialize it again."
        )


def _require_all(arm: str, files: list[VideoFile], keys: list[str], outcome: Outcome) -> None:
    bad = [f"{file.path}: {outcome.rejects[key].detail}" for file, key in zip(files, keys, strict=True) if key in outcome.rejects]
    if bad:
        raise GateFailed(f"eval_scores/{arm}: {len(bad)} of {len(files)} videos cannot be measured; {'; '.join(bad[:5])}")


def _require_finite(arm: str, per_video: pd.DataFrame, table: pd.DataFrame) -> None:
    """Every video has one finite value of each metric."""
    bad = per_video[~np.isfinite(per_video["value"])]
    if len(bad):
        which = ["training", "prompt_index", "n"]
        named = bad.merge(table[[*which, "file"]], on=which)
        listed = "; ".join(f"{file}: {metric}" for file, metric in zip(named["file"].head(5), named["metric"].head(5), strict=True))
        raise GateFailed(f"eval_scores/{arm}: {len(bad)} values are not finite ({listed})")


def _facts(scores: pd.DataFrame, per_video: pd.DataFrame) -> dict[str, Any]:
    listed = [
        {
            "metric": f"{row['metric']}[{row['backend']}]",
            "value": round(float(row["value"]), 4),
            "interval": "none" if math.isnan(row["ci_low"]) else f"{row['ci_low']:.4f} to {row['ci_high']:.4f}",
            "videos or queries": int(row["num_videos"]),
        }
        for row in scores.to_dict("records")
        if row["seed"] == ALL_TRAININGS
    ]
    videos = per_video.drop_duplicates(["training", "prompt_index", "n"])
    facts: dict[str, Any] = {"videos": len(videos), "trainings": len(set(videos["training"])), "scores": listed}
    facts |= {row["metric"]: row["value"] for row in listed}  # each a number of its own, which Dagster plots over time
    if labels := [label for label in videos["motion_label"].tolist() if label]:
        facts["motions seen"] = [{"motion": label, "videos": number} for label, number in sorted(Counter(labels).items())]
    return facts
