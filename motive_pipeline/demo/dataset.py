"""The demo data set: which clips it has, and their files."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from motive_pipeline.demo.generator import (
    BACKGROUND_COLOURS,
    FLAWS,
    FPS,
    MOTIONS,
    RARE_MOTION,
    ClipSpec,
    caption,
    pick_one,
    render_clip,
    sample_spec,
)
from motive_pipeline.storage import atomic
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.video.encode import write_mp4

VERSION = 3  # raise it whenever the same settings give other files
SPLITS = ("plain", "confound", "spoiled")
TIED_SHARE = 0.875  # of the clips in the pool of the `confound` split have the background colour of their motion
WANTED_SHARE = 0.1
"""In the pool of the `spoiled` split, of three kinds each: good clips of the queries' motion; spoiled ones; clean clips of other motions on the
queries' background."""
ROLE_FOLDERS = {"clip": "clips", "query": "queries", "held_out": "held_out"}


def tied_colour(motion: str) -> str:
    """The background colour of a motion class in the pool of the `confound` split."""
    own = [name for name in MOTIONS if name != "pan"]
    return tuple(BACKGROUND_COLOURS)[own.index("static" if motion == "pan" else motion)]


def lure_motion(query_motion: str) -> str:
    """The motion class whose background colour the queries of the `confound` split carry."""
    return MOTIONS[(MOTIONS.index(query_motion) + 3) % 7]


def demo_specs(
    *, seed: int, split: str, num_clips: int, num_queries: int, num_held_out: int, query_motion: str
) -> Iterator[tuple[str, ClipSpec]]:
    """(role, spec) of every clip: the pool (role `clip`, classes balanced), `query`, `held_out`. Each role has its own random stream.

    Raises:
        ValueError: there is no such split or motion.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    if query_motion not in MOTIONS:
        raise ValueError(f"query_motion must be one of {', '.join(MOTIONS)}, not {query_motion!r}")
    is_confounded = split == "confound"
    rng = _stream(seed, "clip")
    if split == "spoiled":
        yield from (("clip", spec) for spec in _spoiled_pool(rng, num_clips, query_motion))
    else:
        for motion in rng.permutation(np.resize(rng.permutation(MOTIONS), num_clips)):
            colour = _pool_colour(rng, str(motion)) if is_confounded else None
            yield "clip", sample_spec(rng, motion=str(motion), background_colour=colour, is_off_shade=is_confounded)
    is_confounded |= split == "spoiled"
    lure_colour = tied_colour(lure_motion(query_motion)) if is_confounded else None
    for role, number in (("query", num_queries), ("held_out", num_held_out)):
        rng = _stream(seed, role)
        for _ in range(number):
            yield role, sample_spec(rng, motion=query_motion, background_colour=lure_colour, is_off_shade=is_confounded)


def _spoiled_pool(rng: np.random.Generator, num_clips: int, query_motion: str) -> list[ClipSpec]:
    """The pool of the `spoiled` split, in random order: a share `WANTED_SHARE` each of good clips of the queries' motion, of spoiled ones (the
    flaws in turn), and of clean clips of other motions on the queries' background; the rest are clean clips of other motions. Only the
    third kind has the queries' background."""
    count = round(WANTED_SHARE * num_clips)
    background = tied_colour(lure_motion(query_motion))
    others = [motion for motion in MOTIONS if motion != query_motion]
    kinds = [(query_motion, None, False)] * count
    kinds += [(query_motion, FLAWS[number % len(FLAWS)], False) for number in range(count)]
    kinds += [(others[number % len(others)], None, number < count) for number in range(num_clips - 2 * count)]
    colours = [colour for colour in BACKGROUND_COLOURS if colour != background]
    return [
        sample_spec(rng, motion=motion, background_colour=background if is_akin else pick_one(rng, colours), is_off_shade=True, flaw=flaw)
        for motion, flaw, is_akin in (kinds[number] for number in rng.permutation(len(kinds)))
    ]


def _pool_colour(rng: np.random.Generator, motion: str) -> str:
    own = tied_colour(motion)
    other = pick_one(rng, [colour for colour in BACKGROUND_COLOURS if colour != own])
    return own if rng.uniform() < TIED_SHARE else other


