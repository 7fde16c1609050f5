"""Stage `check`: the quality gate, on samples of the saved weights."""

import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import WanPipeline

from motive_pipeline.demo import generator as demo
from motive_pipeline.demo.motion_class import motion_class
from motive_pipeline.demo.train_tiny.pipeline import NUM_TOKENS
from motive_pipeline.evaluation.ground_truth import RecognizedMotion

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


def write_sheet(path: Path, videos_NTHWC: np.ndarray, readings: list[RecognizedMotion], columns: int = 4) -> None:
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
