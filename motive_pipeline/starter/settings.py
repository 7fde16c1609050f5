"""The text of a new config: the preset of a model, with the folders of a person in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from motive_pipeline.curation.vote import num_selected
from motive_pipeline.starter.look import Look
from motive_pipeline.starter.presets import PRESETS, TINY, Preset

_SHARE = 0.10
_COMMENT_COLUMN = 28
_KEPT_SHARE = 0.95
"""The share of the clips that ``clips.min_frames`` is to let pass, where some are shorter than ``clips.num_frames``."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of videos, as the config names it, and what was found in it."""

    path: str
    source: str
    table: str | None = None
    look: Look


def settings_text(
    *, file: Path, preset: Preset, model: str, clips: Folder, queries: Folder, held_out: Folder | None, min_frames: int | None
) -> str:
    """The config, with a comment beside each key that a newcomer changes."""
    lengths = clips.look.num_frames
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["value"] = _value
    template = environment.from_string(Path(__file__).with_name("my.yaml.j2").read_text(encoding="utf-8"))
    text = template.render(
        name=file.name,
        root=f"motive_data/{file.stem}",
        preset=preset,
        model=model,
        hub_id=next(each.hub_id for each in PRESETS if each.hub_id != TINY),
        clips=clips,
        queries=queries,
        held_out=held_out,
        min_frames=min_frames,
        num_short=sum(length < preset.clips["num_frames"] for length in lengths),
        num_opened=len(lengths),
        num_clips=clips.look.num_videos,
        num_chosen=num_selected(clips.look.num_videos, _SHARE),
    )
    return "\n".join(_aligned(line) for line in text.splitlines()) + "\n"


def _aligned(line: str) -> str:
    """``line`` with the comment behind its value in the column in which the others are."""
    value, mark, comment = line.partition("    # ")
    return f"{value:{_COMMENT_COLUMN}} # {comment}" if mark and value.strip() else line


def fitting_min_frames(preset: Preset, clips: Sequence[int], queries: Sequence[int]) -> int | None:
    """The value of ``clips.min_frames`` with which all queries and nearly all clips of these lengths are long enough.

    None if no clip is too short for ``clips.num_frames``, or if the shortest would give a single latent frame, which shows no motion.
    """
    lengths = sorted(clips)
    if not lengths or min(*lengths, *queries, preset.clips["num_frames"]) == preset.clips["num_frames"]:
        return None
    shortest = min([lengths[int((1 - _KEPT_SHARE) * (len(lengths) - 1))], *queries, preset.clips["num_frames"]])
    fitting = shortest - (shortest - 1) % preset.frame_step
    return fitting if preset.frame_step < fitting < preset.clips["num_frames"] else None


def _value(value: Any) -> str:
    """``value`` as YAML in one line."""
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6).removesuffix("\n").removesuffix("\n...")
