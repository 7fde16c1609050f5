"""The rate of the gradient pass with two processes beside that of one, on a CPU, one thread each.

    python -m benchmarks.devices [--clips 24] [--rounds 3] [--json]

The project is the demo's at 17 frames of 64 x 64, with the embedded model and the variant ``motive_plus`` (16 draws a clip). Both sides are warm: model
loaded, latents and masks read once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from motive_pipeline.attribution.stage import gradient_row_function
from motive_pipeline.catalog.catalog_clips import catalog_clips
from motive_pipeline.catalog.stage import publish_clip_catalog, publish_query_catalog
from motive_pipeline.config import parse_config
from motive_pipeline.devices.spread import answers, on_devices
from motive_pipeline.latents.stage import publish_latents
from motive_pipeline.motion.stage import publish_motion_masks
from motive_pipeline.storage.workspace import Workspace

VARIANT = "motive_plus"
AT_LEAST = 1.7


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ratios, seconds = measure(Path(folder), num_clips=arguments.clips, rounds=arguments.rounds)
    rate = median(ratios)
    if arguments.json:
        print(json.dumps({"ratio": rate, "rounds": ratios, "seconds": seconds, "at_least": AT_LEAST}))
        return
    verdict = "met" if rate >= AT_LEAST else "MISSED"
    print(f"two processes {rate:.2f} times one ({min(ratios):.2f} to {max(ratios):.2f}), aim {AT_LEAST}: {verdict}")
    print(f"{seconds[0]:.2f} s beside {seconds[1]:.2f} s for {arguments.clips} clips")


def measure(folder: Path, *, num_clips: int, rounds: int) -> tuple[list[float], tuple[float, float]]:
    """(one process's time over two processes' of each round, the median seconds of both)."""
    one = project(folder, num_clips, engine="devices: []")
    clips = list(catalog_clips(one, "clip"))
    build = partial(gradient_row_function, variant=VARIANT, role="clip")
    spent: tuple[list[float], list[float]] = ([], [])
    with on_devices(one, build) as alone, on_devices(workspace(folder, num_clips, engine="devices: [cpu, cpu]"), build) as spread:
        for function, times in zip((alone, spread) * (rounds + 1), spent * (rounds + 1), strict=True):
            begun = time.perf_counter()
            for _ in answers(function, clips):
                pass
            times.append(time.perf_counter() - begun)
    warm = [times[1:] for times in spent]
    return [first / second for first, second in zip(*warm, strict=True)], (median(warm[0]), median(warm[1]))


def project(folder: Path, num_clips: int, *, engine: str) -> Workspace:
    """A project whose clips have latents and masks. ``engine`` holds further settings of that section."""
    ws = workspace(folder, num_clips, engine="devices: []")
    publish_clip_catalog(ws)
    publish_query_catalog(ws)
    publish_latents(ws, role="clip")
    publish_motion_masks(ws, role="clip")
    return workspace(folder, num_clips, engine=engine)


def workspace(folder: Path, num_clips: int, *, engine: str) -> Workspace:
    """The project with other settings of the engine."""
    text = f"""
    clips: {{source: demo, num_frames: 17, width: 64, height: 64, demo: {{num_clips: {num_clips}}}}}
    queries: {{source: demo}}
    model: {{path: tiny, device: cpu}}
    variants: {{{VARIANT}: {{}}}}
    engine: {{threads: 1, {engine}}}
    """
    return Workspace(parse_config(text, folder / "motive.yaml"))


if __name__ == "__main__":
    main()
