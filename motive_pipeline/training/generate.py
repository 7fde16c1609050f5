"""Publishes the generated videos of an arm. Every checkpoint uses the same prompts and seeds."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8

from motive_pipeline.config import ArmName
from motive_pipeline.devices.spread import answers, on_devices
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.graph import STAGES
from motive_pipeline.models.load import load_model, model_hash
from motive_pipeline.models.memory_limit import require_memory
from motive_pipeline.models.prompt_tokens import cut_prompts
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.progress import Progress
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file, digest_frame
from motive_pipeline.storage.sealed import Damaged, read_sealed, write_sealed
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.work_folders import finish_file, is_finished
from motive_pipeline.storage.workspace import Publication, Reject, RowCounts, Workspace
from motive_pipeline.training.finetune import checkpoint_folder, load_records
from motive_pipeline.training.first_frames import FirstFrames
from motive_pipeline.training.prompts import Video, planned_videos
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4

STAGE = "generated_videos"
SHEET_VIDEOS, SHEET_FRAMES = 6, 6


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One model to sample from: the number of its training, a hash of its weights, and its folder (None for the base model)."""

    training: int
    content: str
    folder: Path | None

    def load(self, ws: Workspace) -> VideoModel:
        """The model with these weights."""
        require_memory(ws.config, "generate")
        return load_model(ws.config.model, threads=ws.config.engine.threads, path=self.folder)


@dataclass(kw_only=True)
class _Tally:
    """The finished and rejected videos of an arm, with counts and time."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    computed: int = 0
    seconds: float = 0.0


def publish_videos(ws: Workspace, arm: ArmName) -> Publication:
    """Publish ``generated_videos/<arm>``: ``seed-<training>/<prompt index>-<n>.mp4`` and ``videos.parquet``.

    The arm ``base`` samples one set of videos from the base model, every other arm one set from each training's checkpoint. Finished videos are
    kept below ``work/videos`` under a key of their inputs, so a killed run repeats only the unfinished batch.

    Raises:
        ConfigError: ``generate.prompts`` cannot be used.
        GateFailed: a checkpoint generated no usable video, a query whose caption is the prompt has none, or the device is too small to sample.
    """
    started = time.time()
    videos, first_frames = planned_videos(ws), FirstFrames(ws)
    tally = _Tally()
    for checkpoint in _checkpoints(ws, arm):
        _collect(ws, arm, checkpoint, videos, first_frames, tally)
    table = pd.DataFrame(tally.rows)
    reused = len(tally.rows) + len(tally.rejects) - tally.computed
    return ws.publish(
        f"generated_videos/{arm}",
        content=digest(digest_frame(table), [digest_file(file) for file in tally.files]),
        write=functools.partial(_write, table, tally.files),
        started=started,
        facts=_facts(ws, videos, first_frames, tally),
        counts=RowCounts(computed=tally.computed, reused=reused, rejected=len(tally.rejects)),
        rejects=tally.rejects,
        preview=functools.partial(draw_contact_sheet, tally.files[:SHEET_VIDEOS], FrameRule.of(ws.config)),
    )


def _checkpoints(ws: Workspace, arm: ArmName) -> Iterator[Checkpoint]:
    """The base model, or the checkpoints of the arm."""
    base = model_hash(ws)
    if arm == "base":
        yield Checkpoint(training=0, content=digest(base), folder=None)
        return
    published = ws.published(f"finetuned_checkpoint/{arm}").path
    for record in load_records(published):
        folder = checkpoint_folder(published, record["training"])
        content = digest(record["base"], record["content"])
        yield Checkpoint(training=record["training"], content=content, folder=folder)


def _collect(
    ws: Workspace, arm: ArmName, checkpoint: Checkpoint, videos: Sequence[Video], first_frames: FirstFrames, tally: _Tally
) -> None:
    """Make what is missing of a checkpoint's videos, batch by batch, and add all of them to ``tally``."""
    size, accepted = ws.config.generate.batch_size, len(tally.rows)
    batches = [_Batch(ws, checkpoint, videos[first : first + size], first_frames) for first in range(0, len(videos), size)]
    num_missing = [len(batch.missing()) for batch in batches]
    missing = [batch.videos for batch, number in zip(batches, num_missing, strict=True) if number]
    progress = Progress(f"generate {arm}, training {checkpoint.training}", len(videos), unit="videos")
    progress.reused = len(videos) - sum(num_missing)
    if missing:
        atomic.remove_leftovers(batches[0].folder)
    begun = time.time()
    with on_devices(ws, functools.partial(_Sampler, checkpoint=checkpoint), at_once=1, leaves_files=True) as sampler:
        for _, num_drawn in answers(sampler, missing):
            tally.computed += num_drawn
            progress.step(num_drawn)
    if missing:
        tally.seconds += time.time() - begun
    for batch in batches:
        for video, file in zip(batch.videos, batch.files, strict=True):
            name = f"seed-{checkpoint.training}/{video.name}"
            why = _why_rejected(file)
            if why is None:
                tally.rows.append({"training": checkpoint.training, **vars(video), "file": name, "num_frames": ws.config.clips.num_frames})
                tally.files.append(file)
            else:
                tally.rejects.append(Reject(path=name, clip_id="", stage=f"{STAGE}/{arm}", **why))
    if len(tally.rows) == accepted:
        reasons = {reject.detail for reject in tally.rejects}
        raise GateFailed(f"{STAGE}/{arm}: training {checkpoint.training} generated no usable video ({'; '.join(sorted(reasons))})")


