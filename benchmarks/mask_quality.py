"""How good the motion masks are on clips whose motion is known exactly, and what is left of a mask on pictures that stand still.

    python -m benchmarks.mask_quality [--clips 90] [--preset medium fast] [--min-side 0 128 256]
    python -m benchmarks.mask_quality --scenes 4 [--preset medium fast] [--alltracker CHECKOUT CHECKPOINT]

For each class of motion of the demo clips: end-point error (px) on the object and beside it, share of the mask's weight on the object, and
IoU of the mask (weight > 0.5) with the mask of the exact displacement. Then, for still pictures through H.264 at several rates and with
several strengths of noise (grey levels): range of the magnitude (px), and largest and mean weight on the latent grid at `floor_px` 1.

With `--scenes`: the same figures on scenes of 480 x 832 (mask_scenes.py) under a camera that stands, pans, begins to pan, or a cut, for each
tracker and each of `motion.camera` and `motion.cuts`; the mask is to show the thing's own motion, whatever the camera does. And the rate:
frame pairs a second from frames to mask on the latent grid, on as many cores as the process may use, `--rounds` times.

Axes: T frames, H W pixels, 2 = (dx, dy).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.mask_scenes import Scene, render_scene
from motive_pipeline.config import AllTracker, Motion
from motive_pipeline.demo.dataset import demo_specs
from motive_pipeline.demo.generator import ClipSpec, ClipTruth, render_clip, render_truth
from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.motion.field import MaskRule, motion_field, weigh
from motive_pipeline.motion.mask import magnitude, saliency, to_latent_grid
from motive_pipeline.motion.parallel import in_parallel
from motive_pipeline.motion.trackers import DisTracker, Tracker, Tracks, build_tracker
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4

RULE = FrameRule(num_frames=17, min_frames=17, fps=16.0, width=64, height=64)
GRID = LatentGrid(channels=16, temporal_stride=4, spatial_stride=8)


def through_h264(frames_THWC: np.ndarray, *, crf: int = 12) -> np.ndarray:
    """The frames as the pipeline reads them from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_mp4(path, frames_THWC, RULE.fps, crf=crf)
        return read_clip(path, RULE).frames_THWC


def quality(displacement_THW2: np.ndarray, truth: ClipTruth) -> dict[str, float]:
    """The figures of one clip; IoU and share are NaN where nothing moves."""
    error_THW = np.linalg.norm(displacement_THW2 - truth.displacement_FHW2, axis=-1)
    found_THW = saliency(magnitude(displacement_THW2), floor_px=0.0)
    exact_THW = saliency(magnitude(truth.displacement_FHW2), floor_px=0.0)
    found, exact = found_THW > 0.5, exact_THW > 0.5
    moves = bool(exact_THW.any())
    return {
        "epe_object_px": float(error_THW[truth.object_FHW].mean()),
        "epe_ground_px": float(error_THW[~truth.object_FHW].mean()),
        "weight_on_object": float(found_THW[truth.object_FHW].sum() / found_THW.sum()) if moves else float("nan"),
        "iou": float((found & exact).sum() / (found | exact).sum()) if moves else float("nan"),
    }


def report_known_motion(specs: list[ClipSpec], clips: list[np.ndarray], tracker: DisTracker) -> None:
    """Print a line for each class of motion."""
    start = time.perf_counter()
    by_motion: dict[str, list[dict[str, float]]] = {}
    for spec, frames_THWC in zip(specs, clips, strict=True):
        by_motion.setdefault(spec.motion, []).append(quality(tracker.displacement(frames_THWC), render_truth(spec)))
    print(f"\n{tracker.preset}, min_side_px {tracker.min_side_px}: {len(clips) / (time.perf_counter() - start):.1f} clips/s")
    for motion, found in sorted(by_motion.items()):
        means = {name: np.mean([figures[name] for figures in found]) for name in found[0]}
        print(f"  {motion:8s}" + "".join(f"  {name} {value:.3f}" for name, value in means.items()))


def still_clips(specs: list[ClipSpec]) -> Iterator[tuple[int, int, np.ndarray]]:
    """(noise in grey levels, rate factor, frames) of still pictures."""
    rng = np.random.default_rng(0)
    pictures = [render_clip(spec)[0] for spec in specs if spec.motion == "static"][:6]
    for noise in (0, 2, 5):
        for crf in (12, 23, 30):
            for picture_HWC in pictures:
                noisy = picture_HWC + rng.normal(0, noise, (RULE.num_frames, *picture_HWC.shape))
                yield noise, crf, through_h264(np.clip(np.rint(noisy), 0, 255).astype(np.uint8), crf=crf)


def report_still_pictures(specs: list[ClipSpec], tracker: DisTracker) -> None:
    """Print a line for each strength of noise and rate: the largest over the pictures."""
    found: dict[tuple[int, int], list[tuple[float, float, float]]] = {}
    for noise, crf, frames_THWC in still_clips(specs):
        displacement_THW2 = tracker.displacement(frames_THWC)
        mask_Fhw = to_latent_grid(saliency(magnitude(displacement_THW2), floor_px=1.0), GRID)
        found.setdefault((noise, crf), []).append(
            (float(np.ptp(magnitude(displacement_THW2))), float(mask_Fhw.max()), float(mask_Fhw.mean()))
        )
    print("\nstill pictures (the largest of each figure)")
    for (noise, crf), figures in found.items():
        range_px, largest, mean = np.max(figures, axis=0)
        print(f"  noise {noise}  crf {crf}  range {range_px:.2f} px  largest weight {largest:.3f}  mean weight {mean:.3f}")


