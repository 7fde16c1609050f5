"""The gradient pass on models of the true shapes of Wan 2.1 T2V 1.3B and Wan 2.2 TI2V 5B with random weights: memory, time, and on a GPU
the share of its peak.

    python -m benchmarks.wan_shapes [--shape 1.3B] [--dtype bfloat16] [--projection fastfood] [--memory-only] [--rounds 2] [--json]    on a CPU
    python -m benchmarks.wan_shapes --device cuda [--shape 5B] [--rounds 5] [--peak-tflops T] [--json]                                 on a GPU

On a CPU few tokens; on a GPU a clip as it comes: 81 frames of 480 x 832 for the 1.3B, 121 of 704 x 1280 for the 5B.

Memory: the peak of the whole pass, model included, against weights plus activations. Weights: the bytes of the parameters. Activations: the
bytes that the forward pass of a bare pass leaves for backward (each storage once, parameters not counted). The peak is resident memory above what
the process held before there was a model (on a GPU: allocated memory); with interpreter and libraries it is shown beside it. With
checkpointing a block's activations are there again while it is recomputed, which the kept ones do not count, so the ratio has no aim.

Time: against the same pass whose gradients are dropped as soon as they are formed, so ``ratio`` - 1 is what projecting costs. On a GPU also
seconds a clip and the share of the chip's dense bf16 peak: the operations of forward and backward as torch counts them, recomputed
activations not counted, over time and peak.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import WanTransformer3DModel

from benchmarks import common
from benchmarks.common import Cost, Line
from benchmarks.gradient_pass import PROJECTIONS
from motive_pipeline import config
from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.projection import Projected
from motive_pipeline.internals.diffusers import float32_modules
from motive_pipeline.models.chips import CHIPS
from motive_pipeline.models.load import fixed_device
from motive_pipeline.models.wan import WanModel
from tests.tiny_wan import build_pipeline

COMMON = {
    "patch_size": (1, 2, 2), "attention_head_dim": 128, "text_dim": 4096, "freq_dim": 256, "num_layers": 30, "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 1024,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "1.3B": {**COMMON, "num_attention_heads": 12, "in_channels": 16, "out_channels": 16, "ffn_dim": 8960},
    "5B": {**COMMON, "num_attention_heads": 24, "in_channels": 48, "out_channels": 48, "ffn_dim": 14336},
}
"""transformer/config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers and of Wan-AI/Wan2.2-TI2V-5B-Diffusers, which takes a timestep for each token."""
FRAMES_FHW = {"1.3B": (21, 60, 104), "5B": (31, 44, 80)}
"""Latent frames of a clip as it comes. On a CPU: :data:`FEW_FHW`."""
FEW_FHW = (1, 16, 16)
PROMPT_TOKENS = {"cpu": 64, "cuda": 512}
MEMORY_AIM = 1.25
PEAK_TFLOPS = {chip.name: chip.peak_tflops for chip in CHIPS.values()}
"""Dense bf16."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1.3B", choices=list(SHAPES))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--projection", default="fastfood", choices=PROJECTIONS)
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, help="default: on a GPU only")
    parser.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True, help="gradient.deterministic")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peak-tflops", type=float, help="the chip's dense bf16 peak, if this file does not know it")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory-only", action="store_true", help="leave the timing out")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.checkpointing is None:
        arguments.checkpointing = arguments.device == "cuda"
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    memory = in_process("memory", arguments)
    timing = None if arguments.memory_only else in_process("timing", arguments)
    title = (
        f"Wan {arguments.shape} shape, {memory['parameters']:,} parameters, {arguments.dtype}, {arguments.projection}, {arguments.device}: "
        f"{num_tokens(latents_shape(arguments))} tokens, {PROMPT_TOKENS[arguments.device]} of the prompt"
    )
    common.report(title, lines_of(memory, timing, arguments), as_json=arguments.json)


