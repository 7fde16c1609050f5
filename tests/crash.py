"""Kill a run of the whole graph at random instants, run again, and compare the end with that of an undisturbed run.

``python -m tests.crash --kills 50`` is the long version; tests/assets/test_crash.py runs a short one.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO

from motive_pipeline.storage.atomic import TEMP_PREFIX
from motive_pipeline.storage.rows import RowStore
from tests.graph_project import SETTINGS, Project

SCORE_TABLES = ("catalog", "clip_flags", "motion", "rejects", "queries", "influence", "ranking", "subsets", "eval_scores")


def end_state(project: Project) -> dict[str, str]:
    """Every score table (``runs`` apart) as rows, and the data version of every published asset."""
    workspace = project.workspace
    state = {}
    for table in SCORE_TABLES:
        rows = workspace.scores.query(f"SELECT * FROM {table} ORDER BY ALL").fetchall()
        state[f"table {table}"] = json.dumps([[str(value) for value in row] for row in rows]).replace(str(project.folder), "")
    for pointer in sorted((workspace.root / "published").rglob("current.json")):
        asset = pointer.parent.relative_to(workspace.root / "published").as_posix()
        state[f"data version {asset}"] = workspace.published(asset).data_version
    return state


def half_written(root: Path) -> list[Path]:
    """Published folders and segments that are visible and not whole."""
    broken = [store.segments / segment for store in row_stores(root) for commit in store.commits() for segment in commit.segments
              if not (store.segments / segment).exists()]  # fmt: skip
    broken += [p.parent for p in root.glob("published/**/preview.png") if not (p.parent / "publication.json").exists()]
    return [p for p in broken if not _is_temporary(p)]


def row_stores(root: Path) -> list[RowStore]:
    """Every row store, as a process that starts now sees it."""
    stores = [RowStore(file.parent) for file in sorted(root.glob("rows/*/*/store.json"))]
    for store in stores:
        store.refresh()
    return stores


def finished_work(root: Path) -> dict[Path, tuple[int, int]]:
    """Every finished training and finished video, as the file system knows it: made again, it would be another."""
    found = [*root.glob("work/finetune/*/*/training.json"), *root.glob("work/videos/*/*.mp4")]
    return {path: ((status := path.stat()).st_ino, status.st_mtime_ns) for path in found if not _is_temporary(path)}


def committed_rows(root: Path) -> set[tuple[str, str]]:
    """(store, key) of every committed row and reject."""
    return {
        (store.folder.relative_to(root).as_posix(), key)
        for store in row_stores(root)
        for commit in store.commits()
        for key in (*commit.keys, *(reject.key for reject in commit.rejects))
    }


def _is_temporary(path: Path) -> bool:
    return any(part.startswith(TEMP_PREFIX) for part in path.parts)


def computed_twice(project: Project, before: dict[Path, tuple[int, int]]) -> list[str]:
    """What was finished ``before`` and was made again, rows committed twice, and assets materialized more than once."""
    root = project.config.storage.root
    now = finished_work(root)
    again = [str(path.relative_to(root)) for path, identity in before.items() if now.get(path) != identity]
    for store in row_stores(root):
        keys = Counter(key for commit in store.commits() for key in commit.keys)
        again += [f"{store.folder.relative_to(root)}: row {key}" for key, times in keys.items() if times > 1]
    return again + [asset for asset, times in project.materializations().items() if times != 1]


def kill_once(project: Project, level: int, delay_s: float) -> str | None:
    """Start a run, kill it ``delay_s`` seconds after its ``level``-th line "running ...", and say what it was running; None if it ended before.

    Raises:
        AssertionError: it ended before, and failed.
    """
    lines: list[str] = []
    output: list[str] = []
    reached = threading.Event()

    def read(printed: IO[str]) -> None:
        for line in printed:
            output.append(line)
            if " running " in line:
                lines.append(line.split(" running ", 1)[1].strip())
            if len(lines) > level:
                reached.set()
        reached.set()

    with project.started("run") as run:
        assert run.stdout is not None
        reader = threading.Thread(target=read, args=(run.stdout,), daemon=True)
        reader.start()
        reached.wait()
        time.sleep(delay_s)
        ended = run.poll() is not None
        run.kill()
        reader.join()
        assert not ended or run.returncode == 0, "".join(output)[-4000:]
    return None if ended else (lines[-1] if lines else "start")


def _fresh(folder: Path, settings: dict) -> Project:
    """An empty project, always at the same place: catalogs hold absolute paths, so another place is another state."""
    place = folder / "project"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return Project(place, settings)


def _finished(folder: Path, settings: dict) -> Project:
    project = _fresh(folder, settings)
    project.run()
    return project


def torture(folder: Path, *, kills: int, seed: int, settings: dict | None = None) -> Counter[str]:
    """Kill ``kills`` runs of fresh projects below ``folder``; each project is then finished and must equal the undisturbed one.

    Returns how often each asset was being run when the process died.

    Raises:
        AssertionError: an end state differs, something half-written was visible, or something finished was computed again.
    """
    settings = settings or SETTINGS
    expected = end_state(_finished(folder, settings))
    rng = random.Random(seed)
    hit: Counter[str] = Counter()
    number_of_kills = number = 0
    while number_of_kills < kills:
        number += 1
        project = _fresh(folder, settings)
        finished: dict[Path, tuple[int, int]] = {}
        rows: set[tuple[str, str]] = set()
        while number_of_kills < kills and (what := kill_once(project, rng.randint(0, 2), rng.uniform(0.0, 1.5))) is not None:
            number_of_kills += 1
            hit.update(what.split(", "))
            assert not half_written(project.config.storage.root)
            finished = finished_work(project.config.storage.root) | finished
            now = committed_rows(project.config.storage.root)
            assert rows <= now, "a committed row has gone"
            rows = now
            print(f"kill {number_of_kills}: {what}", flush=True)
        project.run()
        actual = end_state(project)
        different = [name for name in expected if actual.get(name) != expected[name]]
        assert not different, f"after kills the end differs in: {', '.join(different)}"
        assert rows <= committed_rows(project.config.storage.root)
        again = computed_twice(project, finished)
        assert not again, f"finished before a kill and computed again: {', '.join(again)}"
        print(
            f"project {number}: {len(rows)} rows and {len(finished)} other finished pieces of work kept; equal to the undisturbed run",
            flush=True,
        )
    return hit


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        counts = torture(Path(scratch), kills=arguments.kills, seed=arguments.seed)
    print(f"{sum(counts.values())} hits on {len(counts)} assets; every end state equal")
    for asset, count in sorted(counts.items()):
        print(f"  {count:3d}  {asset}")
