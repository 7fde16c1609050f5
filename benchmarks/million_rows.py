"""Memory and time of every step behind the gradients, for a published project of a million clips.

    python -m benchmarks.million_rows [--rows 1000000] [--queries 50] [--folder DIR] [--only STEP ...] [--json]

The project is synthetic: catalogs, indexes and unit gradients (512 entries) without videos, published as the stages publish them. Each step is a process
of its own that calls what the asset or command calls; its peak is the largest resident memory of that process, the interpreter and imports (the line
``nothing``) included, memory-mapped files, too. Files may lie in the page cache. 1 M rows take about 6 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks import common
from motive_pipeline.config import parse_config
from motive_pipeline.storage.workspace import Workspace

VARIANT, PROJ_DIM, BLOCK = "motive", 512, 4096
ARMS = ("full", "random", "motion_magnitude", "bottom", "without_harmful", "motive")
QUESTIONS = (
    "SELECT clip_id, votes, rank, path FROM ranking JOIN clips USING (clip_id) WHERE variant = 'motive' ORDER BY rank LIMIT 100",
    "SELECT query_id, avg(influence), max(rank) FROM influence GROUP BY query_id ORDER BY query_id",
    "SELECT category, clip_id, path, mean_influence FROM votes_by_category JOIN clips USING (clip_id) WHERE votes = num_queries ORDER BY mean_influence DESC LIMIT 100",
    "SELECT a.arm, b.arm AS other, count(*) FROM subsets a JOIN subsets b USING (clip_id) WHERE a.arm < b.arm GROUP BY a.arm, b.arm",
)
"""What a page or a person asks of the score tables."""


def main() -> None:
    """Measure and print."""
    options = parse_options()
    if options.part:
        print(json.dumps(run_step(options)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        found = {step: in_own_process(step, Path(name), options) for step in STEPS if step in (options.only or STEPS)}
    if options.json:
        print(json.dumps({"rows": options.rows, "queries": options.queries, "steps": found}))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the temporary project lies (about 6 KB a row)")
    parser.add_argument("--only", nargs="*", choices=list(STEPS), help="some steps alone; each needs those before it")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--part", choices=list(STEPS), help=argparse.SUPPRESS)
    return parser.parse_args()


def in_own_process(step: str, folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Seconds, seconds of processor time and peak memory of a step."""
    command = [sys.executable, "-m", "benchmarks.million_rows", "--part", step, "--folder", str(folder)]
    command += ["--rows", str(options.rows), "--queries", str(options.queries)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=common.REPOSITORY)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{step:22} {result['seconds']:7.1f} s  {result['cpu_s']:7.1f} s of processor time  peak {result['peak_mb']:6.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    return result


def run_step(options: argparse.Namespace) -> dict[str, float]:
    """One step, in this process."""
    step = STEPS[options.part]
    ws = workspace(options.folder)
    cost = common.measured(lambda: step(ws, options.rows, options.queries))
    return {"seconds": cost.seconds, "cpu_s": cost.cpu_s, "peak_mb": common.peak_rss_mb()}


def workspace(folder: Path) -> Workspace:
    """The project in ``folder``."""
    text = f"""
    clips: {{source: demo}}
    queries: {{source: demo}}
    model: {{path: tiny, device: cpu}}
    influence: {{proj_dim: {PROJ_DIM}}}
    arms: [base, {", ".join(ARMS)}]
    """
    return Workspace(parse_config(text, folder / "motive.yaml"))


def names(count: int) -> np.ndarray:
    """``count`` ids in ascending order, spread over their range as hashes are."""
    random = np.random.default_rng(0)
    return np.char.mod("%016x", np.unique(random.integers(0, 2**63, size=count + count // 8 + 8))[:count])


def clips(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """Both catalogs, and the indexes of latents and masks."""
    ids = names(num_rows)
    numbers = {"num_frames": 81, "fps": 16.0, "width": 832, "height": 480, "duration_s": 5.1, "source": "folder"}
    catalog = pd.DataFrame({"clip_id": ids, "path": np.char.add(np.char.add("/clips/some/folder/", ids), ".mp4"), **numbers})
    catalog["caption"] = [f"clip {name}: a person walks along a river while the camera follows from the left" for name in ids]
    whole = catalog.assign(flags=[[]] * num_rows, aesthetic_score=np.nan, motion_score=np.nan, published=None, disagrees=None)
    _publish_frame(ws, "clip_catalog", "catalog", whole, scores={("catalog", "catalog"): whole})
    queries = pd.DataFrame({"query_id": names(num_queries), "path": "/queries/q.mp4", "caption": "", "category": "walk", "role": "query"})
    _publish_frame(ws, "query_catalog", "queries", queries, scores={("queries", "queries"): queries})
    motion = pd.DataFrame({"clip_id": ids, "motion_magnitude_px": np.random.default_rng(1).gamma(2.0, 2.0, num_rows)})
    _publish_frame(ws, "latents", "index", pd.DataFrame({"clip_id": ids}))
    _publish_frame(ws, "motion_masks", "index", motion, scores={("motion", "motion"): motion})


def _publish_frame(ws: Workspace, asset: str, name: str, frame: pd.DataFrame, scores: dict | None = None) -> None:
    ws.publish(
        asset,
        content=f"{asset} of {len(frame)}",
        write=lambda folder: frame.to_parquet(folder / f"{name}.parquet"),
        started=time.time(),
        scores=scores,
    )


def gradients(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """Random unit rows of both roles, block by block."""
    from motive_pipeline.storage.zarr_groups import new_array, new_group, write_column, write_ids

    def write(folder: Path, ids: np.ndarray) -> None:
        group, random = new_group(folder, {"projection": "fastfood"}), np.random.default_rng(len(ids))
        write_ids(group, "clip_id", ids, "clip")
        write_column(group, "grad_norm", np.ones(len(ids)), "clip")
        write_column(group, "num_frames", np.full(len(ids), 81), "clip")
        rows = new_array(group, "gradient", shape=(len(ids), PROJ_DIM), dtype="float32", chunks=(BLOCK, PROJ_DIM), dims=("clip", "proj"))
        for start in range(0, len(ids), BLOCK):
            block = random.standard_normal((min(BLOCK, len(ids) - start), PROJ_DIM), dtype=np.float32)
            rows[start : start + BLOCK] = block / np.linalg.norm(block, axis=1, keepdims=True)

    for asset, count in (("query_gradients", num_queries), ("projected_gradients", num_rows)):
        ids = names(count)
        ws.publish(f"{asset}/{VARIANT}", content=f"{count} rows", write=lambda folder, ids=ids: write(folder, ids), started=time.time())


def listing(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """What a stage by rows holds of the catalog before its first row: every clip, and its key."""
    from motive_pipeline.catalog.catalog_clips import catalog_clips
    from motive_pipeline.engine import Work
    from motive_pipeline.keys import mask_key

    work = [Work(key=mask_key(clip.clip_id, 4, 8), item=clip) for clip in catalog_clips(ws, "clip")]
    assert len(work) == num_rows


def pool(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """``eligible_pool``."""
    from motive_pipeline.curation.pool import publish_eligible_pool

    publish_eligible_pool(ws)


def influence(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """``influence_matrix`` and its score table."""
    from motive_pipeline.attribution.influence import publish_influence

    publish_influence(ws, VARIANT)


def vote(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """``voted_ranking``."""
    from motive_pipeline.curation.vote import publish_ranking

    publish_ranking(ws, VARIANT)


def selection(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """``curated_subset`` of six arms, one after the other."""
    from motive_pipeline.curation.arms import publish_subset

    for arm in ARMS:
        publish_subset(ws, arm)


def questions(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """The score tables, asked."""
    for sql in QUESTIONS:
        ws.scores.query(sql).fetchall()


def tables_again(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """The score tables made again from the publications, as after a damage."""
    ws.scores.manifest.unlink()
    ws.restore_scores()


def export_subset(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """The lists of a tenth of the clips."""
    _export(ws, "motive")


def export_all(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """The lists of all clips."""
    _export(ws, "full")


def _export(ws: Workspace, arm: str) -> None:
    """Both lists of an export (FiftyOne's samples, and Embedding Atlas's table with gradients), and the table of scores; no video is written."""
    from motive_pipeline.export import contents
    from motive_pipeline.export.lists import write_atlas, write_fiftyone
    from motive_pipeline.export.subset import _with_catalog
    from motive_pipeline.export.trainer import Export, ExportedClip

    table = _with_catalog(ws, ws.published(f"curated_subset/{arm}"), arm)
    scores = contents.score_table(ws, table)
    shown = [
        ExportedClip(clip_id=clip_id, file=f"{clip_id}.mp4", caption=caption, num_frames=81, fps=16.0, width=832, height=480)
        for clip_id, caption in zip(table["clip_id"], table["caption"], strict=True)
    ]
    folder = ws.root.parent / f"export-{arm}"
    folder.mkdir()
    gradients_NP = contents._gradients(ws, VARIANT, table["clip_id"].tolist())
    export = Export(
        folder=folder, home=folder, clips=shown, fps=16.0, width=832, height=480, arm=arm, variant=VARIANT, videos_are="window",
        audio="strip", scores=scores, gradients_NP=gradients_NP,
    )  # fmt: skip
    write_fiftyone(export)
    write_atlas(export)


def nothing(ws: Workspace, num_rows: int, num_queries: int) -> None:
    """What a process has before it begins."""


STEPS: dict[str, Callable[[Workspace, int, int], None]] = {
    "nothing": nothing,
    "clips": clips,
    "gradients": gradients,
    "listing": listing,
    "pool": pool,
    "influence": influence,
    "vote": vote,
    "selection": selection,
    "questions": questions,
    "tables_again": tables_again,
    "export_subset": export_subset,
    "export_all": export_all,
}


if __name__ == "__main__":
    main()