def lines_of(memory: dict[str, Any], timing: dict[str, Any] | None, arguments: argparse.Namespace) -> list[Line]:
    bare = memory["weights_mb"] + memory["activations_mb"]
    held = {name: memory[name] for name in ("weights_mb", "activations_mb", "with_libraries_mb")}
    lines = [
        Line(
            what="peak memory", against="weights + activations", ratio=round(memory["peak_mb"] / bare, 3),
            at_most=None if arguments.checkpointing else MEMORY_AIM,
            peak_mb=(memory["peak_mb"], bare), details=held,
        )
    ]  # fmt: skip
    if timing is None:
        return lines
    ours, dropped = ([Cost(**cost) for cost in timing[way]] for way in ("ours", "dropped"))
    seconds = common.median_s(ours), common.median_s(dropped)
    details: dict[str, Any] = {"teraoperations": timing["operations"] / 1e12}
    if arguments.device == "cuda":
        peak = arguments.peak_tflops or next((value for name, value in PEAK_TFLOPS.items() if name in timing["chip"]), math.nan)
        details |= {"chip": timing["chip"], "share of its peak": timing["operations"] / seconds[0] / (peak * 1e12)}
    line = Line(
        what="gradient + projection",
        against="the same, gradients dropped",
        **common.ratios(ours, dropped),
        seconds=seconds,
        details=details,
    )
    return [*lines, line]


