"""Whether influence maps point at the right half of a clip: the share of the positive influence in the half with the queries' motion.

    python -m benchmarks.map_places [--clips 10] [--draws 16] [--queries 8] [--others background still moving] [--threads 1] [--json]

The films are the demo's. One half, left or right by chance, has a disc with the queries' motion (*sway*). The other half has nothing but the still
background; or the same disc, which stands still; or the same disc with another motion (right, left, grow, shrink or bounce). Each line is one kind of
the other half, through the embedded model and through the same network with random weights, with the plain loss of the clip and with its loss weighted
by the motion mask. The direction is the mean over the queries. A right half has at least 80 % of the sum of all positive cells.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from motive_pipeline.attribution.influence_map import InfluenceMaps
from motive_pipeline.attribution.loss import Draw
from motive_pipeline.attribution.weight_direction import LossInputs
from motive_pipeline.config import Model, Motion
from motive_pipeline.curation.controls import UNTRAINED_SEED, reset_weights
from motive_pipeline.demo.generator import RARE_MOTION, SIZE_PX, ClipSpec, caption, render_clip, render_truth, sample_spec
from motive_pipeline.models.load import load_model, model_folder
from motive_pipeline.models.protocol import VideoModel
from motive_pipeline.motion.field import MaskRule, motion_field
from motive_pipeline.motion.trackers import build_tracker

AIM = 0.8
OTHERS = ("background", "still", "moving")
MOVING = ("right", "left", "grow", "shrink", "bounce")
TOP_SPEED_PX = 0.55
SHIFT = 3.0
MODEL = Model(path="tiny", dtype="float32", device="cpu", max_prompt_tokens=32)


@dataclass(frozen=True, kw_only=True)
class HalfFilm:
    """A film whose ``is_right`` half shows the queries' motion."""

    frames_THWC: np.ndarray
    caption: str
    is_right: bool


def main() -> None:
    """Measure and print."""
    arguments = parse_arguments()
    draws = spread_draws(arguments.draws)
    for network in ("trained", "untrained"):
        model = network_of(network, arguments.threads)
        maps = InfluenceMaps(model, draws=draws, draws_at_once=len(draws))
        queries = query_inputs(model, arguments.queries)
        for other in arguments.others:
            films = half_films(other, arguments.clips)
            for mask in ("none", "query", "both"):
                shares = right_shares(model, maps, queries, films, mask=mask)
                row = {"network": network, "other half": other, "mask": mask, "mean share": round(float(np.mean(shares)), 3)}
                row |= {f"films with at least {AIM:.0%}": f"{sum(share >= AIM for share in shares)} of {len(shares)}"}
                print(json.dumps(row) if arguments.json else "  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--draws", type=int, default=16)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--others", nargs="+", default=list(OTHERS), choices=OTHERS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def network_of(network: str, threads: int) -> VideoModel:
    """The embedded model, or its architecture with random weights."""
    model = load_model(MODEL, threads=threads, path=model_folder(MODEL))
    if network == "untrained":
        reset_weights(model, UNTRAINED_SEED)
    return model


def spread_draws(count: int) -> list[Draw]:
    """Timesteps spread as training draws them (uniform, then shifted), each with a noise of its own."""
    uniform = (np.arange(count) + 0.5) / count
    shifted = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
    return [Draw(timestep=1000.0 * float(each), noise_seed=number) for number, each in enumerate(shifted)]


def query_inputs(model: VideoModel, count: int) -> list[LossInputs]:
    """Queries of the wanted motion, each with its motion mask."""
    random = np.random.default_rng(0)
    specs = [sample_spec(random, motion=RARE_MOTION) for _ in range(count)]
    return [loss_inputs(model, render_clip(spec), caption(spec)) for spec in specs]


def loss_inputs(model: VideoModel, frames_THWC: np.ndarray, text: str) -> LossInputs:
    """Latents, prompt and motion mask of a film."""
    motion = Motion()
    field = motion_field(frames_THWC, build_tracker(motion, device="cpu", threads=1), MaskRule.of(motion))
    return LossInputs(
        latents_CFHW=model.encode_video(frames_THWC),
        conditioning=model.encode_prompt(text),
        mask_FHW=torch.from_numpy(field.mask(model.grid)),
    )


def half_films(other: str, count: int) -> list[HalfFilm]:
    """Films with the queries' motion in one half and ``other`` in the other one; both discs look alike."""
    random = np.random.default_rng(5)
    return [_half_film(other, random) for _ in range(count)]


def _half_film(other: str, random: np.random.Generator) -> HalfFilm:
    is_right = bool(random.integers(2))
    wanted = _in_half(random, RARE_MOTION, is_right=is_right, like=None)
    frames_THWC = render_clip(wanted)
    if other != "background":
        motion = "static" if other == "still" else str(random.choice(MOVING))
        second = render_clip(_in_half(random, motion, is_right=not is_right, like=wanted))
        half = slice(0, SIZE_PX // 2) if is_right else slice(SIZE_PX // 2, SIZE_PX)
        frames_THWC = frames_THWC.copy()
        frames_THWC[:, :, half] = second[:, :, half]
    return HalfFilm(frames_THWC=frames_THWC, caption=caption(wanted), is_right=is_right)


def _in_half(random: np.random.Generator, motion: str, *, is_right: bool, like: ClipSpec | None) -> ClipSpec:
    """A small disc that stays in one half of the picture, with the looks of ``like``."""
    low, high = (SIZE_PX / 2 + 1, SIZE_PX - 1) if is_right else (0, SIZE_PX / 2 - 2)
    while True:
        drawn = replace(sample_spec(random, motion=motion), size="small")
        speed_px = min(drawn.speed_px, TOP_SPEED_PX)
        spec = replace(drawn if like is None else like, motion=motion, speed_px=speed_px, centre_px=drawn.centre_px)
        for _ in range(2):  # the second time for what the picture's edge had cut off
            left, right = _columns(spec)
            x_px = spec.centre_px[0] + (low + high) / 2 - (left + right) / 2
            spec = replace(spec, centre_px=(float(x_px), spec.centre_px[1]))
        left, right = _columns(spec)
        if left >= low - 1.5 and right <= high + 1.5:
            return spec


def _columns(spec: ClipSpec) -> tuple[int, int]:
    """The first and the last column that the disc ever touches."""
    touched = np.flatnonzero(render_truth(spec).object_FHW.any(axis=(0, 1)))
    return int(touched[0]), int(touched[-1])


def right_shares(
    model: VideoModel, maps: InfluenceMaps, queries: Sequence[LossInputs], films: Sequence[HalfFilm], *, mask: str
) -> list[float]:
    """For each film, the share of the positive influence that lies in the half with the queries' motion. ``mask``: which losses it weights (``both``,
    ``query`` or ``none``)."""
    asked = [replace(query, mask_FHW=None) for query in queries] if mask == "none" else list(queries)
    clips = [loss_inputs(model, film.frames_THWC, film.caption) for film in films]
    clips = clips if mask == "both" else [replace(clip, mask_FHW=None) for clip in clips]
    direction = maps.direction(asked)
    found = maps.maps(direction, clips, maps.step(direction, asked[0]))
    shares = []
    for film, map_FHW in zip(films, found, strict=True):
        positive_FHW = map_FHW.clip(min=0)
        middle = positive_FHW.shape[2] // 2
        inside = positive_FHW[:, :, middle:] if film.is_right else positive_FHW[:, :, :middle]
        shares.append(float(inside.sum() / positive_FHW.sum()))
    return shares


if __name__ == "__main__":
    main()
