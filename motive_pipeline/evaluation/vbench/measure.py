"""VBench's values of the generated videos: measures those that are not stored yet and checks every value that the child process returns."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from motive_pipeline.config import VBENCH_VIDEOS_PER_PROMPT, Config
from motive_pipeline.engine import Outcome, Work, compute_rows
from motive_pipeline.errors import GateFailed, MotiveError, RejectRow
from motive_pipeline.evaluation.vbench.child import Child, Installed, VBenchFailed
from motive_pipeline.evaluation.vbench.dimensions import BACKEND, DIMENSIONS, Dimension
from motive_pipeline.evaluation.vbench.environment import LOCK, require_interpreter
from motive_pipeline.evaluation.vbench.weights import require_weights
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.keys import vbench_key
from motive_pipeline.storage.digest import digest_file
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.workspace import Publication, RowCounts, Workspace

log = logging.getLogger(__name__)

STAGE = "vbench"
VIDEO_ID_COLUMNS = ["training", "prompt_index", "n"]
_ROUNDING = 1e-5  # of a cosine similarity in half precision
_MODES = {"custom": "custom_input", "standard": "vbench_standard"}


@dataclass(frozen=True, kw_only=True)
class Measured:
    """``table`` has a row for each video and dimension (training, prompt_index, n, metric, backend, value); ``record`` is their origin."""

    table: pd.DataFrame
    record: dict[str, Any]
    counts: RowCounts


@dataclass(frozen=True, kw_only=True)
class _Video:
    """One file, and its name for VBench."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """An environment with everything that the dimensions need."""

    child: Child
    installed: Installed
    weights: Mapping[str, str]

    @property
    def device_kind(self) -> str:
        return self.installed.device.partition(":")[0]

    def versions(self, dimension: Dimension) -> dict[str, str]:
        return {name: self.installed.versions[name] for name in ("vbench", *dimension.packages)}

    def hashes(self, dimension: Dimension) -> dict[str, str]:
        return {weight.file: self.weights[weight.file] for weight in dimension.weights}


def measure_videos(ws: Workspace, arm: str, videos: Publication) -> Measured:
    """VBench's values of the published videos of ``arm``, for every dimension of ``evaluate.vbench.dimensions``.

    Raises:
        MotiveError: the environment or weights are missing, or VBench failed; the message says what to do.
        GateFailed: a video cannot be measured, or one of VBench's own suite is missing.
    """
    settings = ws.config.evaluate.vbench
    dimensions = [DIMENSIONS[name] for name in settings.dimensions]
    setup = _prepare(ws, dimensions)
    listed = videos.table("videos")
    contents = {str(name): digest_file(videos.path / str(name)) for name in listed["file"]}
    store = ws.store(STAGE, {})
    rows: list[dict[str, Any]] = []
    seen: Counter[tuple[float, int]] = Counter()
    counts = Counter({"computed": 0, "reused": 0})
    for dimension in dimensions:
        chosen = _of_suite(listed, setup.installed.suite[dimension.name], arm) if settings.suite == "standard" else listed
        for _, part in chosen.groupby("training", sort=True):
            found, outcome = _measure(ws, store, setup, dimension, part, videos.path, contents)
            rows += found
            seen.update((row.pop("fps"), row.pop("num_frames")) for row in found)
            counts.update(computed=outcome.counts.computed, reused=outcome.counts.reused)
    record = _record(settings.suite, setup, dimensions, seen)
    return Measured(table=pd.DataFrame(rows), record=record, counts=RowCounts(**counts))


def _prepare(ws: Workspace, dimensions: Sequence[Dimension]) -> _Setup:
    """Check interpreter, weights and packages before anything is measured."""
    settings = ws.config.evaluate.vbench
    memory = HashMemory(ws.state)
    weights = require_weights(dimensions, settings.weights_folder, memory, accept_other=settings.accept_other_weights)
    child = _child(ws.config)
    suite = [dimension.name for dimension in dimensions] if settings.suite == "standard" else []
    installed = child.installed(settings.device, suite)
    lacking = {name: dimension.name for dimension in dimensions for name in dimension.packages if name not in installed.versions}
    if lacking:
        what = ", ".join(f"{name} (for {dimension})" for name, dimension in lacking.items())
        here = "Run `motive fetch vbench`." if settings.python is None else f"Install it there; {LOCK} has the tested versions."
        raise MotiveError(f"the environment of {child.python} lacks {what}. {here}")
    if installed.device.startswith("cuda"):
        import torch

        torch.cuda.empty_cache()  # memory that an earlier training left in the cache is needed by the child
    return _Setup(child=child, installed=installed, weights=weights)


def require_vbench_device(config: Config) -> None:
    """Check that VBench's environment finds the device that ``evaluate.vbench.device`` names. ``auto`` and ``cpu`` always exist, and start nothing.

    Raises:
        MotiveError: it does not, or there is no environment; see :func:`~.environment.require_interpreter`.
    """
    if config.evaluate.vbench.device not in ("auto", "cpu"):
        _child(config).installed(config.evaluate.vbench.device)


def _child(config: Config) -> Child:
    settings = config.evaluate.vbench
    return Child(
        python=require_interpreter(settings), weights=settings.weights_folder, threads=config.engine.threads, timeout_s=settings.timeout_s
    )


def _of_suite(listed: pd.DataFrame, prompts: Iterable[str], arm: str) -> pd.DataFrame:
    """The videos of a dimension's own prompts.

    Raises:
        GateFailed: a training lacks some of the five videos of a prompt.
    """
    wanted = {(prompt, n) for prompt in prompts for n in range(VBENCH_VIDEOS_PER_PROMPT)}
    chosen = listed[[pair in wanted for pair in zip(listed["prompt"], listed["n"], strict=True)]]
    for training in sorted(set(listed["training"])):
        of_training = chosen[chosen["training"] == training]
        missing = sorted(wanted - set(zip(of_training["prompt"], of_training["n"], strict=True)))
        if missing:
            raise GateFailed(
                f"generated_videos/{arm}: training {training} lacks {len(missing)} of the {len(wanted)} videos of VBench's suite, "
                f"'{missing[0][0]}-{missing[0][1]}.mp4' first. generate.prompts must contain all prompts of evaluate.vbench.dimensions (`motive fetch "
                "vbench` writes them), and no video may be rejected."
            )
    return pd.DataFrame(chosen)


def _measure(
    ws: Workspace, store: RowStore, setup: _Setup, dimension: Dimension, part: pd.DataFrame, folder: Path, contents: Mapping[str, str]
) -> tuple[list[dict[str, Any]], Outcome]:
    """One dimension for the videos of one training: the rows of the table, with fps and number of frames."""
    suite = ws.config.evaluate.vbench.suite
    records = part.to_dict("records")
    keys = [
        vbench_key(dimension.name, contents[str(each["file"])], setup.versions(dimension), setup.hashes(dimension), setup.device_kind)
        for each in records
    ]
    names = [f"{each['prompt']}-{each['n']}.mp4" if suite == "standard" else f"{number:06d}.mp4" for number, each in enumerate(records)]
    items = [_Video(path=folder / str(each["file"]), name=name) for each, name in zip(records, names, strict=True)]
    work = [Work(key=key, item=item) for key, item in dict(zip(keys, items, strict=True)).items()]
    waiting = [piece.item for piece in work if store.find(piece.key) is None]
    batches = _Batches(setup, dimension, _MODES[suite], waiting, size=ws.config.engine.commit_rows)
    what = f"{dimension.name}[{BACKEND}]"
    outcome = compute_rows(
        store, work, batches.row, what=what, commit_rows=ws.config.engine.commit_rows, commit_s=ws.config.engine.commit_s
    )
    bad = [f"{item.path}: {outcome.rejects[key].detail}" for key, item in zip(keys, items, strict=True) if key in outcome.rejects]
    if bad:
        raise GateFailed(f"{what}: {len(bad)} of {len(items)} videos cannot be measured; {'; '.join(bad[:5])}")
    rows = []
    for key, each in zip(keys, records, strict=True):
        read = {name: store.read(outcome.refs[key], name).item() for name in ("value", "fps", "num_frames")}
        rows.append({**{name: int(each[name]) for name in VIDEO_ID_COLUMNS}, "metric": dimension.name, "backend": BACKEND, **read})
    return rows, outcome


@dataclass
class _Batches:
    """Returns rows one by one and requests ``size`` from VBench at a time, so that a killed run loses at most the work of one commit."""

    setup: _Setup
    dimension: Dimension
    mode: str
    waiting: list[_Video]
    size: int
    _ready: dict[str, dict[str, np.ndarray] | RejectRow] = field(default_factory=dict)

    def row(self, video: _Video) -> dict[str, np.ndarray]:
        """Value, fps and number of frames of ``video``, the next in ``waiting``.

        Raises:
            RejectRow: VBench cannot measure it.
            VBenchFailed: see :func:`checked`.
        """
        if video.name not in self._ready:
            batch, self.waiting = self.waiting[: self.size], self.waiting[self.size :]
            device = self.setup.installed.device
            log.info("VBench: %s of %d videos on %s, %d more wait", self.dimension.name, len(batch), device, len(self.waiting))
            answer = self.setup.child.measure(self.dimension, [(each.name, each.path) for each in batch], mode=self.mode, device=device)
            self._ready = checked(answer, self.dimension, {each.name: each.path for each in batch})
        found = self._ready.pop(video.name)
        if isinstance(found, RejectRow):
            raise found
        return found


def checked(answer: Mapping[str, Any], dimension: Dimension, files: Mapping[str, Path]) -> dict[str, dict[str, np.ndarray] | RejectRow]:
    """A row, or the reason for its rejection, for each of ``files``.

    Raises:
        VBenchFailed: a video has no value or several values, a value is not finite or out of range, or VBench returns a video that was not sent.
    """
    times = Counter(name for name, _ in answer["values"])
    values = {name: float(value) * dimension.scale for name, value in answer["values"]}
    low, high = dimension.limits
    wrong = [f"{name}, which was not sent" for name in times if name not in files]
    for name, path in files.items():
        if name in answer["unusable"] and name not in times:
            continue
        if times[name] != 1:
            wrong.append(f"{path}: {'no value' if not times[name] else f'{times[name]} values'}")
        elif not math.isfinite(values[name]):
            wrong.append(f"{path}: {values[name]}")
        elif not low - _ROUNDING <= values[name] <= high + _ROUNDING:
            wrong.append(f"{path}: {values[name]:g}, where {low:g} to {high:g} is possible")
    if wrong:
        raise VBenchFailed(
            f"VBench's {dimension.name} returned unusable results for {len(files)} videos: {'; '.join(wrong[:5])}. None of them was kept. "
            "If the videos play, check the weights and evaluate.vbench.python."
        )
    return {name: _row(answer, name, min(max(values[name], low), high)) if name in times else _reject(answer, name) for name in files}


def _row(answer: Mapping[str, Any], name: str, value: float) -> dict[str, np.ndarray]:
    look = answer["seen"][name]
    return {
        "value": np.array(value, np.float64),
        "fps": np.array(look["fps"], np.float64),
        "num_frames": np.array(look["num_frames"], np.int64),
    }


def _reject(answer: Mapping[str, Any], name: str) -> RejectRow:
    return RejectRow("vbench_cannot_measure", str(answer["unusable"][name]))


def _record(suite: str, setup: _Setup, dimensions: Sequence[Dimension], seen: Counter[tuple[float, int]]) -> dict[str, Any]:
    """The origin of the numbers: versions, device, hash of each file of weights (and whether it is the published one), fps and frames."""
    published = {weight.file: weight.sha256 for dimension in dimensions for weight in dimension.weights}
    return {
        "versions": dict(setup.installed.versions),
        "device": setup.device_kind,
        "suite": suite,
        "dimensions": {
            dimension.name: {"versions": setup.versions(dimension), "weights": setup.hashes(dimension)} for dimension in dimensions
        },
        "other_weights": sorted(name for name, sha256 in setup.weights.items() if sha256 != published[name]),
        "fps": sorted({fps for fps, _ in seen}),
        "num_frames": sorted({frames for _, frames in seen}),
    }
