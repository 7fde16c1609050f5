"""The films that the tiny model learns from: rendered, never stored."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

import numpy as np
import torch

from motive_pipeline.clips import demo

TRAIN_SEED = 10_000
# Motions that a text-to-video user would ask for come often, standing still and camera pans now and then, and the demo's query motion
# seldom: the model knows it and hardly ever draws it of its own accord, as a user's model knows most motions. Fine-tuning brings it out.
COMMON_MOTIONS = [motion for motion in demo.MOTIONS if motion not in ("static", "pan", demo.RARE_MOTION)]
MOTION_SHARES = {motion: 0.12 for motion in COMMON_MOTIONS} | {"static": 0.05, "pan": 0.05, demo.RARE_MOTION: 0.06}


def training_specs(num_clips: int, seed: int) -> list[demo.ClipSpec]:
    """Appearance uniform, motions by `MOTION_SHARES`."""
    rng = np.random.default_rng(seed)
    motions = rng.choice(list(MOTION_SHARES), num_clips, p=list(MOTION_SHARES.values()))
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
