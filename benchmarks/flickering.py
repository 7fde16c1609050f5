"""What a native metric costs beside VBench's own code for the same dimension: ``temporal_flickering`` of the same files on the same CPU.

    python -m benchmarks.flickering --python VBENCH_PYTHON

``VBENCH_PYTHON`` is an interpreter that can import ``vbench.temporal_flickering`` (package vbench 0.1.5, installed with ``--no-deps``, with torch,
torchvision, decord, opencv and tqdm). It runs VBench's function on each file and this process ours, by turns; both decode the file and score
it. The formula is the same to 1e-12 on the same frames (tests/test_metrics.py); from files the two decoders (PyAV and OpenCV) turn YUV
into RGB a little differently, so both mean scores are printed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import Cost, Line, measured, median_s, ratios, report
from motive_pipeline.clips.decode import FrameRule, read_clip
from motive_pipeline.clips.encode import write_mp4
from motive_pipeline.evaluation.metrics import temporal_flickering

FPS, NUM_FRAMES, HEIGHT, WIDTH = 16, 81, 480, 832

THEIRS = """
import json, sys, time
import cv2
from vbench.temporal_flickering import cal_score
cv2.setNumThreads(1)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    score = cal_score(line.strip())
    print(json.dumps([score, time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""


def write_videos(folder: Path, count: int) -> list[Path]:
    """Textures that drift, 81 frames of 480 x 832 at 16 a second."""
    files = []
    for number in range(count):
        random = np.random.default_rng(number)
        texture_HW3 = np.kron(random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        step = 1 + number % 4
        frames_THWC = np.stack([np.roll(texture_HW3, step * frame, axis=1) for frame in range(NUM_FRAMES)])
        write_mp4(file := folder / f"{number}.mp4", frames_THWC, FPS)
        files.append(file)
    return files


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that can import vbench")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    import cv2

    cv2.setNumThreads(1)
    rule = FrameRule(num_frames=NUM_FRAMES, min_frames=NUM_FRAMES, fps=float(FPS), width=WIDTH, height=HEIGHT)
    ours: list[Cost] = []
    theirs: list[Cost] = []
    found: list[tuple[float, float]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([arguments.python, "-c", THEIRS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        files = write_videos(Path(folder), arguments.videos)
        for file in files[:1] + files * arguments.rounds:
            scores: list[float] = []
            ours.append(measured(lambda file=file, scores=scores: scores.append(temporal_flickering(read_clip(file, rule).frames_THWC))))
            child.stdin.write(f"{file}\n")
            child.stdin.flush()
            score, seconds, cpu_s = json.loads(child.stdout.readline())
            theirs.append(Cost(seconds=seconds, cpu_s=cpu_s))
            found.append((scores[0], score))
        child.stdin.close()
    ours, theirs = ours[1:], theirs[1:]  # the first pair warms up
    line = Line(
        what="temporal_flickering of a video, 81 x 480 x 832",
        against="VBench's own code",
        at_most=1.0,
        seconds=(median_s(ours), median_s(theirs)),
        details={"score": float(np.mean([pair[0] for pair in found])), "VBench's score": float(np.mean([pair[1] for pair in found]))},
        **ratios(ours, theirs),  # pyright: ignore[reportArgumentType]
    )
    report("Native metrics", [line], as_json=arguments.json)


if __name__ == "__main__":
    main()
