"""The films that the tiny model learns from: rendered, never stored."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import numpy as np
import torch

from motive_pipeline.demo import generator as demo

TRAIN_SEED = 10_000
RARE_SHARE = 0.06


def motion_shares(rare_share: float) -> dict[str, float]:
    """How often each motion comes: those that a text-to-video user would ask for alike, standing still and camera pans now and then, and the
    demo's query motion in `rare_share` of the films: as most motions are to a user's model, it is to be known and seldom drawn."""
    seldom = {"static": 0.05, "pan": 0.05, demo.RARE_MOTION: rare_share}
    common = [motion for motion in demo.MOTIONS if motion not in seldom]
    return {motion: (1 - sum(seldom.values())) / len(common) for motion in common} | seldom


def training_specs(num_clips: int, seed: int, rare_share: float = RARE_SHARE) -> list[demo.ClipSpec]:
    """Appearance uniform, motions by `motion_shares`."""
    rng = np.random.default_rng(seed)
    shares = motion_shares(rare_share)
    motions = rng.choice(list(shares), num_clips, p=list(shares.values()))
    return [demo.sample_spec(rng, motion=str(motion)) for motion in motions]


def render(specs: list[demo.ClipSpec], batch: int) -> Iterator[torch.Tensor]:
    """The films in order, `batch` at a time: uint8 (N, T, H, W, C). Other processes render ahead of whoever takes them."""
    with ProcessPoolExecutor() as pool:
        rendered = pool.map(demo.render_clip, specs, chunksize=64)
        for films in iter(lambda: list(islice(rendered, batch)), []):
            yield torch.from_numpy(np.stack(films))


def render_all(specs: list[demo.ClipSpec]) -> torch.Tensor:
    """uint8 (N, T, H, W, C)."""
    return torch.cat(list(render(specs, batch=256)))


def video_tensor(frames_NTHWC: torch.Tensor) -> torch.Tensor:
    """(N, C, T, H, W) in [-1, 1]."""
    return frames_NTHWC.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
