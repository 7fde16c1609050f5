"""What the motion masks make of a still picture that a camera pans over, zooms into or turns: motion that no thing has.

    python -m benchmarks.still_camera

For each movement and each value of `motion.camera`: the mean magnitude (px), the peak (px; below `motion.still_px` a query is rejected as
`no_motion`), and the mean and the largest weight of the mask on the latent grid. The last rows have a disc that moves on its own, under a camera that stands
and one that zooms, with the share of the mask's weight that lies on the disc. Frames of 480 x 832, 17 of them, straight from memory; DIS, preset medium.
"""

from __future__ import annotations

import cv2
import numpy as np

from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.motion.field import MaskRule, motion_field
from motive_pipeline.motion.trackers import DisTracker

HEIGHT, WIDTH, NUM_FRAMES = 480, 832, 17
GRID = LatentGrid(channels=16, temporal_stride=4, spatial_stride=8)
RADIUS_PX = 60
MOVES = {
    "camera stands": (0.0, 1.0, 0.0, False),
    "pan, 3 px a frame": (3.0, 1.0, 0.0, False),
    "zoom, 1 % a frame": (0.0, 1.01, 0.0, False),
    "roll, 0.5 degrees a frame": (0.0, 1.0, 0.5, False),
    "disc, camera stands": (0.0, 1.0, 0.0, True),
    "disc, zoom of 1 % a frame": (0.0, 1.01, 0.0, True),
}
"""Name: pixels, factor and degrees a frame, and whether a disc moves by 4 px a frame."""


def frames_of(pan_px: float, zoom: float, roll: float, has_disc: bool) -> tuple[np.ndarray, np.ndarray]:
    """The frames [T, H, W, 3], and where the disc is [T, H, W]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(20, 235, (HEIGHT // 16 + 20, WIDTH // 16 + 20, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (WIDTH + 320, HEIGHT + 320), interpolation=cv2.INTER_CUBIC)
    centre = ((WIDTH + 320) / 2, (HEIGHT + 320) / 2)
    frames, discs = [], []
    for frame in range(NUM_FRAMES):
        matrix = cv2.getRotationMatrix2D(centre, roll * frame, zoom**frame)
        matrix[:, 2] -= (160 + pan_px * (frame - NUM_FRAMES // 2), 160)
        shown = cv2.warpAffine(picture, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        disc = np.zeros((HEIGHT, WIDTH), np.uint8)
        if has_disc:
            at = (300 + 4 * frame, HEIGHT // 2)
            cv2.circle(shown, at, RADIUS_PX, (240, 240, 30), -1, cv2.LINE_AA)
            cv2.circle(shown, at, RADIUS_PX // 2, (40, 40, 200), -1, cv2.LINE_AA)
            cv2.circle(disc, at, RADIUS_PX, 1, -1)
        frames.append(shown)
        discs.append(disc.astype(bool))
    return np.stack(frames), np.stack(discs)


def main() -> None:
    """Print the table."""
    print(
        "| | `motion.camera` | mean magnitude, px | peak, px | mean weight | largest weight | share on the disc |\n|---|---|---:|---:|---:|---:|---:|"
    )
    for name, (pan_px, zoom, roll, has_disc) in MOVES.items():
        frames_THWC, disc_THW = frames_of(pan_px, zoom, roll, has_disc)
        for camera in ("keep", "subtract", "downweight"):
            found = motion_field(frames_THWC, DisTracker(), MaskRule(floor_px=1.0, camera=camera))
            mask = found.mask(GRID)
            share = f"{found.weight_THW[disc_THW].sum() / found.weight_THW.sum():.2f}" if has_disc else ""
            print(
                f"| {name} | `{camera}` | {found.magnitude_px:.2f} | {found.peak_px:.2f} | {mask.mean():.2f} | {mask.max():.2f} | {share} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
