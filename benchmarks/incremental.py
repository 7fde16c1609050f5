"""What adding 1 % of new clips costs, against 1 % of the full pass: through the real stages, row stores and publications.

    python -m benchmarks.incremental [--num-clips 10000] [--model tiny] [--rounds 3] [--folder DIR] [--json]

The clips are the demo's. With the embedded model (``tiny``) a clip is as cheap as it gets, and what does not shrink with the number of new
clips (looking through the files, opening the row stores, writing the publications) weighs as heavily as it can; ``11M`` is gradient_pass.py's
model on clips of 192 x 192 (720 tokens). 1 % of the clips may cost at most 1.1 times 1 % of the full pass, 1.3 times with the embedded model. The stages are those that work
row by row: catalog, latents, motion masks and the gradients of one variant. Each pass is a process of its own; interpreter, imports, loading
the model and one clip to warm up lie before its clock. Influence and ranking, which are computed whole each time, are shown beside them.
Each round adds another 1 %.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from matplotlib.figure import Figure

from benchmarks import common
from benchmarks.common import Cost, Line
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.attribution.influence import publish_influence
from motive_pipeline.attribution.stage import publish_gradients
from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.config import load_config
from motive_pipeline.curation.pool import publish_eligible_pool
from motive_pipeline.curation.vote import publish_ranking
from motive_pipeline.demo.dataset import write_demo
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.models.load import load_model
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.motion.trackers import build_tracker
from motive_pipeline.storage.rows import Row, RowStore
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

AT_MOST = {"tiny": 1.3, "11M": 1.1}
"""The aim for each model."""

SIDE_11M = 8 * common.LATENTS_CFHW[2]
"""Pixels: what the latents of gradient_pass.py are encoded from."""
NUM_QUERIES = 8

STAGES: dict[str, Callable[[Workspace], Any]] = {
    "clip_catalog": publish_clip_catalog,
    "latents": lambda ws: publish_latents(ws, role="clip"),
    "motion_masks": lambda ws: publish_motion_masks(ws, role="clip"),
    "gradients": lambda ws: publish_gradients(ws, variant="motive", role="clip"),
}
WHOLE: dict[str, Callable[[Workspace], Any]] = {
    "eligible_pool": publish_eligible_pool,
    "influence": lambda ws: publish_influence(ws, "motive"),
    "ranking": lambda ws: publish_ranking(ws, "motive"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=10_000)
    parser.add_argument("--model", choices=("tiny", "11M"), default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the temporary files lie (30 KB a clip, 300 KB with 11M)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run-pass", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run_pass:
        print(json.dumps(run_pass(arguments.run_pass)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        added = max(1, arguments.num_clips // 100)
        clips = write_clips(folder, arguments.num_clips + added * arguments.rounds, model=arguments.model)
        add(clips[: arguments.num_clips], folder)
        full = run_in_process(folder)
        passes = []
        for number in range(arguments.rounds):
            first = arguments.num_clips + number * added
            add(clips[first : first + added], folder)
            passes.append(run_in_process(folder))
    share = added / arguments.num_clips
    title = f"{added} clips added to {arguments.num_clips}, {arguments.rounds} times; model {arguments.model}, one thread"
    common.report(title, [line_of(full, passes, share, arguments.model)], as_json=arguments.json)


def write_clips(folder: Path, count: int, *, model: str) -> list[Path]:
    """The demo's clips below ``folder/drawn``, its queries below ``folder/queries``, and a config for both; the order of the clips."""
    drawn = write_demo(
        folder / "drawn", seed=0, split="plain", num_clips=count, num_queries=NUM_QUERIES, num_held_out=1, query_motion="right"
    )
    (folder / "clips").mkdir()
    path, side, max_prompt_tokens = "tiny", 64, 32
    if model == "11M":
        path, side, max_prompt_tokens = str(common.save_model(folder / "model")), SIDE_11M, common.PROMPT_LE[0]
    settings = {
        "storage": {"root": "data"},
        "clips": {"source": "folder", "path": "clips", "num_frames": 17, "fps": 16, "width": side, "height": side},
        "queries": {"source": "folder", "path": str(drawn / "queries")},
        "model": {"path": path, "dtype": "float32", "device": "cpu", "max_prompt_tokens": max_prompt_tokens},
        "engine": {"threads": 1},
        "arms": ["motive"],
    }
    (folder / "motive.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return sorted((drawn / "clips").glob("*.mp4"))


def add(clips: list[Path], folder: Path) -> None:
    """Put these clips, with their captions, among the training clips."""
    for clip in clips:
        for file in (clip, clip.with_suffix(".txt")):
            shutil.move(file, folder / "clips" / file.name)


def run_in_process(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.incremental", "--run-pass", str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=common.REPOSITORY)
    result = json.loads(done.stdout.splitlines()[-1])
    shown = ", ".join(f"{stage} {cost['seconds']:.2f} s ({cost['cpu_s']:.2f})" for stage, cost in result["stages"].items())
    print(f"  {result['rows_computed']} gradients: {shown}", file=sys.stderr)
    return result


def run_pass(folder: Path) -> dict[str, Any]:
    """Every stage once, each with what it cost; queries and a clip to warm up come before."""
    ws = Workspace(load_config(folder / "motive.yaml"))
    publish_query_catalog(ws)
    publish_latents(ws, role="query")
    publish_motion_masks(ws, role="query")
    publish_gradients(ws, variant="motive", role="query")
    warm_up(ws)
    published: dict[str, Any] = {}
    stages = {
        name: common.measured(lambda name=name, publish=publish: published.update({name: publish(ws)}))
        for name, publish in (STAGES | WHOLE).items()
    }
    return {
        "stages": {name: {"seconds": cost.seconds, "cpu_s": cost.cpu_s} for name, cost in stages.items()},
        "rows_computed": published["gradients"].counts.computed,
        "peak_mb": common.peak_rss_mb(),
    }


def warm_up(ws: Workspace) -> None:
    """One clip through the decoding process, tracker, model and row store, and one drawing, so that what is set up at first use counts as start-up."""
    model = load_model(ws.config.model, threads=ws.config.engine.threads)
    frames_THWC = ClipReader(FrameRule.of(ws.config), ws.config.engine, appearance=True)(catalog_clips(ws, "query")[0].file).frames_THWC
    build_tracker(ws.config.motion).displacement(frames_THWC)
    latents_CFHW = model.encode_video(frames_THWC)
    gradient = build_clip_gradient(model, ws.config.gradient)
    feature = gradient(latents_CFHW, model.encode_prompt("a disc"), torch.ones(latents_CFHW.shape[1:]))
    with tempfile.TemporaryDirectory() as name:
        RowStore(Path(name)).append([Row(key="one", arrays={"gradient": feature.gradient_P})])
        Figure().savefig(Path(name) / "empty.png")


def line_of(full: dict[str, Any], passes: list[dict[str, Any]], share: float, model: str) -> Line:
    """The line of the table: medians over the rounds."""
    share_of_full = total(full, STAGES, scale=share)
    ours = [total(one, STAGES) for one in passes]
    details: dict[str, Any] = {
        f"{stage}, share of the full pass": median(one["stages"][stage]["cpu_s"] for one in passes) / full["stages"][stage]["cpu_s"]
        for stage in STAGES
    }
    details["computed whole (s)"] = median(total(one, WHOLE).seconds for one in passes)
    return Line(
        what="adding 1 % of the clips",
        against="1 % of the full pass",
        **common.ratios(ours, [share_of_full] * len(ours)),
        at_most=AT_MOST[model],
        seconds=(common.median_s(ours), share_of_full.seconds),
        peak_mb=(median(one["peak_mb"] for one in passes), full["peak_mb"]),
        details=details,
    )


def total(one: dict[str, Any], stages: dict[str, Any], *, scale: float = 1.0) -> Cost:
    """What some stages of a pass cost together."""
    costs = [one["stages"][stage] for stage in stages]
    return Cost(seconds=scale * sum(cost["seconds"] for cost in costs), cpu_s=scale * sum(cost["cpu_s"] for cost in costs))


if __name__ == "__main__":
    main()
