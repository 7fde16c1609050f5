"""``motive export``: an arm's subset as a folder that a trainer reads.

By default a video of the export holds the very frames that the clip was scored by (its window, at the rate and size of the section ``clips``),
so that a trainer that knows nothing of rotation, variable rates or HDR trains on what was measured. The folder appears whole: until then the
videos that are finished lie in a hidden folder beside it, from which the same command goes on.
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

from motive_pipeline.clips.archive import open_bytes
from motive_pipeline.clips.decode import FrameRule
from motive_pipeline.clips.encode import write_mp4
from motive_pipeline.clips.scan import HashMemory, naming_trouble
from motive_pipeline.clips.workers import ClipReader, Prober
from motive_pipeline.config import Arm
from motive_pipeline.curation.trainers import TRAINERS, VIDEOS, Export, ExportedClip, Trainer, Videos
from motive_pipeline.engine import Progress
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.layout import source_folders
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.trouble import storage_trouble
from motive_pipeline.storage.workspace import Publication, Workspace

FORMAT = 1
"""Raised when an export of equal input is written in another way."""

ABOUT = "motive"
"""The sub-folder with where the export comes from: MANIFEST.json, scores.csv, README.md."""

_SHOWN = 5
_OWN_FOLDERS = ("rows", "published", "work", "scores", "state", "demo")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A finished export. ``num_written`` videos were made now; the others were there from a run that was stopped, or the whole folder was."""

    folder: Path
    num_clips: int
    num_written: int
    use: str
    warnings: list[str]


def export_subset(ws: Workspace, arm: Arm, folder: Path, trainer: str, *, videos: Videos = "window") -> Exported:
    """Write the clips of ``curated_subset/<arm>`` to ``folder`` in the layout that ``trainer`` (a key of ``TRAINERS``) reads.

    ``videos``: ``window`` writes the frames that were scored, 4n+1 of them, as H.264 (yuv420p, BT.709, CRF 12); ``original`` copies each clip's
    bytes as they are, out of archives, too. The same call again does nothing when it has finished, and goes on where it was stopped when it has not.
    Where the folder lies is part of an export, since trainers want absolute paths: one that was moved is another.

    Raises:
        NotPublished: there is no such subset yet.
        MotiveError: ``folder`` holds something else; a clip has changed, vanished or cannot be read; the settings that decide the frames are no
            longer those of the scores; the trainer cannot take ``original``; the disk is full.
        Locked: another process is exporting to the same folder.
    """
    folder = folder.resolve()
    if arm == "base":
        raise MotiveError("the arm base is the model before any training: it has no clips to export. Name another with --arm.")
    kind = TRAINERS[trainer]
    if videos == "original" and kind.needs_window:
        raise MotiveError(
            f"--videos original: the settings for {kind.title} name one rate and the numbers of frames, and the clips' own files have any. Export the "
            "frames that were scored (--videos window)."
        )
    subset = ws.published(f"curated_subset/{arm}")
    table = _with_catalog(ws, subset, arm)
    rule = _rule_of_the_scores(ws)
    key = digest(FORMAT, arm, subset.data_version, trainer, videos, rule.content(), table["caption"].tolist(), str(folder))
    work = folder.parent / f".{folder.name}.unfinished-{key[:12]}"
    about = {"key": key, "arm": arm, "videos": videos, "trainer": trainer, "subset": subset.data_version}
    lock = FileLock(folder.parent / f".{folder.name}.export.lock", f"the export to {folder}")
    _require_apart(ws, folder)
    if (there := _finished(folder)) is not None and there["key"] == key:
        return _told(folder, trainer, table, 0, there["warnings"])
    _require_free(folder)
    try:
        with lock.holding(who=f"motive export --to {folder}"):
            try:
                num_written, warnings = _export(ws, table, rule, work, folder, about | {"provenance": subset.provenance})
            finally:
                lock.path.unlink(missing_ok=True)
    except OSError as error:
        trouble = storage_trouble(error, folder.parent)
        if trouble is None:
            raise
        raise MotiveError(f"the export to {folder} is not finished: {trouble} What is finished lies in {work}.") from error
    others = sorted(path.name for path in folder.parent.glob(f".{glob.escape(folder.name)}.unfinished-*"))
    if others:
        warnings = [
            *warnings,
            f"beside it lies what is left of other exports to it that were stopped: {', '.join(others)}; remove it if you like",
        ]
    return _told(folder, trainer, table, num_written, warnings)


def _export(ws: Workspace, table: pd.DataFrame, rule: FrameRule, work: Path, folder: Path, about: dict[str, Any]) -> tuple[int, list[str]]:
    """The export itself, by whoever holds the lock: how many videos were written now, and the warnings."""
    _require_free(folder)
    _unlink_links(work)
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


