"""What influence maps cost: forward passes a clip, query and draw, and memory.

    python -m benchmarks.influence_map [--clips 8] [--draws 1 4] [--threads 1] [--rounds 7] [--device cpu] [--json]

The model is that of ``gradient_pass`` (11.4 M parameters, 720 tokens). Each round maps ``--clips`` clips for one query and times, in turn, as many
forward passes without a graph, one for each clip and draw. The query's direction and the check of the step are counted once for all its clips
("all included" in the details). Peak memory is taken in a process of its own, above the weights, against two float32 copies of them and one
forward pass.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

import torch

from benchmarks import common
from benchmarks.common import Cost, Line
from benchmarks.gradient_pass import peak_mb, timed
from motive_pipeline.attribution.influence_map import InfluenceMaps
from motive_pipeline.attribution.loss import Draw, location_error
from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.attribution.weight_direction import LossInputs
from motive_pipeline.models.conditioning import on_device, repeated
from motive_pipeline.models.wan import WanModel

AIM = 2.2
MAPS, WHOLE, BARE = "maps", "all included", "bare"


def main() -> None:
    """Measure and print; with ``--peak WAY`` only that way's peak memory in MB."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = common.build_model(torch.device(arguments.device))
    if arguments.peak:
        print(peak_mb(ways_of(model, arguments.clips, arguments.draws[0])[arguments.peak], model.device))
        return
    lines = []
    for draws in arguments.draws:
        costs = timed(ways_of(model, arguments.clips, draws), arguments.rounds, model.device)
        lines.append(line_of(model, arguments, draws, costs))
    size = sum(parameter.numel() for parameter in model.transformer.parameters())
    title = f"{size / 1e6:.1f} M parameters, {common.NUM_TOKENS} tokens, {arguments.device}, {arguments.threads} thread(s)"
    common.report(title, lines, as_json=arguments.json)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=8, help="clips mapped for one query")
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def ways_of(model: WanModel, num_clips: int, num_draws: int) -> dict[str, Callable[[], None]]:
    """Mapping the clips along a direction that is there; the same from the query on; one forward pass for each clip and draw."""
    query, *clips = (
        LossInputs(latents_CFHW=clip.latents_CFHW, conditioning=clip.conditioning, mask_FHW=clip.mask_FHW)
        for clip in common.drawn_clips(num_clips + 1)
    )
    draws = [Draw(timestep=1000 * (number + 0.5) / num_draws, noise_seed=number) for number in range(num_draws)]
    maps = InfluenceMaps(model, draws=draws, draws_at_once=len(draws))
    direction = maps.direction([query])
    step = maps.step(direction, query)

    def mapped() -> None:
        maps.maps(direction, clips, step)

    def whole() -> None:
        fresh = maps.direction([query])
        maps.maps(fresh, clips, maps.step(fresh, query))

    @torch.no_grad()
    def bare() -> None:
        for clip in clips:
            for draw in draws:
                location_error(
                    model,
                    clip.latents_CFHW[None].to(model.device),
                    on_device(repeated(clip.conditioning, 1), model.device),
                    timestep_B=torch.tensor([draw.timestep], device=model.device),
                    noise_BCFHW=latent_noise(draw.noise_seed, common.LATENTS_CFHW)[None].to(model.device),
                )

    return {MAPS: mapped, WHOLE: whole, BARE: bare}


def line_of(model: WanModel, arguments: argparse.Namespace, draws: int, costs: dict[str, list[Cost]]) -> Line:
    """The line of one number of draws."""
    copies_mb = 8 * sum(parameter.numel() for parameter in model.transformer.parameters()) / 1e6
    peaks = {way: peak_of(way, arguments, draws) for way in (WHOLE, BARE)}
    allowed_mb = copies_mb + peaks[BARE]
    ratios = common.ratios(costs[MAPS], costs[BARE])
    return Line(
        what=f"influence maps, {arguments.clips} clips, {draws} draw(s)",
        against="one forward pass a clip and draw",
        ratio=ratios["ratio"],
        ratio_cpu=ratios["ratio_cpu"],
        at_most=AIM,
        seconds=(common.median_s(costs[MAPS]), common.median_s(costs[BARE])),
        details={
            "direction and check included": common.ratios(costs[WHOLE], costs[BARE])["ratio"],
            "peak (MB)": f"{peaks[WHOLE]:.0f} against {allowed_mb:.0f} (two copies of the weights and a forward pass)",
        },
    )


def peak_of(way: str, arguments: argparse.Namespace, draws: int) -> float:
    """Peak memory of ``way`` above the weights and the held direction, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.influence_map", "--peak", way, "--threads", str(arguments.threads), "--draws", str(draws)]
    command += ["--device", arguments.device, "--clips", str(arguments.clips)]
    done = subprocess.run(command, env=common.tight_memory(), cwd=common.REPOSITORY, check=True, capture_output=True, text=True)
    return float(done.stdout)


if __name__ == "__main__":
    main()
