"""What the metrics without weights cost beside VBench's own code for the same dimension: the same files, the same CPU, one thread each.

    python -m benchmarks.native_metrics --python VBENCH_PYTHON [--weights FOLDER --dimensions dynamic_degree motion_smoothness]

``VBENCH_PYTHON`` is the interpreter that ``motive fetch vbench`` prints. It runs VBench's function on each file and this process ours, by
turns; both decode the file and score it. The two dimensions with networks need their weights in ``FOLDER``; what these hold does not change
the time, so random ones will do (``VBENCH_PYTHON tests/evaluation/vbench_random_weights.py FOLDER``). ``temporal_flickering`` is the same number on both
sides; ``dynamic_degree[dis]`` and ``motion_smoothness[dis]`` are stand-ins, whose scores are others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import cv2
import numpy as np

from benchmarks.common import Cost, Line, measured, median_s, ratios, report
from motive_pipeline.evaluation.metrics import dynamic_degree, motion_smoothness, opencv_frames, temporal_flickering
from motive_pipeline.video.decode import FrameRule, read_clip
from motive_pipeline.video.encode import write_mp4

FPS, HEIGHT, WIDTH = 16, 480, 832

THEIRS = """
import json, os, sys, time
import cv2, torch
import vbench
cv2.setNumThreads(1)
torch.set_num_threads(1)
dimension, weights = sys.argv[1:]
if dimension == "temporal_flickering":
    from vbench.temporal_flickering import cal_score as score
elif dimension == "dynamic_degree":
    from easydict import EasyDict
    from vbench.dynamic_degree import DynamicDegree
    model = os.path.join(weights, "raft_model/models/raft-things.pth")
    score = DynamicDegree(EasyDict(model=model, small=False, mixed_precision=False, alternate_corr=False), torch.device("cpu")).infer
else:
    from vbench.motion_smoothness import MotionSmoothness
    config = os.path.join(vbench.__path__[0], "third_party/amt/cfgs/AMT-S.yaml")
    score = MotionSmoothness(config, os.path.join(weights, "amt_model/amt-s.pth"), torch.device("cpu")).motion_score
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        value = float(score(line.strip()))
    print("answer " + json.dumps([value, time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""


def ours(num_frames: int) -> Mapping[str, Callable[[Path], float]]:
    """Our metric of each dimension, from the file."""
    rule = FrameRule(num_frames=num_frames, min_frames=num_frames, fps=float(FPS), width=WIDTH, height=HEIGHT)
    return {
        "temporal_flickering": lambda file: temporal_flickering(opencv_frames(file)),
        "dynamic_degree": lambda file: dynamic_degree(read_clip(file, rule).frames_THWC, FPS),
        "motion_smoothness": lambda file: motion_smoothness(read_clip(file, rule).frames_THWC),
    }


def write_videos(folder: Path, count: int, num_frames: int) -> list[Path]:
    """Textures that drift, 480 x 832 at 16 a second."""
    files = []
    for number in range(count):
        random = np.random.default_rng(number)
        texture_HW3 = np.kron(random.integers(0, 256, (HEIGHT // 16, WIDTH // 16, 3)), np.ones((16, 16, 1))).astype(np.uint8)
        step = 1 + number % 4
        frames_THWC = np.stack([np.roll(texture_HW3, step * frame, axis=1) for frame in range(num_frames)])
        write_mp4(file := folder / f"{number}.mp4", frames_THWC, FPS)
        files.append(file)
    return files


def compare(dimension: str, files: list[Path], score: Callable[[Path], float], arguments: argparse.Namespace) -> Line:
    """Both sides on every file, ``rounds`` times, after a file to warm up."""
    command = [arguments.python, "-c", THEIRS, dimension, str(arguments.weights)]
    environment = {**os.environ, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    costs: list[tuple[Cost, Cost]] = []
    found: list[tuple[float, float]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for file in files[:1] + files * arguments.rounds:
            scores: list[float] = []
            mine = measured(lambda file=file, scores=scores: scores.append(score(file)))
            child.stdin.write(f"{file}\n")
            child.stdin.flush()
            answer = next(line for line in child.stdout if line.startswith("answer "))
            value, seconds, cpu_s = json.loads(answer.removeprefix("answer "))
            costs.append((mine, Cost(seconds=seconds, cpu_s=cpu_s)))
            found.append((scores[0], value))
        child.stdin.close()
    mine, theirs = (list(side) for side in zip(*costs[1:], strict=True))
    return Line(
        what=f"{dimension} of a video, {arguments.frames} x {HEIGHT} x {WIDTH}",
        against="VBench's own code",
        at_most=1.0,
        seconds=(median_s(mine), median_s(theirs)),
        details={"score": float(np.mean([pair[0] for pair in found])), "VBench's score": float(np.mean([pair[1] for pair in found]))},
        **ratios(mine, theirs),  # pyright: ignore[reportArgumentType]
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="an interpreter that can import vbench")
    parser.add_argument("--weights", type=Path, default=Path("none"), help="folder of weights, for the dimensions with networks")
    parser.add_argument("--dimensions", nargs="+", choices=list(ours(1)), default=["temporal_flickering"])
    parser.add_argument("--frames", type=int, default=81, help="of each video, 4n+1")
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    scores = ours(arguments.frames)
    with tempfile.TemporaryDirectory() as folder:
        files = write_videos(Path(folder), arguments.videos, arguments.frames)
        lines = [compare(dimension, files, scores[dimension], arguments) for dimension in arguments.dimensions]
    report("Native metrics", lines, as_json=arguments.json)


if __name__ == "__main__":
    main()
