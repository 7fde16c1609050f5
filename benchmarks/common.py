"""What the benchmarks share: the model and the clips that costs and quality are measured on, clocks, memory, and how a line is printed.

Every line of docs/performance.md is a ratio: the median over rounds of (ours / what it stands against), the two run one after the other
in each round. ``ratio`` is of wall time; ``ratio_cpu`` of the processor time that the process itself spent, which other work on the machine
stretches far less. Peak memory is taken in a process of its own.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

if TYPE_CHECKING:
    import torch

    from motive_pipeline.models.wan import WanModel

REPOSITORY = Path(__file__).resolve().parents[1]
LATENTS_CFHW = (16, 5, 24, 24)
PROMPT_LE = (64, 16)
NUM_TOKENS = LATENTS_CFHW[1] * LATENTS_CFHW[2] * LATENTS_CFHW[3] // 4
NUM_KINDS = 8
_SHAPE: dict[str, Any] = {"num_layers": 8, "heads": 6, "head_dim": 48, "ffn_dim": 1152}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One run: wall seconds, and seconds of processor time of this process."""

    seconds: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of the table. ``at_most`` is None where there is no aim; ``peak_mb`` is (ours, what it stands against), None if not taken."""

    what: str
    against: str
    ratio: float
    ratio_cpu: float | None = None
    at_most: float | None = None
    seconds: tuple[float, float] | None = None
    peak_mb: tuple[float, float] | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """Whether the aim is met."""
        if self.at_most is None:
            return ""
        if self.ratio <= self.at_most:
            return "met"
        return "met in processor time only" if self.ratio_cpu is not None and self.ratio_cpu <= self.at_most else "MISSED"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a gradient is taken of."""

    latents_CFHW: torch.Tensor
    prompt_LE: torch.Tensor
    mask_FHW: torch.Tensor

    @property
    def conditioning(self) -> dict[str, torch.Tensor]:
        """What a model is told of the clip."""
        return {"prompt_embeds": self.prompt_LE}


def demo_settings(*, seed: int, split: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """``motive.yaml`` with another generator seed and split, and with ``overrides`` by dotted key."""
    settings = yaml.safe_load((REPOSITORY / "motive.yaml").read_text(encoding="utf-8"))
    for dotted, value in {"clips.demo.seed": seed, "clips.demo.split": split, **overrides}.items():
        *sections, key = dotted.split(".")
        functools.reduce(dict.__getitem__, sections, settings)[key] = value
    return settings


def parsed_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings by dotted key, from ``KEY=VALUE`` texts."""
    return {key: yaml.safe_load(text) for key, text in (pair.split("=", 1) for pair in pairs)}


def parsed_variants(texts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each variant overrides, from ``name`` or ``name={draws: 4, rule: mean_influence}``."""
    return {name: yaml.safe_load(changes or "{}") for name, _, changes in (text.partition("=") for text in texts)}


def build_model(device: torch.device) -> WanModel:
    """The 11.4 M-parameter Wan that costs are measured on: 8 layers, 288 wide, random weights."""
    import torch

    from motive_pipeline.models.wan import WanModel
    from tests.tiny_wan import build_pipeline

    return WanModel(build_pipeline(**_SHAPE), device=device, compute_dtype=torch.float32, max_prompt_tokens=PROMPT_LE[0])


def save_model(folder: Path) -> Path:
    """The same model at ``folder``, in diffusers' layout."""
    from tests.tiny_wan import save_tiny_wan

    return save_tiny_wan(folder, **_SHAPE)


def use_diffusers_attention(model: WanModel) -> None:
    """Let ``model`` compute attention as diffusers has it, and not as the pipeline does (models/wan_attention.py)."""
    from motive_pipeline.internals.diffusers import WanAttnProcessor

    transformer: Any = model.transformer
    transformer.set_attn_processor(WanAttnProcessor())


def drawn_clips(count: int, *, seed: int = 0) -> list[Clip]:
    """Latents of textures that drift, with a mask on a drifting spot. Clips of one kind (every ``NUM_KINDS``-th) share half of the texture,
    the prompt and the direction, so that their gradients agree more than others.
    """
    import torch

    kinds = np.random.default_rng([0, NUM_KINDS])
    textures = [_texture(kinds) for _ in range(NUM_KINDS)]
    prompts = kinds.standard_normal((NUM_KINDS, *PROMPT_LE))
    steps = kinds.integers(-3, 4, size=(NUM_KINDS, 2))
    clips = []
    for number in range(count):
        own, kind = np.random.default_rng([1, seed, number]), number % NUM_KINDS
        picture_CHW = (textures[kind] + _texture(own)) / np.sqrt(2.0)
        spot_HW = _spot(own.uniform(4, 20, size=2))
        frames = [tuple(int(frame * step) for step in steps[kind]) for frame in range(LATENTS_CFHW[1])]
        latents_CFHW = np.stack([np.roll(picture_CHW, shift, axis=(1, 2)) for shift in frames], axis=1)
        mask_FHW = np.stack([np.roll(spot_HW, shift, axis=(0, 1)) for shift in frames])
        prompt_LE = (prompts[kind] + 0.5 * own.standard_normal(PROMPT_LE)) / np.sqrt(1.25)
        clips.append(Clip(**{n: torch.from_numpy(np.ascontiguousarray(a, dtype=np.float32)) for n, a in (
            ("latents_CFHW", latents_CFHW), ("prompt_LE", prompt_LE), ("mask_FHW", mask_FHW))}))  # fmt: skip
    return clips


def _texture(random: np.random.Generator) -> np.ndarray:
    """A smooth random field [C, H, W] of unit variance."""
    channels, _, height, width = LATENTS_CFHW
    frequency_HW = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    spectrum = np.fft.fft2(random.standard_normal((channels, height, width))) * np.exp(-((frequency_HW / 0.12) ** 2))
    field_CHW = np.fft.ifft2(spectrum).real
    return field_CHW / field_CHW.std()


def _spot(centre: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: LATENTS_CFHW[2], : LATENTS_CFHW[3]]
    return np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / (2 * 4.0**2))


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well features keep the exact cosines: Spearman within each query, averaged over the queries, and over all pairs at once; the share
    of the exact top 10 % that the vote over the queries still chooses.
    """

    spearman: float
    spearman_all_pairs: float
    top_overlap: float


def cosines(queries_QP: np.ndarray, clips_NP: np.ndarray) -> np.ndarray:
    """Cosine [query, clip] of two sets of rows."""
    unit = [rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (queries_QP, clips_NP)]
    return unit[0] @ unit[1].T


def quality(found_QN: np.ndarray, exact_QN: np.ndarray) -> Quality:
    """``found_QN`` measured against ``exact_QN``."""
    from scipy.stats import spearmanr

    chosen, wanted = _chosen(found_QN), _chosen(exact_QN)
    return Quality(
        spearman=float(np.mean([spearmanr(found_N, exact_N).statistic for found_N, exact_N in zip(found_QN, exact_QN, strict=True)])),
        spearman_all_pairs=float(spearmanr(found_QN.ravel(), exact_QN.ravel()).statistic),
        top_overlap=len(chosen & wanted) / len(wanted),
    )


def _chosen(influence_QN: np.ndarray) -> set[int]:
    from motive_pipeline.curation.vote import majority_vote, num_selected, ranking_order

    order = ranking_order(majority_vote([influence_QN.astype(np.float32)], 90.0))
    return set(order[: num_selected(influence_QN.shape[1], 0.1)].tolist())


def measured(run: Callable[[], object]) -> Cost:
    """What one call costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Cost(seconds=time.perf_counter() - wall, cpu_s=time.process_time() - cpu)


