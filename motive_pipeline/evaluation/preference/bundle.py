"""Publishes ``preference_bundle``: a folder with one page and neutrally named videos to give to raters. Its key lies outside the folder."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.evaluation.preference.catch import CatchTrial, make_catch_trials
from motive_pipeline.evaluation.preference.key import Key
from motive_pipeline.evaluation.preference.page import render_page
from motive_pipeline.evaluation.preference.pairs import Pair, Shot, UnpairedVideo, catch_trials_wanted, deal, pair_up
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.work_folders import scratch_folder
from motive_pipeline.storage.workspace import Publication, Reject, Workspace
from motive_pipeline.video.decode import FrameRule

ASSET = STAGE = "preference_bundle"
VIDEOS = "videos"
NAME_DIGITS = 16


def publish_preference_bundle(ws: Workspace) -> Publication:
    """Publish ``preference_bundle``: ``index.html`` and ``videos/<name>.mp4``. The key is beside the data, not in it.

    A video without a counterpart in the other arm, and a pair of two identical videos, are rejected rows.

    Raises:
        GateFailed: a video is missing or cannot be read.
    """
    started = time.time()
    settings = ws.config.preference
    files = _ArmVideos(ws)
    found, gaps = pair_up(ws.config.comparisons, files.tables, prompt_limit=settings.prompt_limit, seed=settings.seed)
    pairs = [pair for pair in found if files.name(pair.a) != files.name(pair.b)]
    same = [pair for pair in found if files.name(pair.a) == files.name(pair.b)]
    shown = {files.name(shot): files.path(shot) for pair in pairs for shot in (pair.a, pair.b)}
    with scratch_folder(ws, ASSET) as scratch:
        wanted = catch_trials_wanted(settings.catch_share, min(settings.pairs_per_rater, len(pairs)))
        trials = _catch_trials(ws, shown, wanted, scratch)
        copies = [_neutral_name(digest_file(trial.copy)) for trial in trials]  # two videos with the same first frame may have the same copy
        plans = deal(pairs, num_catch=len(trials), pairs_per_rater=settings.pairs_per_rater, plans=settings.plans, seed=settings.seed)
        names = {shot: files.name(shot) for pair in pairs for shot in (pair.a, pair.b)}
        key = Key.make(pairs, plans, names, [(trial.name, copy) for trial, copy in zip(trials, copies, strict=True)], settings.question)
        shown |= {copy: trial.copy for trial, copy in zip(trials, copies, strict=True)}
        page = render_page(key)
        return ws.publish(
            ASSET,
            content=digest(page, key.study, sorted(shown)),
            write=functools.partial(_write, page, shown),
            started=started,
            facts=_facts(key, pairs, plans_of=len(plans), num_catch=len(trials), wanted=wanted, videos=shown),
            rejects=[*(_unpaired_reject(gap) for gap in gaps), *(_identical_reject(pair) for pair in same)],
            beside=key.save,
        )


class _ArmVideos:
    """The generated videos of the compared arms."""

    def __init__(self, ws: Workspace) -> None:
        arms = sorted({arm for comparison in ws.config.comparisons for arm in comparison})
        publications = {arm: ws.published(f"generated_videos/{arm}") for arm in arms}
        self._folders = {arm: publication.path for arm, publication in publications.items()}
        self.tables: dict[str, pd.DataFrame] = {arm: publication.table("videos") for arm, publication in publications.items()}
        self._names: dict[Shot, str] = {}

    def path(self, shot: Shot) -> Path:
        return self._folders[shot.arm] / shot.file

    def name(self, shot: Shot) -> str:
        """The neutral name: a hash of the file's content. Without the arms' files it reveals nothing."""
        if shot not in self._names:
            try:
                self._names[shot] = _neutral_name(digest_file(self.path(shot)))
            except OSError as error:
                raise GateFailed(
                    f"{self.path(shot)} cannot be read ({error.strerror}). Remove the folder of generated_videos/{shot.arm} and run again."
                ) from error
        return self._names[shot]


def _neutral_name(sha256: str) -> str:
    return f"{digest('preference video', sha256)[:NAME_DIGITS]}.mp4"


def _catch_trials(ws: Workspace, videos: Mapping[str, Path], wanted: int, folder: Path) -> list[CatchTrial]:
    try:
        return make_catch_trials(videos, wanted, FrameRule.of(ws.config), ws.config.preference.seed, folder)
    except RejectRow as rejection:
        raise GateFailed(
            f"a generated video cannot be read ({rejection}). Materialize the generated_videos of its arm again."
        ) from rejection


def _write(page: str, videos: Mapping[str, Path], folder: Path) -> None:
    (folder / "index.html").write_text(page, encoding="utf-8")
    (folder / VIDEOS).mkdir()
    for name, file in videos.items():
        os.link(file, folder / VIDEOS / name)


def _unpaired_reject(gap: UnpairedVideo) -> Reject:
    return Reject(
        path=f"generated_videos/{gap.shot.arm}/{gap.shot.file}",
        clip_id="",
        stage=STAGE,
        reason="no_counterpart",
        detail=f"generated_videos/{gap.missing_in} has no video of the same prompt, number, seed and training to compare it with",
    )


def _identical_reject(pair: Pair) -> Reject:
    return Reject(
        path=f"generated_videos/{pair.a.arm}/{pair.a.file}",
        clip_id="",
        stage=STAGE,
        reason="same_video",
        detail=f"the same bytes as {pair.b.file} of generated_videos/{pair.b.arm}: there is no difference to vote on",
    )


def _facts(key: Key, pairs: list[Pair], *, plans_of: int, num_catch: int, wanted: int, videos: Mapping[str, Path]) -> dict:
    comparisons = list(dict.fromkeys((pair.a.arm, pair.b.arm) for pair in pairs))
    return {
        "study": key.study,
        "open": "index.html",
        "pairs": len(pairs),
        "comparisons": [
            {"arm a": a, "arm b": b, "pairs": sum((pair.a.arm, pair.b.arm) == (a, b) for pair in pairs)} for a, b in comparisons
        ],
        "catch trials": num_catch,
        "catch trials that no video was clear enough for": wanted - num_catch,
        "plans": plans_of,
        "videos": len(videos),
        "megabytes": round(sum(file.stat().st_size for file in videos.values()) / 1e6, 2),
    }
