"""Trains the embedded model: a Wan pipeline of about 2 M parameters that draws the demo data's little films.

    python -m motive_pipeline.models.train_tiny --out FOLDER --work FOLDER [--stages vae latents transformer check]

The stages hand over through files in `--work`; a stage whose file is there is skipped unless it is named in `--stages`, and a training
that was broken off goes on from its last checkpoint. `--out` receives diffusers' own layout (`WanPipeline.from_pretrained(FOLDER)`), fp16, with a `training.json` that
says how long it took and on what. The films come from seeds at and above `TRAIN_SEED`, which no user of the demo gets by accident.

Axes: B batch, N clips, T frames, F latent frames, C channels, H W pixels, h w latent pixels, L prompt tokens, E embedding width.
"""

import argparse
import copy
import json
import math
import os
import platform
import shutil
import tempfile
import time
import types
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.distributed as dist
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_wan import WanResample, patchify, unpatchify
from transformers import T5TokenizerFast, UMT5Config, UMT5EncoderModel

from motive_pipeline.clips import demo
from motive_pipeline.evaluation.motion_class import MotionReading, motion_class

TRAIN_SEED = 10_000
NUM_TOKENS = 32  # of every prompt, padding included
LATENT_CHANNELS = 16
LATENT_NOISE = 0.15  # added to the latents while the VAE trains, and its posterior's standard deviation ever after
# Motions that a text-to-video user would ask for come often, standing still and camera pans now and then.
# `NEW_MOTION` never comes: fine-tuning in the demo teaches it.
MOTION_SHARES = {motion: 0.125 for motion in demo.MOTIONS if motion != demo.NEW_MOTION} | {"static": 0.0625, "pan": 0.0625}


# --- the parts, untrained ---------------------------------------------------------------------------------------------------------


def build_vae() -> AutoencoderKLWan:
    """0.67 M parameters, Wan 2.2's patchified layout: 4 frames into one latent frame (after the first), 8x8 pixels into one."""
    vae = AutoencoderKLWan(
        base_dim=16,
        dim_mult=[1, 2, 2],
        z_dim=LATENT_CHANNELS,
        num_res_blocks=1,
        temperal_downsample=[True, True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
    )
    with torch.no_grad():  # the posterior's spread is a constant
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias[LATENT_CHANNELS:] = 2 * math.log(LATENT_NOISE)
    return vae


def build_tokenizer() -> T5TokenizerFast:
    """One token a word of the demo's captions; any other word is unknown."""
    words = sorted(
        {"a", "on", "background"}
        | set(demo.RADIUS_PX) | set(demo.SHAPE_COLOURS) | set(demo.TEXTURES) | set(demo.SHAPES)
        | set(demo.BACKGROUND_COLOURS) | set(demo.PATTERNS)
    )  # fmt: skip
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -100.0), *((f"▁{word}", -1.0) for word in words)]
    return T5TokenizerFast(vocab=vocab, extra_ids=0, model_max_length=NUM_TOKENS)


def build_text_encoder(vocab_size: int) -> UMT5EncoderModel:
    """Random and never trained: it only has to give every word its own direction."""
    config = UMT5Config(
        vocab_size=vocab_size, d_model=48, d_kv=16, d_ff=64, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu", dropout_rate=0.0
    )
    return UMT5EncoderModel(config).eval()


def build_transformer(text_dim: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=text_dim,
        freq_dim=64,
        ffn_dim=448,
        num_layers=6,
        rope_max_seq_len=64,
    )


def build_pipeline(seed: int = 0) -> WanPipeline:
    """The whole pipeline with random weights."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(len(tokenizer))
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0)
    transformer = build_transformer(text_encoder.config.d_model)
    return WanPipeline(tokenizer=tokenizer, text_encoder=text_encoder, vae=build_vae(), scheduler=scheduler, transformer=transformer)


def save_pipeline(pipeline: WanPipeline, folder: Path, training: dict) -> None:
    """Write the weights (fp16, but for the text encoder, which transformers would load in fp16 then) and `training.json`.

    A folder that is there is replaced in one move, its old content removed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    halves = {name: copy.deepcopy(getattr(pipeline, name)).to(torch.float16) for name in ("vae", "transformer")}
    kept = {name: getattr(pipeline, name) for name in ("tokenizer", "scheduler", "text_encoder")}
    WanPipeline(**kept, **halves).save_pretrained(unfinished)
    for path in unfinished.rglob("*.safetensors"):
        path.chmod(0o644)
    (unfinished / "training.json").write_text(json.dumps(training, indent=2) + "\n")
    unfinished.chmod(0o755)
    if folder.exists():
        old = folder.with_name(f".{folder.name}.old.{os.getpid()}")
        os.rename(folder, old)
        os.rename(unfinished, folder)
        shutil.rmtree(old)
    else:
        os.rename(unfinished, folder)


