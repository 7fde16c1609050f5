"""What a stage needs and what the device has, in words, before the work; a setting that cannot fit is refused.

Importing this imports no torch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from motive_pipeline.config import Config
from motive_pipeline.config.comparison import Lora
from motive_pipeline.errors import GateFailed
from motive_pipeline.models.memory import StageName, stage_memory
from motive_pipeline.models.read_shapes import model_shape
from motive_pipeline.models.shapes import ModelShape

log = logging.getLogger(__name__)

GB = 1e9
MARGIN = 1.1
"""How far a prediction may lie above what the device has before the work is refused: predictions are off by a few per cent."""

_said: set[str] = set()
"""Sentences that this process has logged: a stage that loads many checkpoints says what it needs once."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a stage needs, and what the device has. ``advice`` says what would need less; empty where it fits."""

    stage: StageName
    need_gb: float
    have_gb: float
    device: str
    advice: str

    @property
    def fits(self) -> bool:
        """Whether the prediction is below what there is."""
        return self.need_gb <= self.have_gb

    @property
    def cannot_fit(self) -> bool:
        """Whether it is so far above that the work would fail."""
        return self.need_gb > MARGIN * self.have_gb

    def __str__(self) -> str:
        return f"{self.stage}: needs about {shown_gb(self.need_gb)}, {self.device} has {shown_gb(self.have_gb)}{self.advice}"


def shown_gb(gigabytes: float) -> str:
    """Gigabytes for a person: a decimal below ten."""
    return f"{gigabytes:.1f} GB" if gigabytes < 9.95 else f"{gigabytes:.0f} GB"


def require_memory(settings: Config, stage: StageName) -> None:
    """Say what ``stage`` needs, before it loads a model. Says nothing about a model whose shape is not known.

    Raises:
        GateFailed: the device cannot hold it; the message has both figures and the settings that need less.
    """
    shape = model_shape(settings.model)
    if shape is None:
        return
    total_gb, device, on_gpu = device_memory(settings.model.device)
    need = stage_need(shape, settings, stage, have_gb=total_gb, device=device, on_gpu=on_gpu)
    if need.cannot_fit:
        raise GateFailed(f"{need}.")
    if str(need) not in _said:
        _said.add(str(need))
        log.log(logging.INFO if need.fits else logging.WARNING, "%s.", need)


def stage_need(shape: ModelShape, settings: Config, stage: StageName, *, have_gb: float, device: str, on_gpu: bool) -> Need:
    """The need of ``stage`` beside what the device has."""

    def need_gb(of: Config) -> float:
        return stage_memory(shape, of, on_gpu=on_gpu)[stage].num_bytes / GB

    needed = need_gb(settings)
    advice = "" if needed <= have_gb else _advice(settings, stage, needed, need_gb)
    return Need(stage=stage, need_gb=needed, have_gb=have_gb, device=device, advice=advice)


def device_memory(name: str) -> tuple[float, str, bool]:
    """(gigabytes in all, words for the device, whether it is a GPU) of ``model.device``; main memory for a CPU."""
    import torch

    if name.startswith("cuda") or (name == "auto" and torch.cuda.is_available()):
        device = torch.device("cuda" if name == "auto" else name)
        return torch.cuda.mem_get_info(device)[1] / GB, "this GPU", True
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, "this machine's main memory", False


def _advice(settings: Config, stage: StageName, needed: float, need_gb: Any) -> str:
    """The settings that make the need smaller, and what is needed with all of them."""
    named, changed, least = [], settings, needed
    for words, section, update in _options(settings, stage):
        tried = changed.model_copy(update={section: getattr(changed, section).model_copy(update=update)})
        if (now := need_gb(tried)) < 0.99 * least:
            named.append(words)
            changed, least = tried, now
    smaller = "a smaller clips.num_frames, clips.width and clips.height" if stage != "latents" else "a smaller clips.width and clips.height"
    if not named:
        return f": use {smaller}, a smaller model or a larger device"
    together = "together" if len(named) > 1 else "with it"
    return f": use {', '.join(named)} ({together} about {shown_gb(least)}); or {smaller}"


def _options(settings: Config, stage: StageName) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(words, section, changed keys), the cheapest for the user first."""
    if stage == "finetune":
        yield "`finetune.micro_batch_size: 1`", "finetune", {"micro_batch_size": 1}
        yield "`finetune.checkpointing: true`", "finetune", {"checkpointing": True}
    if stage == "gradients":
        yield "`gradient.draws_at_once: 1`", "gradient", {"draws_at_once": 1}
        yield "`gradient.checkpointing: true`", "gradient", {"checkpointing": settings.gradient.checkpointing or True}
        yield "`gradient.checkpointing: full`", "gradient", {"checkpointing": "full"}
    if stage == "generate":
        yield "`generate.batch_size: 1`", "generate", {"batch_size": 1}
    yield "`model.dtype: bfloat16`", "model", {"dtype": "bfloat16"}
    if stage == "finetune":
        yield "`finetune.optimizer: adamw8bit`", "finetune", {"optimizer": "adamw8bit"}
        yield "`finetune.lora`", "finetune", {"lora": settings.finetune.lora or Lora()}