def ratios(ours: Sequence[Cost], against: Sequence[Cost]) -> dict[str, float]:
    """``ratio`` and ``ratio_cpu``: medians over rounds."""
    return {
        name: round(median(getattr(a, clock) / getattr(b, clock) for a, b in zip(ours, against, strict=True)), 4)
        for name, clock in (("ratio", "seconds"), ("ratio_cpu", "cpu_s"))
    }


def median_s(costs: Sequence[Cost]) -> float:
    """The median wall time."""
    return round(median(cost.seconds for cost in costs), 4)


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def resident_mb() -> float:
    """The resident memory of this process now."""
    return _status_kb("VmRSS") / 1000


def peak_growth_mb(run: Callable[[], object]) -> float:
    """How far the resident memory rises above what is held before, while ``run`` runs."""
    held = resident_mb()
    Path("/proc/self/clear_refs").write_text("5")
    run()
    return _status_kb("VmHWM") / 1000 - held


def tight_memory() -> dict[str, str]:
    """An environment in which freed blocks go straight back to the system, so that resident memory is what is in use."""
    return {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384"}


def _status_kb(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def report(title: str, lines: Sequence[Line], *, as_json: bool) -> None:
    """Print the lines, and how busy the machine was, as a table or as one JSON object."""
    load = os.getloadavg()
    if as_json:
        rows = [asdict(line) | {"verdict": line.verdict} for line in lines]
        print(json.dumps({"title": title, "load": load, "cores": os.cpu_count(), "lines": rows}))
        return
    print(f"{title}; load {load[0]:.1f} on {os.cpu_count()} cores")
    for line in lines:
        print(_text(line))
    sys.stdout.flush()


def _text(line: Line) -> str:
    parts = [f"{line.what} / {line.against}: {line.ratio:.3f}"]
    if line.ratio_cpu is not None:
        parts.append(f"processor time {line.ratio_cpu:.3f}")
    if line.at_most is not None:
        parts.append(f"at most {line.at_most:g}: {line.verdict}")
    if line.seconds:
        parts.append("{:.3f} s against {:.3f} s".format(*line.seconds))
    if line.peak_mb:
        parts.append("peak {:.0f} MB against {:.0f} MB".format(*line.peak_mb))
    parts += [f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in line.details.items()]
    return "  " + ", ".join(parts)
