"""Stage `transformer`: flow matching on the cached latents, in a few processes with one thread each."""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import WanPipeline, WanTransformer3DModel

from motive_pipeline.demo.train_tiny.optimizers import LearningRateSchedule, Muon, split_parameters
from motive_pipeline.demo.train_tiny.pipeline import NUM_TOKENS, build_pipeline, build_transformer, machine, save_pipeline
from motive_pipeline.demo.train_tiny.vae import load_vae, save_vae
from motive_pipeline.internals.torch import copy_each, lerp_each

NUM_HELD_OUT = 256  # films
LOG_EVERY_S, SAVE_EVERY_S = 60, 200


def noise_levels(uniform: torch.Tensor) -> torch.Tensor:
    """Sigmas in (0, 1) from uniform numbers, denser near 1, where the motion is determined (shifted by 3 as in Wan's sampler)."""
    return 3 * uniform / (1 + 2 * uniform)


def average_over_workers(model: torch.nn.Module) -> None:
    """Average the gradients over all worker processes."""
    if not dist.is_initialized():
        return
    grads = [param.grad for param in model.parameters()]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    copy_each(grads, [part.view_as(grad) for part, grad in zip(flat.split([g.numel() for g in grads]), grads, strict=True)])


def shared_progress(progress: float) -> float:
    """The progress of the first worker, so that all workers use the same."""
    if not dist.is_initialized():
        return progress
    shared = torch.tensor(progress, dtype=torch.float64)
    dist.broadcast(shared, src=0)
    return float(shared)


def train_in_processes(workers: int, work: Path, out: Path, minutes: float, *, batch: int, learning_rate: float) -> None:
    """Train in several processes with one thread each that share the batch: on small layers faster than one process with many threads."""
    (work / "meeting_point").unlink(missing_ok=True)
    torch.multiprocessing.spawn(_run_worker, args=(workers, work, out, minutes, batch, learning_rate), nprocs=workers)


def _run_worker(rank: int, workers: int, work: Path, out: Path, minutes: float, batch: int, learning_rate: float) -> None:
    torch.set_num_threads(1)
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{work.absolute()}/meeting_point", rank=rank, world_size=workers)
    train_transformer(work, out, minutes, device=torch.device("cpu"), batch=batch // workers, learning_rate=learning_rate)
    if workers > 1:
        dist.destroy_process_group()


def train_transformer(
    work: Path,
    out: Path,
    minutes: float,
    *,
    device: torch.device,
    batch: int = 32,
    learning_rate: float = 3e-3,
    first_frame_weight: float = 2.0,
) -> None:
    """Flow matching on cached latents: the velocity eps - h at z = (1 - sigma) h + sigma eps; 10 % of the prompts are empty.

    The running mean of the weights is saved to `out` every few minutes and at the end.
    """
    rank, workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    pipeline = build_pipeline()
    pipeline.vae = load_vae(work)
    films = Films(work, pipeline, device)
    earlier = []
    if (work / "transformer_unfinished.pt").exists():
        saved = torch.load(work / "transformer_unfinished.pt", weights_only=True)
        pipeline.transformer.load_state_dict(saved["state"])
        earlier = saved["earlier"]
    model = pipeline.transformer.train().to(device)
    mean_model = build_transformer(films.no_caption.shape[-1]).eval().to(device)
    mean_model.load_state_dict(model.state_dict())
    on_gpu = device.type == "cuda"
    matrices, rest = split_parameters(model, plain=("patch_embedding", "condition_embedder", "proj_out", "scale_shift_table"))
    rate = torch.tensor(0.0, device=device) if on_gpu else 0.0  # set by the schedule before the first step
    adam = torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), capturable=on_gpu)
    optimizers = [Muon(matrices, lr=rate), adam]

    # The VAE encodes the first frame differently from the rest, and rotary positions do not mark it, so it is learnt last: give it more weight.
    frame_weights = torch.tensor([first_frame_weight, 1, 1, 1, 1], device=device).view(-1, 1, 1) * 5 / (first_frame_weight + 4)

    @torch.compile
    def loss_of(h, noise, sigma, prompt):
        z = torch.lerp(h, noise, sigma.view(-1, 1, 1, 1, 1))
        velocity = model(z, sigma * 1000, prompt, return_dict=False)[0]
        return ((velocity - (noise - h)).square() * frame_weights).mean()

    def step() -> torch.Tensor:
        h, prompt = films.batch(batch)
        model.zero_grad()
        loss = loss_of(h, torch.randn_like(h), noise_levels(torch.rand(batch, device=device)), prompt)
        loss.backward()
        average_over_workers(model)
        for optimizer in optimizers:
            optimizer.step()
        return loss.detach()

    torch.manual_seed(1 + rank)
    take_step = ready(step, device)
    schedule = LearningRateSchedule([(optimizers[0], learning_rate), (adam, learning_rate / 2)], minutes, device=device, warmup_steps=100)
    logged_s, saved_s, losses = time.monotonic(), time.monotonic(), []
    while schedule.advance(shared_progress(schedule.progress)):
        losses.append(float(take_step()))
        if rank > 0:
            continue
        _update_mean(mean_model, model, min(0.999, schedule.steps / (schedule.steps + 10)))
        if time.monotonic() - logged_s > LOG_EVERY_S:
            logged_s = time.monotonic()
            recent = statistics.fmean(losses[-200:])
            seen = f"transformer step {schedule.steps} ({schedule.progress:.0%}) loss {recent:.4f}"
            print(f"{seen} held-out {validation_loss(mean_model, *films.held_out):.4f}", flush=True)
        if time.monotonic() - saved_s > SAVE_EVERY_S:
            saved_s = time.monotonic()
            save_unfinished(mean_model, work, earlier)
            save_pipeline(_with_transformer(pipeline, mean_model), out, {"unfinished": True, "steps": schedule.steps})
    if rank > 0:
        return
    figures = {
        "machine": machine(device),
        "minutes": minutes,
        "steps": schedule.steps,
        "batch": batch * workers,
        "num_latents": len(films.latents),
        "learning_rate": learning_rate,
        "first_frame_weight": first_frame_weight,
        "rare_share": films.rare_share,
        "held_out_loss": round(validation_loss(mean_model, *films.held_out), 4),
    }
    print("transformer", figures, flush=True)
    vae_figures = torch.load(work / "vae.pt", weights_only=True)["figures"]
    save_pipeline(_with_transformer(pipeline, mean_model), out, {"vae": vae_figures, "transformer": [*earlier, figures]})


