"""``motive export``: writes an arm's subset as a folder in a trainer's layout.

By default each exported video holds exactly the frames that were scored (the clip's window, at the rate and size of the section ``clips``), so
that a trainer without support for rotation, variable rates or HDR trains on what was measured. The folder appears whole. Until then, finished
videos lie in a hidden folder beside it, and the same command continues from there.
"""

from __future__ import annotations

import glob
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.config import ArmName
from motive_pipeline.errors import MotiveError
from motive_pipeline.export.contents import ABOUT, FORMAT, score_table, write_contents
from motive_pipeline.export.trainer import VIDEOS, Audio, Videos
from motive_pipeline.export.trainers import TRAINERS
from motive_pipeline.export.videos import remove_half_written, require_unchanged, write_videos
from motive_pipeline.files.window import split_location
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.disk_errors import storage_trouble
from motive_pipeline.storage.layout import source_folders
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.publication import WARNING
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.decode import FrameRule

_SHOWN = 5
_OWN_FOLDERS = ("rows", "published", "work", "scores", "state", "demo")


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export. ``num_written`` videos were written now; the others existed already, from a stopped run or a finished export."""

    folder: Path
    num_clips: int
    num_written: int
    use: str
    warnings: list[str]


def export_subset(
    ws: Workspace, arm: ArmName, folder: Path, trainer: str, *, videos: Videos = "window", audio: Audio = "strip", within_root: bool = False
) -> ExportResult:
    """Write the clips of ``curated_subset/<arm>`` to ``folder`` in the layout of ``trainer`` (a key of ``TRAINERS``).

    With ``videos="window"`` the videos hold the 4n+1 scored frames as H.264 (yuv420p, BT.709, CRF 12), with ``audio="keep"`` also the sound of
    their time as AAC. With ``"original"`` they are byte
    copies of the clips, also out of archives. Repeating the call does nothing after a finished export, and continues a stopped one. The path of
    the folder is part of the export, because trainers need absolute paths: a moved export is a different one.

    ``within_root`` allows a folder among the pipeline's own, for a trainer that the pipeline itself runs.

    Raises:
        NotPublished: the subset is not published yet.
        MotiveError: ``folder`` holds something else; a clip has changed, is missing or cannot be read; the settings that decide the frames
            differ from those of the scores; the trainer does not support ``original``, or a clip is a window of its file; the disk is full.
        Locked: another process exports to the same folder.
    """
    folder = folder.resolve()
    if not within_root:
        require_apart(ws, folder)
    _require_possible(arm, trainer, videos)
    subset = ws.published(f"curated_subset/{arm}")
    table = _with_catalog(ws, subset, arm)
    if videos == "original":
        _require_whole_files(table)
    rule = _scored_frame_rule(ws)
    about = {"arm": arm, "videos": videos, "audio": audio, "trainer": trainer, "subset": subset.data_version}
    key = _key(about, rule, table, folder)
    work = folder.parent / f".{folder.name}.unfinished-{key[:12]}"
    lock = FileLock(folder.parent / f".{folder.name}.export.lock", f"the export to {folder}")
    if (there := _finished_manifest(folder)) is not None and there["key"] == key:
        return _result(folder, trainer, table, 0, [*_of_the_audit(ws), *there["warnings"]])
    _require_free_folder(folder)
    try:
        with lock.holding(who=f"motive export --to {folder}"):
            try:
                num_written, warnings = _write_export(
                    ws, table, rule, work, folder, {"key": key} | about | {"provenance": subset.provenance}
                )
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
    return _result(folder, trainer, table, num_written, [*_of_the_audit(ws), *warnings])


def require_target(ws: Workspace, arm: ArmName, folder: Path, trainer: str, *, videos: Videos, audio: Audio) -> None:
    """Check what can be checked of an export before its subset is made: for a command that computes it first.

    Raises:
        MotiveError: see :func:`export_subset`. A finished export of the same arm for the same trainer is no error: it may be the one that is wanted.
    """
    folder = folder.resolve()
    require_apart(ws, folder)
    _require_possible(arm, trainer, videos)
    there = _finished_manifest(folder)
    wanted = {"arm": arm, "trainer": trainer, "videos": videos, "audio": audio}
    if there is None or any(there.get(name, "strip") != value for name, value in wanted.items()):
        _require_free_folder(folder)


def _require_possible(arm: ArmName, trainer: str, videos: Videos) -> None:
    """The arm has clips, and the trainer takes such videos.

    Raises:
        MotiveError: one of them does not hold.
    """
    if arm == "base":
        raise MotiveError("the arm base is the untrained model and has no clips to export. Name another arm with --arm.")
    kind = TRAINERS[trainer]
    if videos == "original" and kind.needs_window:
        raise MotiveError(
            f"--videos original: the settings for {kind.title} name one frame rate and the numbers of frames, but the clips' own files differ in both. "
            "Export the scored frames (--videos window)."
        )


def _key(about: dict[str, Any], rule: FrameRule, table: pd.DataFrame, folder: Path) -> str:
    """What decides every byte of the export. An export from before there was a choice of sound or of layout has the key of the first choice."""
    version = TRAINERS[about["trainer"]].version
    later = {"audio": about["audio"]} if about["audio"] != "strip" else {}
    later |= {"layout": version} if version != 1 else {}
    named = (about[name] for name in ("arm", "subset", "trainer", "videos"))
    return digest(FORMAT, *named, rule.content(), table["caption"].tolist(), str(folder), *([later] if later else []))


def _write_export(
    ws: Workspace, table: pd.DataFrame, rule: FrameRule, work: Path, folder: Path, about: dict[str, Any]
) -> tuple[int, list[str]]:
    """Export while holding the lock; returns the number of videos written now, and the warnings."""
    _require_free_folder(folder)
    _unlink_links(work)
    scores = score_table(ws, table)
    require_unchanged(ws, table)
    remove_half_written(work / VIDEOS)
    num_written = write_videos(ws, table, rule, work / VIDEOS, about["videos"], about["audio"])
    require_unchanged(ws, table)
    warnings = write_contents(ws, table, scores, rule, work, folder, about)
    atomic.sync_tree(work)
    os.rename(work, folder)
    atomic.sync_folder(folder.parent)
    return num_written, warnings


def _of_the_audit(ws: Workspace) -> list[str]:
    """What the audit says against choosing by influence; nothing before it found anything."""
    audit = ws.recorded("attribution_audit")
    return [audit.facts[WARNING]] if audit is not None and WARNING in audit.facts else []


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


def _require_whole_files(table: pd.DataFrame) -> None:
    """No clip is a window of its file: a copy of the file would hold other frames.

    Raises:
        MotiveError: one is.
    """
    windows = [path for path in table["path"] if split_location(path)[1] is not None]
    if windows:
        listed = ", ".join(windows[:_SHOWN]) + ", ..." * (len(windows) > _SHOWN)
        raise MotiveError(
            f"--videos original: {len(windows)} of {len(table)} clips are windows of longer files ({listed}), and a copy of a whole file is another "
            "clip. Export the scored frames, encoded anew (--videos window)."
        )


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


def require_apart(ws: Workspace, folder: Path) -> None:
    """The folder is neither one that clips are read from nor one that the pipeline writes.

    Raises:
        MotiveError: it is one of them.
    """
    for key, source in source_folders(ws.config):
        if folder.is_relative_to(source):
            raise MotiveError(
                f"cannot export to {folder}: it lies inside {key} = {source}, so what is exported would be taken for clips and captions. Name a folder outside of it."
            )
    root = ws.root.resolve()
    inside = folder.relative_to(root).parts if folder.is_relative_to(root) else ("elsewhere",)
    if not inside or inside[0] in _OWN_FOLDERS:
        raise MotiveError(
            f"cannot export to {folder}: the pipeline keeps its own files there (storage.root = {root}). Name a folder outside of it."
        )


def _unlink_links(work: Path) -> None:
    """Remove the links in the work folder, so that nothing is written through a link. What they lead to stays."""
    if work.is_symlink():
        work.unlink()
    for path in list(work.rglob("*")):
        if path.is_symlink():
            path.unlink()


def _require_free_folder(folder: Path) -> None:
    if (there := _finished_manifest(folder)) is not None:
        raise MotiveError(
            f"cannot export to {folder}: this folder holds another export (arm {there['arm']}, for {there['trainer']}, subset {there['subset'][:12]}). It is not "
            "changed. Name another folder, or remove this one."
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MotiveError(f"cannot export to {folder}: this folder is not empty and is not changed. Name a new folder, or an empty one.")
    if os.path.ismount(folder):
        raise MotiveError(
            f"cannot export to {folder}: this folder is a mount point, so the export cannot be moved there in one step. Name a folder inside it."
        )
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir():
        raise MotiveError(f"cannot export to {folder}: {nearest} is a file. Name a folder that can be created.")
