"""The command; see the package."""

import argparse
import json
import time
from pathlib import Path

import torch

from motive_pipeline.demo.train_tiny.check import check
from motive_pipeline.demo.train_tiny.films import RARE_SHARE
from motive_pipeline.demo.train_tiny.pipeline import is_finished, machine
from motive_pipeline.demo.train_tiny.transformer import NUM_HELD_OUT, hand_over, train_in_processes, train_transformer
from motive_pipeline.demo.train_tiny.vae import cache_latents, train_vae

STAGES = ("vae", "latents", "transformer", "check")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded tiny video model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished pipeline, in diffusers' layout")
    parser.add_argument("--work", type=Path, help="folder for what the stages hand over (default: OUT with .work appended)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="repeat these, and nothing else (default: all that are not done)")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--start", type=Path, help="a pipeline that this command finished: keep its VAE and train its transformer further")
    either.add_argument("--check", action="store_true", help="only measure the quality gate on the weights in OUT; exit code 1 if missed")
    parser.add_argument("--vae-minutes", type=float, default=20)
    parser.add_argument("--transformer-minutes", type=float, default=75)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="Muon's, at the start of the transformer's training")
    parser.add_argument("--device", type=torch.device, default="cpu", help="of the stages latents and transformer")
    parser.add_argument("--batch", type=int, default=32, help="films in a step of the transformer's training")
    parser.add_argument("--workers", type=int, default=2, help="processes that share a step of the transformer on a CPU (divides --batch)")
    parser.add_argument("--num-latents", type=int, default=12_800)
    parser.add_argument("--rare-share", type=float, default=RARE_SHARE, help="share of the films that show the demo's query motion")
    parser.add_argument("--num-steps", type=int, default=20, help="of the sampler, in the check")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the sampler, in the check; 1 is none")
    parser.add_argument("--sheet", type=Path, help="PNG for the check's samples")
    arguments = parser.parse_args()
    if arguments.num_latents <= NUM_HELD_OUT:
        parser.error(f"--num-latents: {arguments.num_latents} films are too few; {NUM_HELD_OUT} are held out, the rest is trained on")
    if arguments.device.type == "cpu" and arguments.batch % arguments.workers:
        parser.error(
            f"--batch: {arguments.batch} films cannot be shared evenly by {arguments.workers} workers; give a multiple of --workers"
        )
    work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    if arguments.start:
        if not is_finished(arguments.start):
            parser.error(f"--start: {arguments.start} is no pipeline that this command finished; motive_pipeline/models/tiny is one")
        if work.exists():
            parser.error(f"--start: {work} is there already; leave --start out to go on with it, or give another --work")
        work.mkdir(parents=True)
        hand_over(arguments.start, work)
    done = {"vae": (work / "vae.pt").exists(), "latents": (work / "latents.pt").exists()}
    stages = ("check",) if arguments.check else arguments.stages or [stage for stage in STAGES if not done.get(stage)]
    if set(stages) != {"check"}:
        work.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    if "vae" in stages:
        train_vae(work, arguments.vae_minutes)
    if "latents" in stages:
        cache_latents(work, arguments.num_latents, rare_share=arguments.rare_share, device=arguments.device)
    if "transformer" in stages:
        goal = {"batch": arguments.batch, "learning_rate": arguments.learning_rate}
        if arguments.device.type == "cpu":
            train_in_processes(arguments.workers, work, arguments.out, arguments.transformer_minutes, **goal)
        else:
            train_transformer(work, arguments.out, arguments.transformer_minutes, device=arguments.device, **goal)
    print(f"{', '.join(stages)}: {(time.monotonic() - started_s) / 60:.1f} minutes on {machine(arguments.device)}")
    if "check" in stages:
        figures = check(arguments.out, num_steps=arguments.num_steps, guidance=arguments.guidance, sheet=arguments.sheet)
        print(json.dumps(figures, indent=2))
        raise SystemExit(not figures["passed"])


if __name__ == "__main__":
    main()
