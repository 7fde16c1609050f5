"""Runs VBench as a child process in its own Python environment: one request, one answer, and a clear message on failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motive_pipeline.errors import MotiveError
from motive_pipeline.evaluation.vbench.dimensions import Dimension

RUNNER = Path(__file__).with_name("runner.py")
_TAIL_LINES, _TAIL_CHARACTERS = 12, 2000


class VBenchFailed(MotiveError):
    """The child process ended without an answer, or with an unusable one."""


@dataclass(frozen=True, kw_only=True)
class Installed:
    """The environment: package versions, the device, and the suite's prompts by dimension if they were requested."""

    versions: Mapping[str, str]
    device: str
    suite: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Child:
    """How to start VBench: its interpreter, the folder of weights, CPU threads, and the time limit of a request."""

    python: Path
    weights: Path
    threads: int
    timeout_s: float

    def installed(self, device: str, suite: Sequence[str] = ()) -> Installed:
        """The contents of the environment, with the prompts of the dimensions in ``suite``.

        Raises:
            VBenchFailed: the interpreter does not run, has no ``vbench``, or does not find the device.
        """
        answer = self._answer({"dimension": None, "device": device, "suite": list(suite)}, f"looking at {self.python}", {})
        if "vbench" not in answer["versions"]:
            raise VBenchFailed(
                f"{self.python} has no package vbench. Set evaluate.vbench.python to the interpreter of an environment that has it, or leave it "
                "out and run `motive fetch vbench`."
            )
        if answer["device"] is None:
            raise VBenchFailed(
                f"evaluate.vbench.device = {device!r}: torch {answer['versions'].get('torch')} of {self.python} finds no such device. Check "
                "`nvidia-smi` and CUDA_VISIBLE_DEVICES; a driver too old for this torch has the same symptom (docs/evaluation.md). Use auto or cpu instead."
            )
        return Installed(versions=answer["versions"], device=answer["device"], suite=answer.get("suite", {}))

    def measure(self, dimension: Dimension, videos: Sequence[tuple[str, Path]], *, mode: str, device: str) -> dict[str, Any]:
        """The answer of ``runner.py`` for ``videos``, pairs of (name for VBench, file).

        Raises:
            VBenchFailed: the child crashed, took longer than ``timeout_s``, or returned no answer.
        """
        request = {
            "dimension": dimension.name,
            "mode": mode,
            "device": device,
            "min_frames": dimension.min_frames,
            "sampled_fps": dimension.sampled_fps,
            "torch_hub": {Path(each.file).name: str(self.weights / each.file) for each in dimension.weights if each.file.endswith(".pth")},
            "videos": [{"name": name, "path": str(path)} for name, path in videos],
        }
        environment = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"} if dimension.is_pickled else {}
        return self._answer(request, f"{dimension.name} on {len(videos)} videos", environment)

    def _answer(self, request: dict[str, Any], what: str, environment: Mapping[str, str]) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="motive-vbench-") as scratch:
            folder = Path(scratch)
            result, log_file = folder / "answer.json", folder / "stderr.txt"
            (folder / "request.json").write_text(json.dumps(request | {"result": str(result)}), encoding="utf-8")
            code = self._run(folder / "request.json", log_file, what, environment)
            if code != 0:
                how = f"was killed by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
                raise VBenchFailed(f"VBench ({what}) {how}. {_tail(log_file)}")
            try:
                return json.loads(result.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise VBenchFailed(f"VBench ({what}) succeeded, but its answer cannot be read ({error}). {_tail(log_file)}") from error

    def _run(self, request: Path, log_file: Path, what: str, environment: Mapping[str, str]) -> int:
        """The child's exit code. The child and all its processes have ended when this returns or raises."""
        command = [str(self.python), "-I", str(RUNNER), str(request)]
        with log_file.open("wb") as stderr:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    env=self._environment() | dict(environment),
                    start_new_session=True,
                )
            except OSError as error:
                raise VBenchFailed(f"evaluate.vbench.python: {self.python} cannot be started ({error.strerror}).") from error
            try:
                return process.wait(self.timeout_s)
            except subprocess.TimeoutExpired as error:
                raise VBenchFailed(
                    f"VBench ({what}) took longer than evaluate.vbench.timeout_s = {self.timeout_s:g} s and was stopped. Raise it, or measure "
                    f"fewer videos at a time (engine.commit_rows). {_tail(log_file)}"
                ) from error
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                if process.stdin:
                    process.stdin.close()

    def _environment(self) -> dict[str, str]:
        """The parent's environment, without variables that redirect the child's Python or torch. Downloads are disabled."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "TORCH_", "VIRTUAL_ENV"))}
        threads = str(self.threads)
        return kept | {
            "VBENCH_CACHE_DIR": str(self.weights),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
        }


def _tail(log_file: Path) -> str:
    """The end of the child's standard error. Of progress bars, which overwrite themselves, only the last state is kept."""
    text = log_file.read_bytes().decode("utf-8", "replace")
    lines = [line.rpartition("\r")[2].rstrip() for line in text.rstrip().replace("\r\n", "\n").split("\n")]
    last = "\n".join([line for line in lines if line][-_TAIL_LINES:])[-_TAIL_CHARACTERS:]
    return f"Its last messages:\n{last}" if last else "It wrote no message."
