"""Publishes the videos of an arm: every checkpoint draws the same prompts with the same seeds."""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from motive_pipeline.config import ArmName
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.graph import STAGES
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file, digest_frame
from motive_pipeline.storage.workspace import Publication, Reject, RowCounts, Workspace
from motive_pipeline.training.finetune import checkpoint_folder, load_records
from motive_pipeline.training.prompts import Video, planned_videos
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4

STAGE = "generated_videos"
SHEET_VIDEOS, SHEET_FRAMES = 6, 6


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One model to draw from: its training's number, a hash of its weights, and how to load it."""

    training: int
    content: str
    load: Callable[[], VideoModel]


@dataclass(kw_only=True)
class _Tally:
    """What became of the videos of an arm."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    computed: int = 0
    seconds: float = 0.0


def publish_videos(ws: Workspace, arm: ArmName) -> Publication:
    """Publish ``generated_videos/<arm>``: ``seed-<training>/<prompt index>-<n>.mp4`` and ``videos.parquet``.

    The arm ``base`` draws one set from the base model, the others one set from each training's checkpoint. Finished videos are kept below
    ``work/videos`` under what decides them, so that a killed run repeats only the batch it was in.

    Raises:
        ConfigError: ``generate.prompts`` cannot be used.
        GateFailed: a checkpoint gave no video that can be used.
    """
    started = time.time()
    videos = planned_videos(ws)
    tally = _Tally()
    for checkpoint in _checkpoints(ws, arm):
        _collect(ws, arm, checkpoint, videos, tally)
    table = pd.DataFrame(tally.rows)
    reused = len(tally.rows) + len(tally.rejects) - tally.computed
    return ws.publish(
        f"generated_videos/{arm}",
        content=digest(digest_frame(table), [digest_file(file) for file in tally.files]),
        write=functools.partial(_write, table, tally.files),
        started=started,
        facts=_facts(videos, tally),
        counts=RowCounts(computed=tally.computed, reused=reused, rejected=len(tally.rejects)),
        rejects=tally.rejects,
        preview=functools.partial(draw_contact_sheet, tally.files[:SHEET_VIDEOS], FrameRule.of(ws.config)),
    )


def _checkpoints(ws: Workspace, arm: ArmName) -> Iterator[Checkpoint]:
    """The base model, or the checkpoints of the arm."""
    base = model_hash(ws)
    load = functools.partial(load_model, ws.config.model, threads=ws.config.engine.threads)
    if arm == "base":
        yield Checkpoint(training=0, content=digest(base), load=load)
        return
    published = ws.published(f"finetuned_checkpoint/{arm}").path
    for record in load_records(published):
        folder = checkpoint_folder(published, record["training"])
        content = digest(record["base"], record["content"])
        yield Checkpoint(training=record["training"], content=content, load=functools.partial(load, path=folder))


def _collect(ws: Workspace, arm: ArmName, checkpoint: Checkpoint, videos: Sequence[Video], tally: _Tally) -> None:
    """All videos of one checkpoint, batch by batch, into ``tally``. The model is loaded for the first batch that is not there yet."""
    load = functools.cache(checkpoint.load)
    size = ws.config.generate.batch_size
    accepted = len(tally.rows)
    progress = Progress(f"generate {arm}, training {checkpoint.training}", len(videos), unit="videos")
    for first in range(0, len(videos), size):
        batch = _Batch(ws, checkpoint, videos[first : first + size])
        if batch.missing():
            begun = time.time()
            num_drawn = batch.generate(load())
            tally.computed += num_drawn
            tally.seconds += time.time() - begun
            progress.reused += len(batch.videos) - num_drawn
            progress.step(num_drawn)
        else:
            progress.reused += len(batch.videos)
        for video, file in zip(batch.videos, batch.files, strict=True):
            name = f"seed-{checkpoint.training}/{video.name}"
            if file.exists():
                tally.rows.append({"training": checkpoint.training, **vars(video), "file": name, "num_frames": ws.config.clips.num_frames})
                tally.files.append(file)
            else:
                why = json.loads(_rejection(file).read_text(encoding="utf-8"))
                tally.rejects.append(Reject(path=name, clip_id="", stage=f"{STAGE}/{arm}", **why))
    if len(tally.rows) == accepted:
        reasons = {reject.detail for reject in tally.rejects}
        raise GateFailed(f"{STAGE}/{arm}: training {checkpoint.training} gave no video that can be used ({'; '.join(sorted(reasons))})")


class _Batch:
    """Videos that are drawn together, and where finished ones are kept.

    A batched forward pass rounds differently for another batch size, so a batch is always drawn whole.
    """

    def __init__(self, ws: Workspace, checkpoint: Checkpoint, videos: Sequence[Video]) -> None:
        settings = {name: value for name, value in ws.config.stage_settings(STAGE).items() if name != "generate"}
        settings |= {"num_steps": ws.config.generate.num_steps, "guidance": ws.config.generate.guidance, "batch": len(videos)}
        self._sampling: dict[str, Any] = {
            "num_frames": ws.config.clips.num_frames,
            "height": ws.config.clips.height,
            "width": ws.config.clips.width,
            "num_steps": ws.config.generate.num_steps,
            "guidance": ws.config.generate.guidance,
        }
        self._fps = ws.config.clips.fps
        self.videos = videos
        folder = ws.root / "work" / "videos" / checkpoint.content[:16]
        keys = [digest(STAGES[STAGE].version, checkpoint.content, settings, video.prompt, video.sampling_seed) for video in videos]
        self.files = [folder / f"{key}.mp4" for key in keys]

    def missing(self) -> list[int]:
        """Which videos are neither there nor known to be of no use."""
        return [position for position, file in enumerate(self.files) if not file.exists() and not _rejection(file).exists()]

    def generate(self, model: VideoModel) -> int:
        """Draw the batch and keep what was missing; gives how many that were."""
        missing = self.missing()
        try:
            drawn = self._draw(model, self.videos)
        except RejectRow:
            for position in missing:
                self._generate_alone(model, position)
        else:
            for position in missing:
                self._keep(position, drawn[position])
        return len(missing)

    def _generate_alone(self, model: VideoModel, position: int) -> None:
        """A video of a batch in which some video failed: drawn among copies of itself, so that the batch size stays the same."""
        try:
            self._keep(position, self._draw(model, [self.videos[position]] * len(self.videos))[0])
        except RejectRow as rejection:
            atomic.write_json(_rejection(self.files[position]), {"reason": rejection.reason, "detail": rejection.detail})

    def _draw(self, model: VideoModel, videos: Sequence[Video]) -> list[UInt8[np.ndarray, "T H W 3"]]:
        return model.generate([video.prompt for video in videos], seeds=[video.sampling_seed for video in videos], **self._sampling)

    def _keep(self, position: int, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> None:
        expected = (self._sampling["num_frames"], self._sampling["height"], self._sampling["width"], 3)
        if frames_THWC.shape != expected:
            raise ValueError(f"the model gave frames of shape {frames_THWC.shape} where {expected} were asked for")
        self.files[position].parent.mkdir(parents=True, exist_ok=True)
        write_mp4(self.files[position], frames_THWC, self._fps)


def _rejection(file: Path) -> Path:
    """Where it is noted that a video came out of no use."""
    return file.with_suffix(".rejected.json")


def _write(table: pd.DataFrame, files: Sequence[Path], folder: Path) -> None:
    for name, file in zip(table["file"], files, strict=True):
        (folder / name).parent.mkdir(exist_ok=True)
        os.link(file, folder / name)
    table.to_parquet(folder / "videos.parquet", index=False)


def _facts(videos: Sequence[Video], tally: _Tally) -> dict[str, Any]:
    timing = {"seconds_per_video": round(tally.seconds / tally.computed, 3)} if tally.computed else {}
    prompts = {video.prompt_index for video in videos}
    return {"videos": len(tally.rows), "rejected": len(tally.rejects), "prompts": len(prompts), **timing}


def draw_contact_sheet(files: Sequence[Path], rule: FrameRule, file: Path) -> None:
    """A PNG with a row of frames, evenly spaced in time, for each video."""
    from PIL import Image

    rows = []
    for video in files:
        frames_THWC = read_clip(video, rule).frames_THWC
        chosen = np.linspace(0, len(frames_THWC) - 1, SHEET_FRAMES).round().astype(int)
        rows.append(np.concatenate(list(frames_THWC[chosen]), axis=1))
    Image.fromarray(np.concatenate(rows)).save(file)
