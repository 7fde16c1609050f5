"""``motive export``: writes an arm's subset as a folder in a trainer's layout.

By default each exported video holds exactly the frames that were scored (the clip's window, at the rate and size of the section ``clips``), so
that a trainer without support for rotation, variable rates or HDR trains on what was measured. The folder appears whole. Until then, finished
videos lie in a hidden folder beside it, and the same command continues from there.
"""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.config import ArmName
from motive_pipeline.engine import Progress
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.export.trainers import TRAINERS, VIDEOS, Export, ExportedClip, Trainer, Videos
from motive_pipeline.files.file_stat import disk_errors_as_rejects
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.trouble import storage_trouble
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.encode import write_mp4
from motive_pipeline.video.readers import ClipReader, Prober

FORMAT = 1
"""Raise it when the same input is exported in another way."""

ABOUT = "motive"
"""The sub-folder about the origin of the export: MANIFEST.json, scores.csv, README.md."""

_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export. ``num_written`` videos were written now; the others existed already, from a stopped run or a finished export."""

    folder: Path
    num_clips: int
    num_written: int
    use: str
    warnings: list[str]


def export_subset(ws: Workspace, arm: ArmName, folder: Path, trainer: str, *, videos: Videos = "window") -> ExportResult:
    """Write the clips of ``curated_subset/<arm>`` to ``folder`` in the layout of ``trainer`` (a key of ``TRAINERS``).

    With ``videos="window"`` the videos hold the 4n+1 scored frames as H.264 (yuv420p, BT.709, CRF 12). With ``"original"`` they are byte
    copies of the clips, also out of archives. Repeating the call does nothing after a finished export, and continues a stopped one. The path of
    the folder is part of the export, because trainers need absolute paths: a moved export is a different one.

    Raises:
        NotPublished: the subset is not published yet.
        MotiveError: ``folder`` holds something else; a clip has changed, is missing or cannot be read; the settings that decide the frames
            differ from those of the scores; the trainer does not support ``original``; the disk is full.
        Locked: another process exports to the same folder.
    """
    folder = folder.resolve()
    if arm == "base":
        raise MotiveError("the arm base is the untrained model and has no clips to export. Name another arm with --arm.")
    kind = TRAINERS[trainer]
    if videos == "original" and kind.needs_window:
        raise MotiveError(
            f"--videos original: the settings for {kind.title} name one frame rate and the numbers of frames, but the clips' own files differ in both. "
            "Export the scored frames (--videos window)."
        )
    subset = ws.published(f"curated_subset/{arm}")
    table = _with_catalog(ws, subset, arm)
    rule = _scored_frame_rule(ws)
    key = digest(FORMAT, arm, subset.data_version, trainer, videos, rule.content(), table["caption"].tolist(), str(folder))
    work = folder.parent / f".{folder.name}.unfinished-{key[:12]}"
    about = {"key": key, "arm": arm, "videos": videos, "trainer": trainer, "subset": subset.data_version}
    lock = FileLock(folder.parent / f".{folder.name}.export.lock", f"the export to {folder}")
    if (there := _finished_manifest(folder)) is not None and there["key"] == key:
        return _result(folder, trainer, table, 0, there["warnings"])
    _require_free_folder(folder)
    try:
        with lock.holding(who=f"motive export --to {folder}"):
            try:
                num_written, warnings = _write_export(ws, table, rule, work, folder, about | {"provenance": subset.provenance})
            finally:
                lock.path.unlink(missing_ok=True)
    except OSError as error:
        problems = storage_trouble(error, folder.parent)
        if problems is None:
            raise
        raise MotiveError(f"the export to {folder} is not finished: {problems} Finished videos are in {work}.") from error
    others = sorted(path.name for path in folder.parent.glob(f".{glob.escape(folder.name)}.unfinished-*"))
    if others:
        warnings = [
            *warnings,
            f"beside it are parts of other exports to this folder that were stopped: {', '.join(others)}; you can remove them",
        ]
    return _result(folder, trainer, table, num_written, warnings)


def _write_export(
    ws: Workspace, table: pd.DataFrame, rule: FrameRule, work: Path, folder: Path, about: dict[str, Any]
) -> tuple[int, list[str]]:
    """Export while holding the lock; returns the number of videos written now, and the warnings."""
    _require_free_folder(folder)
    scores = _scores(ws, table)
    _require_unchanged(ws, table)
    _remove_half_written(work / VIDEOS)
    num_written = _write_videos(ws, table, rule, work / VIDEOS, about["videos"])
    _require_unchanged(ws, table)
    warnings = _finish(ws, table, scores, rule, work, folder, about)
    atomic.sync_tree(work)
    os.rename(work, folder)
    atomic.sync_folder(folder.parent)
    return num_written, warnings


def _result(folder: Path, trainer: str, table: pd.DataFrame, num_written: int, warnings: list[str]) -> ExportResult:
    use = TRAINERS[trainer].use.format(home=folder)
    return ExportResult(folder=folder, num_clips=len(table), num_written=num_written, use=use, warnings=warnings)


def _scored_frame_rule(ws: Workspace) -> FrameRule:
    """The rule that selected the scored frames.

    Raises:
        MotiveError: the current settings select other frames.
    """
    scored, now = (
        {name: value for name, value in settings.items() if name.startswith("clips.")}
        for settings in (ws.published("latents").provenance["settings"], ws.config.stage_settings("latents"))
    )
    changed = [
        f"{name} was {scored.get(name)!r} and is {now.get(name)!r}" for name in {**now, **scored} if scored.get(name) != now.get(name)
    ]
    if changed:
        raise MotiveError(
            f"the clips were scored with other frames than the current settings select ({'; '.join(changed)}). Run `motive run` to score the clips "
            "again, or restore the settings."
        )
    return FrameRule.of(ws.config)


def _with_catalog(ws: Workspace, subset: Publication, arm: ArmName) -> pd.DataFrame:
    """The subset in order of rank, with path and caption of each clip.

    Raises:
        MotiveError: a clip is no longer in the catalog.
    """
    table = subset.table("subset").sort_values("rank").merge(ws.published("clip_catalog").table("catalog"), on="clip_id", how="left")
    gone = table.loc[table["path"].isna(), "clip_id"].tolist()
    if gone:
        raise MotiveError(
            f"{len(gone)} clip(s) of curated_subset/{arm} are no longer in the catalog ({', '.join(gone[:_SHOWN])}): the subset is out of date. "
            "`motive run` chooses again."
        )
    return table


def _finished_manifest(folder: Path) -> dict | None:
    """The manifest of the finished export in ``folder``, or None."""
    file = folder / ABOUT / "MANIFEST.json"
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and "key" in manifest else None


def _require_free_folder(folder: Path) -> None:
    if (there := _finished_manifest(folder)) is not None:
        raise MotiveError(
            f"--to {folder}: this folder holds another export (arm {there['arm']}, for {there['trainer']}, subset {there['subset'][:12]}). It is not "
            "changed. Name another folder, or remove this one."
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MotiveError(f"--to {folder}: this folder is not empty and is not changed. Name a new folder, or an empty one.")
    if os.path.ismount(folder):
        raise MotiveError(
            f"--to {folder}: this folder is a mount point, so the export cannot be moved there in one step. Name a folder inside it."
        )
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir():
        raise MotiveError(f"--to {folder}: {nearest} is a file. Name a folder that can be created.")


def _remove_half_written(videos: Path) -> None:
    """Remove the unfinished files of a killed export; their names contain its process id."""
    videos.mkdir(parents=True, exist_ok=True)
    for file in videos.glob(".*.part"):
        file.unlink()


def _require_unchanged(ws: Workspace, table: pd.DataFrame) -> None:
    """Check that every clip exists with the scored bytes.

    Raises:
        MotiveError: a clip is missing or has changed.
    """
    memory = HashMemory(ws.state)
    problems: list[str] = []
    for clip_id, path in zip(table["clip_id"], table["path"], strict=True):
        with _collect_problems(problems, path):
            if memory.clip_id(MediaFile.parse(path)) != clip_id:
                problems.append(f"{path}: its content has changed")
    memory.save()
    _raise_if_any(problems, len(table))


def _raise_if_any(problems: Sequence[str], total: int) -> None:
    if problems:
        listed = "; ".join(problems[:_SHOWN]) + ("; ..." if len(problems) > _SHOWN else "")
        raise MotiveError(
            f"{len(problems)} of {total} clips cannot be exported: {listed}. A subset without these clips would be another subset, so nothing is "
            "exported. Restore the files, or run `motive run` to choose again."
        )


def _write_videos(ws: Workspace, table: pd.DataFrame, rule: FrameRule, folder: Path, videos: Videos) -> int:
    """Write the missing videos; returns their number."""
    files = [folder / name for name in _file_names(table, videos)]
    missing = [(MediaFile.parse(path), file) for path, file in zip(table["path"], files, strict=True) if not file.exists()]
    progress = Progress("export", total=len(table))
    progress.reused = len(table) - len(missing)
    problems: list[str] = []
    threads = max(1, ws.config.engine.num_decode_workers)
    reader = ClipReader(rule, ws.config.engine)
    if videos == "window":
        reader.prefetch([source for source, _ in missing])
    begun: deque[tuple[MediaFile, Future[None]]] = deque()

    def end() -> None:
        source, future = begun.popleft()
        with _collect_problems(problems, source.location):
            future.result()
            progress.computed += 1
        progress.report()

    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        try:
            for source, file in missing:
                with _collect_problems(problems, source.location):
                    write = (
                        partial(write_mp4, file, reader(source).frames_THWC, rule.fps)
                        if videos == "window"
                        else partial(_copy, source, file)
                    )
                    begun.append((source, pool.submit(write)))
                while len(begun) > threads:
                    end()
            while begun:
                end()
        finally:
            for _, future in begun:
                future.cancel()
    progress.rejected = len(problems)
    progress.report(last=True)
    _raise_if_any(problems, len(table))
    return len(missing)


@contextmanager
def _collect_problems(problems: list[str], path: str | Path) -> Iterator[None]:
    """Append a rejected clip to ``problems`` instead of raising."""
    try:
        yield
    except RejectRow as rejection:
        problems.append(f"{path}: {rejection.detail}")


def _file_names(table: pd.DataFrame, videos: str) -> list[str]:
    endings = [".mp4" if videos == "window" else Path(path).suffix.lower() or ".mp4" for path in table["path"]]
    return [clip_id + ending for clip_id, ending in zip(table["clip_id"], endings, strict=True)]


def _copy(source: MediaFile, target: Path) -> None:
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with ExitStack() as opened:
            with disk_errors_as_rejects():
                data = opened.enter_context(source.open())
            shutil.copyfileobj(data, opened.enter_context(unfinished.open("wb")), 2**20)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _finish(
    ws: Workspace, table: pd.DataFrame, scores: pd.DataFrame, rule: FrameRule, work: Path, home: Path, about: dict[str, Any]
) -> list[str]:
    """Write the files around the videos; returns the warnings."""
    clips = _exported_clips(ws, table, work, about["videos"])
    kind = TRAINERS[about["trainer"]]
    export = Export(folder=work, home=home, clips=clips, fps=rule.fps, width=rule.width, height=rule.height)
    kind.write(export)
    warnings = list(kind.warnings(export))
    (work / ABOUT).mkdir(exist_ok=True)
    scores.insert(1, "file", [clip.file for clip in clips])
    scores.to_csv(work / ABOUT / "scores.csv", index=False)
    (work / ABOUT / "README.md").write_text(_readme(export, kind, about, warnings), encoding="utf-8")
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
        _require_identical_copies(work, manifest["clips"])
    atomic.write_json(work / ABOUT / "MANIFEST.json", manifest)
    if not kind.keeps_videos:
        shutil.rmtree(work / VIDEOS)
    return warnings


def _require_identical_copies(work: Path, clips: Sequence[dict[str, Any]]) -> None:
    """Check that every copy has the bytes of its clip id; remove a copy that differs.

    Raises:
        MotiveError: a file changed while it was copied.
    """
    wrong = [clip for clip in clips if not clip["sha256"].startswith(clip["clip_id"])]
    for clip in wrong:
        (work / VIDEOS / clip["file"]).unlink()
    _raise_if_any([f"{clip['source']}: its content has changed" for clip in wrong], len(clips))


def _exported_clips(ws: Workspace, table: pd.DataFrame, work: Path, videos: str) -> list[ExportedClip]:
    """The facts of each written video, read from the file itself."""
    files = _file_names(table, videos)
    prober = Prober(ws.config.engine)
    prober.prefetch([work / VIDEOS / file for file in files])
    clips: list[ExportedClip] = []
    problems: list[str] = []
    for clip_id, file, caption in zip(table["clip_id"], files, table["caption"], strict=True):
        with _collect_problems(problems, work / VIDEOS / file):
            facts = prober(work / VIDEOS / file)
            numbers = {"num_frames": facts.num_frames, "fps": facts.fps, "width": facts.width, "height": facts.height}
            clips.append(ExportedClip(clip_id=clip_id, file=file, caption=caption, **numbers))
    _raise_if_any(problems, len(table))
    return clips


def _scores(ws: Workspace, table: pd.DataFrame) -> pd.DataFrame:
    """The reasons for each clip: rank in the arm, motion magnitude, and votes and influence in each published ranking."""
    masks = ws.published("motion_masks").table("index")[["clip_id", "motion_magnitude_px"]]
    scores = table[["clip_id", "rank", "path", "caption"]].merge(masks, on="clip_id", how="left")
    for variant in ws.config.variants:
        if ws.has_published(f"voted_ranking/{variant}"):
            ranking = ws.published(f"voted_ranking/{variant}").table("ranking")
            named = ranking.rename(columns={name: f"{name}_{variant}" for name in ("votes", "mean_influence", "rank", "selected")})
            scores = scores.merge(named, on="clip_id", how="left")
    return scores


def _readme(export: Export, kind: Trainer, about: dict[str, Any], warnings: Sequence[str]) -> str:
    rule = f"at {export.fps:g} frames a second and {export.width} x {export.height} (width x height)"
    content = (
        f"Each video holds the scored frames of its clip: {' or '.join(map(str, export.lengths[:6]))} frames, {rule}."
        if about["videos"] == "window"
        else f"The videos are the clips' own files. Only the beginning of each was scored, {rule}: a trainer that reads other frames trains on unscored ones."
    )
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