def _told(folder: Path, trainer: str, table: pd.DataFrame, num_written: int, warnings: list[str]) -> Exported:
    use = TRAINERS[trainer].use.format(home=folder)
    return Exported(folder=folder, num_clips=len(table), num_written=num_written, use=use, warnings=warnings)


def _rule_of_the_scores(ws: Workspace) -> FrameRule:
    """The frames that were scored.

    Raises:
        MotiveError: the settings would take other ones now.
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
            f"the clips were scored by other frames than the settings take now ({'; '.join(changed)}). Run `motive run` to score them anew, or "
            "set them back."
        )
    return FrameRule.of(ws.config)


def _with_catalog(ws: Workspace, subset: Publication, arm: Arm) -> pd.DataFrame:
    """The subset in its order, with path and caption of each clip.

    Raises:
        MotiveError: a clip is no longer in the catalog.
    """
    table = subset.table("subset").sort_values("rank").merge(ws.published("clip_catalog").table("catalog"), on="clip_id", how="left")
    gone = table.loc[table["path"].isna(), "clip_id"].tolist()
    if gone:
        raise MotiveError(
            f"{len(gone)} clip(s) of curated_subset/{arm} are no longer in the catalog ({', '.join(gone[:_SHOWN])}): the subset is out of date. "
            "`motive run` chooses anew."
        )
    return table


def _finished(folder: Path) -> dict | None:
    """The manifest of the export that ``folder`` holds."""
    file = folder / ABOUT / "MANIFEST.json"
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return manifest if isinstance(manifest, dict) and "key" in manifest else None


def _require_free(folder: Path) -> None:
    if (there := _finished(folder)) is not None:
        raise MotiveError(
            f"--to {folder}: this folder holds another export (arm {there['arm']}, for {there['trainer']}, subset {there['subset'][:12]}). It is "
            "left as it is: name another folder, or remove this one."
        )
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise MotiveError(
            f"--to {folder}: there is something already, which is left as it is. Name a folder that is not there, or an empty one."
        )
    if os.path.ismount(folder):
        raise MotiveError(f"--to {folder}: a disk begins at this folder, so it cannot appear as a whole. Name a folder inside it.")
    nearest = next(path for path in folder.parents if path.exists())
    if not nearest.is_dir():
        raise MotiveError(f"--to {folder}: {nearest} is a file. Name a folder that can be made.")


def _require_apart(ws: Workspace, folder: Path) -> None:
    """The folder is not one that clips are read from, or that the pipeline writes."""
    for key, source in source_folders(ws.config):
        if folder.is_relative_to(source):
            raise MotiveError(
                f"--to {folder}: it lies inside {key} = {source}, so the exported videos would be taken for clips. Name a folder outside of it."
            )
    root = ws.root.resolve()
    inside = folder.relative_to(root).parts if folder.is_relative_to(root) else ("elsewhere",)
    if not inside or inside[0] in _OWN_FOLDERS:
        raise MotiveError(f"--to {folder}: the pipeline keeps its own files there (storage.root = {root}). Name a folder outside of it.")


def _unlink_links(work: Path) -> None:
    """Nothing of the export is written through a link: links in the work folder are removed, and what they lead to stays."""
    if work.is_symlink():
        work.unlink()
    for path in list(work.rglob("*")):
        if path.is_symlink():
            path.unlink()


def _remove_half_written(videos: Path) -> None:
    """What a killed export was writing; the name of such a file has the number of its process."""
    videos.mkdir(parents=True, exist_ok=True)
    for file in videos.glob(".*.part"):
        file.unlink()


def _require_unchanged(ws: Workspace, table: pd.DataFrame) -> None:
    """Every clip is there with the bytes that were scored.

    Raises:
        MotiveError: otherwise.
    """
    memory = HashMemory(ws.state)
    trouble: list[str] = []
    for clip_id, path in zip(table["clip_id"], table["path"], strict=True):
        with _noting(trouble, path):
            if memory.clip_id(Path(path)) != clip_id:
                trouble.append(f"{path}: its content has changed")
    memory.save()
    _raise_if_any(trouble, len(table))


def _raise_if_any(trouble: Sequence[str], total: int) -> None:
    if trouble:
        listed = "; ".join(trouble[:_SHOWN]) + ("; ..." if len(trouble) > _SHOWN else "")
        raise MotiveError(
            f"{len(trouble)} of {total} clips cannot be exported: {listed}. A subset that lacks clips is another subset, so there is none: put the "
            "files back, or let `motive run` choose anew."
        )


def _write_videos(ws: Workspace, table: pd.DataFrame, rule: FrameRule, folder: Path, videos: Videos) -> int:
    """Write those that are not there yet; how many."""
    files = [folder / name for name in _file_names(table, videos)]
    missing = [(Path(path), file) for path, file in zip(table["path"], files, strict=True) if not file.exists()]
    progress = Progress("export", total=len(table))
    progress.reused = len(table) - len(missing)
    trouble: list[str] = []
    threads = max(1, ws.config.engine.num_decode_workers)
    reader = ClipReader(rule, ws.config.engine)
    if videos == "window":
        reader.expect([source for source, _ in missing])
    begun: deque[tuple[Path, Future[None]]] = deque()

    def end() -> None:
        source, future = begun.popleft()
        with _noting(trouble, source):
            future.result()
            progress.computed += 1
        progress.report()

    with ThreadPoolExecutor(threads, thread_name_prefix="write") as pool:
        try:
            for source, file in missing:
                with _noting(trouble, source):
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
    progress.rejected = len(trouble)
    progress.report(last=True)
    _raise_if_any(trouble, len(table))
    return len(missing)


@contextmanager
def _noting(trouble: list[str], path: str | Path) -> Iterator[None]:
    """A clip that cannot be used becomes a line of ``trouble``."""
    try:
        yield
    except RejectRow as rejection:
        trouble.append(f"{path}: {rejection.detail}")


def _file_names(table: pd.DataFrame, videos: str) -> list[str]:
    endings = [".mp4" if videos == "window" else Path(path).suffix.lower() or ".mp4" for path in table["path"]]
    return [clip_id + ending for clip_id, ending in zip(table["clip_id"], endings, strict=True)]


def _copy(source: Path, target: Path) -> None:
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with ExitStack() as opened:
            with naming_trouble():
                data = opened.enter_context(open_bytes(source))
            shutil.copyfileobj(data, opened.enter_context(unfinished.open("wb")), 2**20)
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _finish(
    ws: Workspace, table: pd.DataFrame, scores: pd.DataFrame, rule: FrameRule, work: Path, home: Path, about: dict[str, Any]
) -> list[str]:
    """Write what stands around the videos; the warnings."""
    clips = _exported(ws, table, work, about["videos"])
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
        _require_own_bytes(work, manifest["clips"])
    atomic.write_json(work / ABOUT / "MANIFEST.json", manifest)
    if not kind.keeps_videos:
        shutil.rmtree(work / VIDEOS)
    return warnings


def _require_own_bytes(work: Path, clips: Sequence[dict[str, Any]]) -> None:
    """Every copy has the bytes that its id is a hash of; one that has not is removed.

    Raises:
        MotiveError: a file changed while it was copied.
    """
    wrong = [clip for clip in clips if not clip["sha256"].startswith(clip["clip_id"])]
    for clip in wrong:
        (work / VIDEOS / clip["file"]).unlink()
    _raise_if_any([f"{clip['source']}: its content has changed" for clip in wrong], len(clips))


def _exported(ws: Workspace, table: pd.DataFrame, work: Path, videos: str) -> list[ExportedClip]:
    """What each video that was written is, from the file itself."""
    files = _file_names(table, videos)
    prober = Prober(ws.config.engine)
    prober.expect([work / VIDEOS / file for file in files])
    clips: list[ExportedClip] = []
    trouble: list[str] = []
    for clip_id, file, caption in zip(table["clip_id"], files, table["caption"], strict=True):
        with _noting(trouble, work / VIDEOS / file):
            facts = prober(work / VIDEOS / file)
            numbers = {"num_frames": facts.num_frames, "fps": facts.fps, "width": facts.width, "height": facts.height}
            clips.append(ExportedClip(clip_id=clip_id, file=file, caption=caption, **numbers))
    _raise_if_any(trouble, len(table))
    return clips


def _scores(ws: Workspace, table: pd.DataFrame) -> pd.DataFrame:
    """Why each clip is in the subset: rank in the arm, motion, and votes and influence of each variant that has a ranking."""
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
        f"Each video holds the frames that its clip was scored by: {' or '.join(map(str, export.lengths[:6]))} of them, {rule}."
        if about["videos"] == "window"
        else f"The videos are the clips' own files. Scored was the beginning of each, {rule}: a trainer that takes other frames trains on something else."
    )
    lines = [
        f"# {len(export.clips)} clips of the arm {about['arm']}, for {kind.title}",
        "",
        content,
        "",
        f"Use: `{kind.use.format(home=export.home)}`",
        "",
        "To compare arms, train each for the same number of optimizer steps, not of epochs: a small subset has shorter epochs.",
        "`scores.csv` says why each clip is here, `MANIFEST.json` where everything comes from, with a SHA-256 of every video.",
        *(["", *(f"- {warning}" for warning in warnings)] if warnings else []),
    ]
    return "\n".join(lines) + "\n"
