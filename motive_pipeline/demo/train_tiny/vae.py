"""Stages `vae` and `latents`: train the VAE, and encode the latents on which the transformer trains."""

import os
import time
import types
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan

from motive_pipeline.demo import generator as demo
from motive_pipeline.demo.train_tiny.films import TRAIN_SEED, render_all, render_films, training_specs, video_tensor
from motive_pipeline.demo.train_tiny.optimizers import LearningRateSchedule, Muon, split_parameters
from motive_pipeline.demo.train_tiny.pipeline import LATENT_CHANNELS, LATENT_NOISE, build_vae, machine
from motive_pipeline.internals.diffusers import WanResample, patchify, unpatchify


def _resample_whole_sequence(self: WanResample, x: torch.Tensor, feat_cache=None, feat_idx=None) -> torch.Tensor:
    """The result of `WanResample`, which computes chunk by chunk with a cache, for all frames at once."""
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
    """Prepare this VAE for `encode_whole` and `decode_whole`, after which its own `encode` and `decode` are invalid; weights channels last."""
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
    """The PSNR of videos in [-1, 1]."""
    return float(10 * torch.log10(4 / ((a.clamp(-1, 1) - b) ** 2).mean()))


def train_vae(work: Path, minutes: float, *, num_clips: int = 2000, batch: int = 4) -> None:
    """Train with L1 through latents with noise of fixed size, which makes the decoder robust to small errors of the transformer. On the CPU."""
    device = torch.device("cpu")
    torch.manual_seed(0)
    frames = render_all(training_specs(num_clips, TRAIN_SEED))
    held_out = video_tensor(render_all(training_specs(16, TRAIN_SEED + 1)))
    vae = whole_sequence(load_vae(work) if (work / "vae_unfinished.pt").exists() else build_vae())
    matrices, rest = split_parameters(vae, plain=("quant_conv",))
    optimizers = [Muon(matrices, lr=0.0), torch.optim.AdamW(rest, lr=0.0, weight_decay=0.0, betas=(0.9, 0.99))]

    def loss_of(video: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        latents = encode_whole(vae, video)
        error = (decode_whole(vae, latents + LATENT_NOISE * noise) - video).abs().mean()
        return error + 1e-3 * latents.square().mean()

    loss_of = torch.compile(loss_of)
    loss_of(video_tensor(frames[:batch]), torch.randn(batch, LATENT_CHANNELS, 5, 8, 8)).backward()  # compile before the clock starts
    vae.zero_grad()
    schedule = LearningRateSchedule(list(zip(optimizers, (5e-3, 2e-3), strict=True)), minutes, device=device)
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
            save_vae(vae, work)
    _measure_latents(vae, video_tensor(frames[:800]))
    print(f"vae: {schedule.steps} steps, held-out {_vae_psnr(vae, held_out):.2f} dB", flush=True)
    figures = {"machine": machine(device), "minutes": minutes, "steps": schedule.steps, "held_out_psnr_db": _vae_psnr(vae, held_out)}
    save_vae(vae, work, figures)


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


def save_vae(vae: AutoencoderKLWan, work: Path, figures: dict | list | None = None) -> None:
    """Save for the later stages with the figures of its training; without figures, save as a checkpoint of a running training."""
    state = {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in vae.state_dict().items()}
    torch.save({"state": state, "mean": vae.config.latents_mean, "std": vae.config.latents_std, "figures": figures}, work / "vae.tmp")
    os.replace(work / "vae.tmp", work / ("vae_unfinished.pt" if figures is None else "vae.pt"))


def load_vae(work: Path) -> AutoencoderKLWan:
    """The trained VAE, or the newest checkpoint of its training."""
    path = next(path for path in (work / "vae.pt", work / "vae_unfinished.pt") if path.exists())
    saved = torch.load(path, weights_only=True)
    vae = build_vae()
    vae.load_state_dict(saved["state"])
    vae.register_to_config(latents_mean=saved["mean"], latents_std=saved["std"])
    return vae.eval()


@torch.no_grad()
def cache_latents(work: Path, num_clips: int, *, rare_share: float, device: torch.device) -> None:
    """Save normalised latents (fp16, N C F h w) and captions of new films."""
    vae = whole_sequence(load_vae(work).to(device))
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1, 1) for values in (vae.config.latents_mean, vae.config.latents_std))
    encode = torch.compile(lambda video: encode_whole(vae, video))
    specs, batch = training_specs(num_clips, TRAIN_SEED + 2, rare_share), 16 if device.type == "cpu" else 256
    parts, started_s = [], time.monotonic()
    for number, frames in enumerate(render_films(specs, batch), start=1):
        video = video_tensor(frames.to(device)).contiguous(memory_format=torch.channels_last_3d)
        parts.append(((encode(video) - mean) / std).to("cpu", torch.float16))
        if number % 64 == 0:
            print(f"latents {number * batch} of {num_clips}, {time.monotonic() - started_s:.0f} s", flush=True)
    captions = [demo.caption(spec) for spec in specs]
    torch.save({"latents": torch.cat(parts).contiguous(), "captions": captions, "rare_share": rare_share}, work / "latents.tmp")
    os.replace(work / "latents.tmp", work / "latents.pt")
