"""Our reader beside decord, torchcodec and OpenCV on the same films: frames a second, and the share of them that are the right ones.

    python -m venv /tmp/readers
    /tmp/readers/bin/pip install -c constraints.txt torch==2.13.0 torchcodec==0.13.0 decord==0.6.0 opencv-python-headless numpy
    apt-get install ffmpeg                       # torchcodec brings no FFmpeg of its own; it takes the system's shared libraries, 4 to 8
    python -m benchmarks.readers --python /tmp/readers/bin/python [--rounds 3] [--sides ...] [--json]

torchcodec from 0.14 on comes from PyPI for CUDA only; 0.13.0 is the last that serves a CPU. Every frame of a film carries its number in black
and white cells, so that what a reader returns can be told whatever it says of it. Asked for are the 81 frames at 16 a second from the first frame on, as
the pipeline does. A frame is right if no other of the film is nearer in time to what was asked for: at a constant rate, within half a frame; one
that stands on its side is not. Films of 7 s, 832 x 480, H.264: a constant rate; 30 and 10 frames a second by turns; B-frames; stored on its side
with a rotation; starting at 5 s; one key frame for the whole film. Ours runs in the project's environment, the others in ``--python``'s, a process
each, with one thread; sides take turns. reader_sides.py says what of each library is called.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import common
from benchmarks.common import Cost, Line
from benchmarks.reader_sides import CELL_PX, HEIGHT, NUM_BITS, NUM_FRAMES, SIDES, WANTED_S, WIDTH
from tests.clip_fixtures import write_video

PEERS = tuple(side for side in SIDES if side != "ours")
_SECONDS = 7.0
_FPS = 24.0
_ROUNDING_S = 0.001
"""Containers keep time stamps in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """How a film is made: the time of each frame (s), from the first one on, and what is special about the file.

    ``has_own_times``: the time of each frame is written; else the encoder counts frames at the constant rate.
    """

    times_s: np.ndarray
    has_own_times: bool = False
    suffix: str = ".mp4"
    start_s: float = 0.0
    options: dict[str, str] = field(default_factory=dict)
    rotation: int = 0


def films() -> dict[str, Film]:
    """Every film by its name."""
    constant_s = np.arange(int(_SECONDS * _FPS)) / _FPS
    changing_s = np.cumsum([0.0, *([1 / 30] * 15 + [1 / 10] * 5) * 7])
    plain = {"bf": "0", "g": "24"}
    return {
        "constant": Film(times_s=constant_s, options=plain),
        "variable": Film(times_s=changing_s, has_own_times=True, options=plain),
        "b_frames": Film(times_s=constant_s, options={"bf": "3", "g": "24"}),
        "rotated": Film(times_s=constant_s, options=plain, rotation=90),
        "late_start": Film(times_s=constant_s, has_own_times=True, suffix=".mkv", start_s=5.0, options=plain),
        "long_gop": Film(times_s=constant_s, options={"bf": "3", "g": "1000", "sc_threshold": "0"}),
    }


def write_film(folder: Path, name: str, film: Film) -> None:
    """Encode ``film``: its frame's number over a texture that drifts."""
    random = np.random.default_rng(0)
    texture_HWC = np.kron(random.integers(30, 220, (HEIGHT // 8, WIDTH // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = []
    for number in range(len(film.times_s)):
        picture_HWC = np.roll(texture_HWC, (number, 3 * number), axis=(0, 1))
        bits = number >> np.arange(NUM_BITS) & 1
        cells = np.kron(255 * np.stack([bits, 1 - bits]), np.ones((CELL_PX, CELL_PX))).astype(np.uint8)
        picture_HWC[: cells.shape[0], : cells.shape[1]] = cells[..., None]
        frames.append(np.rot90(picture_HWC, k=-film.rotation // 90))
    write_video(
        folder / f"{name}{film.suffix}",
        np.stack(frames),
        fps=_FPS,
        times_s=(film.start_s + film.times_s).tolist() if film.has_own_times else None,
        options={"preset": "veryfast", "crf": "20"} | film.options,
        rotation=film.rotation,
    )


def right_share(numbers: Sequence[int], times_s: np.ndarray) -> float:
    """The share of the asked times for which ``numbers`` names a frame that is as near as any."""
    off_s = np.abs(times_s[None, :] - WANTED_S[:, None])
    nearest_s = off_s.min(axis=1) + _ROUNDING_S
    right = [0 <= number < len(times_s) and off_s[wanted, number] <= nearest_s[wanted] for wanted, number in enumerate(numbers)]
    return float(sum(right)) / NUM_FRAMES


def main() -> None:
    """Write the films, let the sides take turns, print a line for each peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has the peers (default: this one)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", default=[*PEERS], choices=PEERS, help="peers to run (default: all)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    made = films()
    with tempfile.TemporaryDirectory() as name:
        for film in made:
            write_film(Path(name), film, made[film])
        sides = ["ours", *arguments.sides]
        rounds = []
        for number in range(arguments.rounds):
            order = sides if number % 2 == 0 else sides[::-1]
            rounds.append({side: run_side(side, Path(name), sys.executable if side == "ours" else arguments.python) for side in order})
    lines = [line_of(peer, rounds, made) for peer in arguments.sides]
    common.report(f"{len(made)} films, {NUM_FRAMES} frames of each", lines, as_json=arguments.json)


def run_side(side: str, folder: Path, python: str) -> dict[str, Any]:
    """What one side made of each film; ``failed`` holds its last words if it died."""
    environment = {**os.environ, "PYTHONPATH": str(common.REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [python, "-W", "ignore", "-m", "benchmarks.reader_sides", side, "--films", str(folder)]
    done = subprocess.run(command, cwd=common.REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        return {"failed": said[-1] if said else f"exit code {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def line_of(peer: str, rounds: list[dict[str, dict[str, Any]]], made: dict[str, Film]) -> Line:
    """Ours beside one peer, over the films that both have read."""
    first = rounds[0]
    if "failed" in first[peer]:
        return Line(what="ours", against=peer, ratio=float("nan"), details={"does not run": first[peer]["failed"]})
    both = [film for film in made if "failed" not in first[peer][film]]
    costs = {side: [_summed(found[side], both) for found in rounds] for side in ("ours", peer)}
    seconds = common.median_s(costs["ours"]) / len(both), common.median_s(costs[peer]) / len(both)
    details: dict[str, Any] = {}
    for side in ("ours", peer):
        shares = {film: _right(first[side][film], made[film]) for film in made}
        wrong = {film: round(share, 2) for film, share in shares.items() if share < 1}
        details[f"frames a second of {side}"] = round(NUM_FRAMES / median(cost.seconds / len(both) for cost in costs[side]))
        details[f"right of {side}"] = round(sum(shares.values()) / len(shares), 4)
        details[f"less than 1 of {side}"] = wrong or "none"
    details |= {f"failed of {peer}: {film}": first[peer][film]["failed"] for film in made if film not in both}
    return Line(what="ours", against=peer, **common.ratios(costs["ours"], costs[peer]), seconds=seconds, details=details)


def _summed(found: dict[str, Any], over: Sequence[str]) -> Cost:
    return Cost(seconds=sum(found[film]["seconds"] for film in over), cpu_s=sum(found[film]["cpu_s"] for film in over))


def _right(found: dict[str, Any], film: Film) -> float:
    return 0.0 if "failed" in found else right_share(found["numbers"], film.times_s)


if __name__ == "__main__":
    main()
