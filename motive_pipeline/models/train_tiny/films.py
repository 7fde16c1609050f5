"""The films that the tiny model learns from: rendered, never stored."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch

from motive_pipeline.clips import demo

TRAIN_SEED = 10_000
# Motions that a text-to-video user would ask for come often, standing still and camera pans now and then.
# `NEW_MOTION` never comes: fine-tuning in the demo teaches it.
MOTION_SHARES = {motion: 0.125 for motion in demo.MOTIONS if motion != demo.NEW_MOTION} | {"static": 0.0625, "pan": 0.0625}


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