def ready(step: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
    """`step`, compiled by running it with learning rates of zero. On a GPU it becomes a CUDA graph, because launching its short kernels one by
    one would take several times as long."""
    if device.type != "cuda":
        step()
        return step
    torch.set_float32_matmul_precision("high")
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay


def save_unfinished(transformer: WanTransformer3DModel, work: Path, earlier: list) -> None:
    """Save a checkpoint from which training continues; `earlier` holds the figures of the trainings before this one."""
    torch.save({"state": transformer.state_dict(), "earlier": earlier}, work / "transformer.tmp")
    os.replace(work / "transformer.tmp", work / "transformer_unfinished.pt")


def continue_from(start: Path, work: Path) -> None:
    """Prepare `work` to continue from a finished pipeline: keep its VAE, and continue training its transformer."""
    pipeline, training = WanPipeline.from_pretrained(start), json.loads((start / "training.json").read_text())
    save_unfinished(pipeline.transformer, work, training["transformer"])
    save_vae(pipeline.vae, work, training["vae"])


def _with_transformer(pipeline: WanPipeline, transformer: WanTransformer3DModel) -> WanPipeline:
    parts = {name: getattr(pipeline, name) for name in ("tokenizer", "text_encoder", "vae", "scheduler")}
    return WanPipeline(transformer=transformer, **parts)


@torch.no_grad()
def _update_mean(mean_model: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    lerp_each(list(mean_model.parameters()), list(model.parameters()), 1 - decay)


class Films:
    """The cached latents and caption embeddings on `device`. The last 256 films are held out as `held_out`: (latents, embeddings)."""

    def __init__(self, work: Path, pipeline: WanPipeline, device: torch.device) -> None:
        cached = torch.load(work / "latents.pt", weights_only=True)
        captions = sorted(set(cached["captions"]))
        row_of = {caption: row for row, caption in enumerate(captions)}
        self._embeds = _prompt_embeds(pipeline, captions).to(device)
        self._caption_rows = torch.tensor([row_of[caption] for caption in cached["captions"]], device=device)
        latents = cached["latents"].to(device)
        self.latents = latents[:-NUM_HELD_OUT]
        self.held_out = latents[-NUM_HELD_OUT:], self._embeds[self._caption_rows[-NUM_HELD_OUT:]]
        self.rare_share: float = cached["rare_share"]
        self.no_caption = _prompt_embeds(pipeline, [""])[0].to(device)

    def batch(self, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents and prompts of random films; every tenth prompt is empty on average."""
        device = self.latents.device
        rows = torch.randint(len(self.latents), (size,), device=device)
        is_empty = torch.rand(size, 1, 1, device=device) < 0.1
        return self.latents[rows].float(), torch.where(is_empty, self.no_caption, self._embeds[self._caption_rows[rows]])


@torch.no_grad()
def _prompt_embeds(pipeline: WanPipeline, captions: list[str]) -> torch.Tensor:
    """The prompt embeddings (N, L, E) of the pipeline."""
    parts = []
    for start in range(0, len(captions), 512):
        part = captions[start : start + 512]
        parts.append(pipeline.encode_prompt(part, do_classifier_free_guidance=False, max_sequence_length=NUM_TOKENS, device="cpu")[0])
    return torch.cat(parts)


@torch.no_grad()
def validation_loss(model: WanTransformer3DModel, latents: torch.Tensor, prompts: torch.Tensor) -> float:
    """The loss on `latents` and `prompts` with the same noise at every call."""
    generator = torch.Generator().manual_seed(0)
    losses = []
    for h, prompt in zip(latents.float().split(64), prompts.split(64), strict=True):
        noise = torch.randn(h.shape, generator=generator).to(h)
        sigma = noise_levels(torch.rand(len(h), generator=generator)).to(h)
        z = torch.lerp(h, noise, sigma.view(-1, 1, 1, 1, 1))
        losses.append((model(z, sigma * 1000, prompt, return_dict=False)[0] - (noise - h)).square().mean())
    return float(torch.stack(losses).mean())
