"""Stage `transformer`: flow matching on the cached latents, shared by a few processes of one thread each."""

import json
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import WanPipeline, WanTransformer3DModel

from motive_pipeline.models.train_tiny.optimizers import Muon, Schedule, split_parameters
from motive_pipeline.models.train_tiny.pipeline import NUM_TOKENS, build_pipeline, build_transformer, machine, save_pipeline
from motive_pipeline.models.train_tiny.vae import load_vae, save_vae


def noise_levels(number: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Sigmas in (0, 1), denser near 1, where the motion is decided (uniform, shifted by 3 as Wan's sampler does)."""
    u = torch.rand(number, generator=generator)
    return 3 * u / (1 + 2 * u)


def average_over_workers(model: torch.nn.Module, progress: float) -> float:
    """Average the gradients over all worker processes; returns the first worker's progress, so that all keep the same pace."""
    if not dist.is_initialized():
        return progress
    grads = [param.grad for param in model.parameters()]
    flat = torch.cat([grad.reshape(-1) for grad in grads] + [torch.tensor([progress * dist.get_world_size() * (dist.get_rank() == 0)])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    torch._foreach_copy_(grads, [part.view_as(grad) for part, grad in zip(flat[:-1].split([g.numel() for g in grads]), grads, strict=True)])
    return float(flat[-1])


def run_transformer_worker(rank: int, work: Path, out: Path, minutes: float, workers: int, learning_rate: float) -> None:
    """One of several processes of one thread each, which share a step's batch: faster on small layers than one process of many threads."""
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{work.absolute()}/meeting_point", rank=rank, world_size=workers)
    train_transformer(work, out, minutes, batch=32 // workers, learning_rate=learning_rate)
    if workers > 1:
        dist.destroy_process_group()


def train_transformer(
    work: Path, out: Path, minutes: float, *, batch: int = 32, learning_rate: float = 3e-3, first_frame_weight: float = 2.0
) -> None:
    """Flow matching on cached latents: the velocity eps - h at z = (1 - sigma) h + sigma eps; 10 % of the prompts are left empty.

    The running mean of the weights is what is kept; it goes to `out` every few minutes.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    pipeline = build_pipeline()
    pipeline.vae = load_vae(work)
    cached = torch.load(work / "latents.pt", weights_only=True)
    latents, prompts = cached["latents"], _prompt_embeds(pipeline, cached["captions"])
    nothing = _prompt_embeds(pipeline, [""])[0]
    num_train = len(latents) - 256
    earlier = []
    if (work / "transformer_unfinished.pt").exists():
        saved = torch.load(work / "transformer_unfinished.pt", weights_only=True)
        pipeline.transformer.load_state_dict(saved["state"])
        earlier = saved["earlier"]
    model, mean_model = pipeline.transformer.train(), build_transformer(prompts.shape[-1]).eval()
    mean_model.load_state_dict(model.state_dict())
    matrices, rest = split_parameters(model, plain=("patch_embedding", "condition_embedder", "proj_out", "scale_shift_table"))
    optimizers = [Muon(matrices, lr=learning_rate), torch.optim.AdamW(rest, lr=learning_rate / 2, weight_decay=0.0, betas=(0.9, 0.98))]

    # The VAE codes the first frame alone, unlike the rest, and rotary positions do not say which one is first: it is the last to be learnt.
    frame_weights = torch.tensor([first_frame_weight, 1, 1, 1, 1]).view(-1, 1, 1) * 5 / (first_frame_weight + 4)

    @torch.compile
    def loss_of(h, noise, sigma, prompt):
        z = torch.lerp(h, noise, sigma.view(-1, 1, 1, 1, 1))
        velocity = model(z, sigma * 1000, prompt, return_dict=False)[0]
        return ((velocity - (noise - h)).square() * frame_weights).mean()

    def training_batch():
        rows = torch.randint(num_train, (batch,))
        prompt = torch.where(torch.rand(batch, 1, 1) < 0.1, nothing, prompts[rows])
        h = latents[rows].float()
        return h, torch.randn_like(h), noise_levels(batch), prompt

    torch.manual_seed(1 + rank)
    loss_of(*training_batch()).backward()  # compiles before the clock starts
    average_over_workers(model, 0.0)
    model.zero_grad()
    schedule = Schedule(optimizers, minutes, warmup_steps=100)
    logged_s, saved_s, losses = time.monotonic(), time.monotonic(), []
    while True:
        loss = loss_of(*training_batch())
        loss.backward()
        if not schedule.advance(average_over_workers(model, schedule.progress)):
            break
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        losses.append(loss.detach())
        if rank > 0:
            continue
        _follow(mean_model, model, min(0.999, schedule.steps / (schedule.steps + 10)))
        if time.monotonic() - logged_s > 120:
            logged_s = time.monotonic()
            held_out = validation_loss(mean_model, latents[num_train:], prompts[num_train:])
            recent = torch.stack(losses[-200:]).mean()
            print(f"transformer step {schedule.steps} ({schedule.progress:.0%}) loss {recent:.4f} held-out {held_out:.4f}", flush=True)
        if time.monotonic() - saved_s > 200:
            saved_s = time.monotonic()
            save_unfinished(mean_model, work, earlier)
            save_pipeline(_with_transformer(pipeline, mean_model), out, {"unfinished": True, "steps": schedule.steps})
    if rank > 0:
        return
    figures = {
        "minutes": minutes,
        "steps": schedule.steps,
        "batch": batch * workers,
        "num_latents": num_train,
        "held_out_loss": round(validation_loss(mean_model, latents[num_train:], prompts[num_train:]), 4),
    }
    print("transformer", figures, flush=True)
    vae_figures = torch.load(work / "vae.pt", weights_only=True)["figures"]
    save_pipeline(
        _with_transformer(pipeline, mean_model), out, {"vae": vae_figures, "transformer": [*earlier, figures], "machine": machine()}
    )


def save_unfinished(transformer: WanTransformer3DModel, work: Path, earlier: list) -> None:
    """A checkpoint that training goes on from; `earlier` holds the figures of the trainings that ended before this one."""
    torch.save({"state": transformer.state_dict(), "earlier": earlier}, work / "transformer.tmp")
    os.replace(work / "transformer.tmp", work / "transformer_unfinished.pt")


def hand_over(start: Path, work: Path) -> None:
    """Let the stages in `work` go on from a finished pipeline: its VAE stays, its transformer is trained further."""
    pipeline, training = WanPipeline.from_pretrained(start), json.loads((start / "training.json").read_text())
    save_unfinished(pipeline.transformer, work, training["transformer"])
    save_vae(pipeline.vae, work, training["vae"])


def _with_transformer(pipeline: WanPipeline, transformer: WanTransformer3DModel) -> WanPipeline:
    parts = {name: getattr(pipeline, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    return WanPipeline(transformer=transformer, **parts)


@torch.no_grad()
def _follow(mean_model: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    torch._foreach_lerp_(list(mean_model.parameters()), list(model.parameters()), 1 - decay)


@torch.no_grad()
def _prompt_embeds(pipeline: WanPipeline, captions: list[str]) -> torch.Tensor:
    """(N, L, E), as the pipeline itself embeds them."""
    parts = []
    for start in range(0, len(captions), 512):
        part = captions[start : start + 512]
        parts.append(pipeline.encode_prompt(part, do_classifier_free_guidance=False, max_sequence_length=NUM_TOKENS, device="cpu")[0])
    return torch.cat(parts)


@torch.no_grad()
def validation_loss(model: WanTransformer3DModel, latents: torch.Tensor, prompts: torch.Tensor) -> float:
    """On the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for h, prompt in zip(latents.split(64), prompts.split(64), strict=True):
        noise = torch.randn(h.shape, generator=generator)
        sigma = noise_levels(len(h), generator)
        z = torch.lerp(h.float(), noise, sigma.view(-1, 1, 1, 1, 1))
        losses.append((model(z, sigma * 1000, prompt, return_dict=False)[0] - (noise - h.float())).square().mean())
    return float(torch.stack(losses).mean())
