"""The files around an export's videos: the trainer's own, and the folder about the origin of the export."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32

from motive_pipeline.attribution.gradient_set import open_gradients
from motive_pipeline.export.trainer import VIDEOS, Export, ExportedClip, Trainer
from motive_pipeline.export.trainers import TRAINERS
from motive_pipeline.export.videos import collect_problems, file_names, require_identical_copies, require_no_problems
from motive_pipeline.files.window import split_location
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.audio import has_sound
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import Prober

FORMAT = 1
"""Raise it when the same input is exported in another way."""

ABOUT = "motive"
"""The sub-folder about the origin of the export: MANIFEST.json, scores.csv, README.md."""


def write_contents(
    ws: Workspace, table: pd.DataFrame, scores: pd.DataFrame, rule: FrameRule, work: Path, home: Path, about: dict[str, Any]
) -> list[str]:
    """Write the files around the videos; returns the warnings."""
    clips = exported_clips(ws, table, work, about["videos"])
    kind = TRAINERS[about["trainer"]]
    variant = ws.config.arm(about["arm"]).variant or ws.config.lead_variant
    export = Export(
        folder=work,
        home=home,
        clips=clips,
        fps=rule.fps,
        width=rule.width,
        height=rule.height,
        arm=about["arm"],
        variant=variant,
        videos_are=about["videos"],
        audio=about["audio"],
        scores=scores,
        gradients_NP=_gradients(ws, variant, table["clip_id"].tolist()) if kind.reads_gradients else None,
    )
    kind.write(export)
    warnings = list(kind.warnings(export))
    (work / ABOUT).mkdir(exist_ok=True)
    scores.insert(1, "file", [clip.file for clip in clips])
    scores.to_csv(work / ABOUT / "scores.csv", index=False)
    (work / ABOUT / "README.md").write_text(_readme(export, kind, about, warnings, table["path"].tolist()), encoding="utf-8")
    manifest = about | {
        "format": FORMAT,
        "warnings": warnings,
        "rule": rule.content(),
        "clips": [
            asdict(clip) | {"sha256": digest_file(work / clip.path), "source": source}
            for clip, source in zip(clips, table["path"], strict=True)
        ],
    }
    if about["videos"] == "original":
        require_identical_copies(work, manifest["clips"])
    atomic.write_json(work / ABOUT / "MANIFEST.json", manifest)
    if not kind.keeps_videos:
        shutil.rmtree(work / VIDEOS)
    return warnings


def exported_clips(ws: Workspace, table: pd.DataFrame, work: Path, videos: str) -> list[ExportedClip]:
    """The facts of each written video, read from the file itself."""
    files = file_names(table, videos)
    prober = Prober(ws.config.engine)
    prober.prefetch([work / VIDEOS / file for file in files])
    clips: list[ExportedClip] = []
    problems: list[str] = []
    for clip_id, file, caption in zip(table["clip_id"], files, table["caption"], strict=True):
        with collect_problems(problems, work / VIDEOS / file):
            facts = prober(work / VIDEOS / file)
            numbers = {"num_frames": facts.num_frames, "fps": facts.fps, "width": facts.width, "height": facts.height}
            clips.append(ExportedClip(clip_id=clip_id, file=file, caption=caption, has_sound=has_sound(work / VIDEOS / file), **numbers))
    require_no_problems(problems, len(table))
    return clips


def score_table(ws: Workspace, table: pd.DataFrame) -> pd.DataFrame:
    """The reasons for each clip: rank in the arm, motion magnitude, and votes and influence in each published ranking."""
    masks = ws.published("motion_masks").table("index")[["clip_id", "motion_magnitude_px"]]
    scores = table[["clip_id", "rank", "path", "caption"]].merge(masks, on="clip_id", how="left")
    for variant in ws.config.variants:
        if publication := ws.published_or_none(f"voted_ranking/{variant}"):
            ranking = publication.table("ranking")
            named = ranking.rename(columns={name: f"{name}_{variant}" for name in ("votes", "mean_influence", "rank", "selected")})
            scores = scores.merge(named, on="clip_id", how="left")
    return scores


def _gradients(ws: Workspace, variant: str, clip_ids: Sequence[str]) -> Float32[np.ndarray, "N P"] | None:
    """The variant's projected gradients of these clips, in this order; None if one of them has none."""
    publication = ws.published_or_none(f"projected_gradients/{variant}")
    if publication is None:
        return None
    gradients = open_gradients(publication.path, ws.config.of_variant(variant).influence.proj_dim)
    places = {clip_id: place for place, clip_id in enumerate(gradients.clip_ids)}
    if not set(clip_ids) <= places.keys():
        return None
    rows_NP = np.empty((len(clip_ids), gradients.proj_dim), np.float32)
    wanted = np.array([places[clip_id] for clip_id in clip_ids])
    for start, tile in gradients.tiles():
        is_here = (start <= wanted) & (wanted < start + len(tile))
        rows_NP[is_here] = tile[wanted[is_here] - start]
    return rows_NP


def _readme(export: Export, kind: Trainer, about: dict[str, Any], warnings: Sequence[str], sources: Sequence[str]) -> str:
    rule = f"at {export.fps:g} frames a second and {export.width} x {export.height} (width x height)"
    content = (
        f"Each video holds the scored frames of its clip: {' or '.join(map(str, export.lengths[:6]))} frames, {rule}"
        f"{', with the sound of their time where the clip has some' if export.audio == 'keep' else ', without sound'}."
        if about["videos"] == "window"
        else f"The videos are the clips' own files. Only the beginning of each was scored, {rule}: a trainer that reads other frames trains on unscored ones."
    )
    windows = sum(split_location(source)[1] is not None for source in sources)
    if windows:
        content += f" {windows} of the clips are windows of longer files: `source` in `MANIFEST.json` names file and window."
    lines = [
        f"# {len(export.clips)} clips of the arm {about['arm']}, for {kind.title}",
        "",
        content,
        "",
        f"Use: `{kind.use.format(home=export.home)}`",
        "",
        "To compare arms, train each for the same number of optimizer steps, not epochs: a small subset has shorter epochs.",
        "`scores.csv` lists why each clip was chosen, `MANIFEST.json` the origin of the export with a SHA-256 of every video.",
        *(["", *(f"- {warning}" for warning in warnings)] if warnings else []),
    ]
    return "\n".join(lines) + "\n"
