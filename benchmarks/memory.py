"""The peak memory that is predicted for each stage (models/memory.py), and the peak that a process takes, on a CPU.

    python -m benchmarks.memory [--size 11M 200M] [--stage latents gradients finetune generate scores] [--dtype float32] [--set finetune.checkpointing=true] [--json]

Wan transformers of 11 and 200 million parameters with random weights, beside a VAE of the true shape of Wan 2.1 (127 M parameters) and a text
encoder of no size; a clip of 17 frames of 160 x 160 (500 tokens). Each stage runs in a process of its own that loads the model from its folder. The
peak is resident memory above that of the process before it loads the model, libraries imported, with a malloc that gives freed blocks back. Two
steps of training, so that the second one has the optimizer's state.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import common
from benchmarks.common import Line
from motive_pipeline.config import Config, parse_config
from motive_pipeline.models.memory import STAGES, stage_memory
from motive_pipeline.models.read_shapes import model_shape

SIZES: dict[str, dict[str, Any]] = {
    "11M": {"num_layers": 8, "heads": 6, "head_dim": 48, "ffn_dim": 1152},
    "200M": {"num_layers": 12, "heads": 8, "head_dim": 128, "ffn_dim": 4480},
}
SETTINGS: dict[str, Any] = {
    "clips": {"source": "demo", "num_frames": 17, "width": 160, "height": 160},
    "queries": {"source": "demo"},
    "model": {"dtype": "float32", "device": "cpu", "max_prompt_tokens": 64},
    "finetune": {"steps": 2, "batch_size": 2, "micro_batch_size": 1},
    "generate": {"num_steps": 2},
    "engine": {"threads": 2},
}
WITHIN = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--stage", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--model", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.model:
        print(json.dumps(PARTS[arguments.stage[0]](settings(arguments))))
        return
    lines = []
    for size in arguments.size:
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), SIZES[size])
            lines += [line_of(stage, size, folder, arguments) for stage in arguments.stage]
    common.report(f"peak memory, {arguments.dtype}, {' '.join(arguments.set)}", lines, as_json=arguments.json)


def line_of(stage: str, size: str, folder: str, arguments: argparse.Namespace) -> Line:
    """Predicted against measured, for one stage of one model."""
    own = argparse.Namespace(**vars(arguments) | {"model": folder})
    configured = settings(own)
    shape = model_shape(configured.model)
    assert shape is not None
    predicted = stage_memory(shape, configured, on_gpu=False)[stage]  # type: ignore[index]
    command = [sys.executable, "-m", "benchmarks.memory", "--model", folder, "--stage", stage, "--dtype", arguments.dtype]
    command += ["--set", *arguments.set] if arguments.set else []
    done = subprocess.run(command, env=common.tight_memory(), cwd=common.REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    measured_mb = json.loads(done.stdout.splitlines()[-1])
    ratio = predicted.num_bytes / 1e6 / measured_mb
    return Line(
        what=f"{size} {stage}: predicted",
        against="measured",
        ratio=round(ratio, 3),
        peak_mb=(predicted.num_bytes / 1e6, measured_mb),
        details={"within a fifth": abs(ratio - 1) <= WITHIN},
    )


def settings(arguments: argparse.Namespace) -> Config:
    """The config of a run."""
    import yaml

    given = json.loads(json.dumps(SETTINGS))
    given["model"] |= {"path": arguments.model, "dtype": arguments.dtype}
    for dotted, value in common.parsed_overrides(arguments.set).items():
        *sections, key = dotted.split(".")
        functools.reduce(lambda section, name: section.setdefault(name, {}), sections, given)[key] = value
    return parse_config(yaml.safe_dump(given), Path("memory.yaml").absolute())


def save_model(folder: Path, shape: dict[str, Any]) -> None:
    """A pipeline with that transformer and a VAE of the true shape of Wan 2.1."""
    import torch
    from diffusers import AutoencoderKLWan

    from tests.tiny_wan import build_pipeline

    pipeline = build_pipeline(**shape)
    torch.manual_seed(0)
    pipeline.register_modules(
        vae=AutoencoderKLWan(base_dim=96, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2, temperal_downsample=[False, True, True]).eval()
    )
    pipeline.save_pretrained(folder)


def peak_mb(configured: Config, run: Callable[[Any], object], **how: Any) -> float:
    """The peak of loading the model and of ``run`` with it."""
    import motive_pipeline.models.wan  # noqa: F401  imported before the clock starts, like every library
    from motive_pipeline.models.load import fixed_device, load_model

    fixed_device("cpu", configured.engine.threads)
    return common.peak_growth_mb(lambda: run(load_model(configured.model, threads=configured.engine.threads, **how)))


def given_clip(model: Any, configured: Config) -> tuple[Any, Any, Any]:
    """Random latents, prompt embedding and mask."""
    import torch

    clips = configured.clips
    shape_CFHW = model.grid.shape(clips.num_frames, clips.height, clips.width)
    text_dim = model.transformer.config.text_dim
    return torch.randn(shape_CFHW), torch.randn(configured.model.max_prompt_tokens, text_dim), torch.rand(shape_CFHW[1:])


def latents(configured: Config) -> float:
    import numpy as np

    clips = configured.clips
    frames_THWC = np.zeros((clips.num_frames, clips.height, clips.width, 3), np.uint8)

    def run(model: Any) -> None:
        model.encode_video(frames_THWC)
        model.encode_prompt("a red circle")

    return peak_mb(configured, run, encodes_only=True)


def gradients(configured: Config) -> float:
    from motive_pipeline.attribution.gradient import build_clip_gradient

    return peak_mb(configured, lambda model: build_clip_gradient(model, configured.gradient)(*given_clip(model, configured)))


def finetune(configured: Config) -> float:
    from motive_pipeline.training.loop import finetune as train

    def run(model: Any) -> None:
        latents_CFHW, prompt_LE, _ = given_clip(model, configured)
        ids = [f"clip {number}" for number in range(configured.finetune.batch_size)]
        train(model, {tuple(latents_CFHW.shape[1:]): ids}, lambda _: (latents_CFHW, prompt_LE), configured.finetune, training=0)

    return peak_mb(configured, run)


def generate(configured: Config) -> float:
    clips, sampling = configured.clips, configured.generate

    def run(model: Any) -> None:
        model.generate(
            ["a red circle"] * sampling.batch_size, seeds=list(range(sampling.batch_size)), num_frames=clips.num_frames, height=clips.height,
            width=clips.width, num_steps=sampling.num_steps, guidance=sampling.guidance,
        )  # fmt: skip

    return peak_mb(configured, run)


def scores(configured: Config) -> float:
    import torch

    from motive_pipeline.attribution.loss import held_out_draws, masked_and_plain_loss

    def run(model: Any) -> None:
        latents_CFHW, prompt_LE, mask_FHW = given_clip(model, configured)
        with torch.no_grad():
            for draw in held_out_draws(2):
                masked_and_plain_loss(
                    model, latents_CFHW, prompt_LE, mask_FHW=mask_FHW, draw=draw, frame_norm=configured.gradient.frame_norm
                )

    return peak_mb(configured, run)


PARTS: dict[str, Callable[[Config], float]] = {
    "latents": latents,
    "gradients": gradients,
    "finetune": finetune,
    "generate": generate,
    "scores": scores,
}


if __name__ == "__main__":
    main()