# --- films ------------------------------------------------------------------------------------------------------------------------


def training_specs(num_clips: int, seed: int) -> list[demo.ClipSpec]:
    """Appearance uniform, motions by `MOTION_SHARES`."""
    rng = np.random.default_rng(seed)
    motions = rng.choice(list(MOTION_SHARES), num_clips, p=list(MOTION_SHARES.values()))
    return [demo.sample_spec(rng, motion=str(motion)) for motion in motions]


def render_all(specs: list[demo.ClipSpec]) -> np.ndarray:
    """uint8 (N, T, H, W, C)."""
    with ProcessPoolExecutor(2) as pool:
        return np.stack(list(pool.map(demo.render_clip, specs, chunksize=64)))


def video_tensor(frames_NTHWC: np.ndarray) -> torch.Tensor:
    """(N, C, T, H, W) in [-1, 1]."""
    return torch.from_numpy(frames_NTHWC).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


# --- optimisation -----------------------------------------------------------------------------------------------------------------


class Muon(torch.optim.Optimizer):
    """Momentum whose update of each weight matrix is orthogonalised (Newton-Schulz); a convolution is a matrix with one row a filter."""

    def __init__(self, params, lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            same_shape: dict[tuple, list] = {}
            for param in group["params"]:
                velocity = self.state[param].setdefault("velocity", torch.zeros_like(param))
                velocity.lerp_(param.grad, 1 - group["momentum"])
                direction = param.grad.lerp(velocity, group["momentum"]).reshape(len(param), -1)
                same_shape.setdefault(direction.shape, []).append((param, direction))
            for (rows, columns), pairs in same_shape.items():
                updates = orthogonalised(torch.stack([direction for _, direction in pairs]))
                for (param, _), update in zip(pairs, updates, strict=True):
                    param.sub_(update.reshape(param.shape), alpha=group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """Near to U V^T of each one's singular value decomposition U S V^T; (number, rows, columns)."""
    x = matrices / (matrices.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(3):  # Muon's usual five are more than matrices this small need
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


class Schedule:
    """Learning rates on wall-clock time: a short warm-up, then a cosine that reaches zero when the minutes are over."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], minutes: float, warmup_steps: int = 50) -> None:
        self.groups = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
        self.budget_s, self.warmup_steps = minutes * 60, warmup_steps
        self.started_s, self.steps = time.monotonic(), 0

    @property
    def progress(self) -> float:
        return min(1.0, (time.monotonic() - self.started_s) / self.budget_s)

    def advance(self, progress: float | None = None) -> bool:
        """Set the rates for the next step, from the clock unless `progress` is given; false when the time is over."""
        progress = self.progress if progress is None else progress
        self.steps += 1
        factor = min(1.0, self.steps / self.warmup_steps) * 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in self.groups:
            group["lr"] = rate * factor
        return progress < 1


def split_parameters(module: torch.nn.Module, plain: tuple[str, ...]) -> tuple[list, list]:
    """(matrices for Muon, the rest for AdamW): the rest are vectors and whatever is named in `plain`."""
    matrices, rest = [], []
    for name, param in module.named_parameters():
        inside = param.ndim >= 2 and min(len(param), param[0].numel()) > 1 and not any(part in name for part in plain)
        (matrices if inside else rest).append(param)
    return matrices, rest


# --- stage vae --------------------------------------------------------------------------------------------------------------------


def _resample_whole_sequence(self: WanResample, x: torch.Tensor, feat_cache=None, feat_idx=None) -> torch.Tensor:
    """What `WanResample` computes chunk by chunk with its cache, for all frames at once."""
    b, c, t, h, w = x.shape
    if self.mode == "upsample3d":
        pairs = self.time_conv(x[:, :, 1:]).reshape(b, 2, c, t - 1, h, w)
        x = torch.cat([x[:, :, :1], torch.stack((pairs[:, 0], pairs[:, 1]), 3).reshape(b, c, 2 * t - 2, h, w)], 2)
    t = x.shape[2]
    x = self.resample(x.permute(0, 2, 1, 3, 4).reshape(b * t, c, h, w)).unflatten(0, (b, t)).permute(0, 2, 1, 3, 4)
    if self.mode == "downsample3d":
        x = torch.cat([x[:, :, :1], self.time_conv(x)], 2)
    return x


def whole_sequence(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Make `encode_whole` and `decode_whole` valid on this VAE (its own `encode` and `decode` no longer are); weights channels last."""
    for module in vae.modules():
        if isinstance(module, WanResample):
            module.forward = types.MethodType(_resample_whole_sequence, module)
        elif isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last_3d)
        elif isinstance(module, torch.nn.Conv2d):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    return vae


def encode_whole(vae: AutoencoderKLWan, video_BCTHW: torch.Tensor) -> torch.Tensor:
    return vae.quant_conv(vae.encoder(patchify(video_BCTHW, vae.config.patch_size)))[:, :LATENT_CHANNELS]


def decode_whole(vae: AutoencoderKLWan, latents_BCFhw: torch.Tensor) -> torch.Tensor:
    return unpatchify(vae.decoder(vae.post_quant_conv(latents_BCFhw)), vae.config.patch_size)


def psnr_db(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of videos in [-1, 1]."""
    return float(10 * torch.log10(4 / ((a.clamp(-1, 1) - b) ** 2).mean()))


def train_vae(work: Path, minutes: float, *, num_clips: int = 2000, batch: int = 4) -> None:
    """L1 through latents that carry noise of a fixed size, which makes the decoder forgive the transformer's small errors."""
    torch.manual_seed(0)
    frames = render_all(training_specs(num_clips, TRAIN_SEED))
    held_out = video_tensor(render_all(training_specs(16, TRAIN_SEED + 1)))
    vae = whole_sequence(load_vae(work) if (work / "vae_unfinished.pt").exists() else build_vae())
    matrices, rest = split_parameters(vae, plain=("quant_conv",))
    optimizers = [Muon(matrices, lr=5e-3), torch.optim.AdamW(rest, lr=2e-3, weight_decay=0.0, betas=(0.9, 0.99))]

    def loss_of(video: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents = encode_whole(vae, video)
        error = (decode_whole(vae, latents + LATENT_NOISE * noise) - video).abs().mean()
        return error + 1e-3 * latents.square().mean()

    loss_of = torch.compile(loss_of)
    loss_of(video_tensor(frames[:batch]), torch.randn(batch, LATENT_CHANNELS, 5, 8, 8)).backward()  # compiles before the clock starts
    vae.zero_grad()
    schedule = Schedule(optimizers, minutes)
    rng = np.random.default_rng(0)
    logged_s = time.monotonic()
    while schedule.advance():
        video = video_tensor(frames[rng.integers(num_clips, size=batch)]).contiguous(memory_format=torch.channels_last_3d)
        loss = loss_of(video, torch.randn(batch, LATENT_CHANNELS, 5, 8, 8))
        loss.backward()
        vae.quant_conv.weight.grad[LATENT_CHANNELS:] = 0
        vae.quant_conv.bias.grad[LATENT_CHANNELS:] = 0
        for optimizer in optimizers:
            optimizer.step()
        vae.zero_grad()
        if time.monotonic() - logged_s > 60:
            logged_s = time.monotonic()
            print(
                f"vae step {schedule.steps} ({schedule.progress:.0%}) loss {loss:.4f} held-out {_vae_psnr(vae, held_out):.2f} dB",
                flush=True,
            )
            _save_vae(vae, work)
    _measure_latents(vae, video_tensor(frames[:800]))
    print(f"vae: {schedule.steps} steps, held-out {_vae_psnr(vae, held_out):.2f} dB", flush=True)
    _save_vae(vae, work, minutes=minutes, steps=schedule.steps, held_out_psnr_db=_vae_psnr(vae, held_out))


@torch.no_grad()
def _vae_psnr(vae: AutoencoderKLWan, video: torch.Tensor) -> float:
    pairs = [(decode_whole(vae, encode_whole(vae, part)), part) for part in video.split(4)]
    return psnr_db(*(torch.cat(parts) for parts in zip(*pairs, strict=True)))


@torch.no_grad()
def _measure_latents(vae: AutoencoderKLWan, video: torch.Tensor) -> None:
    latents = torch.cat([encode_whole(vae, part) for part in video.split(16)])
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=[round(v, 5) for v in mean.tolist()], latents_std=[round(v, 5) for v in std.tolist()])
    print("latents' mean", vae.config.latents_mean, "std", vae.config.latents_std, flush=True)


def _save_vae(vae: AutoencoderKLWan, work: Path, **figures) -> None:
    state = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in vae.state_dict().items()}
    torch.save({"state": state, "mean": vae.config.latents_mean, "std": vae.config.latents_std, "figures": figures}, work / "vae.tmp")
    os.replace(work / "vae.tmp", work / ("vae.pt" if figures else "vae_unfinished.pt"))


def load_vae(work: Path) -> AutoencoderKLWan:
    """The trained VAE, or the newest checkpoint of one in training."""
    path = next(path for path in (work / "vae.pt", work / "vae_unfinished.pt") if path.exists())
    saved = torch.load(path, weights_only=True)
    vae = build_vae()
    vae.load_state_dict(saved["state"])
    vae.register_to_config(latents_mean=saved["mean"], latents_std=saved["std"])
    return vae.eval()


# --- stage latents ----------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cache_latents(work: Path, num_clips: int) -> None:
    """Normalised latents (fp16, N C F h w) and the caption of fresh films."""
    vae = whole_sequence(load_vae(work))
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    encode = torch.compile(lambda video: encode_whole(vae, video))
    specs = training_specs(num_clips, TRAIN_SEED + 2)
    parts, started_s = [], time.monotonic()
    for start in range(0, num_clips, 1024):
        frames = render_all(specs[start : start + 1024])
        for video in torch.from_numpy(frames).split(16):
            video = video_tensor(video.numpy()).contiguous(memory_format=torch.channels_last_3d)
            parts.append(((encode(video) - mean) / std).to(torch.float16))
        print(f"latents {start + len(frames)} of {num_clips}, {time.monotonic() - started_s:.0f} s", flush=True)
    torch.save({"latents": torch.cat(parts).contiguous(), "captions": [demo.caption(spec) for spec in specs]}, work / "latents.tmp")
    os.replace(work / "latents.tmp", work / "latents.pt")


# --- stage transformer ------------------------------------------------------------------------------------------------------------


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
    if (work / "transformer_unfinished.pt").exists():
        pipeline.transformer.load_state_dict(torch.load(work / "transformer_unfinished.pt", weights_only=True))
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
            torch.save(mean_model.state_dict(), work / "transformer.tmp")
            os.replace(work / "transformer.tmp", work / "transformer_unfinished.pt")
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
    save_pipeline(_with_transformer(pipeline, mean_model), out, {"vae": vae_figures, "transformer": figures, "machine": machine()})


def machine() -> dict:
    return {"cpu_cores": os.cpu_count(), "architecture": platform.machine(), "torch": torch.__version__, "device": "cpu"}


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


# --- stage check ------------------------------------------------------------------------------------------------------------------

GATE_SAMPLES, GATE_COHERENT_SHARE, GATE_CLASSES = 64, 0.60, 5
DYNAMIC_PX = 0.75  # per frame: VBench's dynamic-degree threshold at 64 px


def sample_videos(pipeline: WanPipeline, captions: list[str], seeds: list[int], *, num_steps: int, guidance: float) -> np.ndarray:
    """uint8 (N, T, H, W, C); each one depends on its own caption and seed alone."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in range(0, len(captions), 16):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + 16]]
        parts.append(
            pipeline(
                captions[start : start + 16],
                height=demo.SIZE_PX,
                width=demo.SIZE_PX,
                num_frames=demo.NUM_FRAMES,
                num_inference_steps=num_steps,
                guidance_scale=guidance,
                generator=generators,
                max_sequence_length=NUM_TOKENS,
                output_type="np",
            ).frames
        )
    return np.rint(np.concatenate(parts) * 255).astype(np.uint8)


def random_captions(number: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [demo.caption(demo.sample_spec(rng)) for _ in range(number)]


def check(folder: Path, *, num_steps: int, guidance: float, sheet: Path | None = None, seed: int = 0) -> dict:
    """The quality gate's figures on the saved weights; `sheet` receives the samples as a PNG."""
    pipeline = WanPipeline.from_pretrained(folder)
    started_s = time.monotonic()
    captions = random_captions(GATE_SAMPLES, seed)
    videos = sample_videos(pipeline, captions, list(range(seed, seed + GATE_SAMPLES)), num_steps=num_steps, guidance=guidance)
    seconds = time.monotonic() - started_s
    readings = [motion_class(video) for video in videos]
    counts = Counter(reading.label for reading in readings)
    one_motion = sum(count for label, count in counts.items() if label not in ("incoherent", "static")) / GATE_SAMPLES
    num_classes = len(set(counts) - {"incoherent", "static"})
    if sheet:
        write_sheet(sheet, videos, readings)
    return {
        "num_samples": GATE_SAMPLES,
        "num_steps": num_steps,
        "guidance": guidance,
        "coherent_share": round(one_motion, 3),
        "num_classes": num_classes,
        "labels": dict(counts.most_common()),
        "dynamic_share": round(sum(reading.speed_px > DYNAMIC_PX for reading in readings) / GATE_SAMPLES, 3),
        "seconds_per_video": round(seconds / GATE_SAMPLES, 3),
        "passed": one_motion >= GATE_COHERENT_SHARE and num_classes >= GATE_CLASSES,
    }


def write_sheet(path: Path, videos_NTHWC: np.ndarray, readings: list[MotionReading], columns: int = 4) -> None:
    """Five frames of each video in a row, with what the classifier reads in it."""
    strips = []
    for video, reading in zip(videos_NTHWC, readings, strict=True):
        strip = np.concatenate(list(video[np.linspace(0, len(video) - 1, 5).astype(int)]), axis=1)
        label = np.full((12, strip.shape[1], 3), 255, np.uint8)
        text = f"{reading.label} {reading.coherence:.2f}, {reading.speed_px:.2f} px"
        cv2.putText(label, text, (2, 9), cv2.FONT_HERSHEY_SIMPLEX, 0.32, (0, 0, 0), 1, cv2.LINE_AA)
        strips.append(np.pad(np.concatenate([label, strip]), ((0, 2), (0, 6), (0, 0)), constant_values=255))
    strips += [np.full_like(strips[0], 255)] * (-len(strips) % columns)
    sheet = np.concatenate([np.concatenate(strips[start::columns]) for start in range(columns)], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), sheet[..., ::-1]):
        raise OSError(f"could not write {path}")


# --- command ----------------------------------------------------------------------------------------------------------------------

STAGES = ("vae", "latents", "transformer", "check")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded tiny video model.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished pipeline, in diffusers' layout")
    parser.add_argument("--work", type=Path, help="folder for what the stages hand over (default: OUT with .work appended)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="repeat these, and nothing else (default: all that are not done)")
    parser.add_argument("--check", action="store_true", help="only measure the quality gate on the weights in OUT; exit code 1 if missed")
    parser.add_argument("--vae-minutes", type=float, default=20)
    parser.add_argument("--transformer-minutes", type=float, default=75)
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="Muon's, at the start of the transformer's training")
    parser.add_argument("--workers", type=int, default=2, help="processes that share a step of the transformer (divides 32)")
    parser.add_argument("--num-latents", type=int, default=12_800)
    parser.add_argument("--num-steps", type=int, default=20, help="of the sampler, in the check")
    parser.add_argument("--guidance", type=float, default=2.0, help="of the sampler, in the check; 1 is none")
    parser.add_argument("--sheet", type=Path, help="PNG for the check's samples")
    arguments = parser.parse_args()
    work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    done = {"vae": (work / "vae.pt").exists(), "latents": (work / "latents.pt").exists()}
    stages = ("check",) if arguments.check else arguments.stages or [stage for stage in STAGES if not done.get(stage)]
    if set(stages) != {"check"}:
        work.mkdir(parents=True, exist_ok=True)
    started_s = time.monotonic()
    if "vae" in stages:
        train_vae(work, arguments.vae_minutes)
    if "latents" in stages:
        cache_latents(work, arguments.num_latents)
    if "transformer" in stages:
        (work / "meeting_point").unlink(missing_ok=True)
        worker_arguments = (work, arguments.out, arguments.transformer_minutes, arguments.workers, arguments.learning_rate)
        torch.multiprocessing.spawn(run_transformer_worker, args=worker_arguments, nprocs=arguments.workers)
    print(f"{', '.join(stages)}: {(time.monotonic() - started_s) / 60:.1f} minutes on {machine()}")
    if "check" in stages:
        figures = check(arguments.out, num_steps=arguments.num_steps, guidance=arguments.guidance, sheet=arguments.sheet)
        print(json.dumps(figures, indent=2))
        raise SystemExit(not figures["passed"])


if __name__ == "__main__":
    main()