def report_scenes(tracker: Tracker, name: str, count: int) -> None:
    """Print a line for each camera and option."""
    print(f"\n{name}, {count} scenes of 480 x 832 each")
    for camera in ("none", "pan", "late_pan", "cut"):
        scenes = [render_scene(seed, camera=camera) for seed in range(count)]
        tracked = [tracker.track(scene.frames_THWC) for scene in scenes]
        errors = np.mean([_errors_px(tracks.displacement_THW2, scene) for tracks, scene in zip(tracked, scenes, strict=True)], axis=0)
        print(f"  camera {camera:8s}  end-point error on the object {errors[0]:.2f} px, beside it {errors[1]:.2f} px")
        for option in ({"camera": "keep"}, {"camera": "subtract"}, {"camera": "downweight"}, {"cuts": "skip"}):
            if ("cuts" in option) <= (camera == "cut"):
                rule = MaskRule(floor_px=1.0, **option)
                found = [_on_own_motion(tracks, scene, rule) for tracks, scene in zip(tracked, scenes, strict=True)]
                iou, share = np.mean(found, axis=0)
                print(f"    {next(iter(option)):6s} {next(iter(option.values())):10s}  IoU {iou:.3f}  weight on the object {share:.3f}")


def _errors_px(displacement_THW2: np.ndarray, scene: Scene) -> tuple[float, float]:
    """Mean end-point error on the object and beside it, where there is a true displacement."""
    error_THW = np.linalg.norm(displacement_THW2 - scene.seen_THW2, axis=-1)[~scene.is_cut_T]
    object_THW = scene.object_THW[~scene.is_cut_T]
    return float(error_THW[object_THW].mean()), float(error_THW[~object_THW].mean())


def _on_own_motion(tracks: Tracks, scene: Scene, rule: MaskRule) -> tuple[float, float]:
    """IoU of (weight > 0.5) with the same of the thing's own exact motion, and the share of the weight that lies on the thing."""
    is_skipped_T = scene.is_cut_T if rule.cuts == "skip" else np.zeros_like(scene.is_cut_T)
    weight_THW = weigh(tracks, rule, is_skipped_T).weight_THW
    found, exact = weight_THW > 0.5, saliency(magnitude(scene.own_THW2), floor_px=0.0) > 0.5
    exact[scene.is_cut_T] = False
    return float((found & exact).sum() / (found | exact).sum()), float(weight_THW[scene.object_THW].sum() / weight_THW.sum())


def report_rate(tracker: Tracker, name: str, rounds: int) -> None:
    """Print frame pairs a second, from frames in memory to masks, as the stage computes them."""
    threads = len(os.sched_getaffinity(0))
    clips = {seed: render_scene(seed, camera="none").frames_THWC for seed in range(2 * threads)}

    def row(seed: int) -> np.ndarray:
        return motion_field(clips[seed], tracker, MaskRule(floor_px=1.0)).mask(GRID)

    for _ in range(rounds):
        start, start_cpu = time.perf_counter(), time.process_time()
        with in_parallel(row, list(clips), threads=threads) as ready:
            for seed in clips:
                ready(seed)
        seconds, cpu_s = time.perf_counter() - start, time.process_time() - start_cpu
        pairs = sum(len(frames) for frames in clips.values())
        print(f"  {name}: {pairs / seconds:.1f} pairs/s on {threads} cores; {pairs / cpu_s:.1f} a second of processor time")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=90)
    parser.add_argument("--scenes", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preset", nargs="+", default=["medium"], choices=["medium", "fast"])
    parser.add_argument("--min-side", nargs="+", type=int, default=[0, 128])
    parser.add_argument("--alltracker", nargs=2, metavar=("CHECKOUT", "CHECKPOINT"))
    options = parser.parse_args()
    if options.scenes:
        trackers: dict[str, Tracker] = {f"DIS {preset}": DisTracker(preset=preset) for preset in options.preset}
        if options.alltracker:
            files = AllTracker(repo=options.alltracker[0], checkpoint=options.alltracker[1])
            trackers["AllTracker"] = build_tracker(Motion(tracker="alltracker", reference="previous", alltracker=files))
        for name, tracker in trackers.items():
            report_scenes(tracker, name, options.scenes)
            report_rate(tracker, name, options.rounds)
        return
    drawn = demo_specs(seed=5, split="plain", num_clips=options.clips, num_queries=0, num_held_out=0, query_motion="grow")
    specs = [spec for _, spec in drawn]
    clips = [through_h264(render_clip(spec)) for spec in specs]
    for preset in options.preset:
        for min_side_px in options.min_side:
            report_known_motion(specs, clips, DisTracker(preset=preset, min_side_px=min_side_px))
    report_still_pictures(specs, DisTracker())


if __name__ == "__main__":
    main()