class _Sampler:
    """Samples a batch of a checkpoint's videos, and returns how many of them were missing. It loads the model with the first batch."""

    def __init__(self, ws: Workspace, checkpoint: Checkpoint) -> None:
        self._ws = ws
        self._checkpoint = checkpoint
        self._first_frames = FirstFrames(ws)
        self._model = functools.cache(functools.partial(checkpoint.load, ws))

    def __call__(self, videos: Sequence[Video]) -> int:
        return _Batch(self._ws, self._checkpoint, videos, self._first_frames).generate(self._model())


class _Batch:
    """Videos that are sampled together, and the files of the finished ones.

    A batched forward pass rounds differently for another batch size, so a batch is always sampled as a whole.
    """

    def __init__(self, ws: Workspace, checkpoint: Checkpoint, videos: Sequence[Video], first_frames: FirstFrames) -> None:
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
        self._first_frames = first_frames
        self.folder = ws.root / "work" / "videos" / checkpoint.content[:16]
        keys = [
            digest(
                STAGES[STAGE].version, checkpoint.content, settings, video.prompt, video.sampling_seed, *first_frames.content(video.prompt)
            )
            for video in videos
        ]
        self.files = [self.folder / f"{key}.mp4" for key in keys]

    def missing(self) -> list[int]:
        """The positions of videos that are neither finished nor rejected."""
        return [position for position, file in enumerate(self.files) if _why_rejected(file) is None and not is_finished(file)]

    def generate(self, model: VideoModel) -> int:
        """Sample the batch and keep the missing videos; returns their number."""
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
        """Sample one video of a batch in which a video failed, together with copies of itself, so that the batch size stays the same."""
        try:
            self._keep(position, self._draw(model, [self.videos[position]] * len(self.videos))[0])
        except RejectRow as rejection:
            write_sealed(_rejection_file(self.files[position]), {"reason": rejection.reason, "detail": rejection.detail})

    def _draw(self, model: VideoModel, videos: Sequence[Video]) -> list[UInt8[np.ndarray, "T H W 3"]]:
        prompts = [video.prompt for video in videos]
        starts = self._first_frames.arguments(prompts)
        return model.generate(prompts, seeds=[video.sampling_seed for video in videos], **starts, **self._sampling)

    def _keep(self, position: int, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> None:
        expected = (self._sampling["num_frames"], self._sampling["height"], self._sampling["width"], 3)
        if frames_THWC.shape != expected:
            raise ValueError(f"the model returned frames of shape {frames_THWC.shape}, not {expected}")
        file = self.files[position]
        atomic.make_folder(file.parent)
        unfinished = atomic.temp_beside(file)
        try:
            write_mp4(unfinished, frames_THWC, self._fps)
            finish_file(unfinished, file)
        finally:
            unfinished.unlink(missing_ok=True)


def _rejection_file(file: Path) -> Path:
    """The file that records the rejection of a video."""
    return file.with_suffix(".rejected.json")


def _why_rejected(file: Path) -> dict[str, str] | None:
    """Reason and detail of a rejected video; None if it is not rejected."""
    try:
        return read_sealed(_rejection_file(file))
    except (FileNotFoundError, Damaged):
        return None


def _write(table: pd.DataFrame, files: Sequence[Path], folder: Path) -> None:
    for name, file in zip(table["file"], files, strict=True):
        atomic.link_or_copy(file, folder / name)
    write_parquet(table, folder / "videos.parquet")


def _facts(ws: Workspace, videos: Sequence[Video], first_frames: FirstFrames, tally: _Tally) -> dict[str, Any]:
    timing = {"seconds_per_video": round(tally.seconds / tally.computed, 3)} if tally.computed else {}
    prompts = {video.prompt for video in videos}
    cut = cut_prompts(ws, prompts)
    cut_fact = {"prompts longer than model.max_prompt_tokens, which are cut": len(cut)} if cut else {}
    if first_frames.num_unused:
        cut_fact["queries with another's caption, whose first frames start no video"] = first_frames.num_unused
    return {"videos": len(tally.rows), "rejected": len(tally.rejects), "prompts": len(prompts), **cut_fact, **timing}


def draw_contact_sheet(files: Sequence[Path], rule: FrameRule, file: Path) -> None:
    """Write a PNG with a row of evenly spaced frames for each video."""
    from PIL import Image

    rows = []
    for video in files:
        frames_THWC = read_clip(video, rule).frames_THWC
        chosen = np.linspace(0, len(frames_THWC) - 1, SHEET_FRAMES).round().astype(int)
        rows.append(np.concatenate(list(frames_THWC[chosen]), axis=1))
    Image.fromarray(np.concatenate(rows)).save(file)
