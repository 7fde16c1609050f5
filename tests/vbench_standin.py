"""An environment with a small package in VBench's API instead of VBench, and a project that uses it.

The package measures ``temporal_flickering`` by VBench's formula and gives 0.5 for everything else. ``STANDIN_VBENCH`` makes it misbehave, and
``STANDIN_VBENCH_LOG``, where it is set, names a file that notes each call.
"""

import json
import sysconfig
import time
import venv
from pathlib import Path

import numpy as np
import pandas as pd

from motive_pipeline.config import parse_config
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.encode import write_mp4

PACKAGE = """
import json, os, signal, sys, time
import cv2
import numpy as np

class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.info, self.output = full_info_dir, output_path

    def evaluate(self, videos_path, name, dimension_list, local, mode):
        (dimension,) = dimension_list
        names = sorted(os.listdir(videos_path), reverse=True)
        if mode == "vbench_standard":
            with open(self.info) as file:
                prompts = [each["prompt_en"] for each in json.load(file) if dimension in each["dimension"]]
            names = [f"{prompt}-{n}.mp4" for prompt in prompts for n in range(5) if f"{prompt}-{n}.mp4" in names]
        with open(os.environ.get("STANDIN_VBENCH_LOG", os.devnull), "a") as file:
            trusting = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "")
            file.write(json.dumps([dimension, mode, sorted(names), trusting]) + "\\n")
        print("{junk on standard output", flush=True)
        wrong = os.environ.get("STANDIN_VBENCH", "")
        if wrong == "crash":
            print("first line\\nCUDA error: the very reason", file=sys.stderr)
            raise SystemExit(1)
        if wrong == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if wrong == "hang":
            print("still loading", file=sys.stderr, flush=True)
            time.sleep(300)
        if wrong == "no answer":
            os._exit(0)
        found = [{"video_path": os.path.join(videos_path, each), "video_results": value(dimension, os.path.join(videos_path, each))} for each in names]
        if wrong == "nan":
            found[0]["video_results"] = float("nan")
        with open(os.path.join(self.output, name + "_eval_results.json"), "w") as file:
            json.dump({dimension: [0.5, found]}, file)

def value(dimension, path):
    if dimension == "dynamic_degree":
        return True
    if dimension != "temporal_flickering":
        return 50.0 if dimension == "imaging_quality" else 0.5
    capture, frames = cv2.VideoCapture(path), []
    while (read := capture.read())[0]:
        frames.append(read[1].astype(np.float32))
    return (255.0 - float(np.mean([np.abs(a - b).mean() for a, b in zip(frames, frames[1:])]))) / 255.0
"""
TORCH = """
import contextlib
def device(name): return name
no_grad = contextlib.nullcontext
class cuda:
    is_available = staticmethod(lambda: False)
    device_count = staticmethod(lambda: 0)
"""
SUITE = [
    {"prompt_en": "a dog, running", "dimension": ["dynamic_degree", "motion_smoothness"]},
    {"prompt_en": 'a "still" life', "dimension": ["temporal_flickering"]},
]
VERSIONS = {"vbench": "0.1.5", "torch": "2.13.0", "openai_clip": "1.0.1", "pyiqa": "0.1.16"}
SETTINGS = """
clips: {{source: demo, num_frames: 17, width: 64, height: 64}}
queries: {{source: demo}}
generate: {generate}
evaluate: {{backend: vbench, vbench: {vbench}}}
engine: {{threads: 1, commit_rows: {commit_rows}}}
"""


def make_environment(folder: Path, *, with_vbench: bool = True) -> Path:
    """A virtual environment with the package; gives its interpreter."""
    venv.create(folder, symlinks=True, with_pip=False)
    site = next(folder.glob("lib/*/site-packages"))
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if with_vbench:
        files = {"vbench/__init__.py": PACKAGE, "vbench/VBench_full_info.json": json.dumps(SUITE), "torch/__init__.py": TORCH}
        files |= {f"{name}-{version}.dist-info/METADATA": f"Name: {name}\nVersion: {version}\n" for name, version in VERSIONS.items()}
        for name, text in files.items():
            (site / name).parent.mkdir(exist_ok=True)
            (site / name).write_text(text)
    return folder / "bin" / "python"


def film(number: int, num_frames: int = 17) -> np.ndarray:
    """Noise that differs with ``number``."""
    return np.random.default_rng(number).integers(0, 255, (num_frames, 64, 64, 3), np.uint8)


def project(folder: Path, vbench: dict, *, generate: dict | None = None, commit_rows: int = 32) -> Workspace:
    """A project whose evaluation runs VBench with these settings."""
    text = SETTINGS.format(vbench=json.dumps(vbench), generate=json.dumps(generate or {}), commit_rows=commit_rows)
    return Workspace(parse_config(text, folder / "motive.yaml"))


def publish_films(ws: Workspace, films: list[tuple[int, str, int, np.ndarray | bytes]]) -> Publication:
    """``generated_videos/motive`` of (training, prompt, n, frames or the file's bytes)."""
    prompts = list(dict.fromkeys(prompt for _, prompt, _, _ in films))
    rows = [
        {"training": training, "prompt": prompt, "prompt_index": prompts.index(prompt), "n": n, "file": f"seed-{training}/{prompts.index(prompt)}-{n}.mp4"}
        for training, prompt, n, _ in films
    ]  # fmt: skip
    table = pd.DataFrame(rows)

    def write(folder: Path) -> None:
        for row, (*_, content) in zip(rows, films, strict=True):
            (folder / row["file"]).parent.mkdir(exist_ok=True)
            if isinstance(content, bytes):
                (folder / row["file"]).write_bytes(content)
            else:
                write_mp4(folder / row["file"], content, 16)
        table.to_parquet(folder / "videos.parquet", index=False)

    content = digest_frame(table) + str([hash(bytes(each[3])) for each in films])
    return ws.publish("generated_videos/motive", content=content, write=write, started=time.time())
