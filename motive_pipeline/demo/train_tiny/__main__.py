"""The command line of the package."""

import argparse
import json
import time
from pathlib import Path

import torch

from motive_pipeline.demo.train_tiny.check import check
from motive_pipeline.demo.train_tiny.films import RARE_SHARE
from motive_pipeline.demo.train_tiny.pipeline import is_complete, machine
from motive_pipeline.demo.train_tiny.transformer import NUM_HELD_OUT, continue_from, train_in_processes, train_transformer
from motive_pipeline.demo.train_tiny.vae import cache_latents, train_vae

STAGES = ("vae", "latents", "transformer", "check")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded tiny video model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished pipeline, in diffusers' layout")
    parser.add_argument("--work", type=Path, help="folder for the intermediate results of the stages (default: OUT with .work appended)")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, help="run only these stages, even if they are done (default: all that are not done)"
    )
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--start", type=Path, help="a pipeline that this command made: keep its VAE and continue training its transformer")
    either.add_argument(
        "--check", action="store_true", help="only measure the quality gate on the weights in OUT; the exit code is 1 if it fails"
    )
    parser.add_argument("--vae-minutes", type=float, default=20)
    parser.add_argument("--transformer-minutes", type=float, default=75)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="Muon's learning rate at the start of the transformer's training")
    parser.add_argument("--device", type=torch.device, default="cpu", help="device of the stages latents and transformer")
    parser.add_argument("--batch", type=int, default=32, help="films in one step of the transformer's training")
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that share one step of the transformer on a CPU; must divide --batch"
    )
    parser.add_argument("--num-latents", type=int, default=12_800)
    parser.add_argument("--rare-share", type=float, default=RARE_SHARE, help="share of the films with the demo's query motion")
    parser.add_argument("--num-steps", type=int, default=20, help="sampling steps in the check")
    parser.add_argument("--guidance", type=float, default=2.0, help="guidance scale in the check; 1 means no guidance")
    parser.add_argument("--sheet", type=Path, help="PNG for the check's samples")
    arguments = parser.parse_args()
    if arguments.num_latents <= NUM_HELD_OUT:
        parser.error(f"--num-latents: {arguments.num_latents} films are too few: {NUM_HELD_OUT} of them are held out from training")
    if arguments.device.type == "cpu" and arguments.batch % arguments.workers:
        parser.error(
            f"--batch: {arguments.batch} films cannot be divided evenly among {arguments.workers} workers; use a multiple of --workers"
        )
    work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    if arguments.start:
        if not is_complete(arguments.start):
            parser.error(f"--start: {arguments.start} is not a finished pipeline of this command; motive_pipeline/models/tiny is one")
        if work.exists():
            parser.error(f"--start: {work} exists already; omit --start to continue there, or use another --work")
        work.mkdir(parents=True)
        continue_from(arguments.start, work)
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