def _stream(seed: int, role: str) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(("clip", "query", "held_out").index(role),)))


def write_demo(
    folder: str | Path,
    *,
    seed: int = 0,
    split: str = "plain",
    num_clips: int = 320,
    num_queries: int = 16,
    num_held_out: int = 16,
    query_motion: str = RARE_MOTION,
) -> Path:
    """Write the demo data set; returns its folder.

    `clips/`, `queries/` and `held_out/` hold MP4 files with captions in `.txt` files of the same stem. The names do not tell the motion.
    `truth.parquet` has the spec of each clip, `settings.json` the arguments. The folder appears whole or not at all. A complete folder with
    the same settings is kept as it is.

    Raises:
        FileExistsError: `folder` holds anything else. Nothing is overwritten.
    """
    folder = Path(folder)
    settings = {
        "version": VERSION,
        "seed": seed,
        "split": split,
        "num_clips": num_clips,
        "num_queries": num_queries,
        "num_held_out": num_held_out,
        "query_motion": query_motion,
    }
    if _is_written(folder, settings):
        return folder
    atomic.make_folder(folder.parent)
    unfinished = atomic.temp_beside(folder)
    unfinished.mkdir()
    try:
        _write_all(unfinished, settings)
        if not _is_written(folder, settings):  # another process may have been faster
            atomic.sync_tree(unfinished)
            os.rename(unfinished, folder)
            atomic.sync_folder(folder.parent)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _is_written(folder: Path, settings: dict) -> bool:
    """Whether the folder holds exactly this data set. False if it holds nothing; raises FileExistsError if it holds anything else."""
    if not folder.exists() or not any(folder.iterdir()):
        return False
    settings_path = folder / "settings.json"
    if not settings_path.exists():
        raise FileExistsError(f"{folder} exists and holds no demo data: choose another folder, or remove it")
    found = json.loads(settings_path.read_text())
    if found != settings:
        differences = [f"{key} is {found.get(key)!r}, asked for {value!r}" for key, value in settings.items() if found.get(key) != value]
        raise FileExistsError(f"{folder} holds other demo data ({'; '.join(differences)}): choose another folder, or remove it")
    missing = [name for name in pq.read_table(folder / "truth.parquet")["file"].to_pylist() if not (folder / name).exists()]
    if missing:
        raise FileExistsError(f"{folder} lacks {len(missing)} of its files ({missing[0]} first): remove it to have it written again")
    return True


def _write_all(folder: Path, settings: dict) -> None:
    for name in ROLE_FOLDERS.values():
        (folder / name).mkdir()
    jobs, numbers = [], dict.fromkeys(ROLE_FOLDERS, 0)
    for role, spec in demo_specs(**{key: value for key, value in settings.items() if key != "version"}):
        jobs.append((folder, role, f"{ROLE_FOLDERS[role]}/{role}_{numbers[role]:05d}.mp4", spec))
        numbers[role] += 1
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda job: _write_clip(*job), jobs))
    _require_disjoint(rows)
    write_parquet(pd.DataFrame(rows), folder / "truth.parquet")
    (folder / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")


def _write_clip(folder: Path, role: str, name: str, spec: ClipSpec) -> dict:
    path = folder / name
    write_mp4(path, render_clip(spec), FPS)
    path.with_suffix(".txt").write_text(caption(spec) + "\n")
    fields = asdict(spec)
    x_px, y_px = fields.pop("centre_px")
    return {
        "file": name,
        "clip_id": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "role": role,
        "caption": caption(spec),
        **fields,
        "centre_x_px": x_px,
        "centre_y_px": y_px,
        "colour_motion": next(motion for motion in MOTIONS if tied_colour(motion) == spec.background_colour),
    }


def _require_disjoint(rows: list[dict]) -> None:
    names: dict[str, str] = {}
    for row in rows:
        if other := names.setdefault(row["clip_id"], row["file"]) != row["file"] and names[row["clip_id"]]:
            raise RuntimeError(f"{row['file']} and {other} are the same film: the random streams overlap")