def in_process(part: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.wan_shapes", "--part", part]
    command += [f"--{name}={getattr(arguments, name)}" for name in ("shape", "device", "dtype", "projection", "threads", "rounds")]
    command += [f"--{'' if getattr(arguments, name) else 'no-'}{name}" for name in ("deterministic", "checkpointing")]
    environment = common.tight_memory() if part == "memory" else None
    done = subprocess.run(command, env=environment, cwd=common.REPOSITORY, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def memory_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Weights, activations and the peak of the pass, in MB."""
    device = fixed_device(arguments.device, arguments.threads)
    libraries_mb = held_mb(device)
    model = build_model(arguments, device)
    weights_mb = sum(parameter.nbytes for parameter in model.transformer.parameters()) / 1e6
    activations_mb = kept_by_autograd_mb(model, arguments)
    run = projected_pass(model, arguments)
    run()
    before_mb = held_mb(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        run()
        peak_mb = torch.cuda.max_memory_allocated(device) / 1e6
    else:
        peak_mb = before_mb + common.peak_growth_mb(run)
    return {
        "parameters": sum(parameter.numel() for parameter in model.transformer.parameters()),
        "weights_mb": weights_mb,
        "activations_mb": activations_mb,
        "peak_mb": peak_mb - libraries_mb,
        "with_libraries_mb": peak_mb,
    }


def held_mb(device: torch.device) -> float:
    return torch.cuda.memory_allocated(device) / 1e6 if device.type == "cuda" else common.resident_mb()


def kept_by_autograd_mb(model: WanModel, arguments: argparse.Namespace) -> float:
    """Bytes that a forward pass leaves for backward: each storage once, parameters not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.transformer.parameters()}
    kept: dict[int, int] = {}
    backward_has_begun = False

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and not backward_has_begun:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def use(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal backward_has_begun
        backward_has_begun = True
        return tensor

    run = projected_pass(model, arguments, dropped=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, use):
        run()
    return sum(kept.values()) / 1e6


def timing_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ours and the pass whose gradients are dropped, in turn."""
    device = fixed_device(arguments.device, arguments.threads)
    model = build_model(arguments, device)
    ways = {"ours": projected_pass(model, arguments), "dropped": projected_pass(model, arguments, dropped=True)}
    costs: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for number in range(arguments.rounds + 1):
        for name in ways if number % 2 else reversed(ways):
            cost = common.measured(lambda name=name: settled(ways[name], device))
            if number:
                costs[name].append({"seconds": cost.seconds, "cpu_s": cost.cpu_s})
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return {**costs, "operations": operations(arguments), "chip": chip}


def settled(run: Callable[[], object], device: torch.device) -> None:
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Dropped:
    """A projector that looks at nothing."""

    def start(self, sizes: Any) -> None:
        pass

    def add(self, name: str, gradient: torch.Tensor) -> None:
        pass

    def finish(self) -> Projected:
        return Projected(entries_P=torch.ones(1), norm=1.0)


def clip_gradient(model: WanModel, arguments: argparse.Namespace) -> ClipGradient:
    section = {name: getattr(arguments, name) for name in ("projection", "checkpointing", "deterministic")}
    return build_clip_gradient(model, config.Gradient.model_validate(section))


def projected_pass(model: WanModel, arguments: argparse.Namespace, *, dropped: bool = False) -> Callable[[], object]:
    """The pipeline's pass over one clip; ``dropped``: Fastfood's, with gradients that nobody reads."""
    gradient = clip_gradient(model, argparse.Namespace(**vars(arguments) | ({"projection": "fastfood"} if dropped else {})))
    if dropped:
        gradient.projector = Dropped()
    given = clip(arguments)
    return lambda: gradient(*given)


def clip(arguments: argparse.Namespace) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """Random latents, conditioning and mask."""
    latents_CFHW = latents_shape(arguments)
    random = torch.Generator().manual_seed(0)
    return (
        torch.randn(latents_CFHW, generator=random),
        {"prompt_embeds": torch.randn(PROMPT_TOKENS[arguments.device], COMMON["text_dim"], generator=random)},
        torch.rand(latents_CFHW[1:], generator=random),
    )


def latents_shape(arguments: argparse.Namespace) -> tuple[int, ...]:
    return SHAPES[arguments.shape]["in_channels"], *(FRAMES_FHW[arguments.shape] if arguments.device == "cuda" else FEW_FHW)


def num_tokens(latents_CFHW: tuple[int, ...]) -> int:
    return math.prod(latents_CFHW[1:]) // math.prod(COMMON["patch_size"])


def build_model(arguments: argparse.Namespace, device: torch.device) -> WanModel:
    """The denoiser with random weights, each drawn where it stays, beside a VAE and a text encoder of no size."""
    with init_empty_weights(include_buffers=False):
        transformer = WanTransformer3DModel(**SHAPES[arguments.shape])
    dtype = getattr(torch, arguments.dtype)
    random = torch.Generator(device).manual_seed(0)
    for module_name, module in transformer.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            exact = any(part in f"{module_name}.{name}" for part in float32_modules(transformer))
            values = torch.empty(parameter.shape, dtype=torch.float32 if exact else dtype, device=device)
            if "norm" in module_name and name == "weight":
                values.fill_(1.0)
            else:
                values.normal_(std=0.02, generator=random)
            module.register_parameter(name, torch.nn.Parameter(values))
    pipeline = build_pipeline(expand_timesteps=arguments.shape == "5B")
    pipeline.register_modules(transformer=transformer.eval())
    return WanModel(pipeline, device=device, compute_dtype=dtype, max_prompt_tokens=PROMPT_TOKENS[device.type])


def operations(arguments: argparse.Namespace) -> int:
    """Floating-point operations of one forward and backward pass, counted by torch without computing them."""
    from torch.utils.flop_counter import FlopCounterMode

    latents_CFHW = latents_shape(arguments)
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**SHAPES[arguments.shape])
        given = {
            "hidden_states": torch.empty(1, *latents_CFHW),
            "encoder_hidden_states": torch.empty(1, PROMPT_TOKENS[arguments.device], COMMON["text_dim"]),
            "timestep": torch.empty(1, num_tokens(latents_CFHW)) if arguments.shape == "5B" else torch.empty(1),
        }
        counter = FlopCounterMode(display=False)
        with counter:
            transformer(**given, return_dict=False)[0].sum().backward()
    return counter.get_total_flops()


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {"memory": memory_part, "timing": timing_part}


if __name__ == "__main__":
    main()
