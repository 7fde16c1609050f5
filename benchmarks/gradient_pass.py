"""The cost of a clip's projected gradient, as a ratio to a bare forward and backward pass of the same model, side by side in one run.

    python benchmarks/gradient_pass.py [--projection fastfood countsketch] [--threads 1] [--rounds 15] [--device cpu] [--json]

The model is a WanTransformer3DModel with random weights, 8 layers and 288 wide (11.4 M parameters), 720 tokens. "bare" is forward, mean
squared error and backward, all gradients kept until the end. Every round times each way once, in turn; ``ratio`` is the median over the
rounds of (ours / bare), ``ratio_min`` the ratio of the fastest rounds. Peak memory is taken in a process of its own, above the weights.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from motive_pipeline import config
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.models.wan import WanModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from tiny_wan import build_pipeline

LATENTS_CFHW = (16, 5, 24, 24)
PROMPT_LE = (64, 16)


def main() -> None:
    """Print the table, or with ``--json`` one JSON object; with ``--peak WAY`` only that way's peak memory in MB."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    model = build_model(torch.device(arguments.device))
    ways = {"bare": bare_pass(model), **{name: projected_pass(model, name) for name in arguments.projection}}
    if arguments.peak:
        print(peak_mb(ways[arguments.peak], model.device))
        return
    seconds = timed(ways, arguments.rounds, model.device)
    result = {
        "parameters": sum(parameter.numel() for parameter in model.transformer.parameters()),
        "tokens": LATENTS_CFHW[1] * LATENTS_CFHW[2] * LATENTS_CFHW[3] // 4,
        "device": str(model.device),
        "threads": arguments.threads,
        "ways": {name: summary(seconds[name], seconds["bare"], peak_of(name, arguments)) for name in ways},
    }
    bare_peak = result["ways"]["bare"]["peak_mb"]
    for way in result["ways"].values():
        way["peak_ratio"] = round(way["peak_mb"] / bare_peak, 3)
    print(json.dumps(result) if arguments.json else table(result))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--projection", nargs="+", default=["fastfood"], help="projections to time")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser.parse_args()


def build_model(device: torch.device) -> WanModel:
    """The 11.4 M-parameter Wan of facts and tables."""
    pipeline = build_pipeline(num_layers=8, heads=6, head_dim=48, ffn_dim=1152)
    return WanModel(pipeline, device=device, compute_dtype=torch.float32, max_prompt_tokens=PROMPT_LE[0])


def bare_pass(model: WanModel) -> Callable[[], None]:
    """Forward, mean squared error, backward; then the gradients are dropped."""
    latents_BCFHW, target_BCFHW = random(LATENTS_CFHW, model.device)[None], random(LATENTS_CFHW, model.device)[None]
    prompt_BLE = random(PROMPT_LE, model.device)[None]
    timestep_B = torch.tensor([500.0], device=model.device)

    def run() -> None:
        torch.nn.functional.mse_loss(model.predict(latents_BCFHW, timestep_B, prompt_BLE), target_BCFHW).backward()
        for parameter in model.transformer.parameters():
            parameter.grad = None

    return run


def projected_pass(model: WanModel, projection: str) -> Callable[[], None]:
    """What the pipeline does for one clip, from latents in memory to the unit row."""
    gradient = build_clip_gradient(model, config.Gradient.model_validate({"projection": projection}))
    cpu = torch.device("cpu")
    latents_CFHW, prompt_LE, mask_FHW = random(LATENTS_CFHW, cpu), random(PROMPT_LE, cpu), torch.rand(LATENTS_CFHW[1:])
    return lambda: gradient(latents_CFHW, prompt_LE, mask_FHW) and None


def timed(ways: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way in each round, after two rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 2):
        order = list(ways) if number % 2 else list(reversed(ways))
        for name in order:
            start = time.perf_counter()
            ways[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(own: list[float], bare: list[float], peak: float) -> dict[str, float]:
    return {
        "seconds": round(median(own), 4),
        "ratio": round(median(a / b for a, b in zip(own, bare, strict=True)), 4),
        "ratio_min": round(min(own) / min(bare), 4),
        "peak_mb": peak,
    }


def peak_of(way: str, arguments: argparse.Namespace) -> float:
    """Peak memory of ``way`` above the weights, from a fresh process whose freed blocks go straight back to the system."""
    command = [sys.executable, __file__, "--peak", way, "--threads", str(arguments.threads), "--device", arguments.device]
    projections = ["--projection", *arguments.projection]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384"}
    return float(subprocess.run([*command, *projections], env=environment, check=True, capture_output=True, text=True).stdout)


def peak_mb(run: Callable[[], None], device: torch.device) -> float:
    """Peak memory of the third pass above what is held between passes, in MB."""
    run(), run()
    if device.type == "cuda":
        held = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return round((torch.cuda.max_memory_allocated(device) - held) / 1e6, 1)
    held = status_kb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return round((status_kb("VmHWM") - held) / 1e3, 1)


def status_kb(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def random(shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def table(result: dict[str, Any]) -> str:
    head = f"{result['parameters'] / 1e6:.1f} M parameters, {result['tokens']} tokens, {result['device']}, {result['threads']} thread(s)"
    lines = [head, f"{'way':<14}{'seconds':>9}{'ratio':>8}{'ratio of mins':>15}{'peak MB':>9}{'peak ratio':>12}"]
    for name, way in result["ways"].items():
        lines.append(
            f"{name:<14}{way['seconds']:>9.4f}{way['ratio']:>8.3f}{way['ratio_min']:>15.3f}{way['peak_mb']:>9.1f}{way['peak_ratio']:>12.3f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
