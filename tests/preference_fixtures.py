"""A preference study on small films made here: no model, real files, real stages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from motive_pipeline.config import parse_config
from motive_pipeline.evaluation.preference.bundle import publish_preference_bundle
from motive_pipeline.evaluation.preference.key import Key, Trial
from motive_pipeline.evaluation.preference.results import RaterResult, RaterVote, results_folder
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.encode import write_mp4

SETTINGS = """
arms: [base, random, motive]
clips: {source: demo, num_frames: 9, width: 64, height: 48, fps: 24}
queries: {source: demo}
evaluate: {bootstrap_samples: 400}
"""
PROMPTS = ("a disc slides", 'a "cat" & a <b>dog</b> \U0001f408/\\ it\'s', "schräg \u202e fällt", "it bounces")

Taste = Callable[[str, str, str], str]
"""(first arm, second arm, prompt) -> ``first``, ``second`` or ``tie``."""


def film(seed: int, *, num_frames: int = 9, width: int = 64, height: int = 48) -> np.ndarray:
    """Bright blocks that slide over a dark ground."""
    rng = np.random.default_rng(seed)
    ground = np.repeat(np.repeat(rng.integers(0, 255, (height // 8, width // 8, 3)), 8, axis=0), 8, axis=1).astype(np.uint8)
    return np.stack([np.roll(ground, 3 * frame, axis=1) for frame in range(num_frames)])


def edit_publication(ws: Workspace, asset: str, edit: Callable[[Path], object]) -> Path:
    """Publish ``asset`` anew with its files as ``edit`` leaves them; the folder of its data. A file changed in place would count as damaged."""
    old = ws.published(asset).path

    def write(folder: Path) -> None:
        shutil.copytree(old, folder, dirs_exist_ok=True)
        edit(folder)

    return ws.publish(asset, content=digest(str(old), time.time_ns()), write=write, started=time.time()).path


def publish_films(ws: Workspace, arm: str, prompts: Sequence[str] = PROMPTS, *, trainings: int = 1, seed: int = 0) -> None:
    """``generated_videos/<arm>`` in the layout of the generating stage."""
    rows = [
        {
            "training": training,
            "prompt_index": index,
            "n": 0,
            "prompt": prompt,
            "sampling_seed": index,
            "file": f"seed-{training}/{index}-0.mp4",
        }
        for training in range(trainings)
        for index, prompt in enumerate(prompts)
    ]
    clips = ws.config.clips

    def write(folder: Path) -> None:
        for number, row in enumerate(rows):
            (folder / row["file"]).parent.mkdir(exist_ok=True)
            frames = film(int(digest(arm, seed, number)[:6], 16), num_frames=clips.num_frames, width=clips.width, height=clips.height)
            write_mp4(folder / row["file"], frames, clips.fps)
        pd.DataFrame(rows).assign(num_frames=clips.num_frames).to_parquet(folder / "videos.parquet", index=False)

    content = digest(arm, seed, rows)
    ws.publish(f"generated_videos/{arm}", content=content, write=write, started=time.time())


def study_workspace(folder: Path, *, settings: str = "", prompts: Sequence[str] = PROMPTS, trainings: int = 1) -> Workspace:
    """A project with generated videos for every arm; ``settings`` is YAML for the section ``preference``."""
    ws = Workspace(parse_config(f"{SETTINGS}preference: {{{settings}}}\n", folder / "motive.yaml"))
    for arm in ws.config.arms:
        publish_films(ws, arm, prompts, trainings=1 if arm == "base" else trainings)
    return ws


def published_key(ws: Workspace) -> Key:
    """The key of the bundle, which is published on the way."""
    return Key.of(publish_preference_bundle(ws))


def choice(key: Key, trial: Trial, taste: Taste, *, is_careless: bool = False) -> str:
    """What somebody with this taste presses; a careless one takes the left video of a catch trial."""
    if trial.is_catch:
        return "left" if is_careless or trial.first_left else "right"
    pair = key.pairs[trial.pair]
    liked = taste(pair["arm_a"], pair["arm_b"], pair["prompt"])
    if liked == "tie":
        return "tie"
    return "left" if (liked == "first") == trial.first_left else "right"


def result_of(
    key: Key, number: int, taste: Taste, *, plan: int | None = None, num_votes: int | None = None, is_careless: bool = False, saved: int = 1
) -> RaterResult:
    """What the page would save for rater ``number``, as file ``saved``."""
    plan = number % key.num_plans if plan is None else plan
    votes = [
        RaterVote(
            turn=turn,
            left=trial.left,
            right=trial.right,
            choice=choice(key, trial, taste, is_careless=is_careless),
            plays=1,
            ms=2000 + turn,
        )
        for turn, trial in enumerate(key.plan(plan)[:num_votes])
    ]
    return signed(RaterResult(format=1, study=key.study, rater=f"{number:016x}", plan=plan, saved=saved, votes=votes, checksum=""))


def signed(result: RaterResult) -> RaterResult:
    """``result`` with its true checksum."""
    return result.model_copy(update={"checksum": result.expected_checksum()})


def drop(ws: Workspace, result: RaterResult, name: str | None = None) -> Path:
    """The result as a file in the folder where results are put."""
    file = results_folder(ws) / (name or f"preference-{result.study}-{result.rater}.json")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    return file
