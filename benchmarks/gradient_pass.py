"""The cost of a clip's projected gradient beside a bare forward and backward pass of the same model, and how good the projection is.

    python -m benchmarks.gradient_pass [--projection fastfood factored] [--threads 1] [--rounds 15] [--device cpu] [--no-quality] [--json]

The model is a WanTransformer3DModel with random weights, 8 layers and 288 wide (11.4 M parameters), 720 tokens. "bare" is forward, mean
squared error and backward of diffusers' model as it is, all gradients kept until the end; "bare, lean attention" the same with the pipeline's
attention (models/wan_attention.py). Every round times each way once, in turn. Peak memory is taken in a process of its own, above the
weights. Quality: cosines of 64 clips with 8 queries at 512 entries, against those of the whole gradients.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import get_args

import numpy as np
import torch

from benchmarks import common
from benchmarks.common import LATENTS_CFHW, PROMPT_LE, Cost, Line
from motive_pipeline import config
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.models.wan import WanModel
from motive_pipeline.models.wan_attention import use_lean_attention

AIMS = {"fastfood": 1.05, "factored": 0.85}
LEAN = "bare, lean attention"
PEAK_AIM = 1.0
FACTORED_LOSS = 0.02
"""How far factored's Spearman may be below Fastfood's."""
PROJECTIONS = [name for name in get_args(config.Gradient.model_fields["projection"].annotation) if name != "exact"]
PROJ_DIM = 512
NUM_CLIPS, NUM_QUERIES = 64, 8


def main() -> None:
    """Measure and print; with ``--peak WAY`` only that way's peak memory in MB."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = common.build_model(torch.device(arguments.device))
    ways = {
        "bare": with_diffusers_attention(model, bare_pass(model)),
        LEAN: bare_pass(model),
        **{name: projected_pass(model, name) for name in arguments.projection},
    }
    if arguments.peak:
        print(peak_mb(ways[arguments.peak], model.device))
        return
    costs = timed(ways, arguments.rounds, model.device)
    for name in arguments.projection:
        print(f"  {name}, {arguments.rounds} rounds: {common.ratios(costs[name], costs['bare'])}", file=sys.stderr, flush=True)
    peaks = {name: peak_of(name, arguments) for name in ways if name != LEAN}
    print(f"  peak memory (MB): {peaks}", file=sys.stderr, flush=True)
    found = {} if arguments.no_quality else qualities(model, arguments.projection)
    size = sum(parameter.numel() for parameter in model.transformer.parameters())
    title = f"{size / 1e6:.1f} M parameters, {common.NUM_TOKENS} tokens, {arguments.device}, {arguments.threads} thread(s)"
    lines = [line for name in arguments.projection for line in lines_of(name, costs, peaks, found)]
    common.report(title, lines, as_json=arguments.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projection", nargs="+", default=PROJECTIONS, choices=PROJECTIONS, help="projections to time (default: all)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--no-quality", action="store_true", help="costs only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def lines_of(name: str, costs: dict[str, list[Cost]], peaks: dict[str, float], found: dict[str, common.Quality]) -> list[Line]:
    """The lines of one projection: its time, its peak memory, and for ``factored`` what it costs in quality."""
    against = "bare forward + backward"
    seconds = common.median_s(costs[name]), common.median_s(costs["bare"])
    peak = peaks[name], peaks["bare"]
    own = found.get(name)
    shown = {f"ratio to {LEAN}": common.ratios(costs[name], costs[LEAN])["ratio"], **(asdict(own) if own else {})}
    cost = common.ratios(costs[name], costs["bare"])
    lines = [
        Line(what=f"gradient + {name}", against=against, **cost, at_most=AIMS.get(name), seconds=seconds, peak_mb=peak, details=shown),
        Line(what=f"peak memory, {name}", against=against, ratio=round(peak[0] / peak[1], 3), at_most=PEAK_AIM, peak_mb=peak),
    ]
    if name == "factored" and own and "fastfood" in found:
        lost = found["fastfood"].spearman - own.spearman
        lines.append(Line(what="Spearman lost by factored", against="fastfood", ratio=round(lost, 4), at_most=FACTORED_LOSS))
    return lines


def bare_pass(model: WanModel) -> Callable[[], None]:
    """Forward, mean squared error, backward; then the gradients are dropped."""
    latents_BCFHW, target_BCFHW = random(LATENTS_CFHW, model.device)[None], random(LATENTS_CFHW, model.device)[None]
    conditioning = {"prompt_embeds": random(PROMPT_LE, model.device)[None]}
    timestep_B = torch.tensor([500.0], device=model.device)

    def run() -> None:
        torch.nn.functional.mse_loss(model.predict(latents_BCFHW, timestep_B, conditioning), target_BCFHW).backward()
        for parameter in model.transformer.parameters():
            parameter.grad = None

    return run


def with_diffusers_attention(model: WanModel, run: Callable[[], None]) -> Callable[[], None]:
    """``run`` on diffusers' model as it is; afterwards the model is the pipeline's again."""

    def run_as_diffusers() -> None:
        common.use_diffusers_attention(model)
        try:
            run()
        finally:
            use_lean_attention(model.transformer)

    return run_as_diffusers


def projected_pass(model: WanModel, projection: str) -> Callable[[], None]:
    """What the pipeline does for one clip, from latents in memory to the unit row."""
    gradient = build_clip_gradient(model, config.Gradient.model_validate({"projection": projection}))
    cpu = torch.device("cpu")
    latents_CFHW, mask_FHW = random(LATENTS_CFHW, cpu), torch.rand(LATENTS_CFHW[1:])
    conditioning = {"prompt_embeds": random(PROMPT_LE, cpu)}
    return lambda: gradient(latents_CFHW, conditioning, mask_FHW) and None


def timed(ways: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[Cost]]:
    """What each way costs in each round, after two rounds that do not count."""
    costs: dict[str, list[Cost]] = {name: [] for name in ways}

    def settled(run: Callable[[], None]) -> None:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    for number in range(rounds + 2):
        for name in ways if number % 2 else reversed(ways):
            cost = common.measured(lambda name=name: settled(ways[name]))
            if number >= 2:
                costs[name].append(cost)
    return costs


def qualities(model: WanModel, projections: list[str]) -> dict[str, common.Quality]:
    """How well each projection keeps the exact cosines."""
    clips = common.drawn_clips(NUM_CLIPS + NUM_QUERIES)
    exact_QN = exact_cosines(model, clips)
    return {name: common.quality(projected_cosines(model, clips, name), exact_QN) for name in projections}


def exact_cosines(model: WanModel, clips: list[common.Clip]) -> np.ndarray:
    """Cosines [query, clip] of whole gradients; the queries come first among ``clips``. Memory: the queries' gradients."""
    gradient = build_clip_gradient(model, config.Gradient(projection="exact"))
    queries_QD = np.stack([row_of(gradient, clip) for clip in clips[:NUM_QUERIES]])
    return np.stack([queries_QD @ row_of(gradient, clip) for clip in clips[NUM_QUERIES:]], axis=1)


def projected_cosines(model: WanModel, clips: list[common.Clip], projection: str) -> np.ndarray:
    """The same of rows projected to ``PROJ_DIM`` entries."""
    gradient = build_clip_gradient(model, config.Gradient.model_validate({"projection": projection}))
    rows = np.stack([row_of(gradient, clip)[:PROJ_DIM] for clip in clips])
    return common.cosines(rows[:NUM_QUERIES], rows[NUM_QUERIES:])


def row_of(gradient, clip: common.Clip) -> np.ndarray:
    return gradient(clip.latents_CFHW, clip.conditioning, clip.mask_FHW).gradient_P


def peak_of(way: str, arguments: argparse.Namespace) -> float:
    """Peak memory of ``way`` above the weights, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.gradient_pass", "--peak", way, "--threads", str(arguments.threads)]
    command += ["--device", arguments.device, "--projection", *arguments.projection]
    done = subprocess.run(command, env=common.tight_memory(), cwd=common.REPOSITORY, check=True, capture_output=True, text=True)
    return float(done.stdout)


def peak_mb(run: Callable[[], None], device: torch.device) -> float:
    """Peak memory of the third pass above what is held between passes, in MB."""
    run(), run()
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return round((torch.cuda.max_memory_allocated(device) - held) / 1e6, 1)
    return round(common.peak_growth_mb(run), 1)


def random(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


if __name__ == "__main__":
    main()
