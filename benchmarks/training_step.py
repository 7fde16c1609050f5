"""A training step of ours beside the same step written bare with diffusers, torch and peft.

    python -m benchmarks.training_step [--train full lora] [--steps 3] [--batch 2] [--threads 1] [--rounds 5] [--json]

The model is that of benchmarks/gradient_pass.py (11 M parameters, 720 tokens); the bare side has diffusers' own attention. Both draw the same timesteps and noises, clip
the gradient and take a step of AdamW in float32. Every round times both, in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import torch
from peft import LoraConfig

from benchmarks import common
from benchmarks.common import Clip, Line
from motive_pipeline.config import Finetune, Lora
from motive_pipeline.models.wan import WanModel
from motive_pipeline.training.loop import finetune, step_draw

RANK = 32
TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0|ffn\.net\.0\.proj|ffn\.net\.2)"
AT_MOST = 1.05


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    clips = common.drawn_clips(arguments.batch)
    lines = []
    for what in arguments.train:
        lora = Lora(rank=RANK, targets=TARGETS) if what == "lora" else None
        settings = Finetune(
            steps=arguments.steps, batch_size=arguments.batch, lora=lora, learning_rate=1e-6, caption_dropout=0.0, checkpoint_every=None
        )
        sides = (ours(settings, clips), bare(settings, clips))
        for run in sides:
            run()
        costs: tuple[list[common.Cost], list[common.Cost]] = ([], [])
        for _ in range(arguments.rounds):
            for side, run in zip(costs, sides, strict=True):
                side.append(common.measured(run))
        found = common.ratios(*costs)
        lines.append(
            Line(
                what=f"a training step, {'LoRA' if lora else 'all weights'}",
                against="written bare",
                ratio=found["ratio"],
                ratio_cpu=found["ratio_cpu"],
                at_most=AT_MOST,
                seconds=(common.median_s(costs[0]) / arguments.steps, common.median_s(costs[1]) / arguments.steps),
            )
        )
    common.report(f"{arguments.threads} thread(s), {arguments.batch} clips a step", lines, as_json=arguments.json)


def ours(settings: Finetune, clips: Sequence[Clip]) -> Callable[[], object]:
    """The loop of training/loop.py on a model of its own, which goes on from where it is in each call."""
    model = _model()
    by_id = {str(number): (clip.latents_CFHW, clip.conditioning) for number, clip in enumerate(clips)}
    return lambda: finetune(model, {(1, 1, 1): list(by_id)}, by_id.__getitem__, settings, training=0)


def bare(settings: Finetune, clips: Sequence[Clip]) -> Callable[[], object]:
    """The same steps without any of our code but the draws."""
    model = _model()
    common.use_diffusers_attention(model)
    transformer = model.transformer
    if settings.lora is not None:
        transformer.requires_grad_(False)
        transformer.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS))  # type: ignore[operator]
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    latents_BCFHW = torch.stack([clip.latents_CFHW for clip in clips])
    prompt_BLE = torch.stack([clip.prompt_LE for clip in clips])

    def run() -> None:
        optimizer = torch.optim.AdamW(
            parameters, lr=settings.learning_rate, betas=settings.betas, weight_decay=settings.weight_decay, fused=True
        )
        for step in range(settings.steps):
            draw = step_draw(0, step, settings)
            noise_BCFHW = torch.randn(latents_BCFHW.shape, generator=draw.noise)
            sigma = (draw.timestep_B / 1000).view(-1, 1, 1, 1, 1)
            noisy_BCFHW = (1 - sigma) * latents_BCFHW + sigma * noise_BCFHW
            velocity_BCFHW = transformer(
                hidden_states=noisy_BCFHW, timestep=draw.timestep_B, encoder_hidden_states=prompt_BLE, return_dict=False
            )[0]
            (velocity_BCFHW - (noise_BCFHW - latents_BCFHW)).square().mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _model() -> WanModel:
    return common.build_model(torch.device("cpu"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", default=["full", "lora"], choices=["full", "lora"])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
