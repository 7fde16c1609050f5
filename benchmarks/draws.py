"""The cost of several draws of a clip's gradient beside that of one, by how many go through the model as one batch.

    python -m benchmarks.draws [--model tiny 11m] [--draws 16] [--at-once 1 4 16] [--threads 1] [--rounds 5] [--json]

``tiny`` is the embedded model on latents of its demo's shape, ``11m`` the model of benchmarks/gradient_pass.py at 720 tokens. Every round times each way
once, in turn. Peak memory is taken in a process of its own, above the weights, against that of one draw.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch

from benchmarks import common
from benchmarks.common import REPOSITORY, Clip, Line
from motive_pipeline import config
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.models.load import load_model
from motive_pipeline.models.protocol import VideoModel

AT_MOST = {"tiny": 6.0, "11m": 16.5}
"""Sixteen draws may cost so many times one."""

TINY_LATENTS_CFHW = (16, 5, 8, 8)


def main() -> None:
    """Measure and print; with ``--peak N`` only the peak memory in MB of that many draws at once (0: of one draw)."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    lines = []
    for name in arguments.model:
        model, clip = built(name)
        if arguments.peak is not None:
            run = gradient_pass(model, clip, arguments.draws if arguments.peak else None, max(1, arguments.peak))
            run()
            print(common.peak_growth_mb(run))
            return
        ways = {0: gradient_pass(model, clip, None, 1)}
        ways |= {at_once: gradient_pass(model, clip, arguments.draws, at_once) for at_once in arguments.at_once}
        for run in ways.values():
            run()
        costs: dict[int, list[common.Cost]] = {at_once: [] for at_once in ways}
        for _ in range(arguments.rounds):
            for at_once, run in ways.items():
                costs[at_once].append(common.measured(run))
        peaks = {at_once: peak_mb(name, at_once, arguments) for at_once in ways}
        best = max(arguments.at_once)
        for at_once in arguments.at_once:
            found = common.ratios(costs[at_once], costs[0])
            lines.append(
                Line(
                    what=f"{name}: {arguments.draws} draws, {at_once} at once",
                    against="one draw",
                    ratio=found["ratio"],
                    ratio_cpu=found["ratio_cpu"],
                    at_most=AT_MOST[name] if arguments.draws == 16 and at_once == (best if name == "tiny" else 1) else None,
                    seconds=(common.median_s(costs[at_once]), common.median_s(costs[0])),
                    peak_mb=(peaks[at_once], peaks[0]),
                )
            )
    common.report(f"{arguments.threads} thread(s)", lines, as_json=arguments.json)


def built(name: str) -> tuple[VideoModel, Clip]:
    """The model, and a clip for it."""
    if name == "11m":
        return common.build_model(torch.device("cpu")), common.drawn_clips(1)[0]
    section = config.load_config(REPOSITORY / "motive.yaml").model
    model = load_model(section, threads=torch.get_num_threads())
    draw = torch.Generator().manual_seed(0)
    channels, frames, height, width = TINY_LATENTS_CFHW
    return model, Clip(
        latents_CFHW=torch.randn(channels, frames, height, width, generator=draw),
        prompt_LE=model.encode_prompt("a small yellow ringed disc on a teal wavy background")["prompt_embeds"],
        mask_FHW=torch.rand(frames, height, width, generator=draw),
    )


def gradient_pass(model: VideoModel, clip: Clip, draws: int | None, at_once: int) -> Callable[[], object]:
    """The projected gradient of the clip: one draw, or so many."""
    gradient = build_clip_gradient(model, config.Gradient(draws=draws, draws_at_once=at_once))
    return lambda: gradient(clip.latents_CFHW, clip.conditioning, clip.mask_FHW)


def peak_mb(name: str, at_once: int, arguments: argparse.Namespace) -> float:
    """The peak memory of one way, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.draws", "--model", name, "--draws", str(arguments.draws), "--peak", str(at_once)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=REPOSITORY, env=common.tight_memory())
    return float(found.stdout.split()[-1])


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=list(AT_MOST), choices=list(AT_MOST))
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--at-once", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
