"""Whether the length of a clip shows in the norm of its gradient: the loss summed over latent frames, divided once by their number, and divided twice.

    python -m benchmarks.frame_length [--clips 240] [--threads 1]

The films are the demo's (split ``plain``), each cut to 5, 9, 13 or 17 frames by chance, on the embedded model with the paper's draw (t = 500, one noise, masked loss).
A factor of the loss is a factor of the norm, so one pass a clip gives all three. The paper reports a rank correlation of .78 without a correction, and 54 % less
with it. The cosine that influence is made of has no such factor: the last line is what is left in it, as the mean over the queries.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import spearmanr

from benchmarks.map_places import MODEL, loss_inputs
from motive_pipeline.attribution.gradient import build_clip_gradient
from motive_pipeline.config import Gradient
from motive_pipeline.demo.dataset import demo_specs
from motive_pipeline.demo.generator import RARE_MOTION, caption, render_clip
from motive_pipeline.models.load import load_model, model_folder

LENGTHS = (5, 9, 13, 17)
NUM_QUERIES = 8


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=240)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    model = load_model(MODEL, threads=arguments.threads, path=model_folder(MODEL))
    gradient = build_clip_gradient(model, Gradient())
    specs = demo_specs(seed=0, split="plain", num_clips=arguments.clips, num_queries=NUM_QUERIES, num_held_out=0, query_motion=RARE_MOTION)
    random = np.random.default_rng(0)
    frames_N, norm_N, clip_NP, query_QP = [], [], [], []
    for role, spec in specs:
        length = int(random.choice(LENGTHS)) if role == "clip" else LENGTHS[-1]
        inputs = loss_inputs(model, render_clip(spec)[:length], caption(spec))
        found = gradient(inputs.latents_CFHW, inputs.conditioning, inputs.mask_FHW)
        if role == "query":
            query_QP.append(found.gradient_P)
        elif found.norm > 0:
            frames_N.append(inputs.latents_CFHW.shape[1])
            norm_N.append(found.norm)
            clip_NP.append(found.gradient_P)
    frames, norms = np.array(frames_N, np.float64), np.array(norm_N)
    cosine_N = (np.stack(query_QP) @ np.stack(clip_NP).T).mean(axis=0)
    print(f"{len(frames)} clips of {', '.join(map(str, LENGTHS))} frames; rank correlation of the number of latent frames with")
    for name, values in (
        ("norm, summed over frames", norms * frames),
        ("norm, divided once (frame_norm: per_frame)", norms),
        ("norm, divided twice (frame_norm: paper_literal)", norms / frames),
        ("mean cosine with the queries", cosine_N),
    ):
        print(f"  {name:48} {spearmanr(frames, values).statistic:+.2f}")


if __name__ == "__main__":
    main()
