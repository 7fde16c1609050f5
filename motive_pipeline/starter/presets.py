"""The settings that each known model needs: frames, sides, precision, training. They are those of the repository's ``configs/``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from motive_pipeline.errors import MotiveError
from motive_pipeline.graph.families import FAMILIES
from motive_pipeline.models.folder import model_family
from motive_pipeline.models.other_formats import refuse_other_formats
from motive_pipeline.models.whole import Flaw, read_json

TINY = "tiny"

_FINETUNE: Mapping[str, Any] = {"seeds": 3, "steps": 1000, "batch_size": 8, "micro_batch_size": 1, "learning_rate": 1.0e-5}
_LORA: Mapping[str, Any] = {**_FINETUNE, "lora": {"rank": 32, "alpha": 32}, "learning_rate": 1.0e-4}
_GENERATE: Mapping[str, Any] = {"num_steps": 50, "guidance": 5.0, "batch_size": 1}
_WIDE: Mapping[str, Any] = {"proj_dim": 2048}


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What a model needs of a config. ``names`` is a regular expression over hub ids; ``clips`` to ``generate`` are sections of the config.

    ``config`` is the file of the repository's ``configs/`` that has the same settings; ``frames`` says why ``clips.num_frames`` is what it is.
    """

    config: str
    label: str
    hub_id: str
    names: str
    frames: str
    clips: Mapping[str, Any]
    model: Mapping[str, Any]
    gradient: Mapping[str, Any] = field(default_factory=lambda: {"checkpointing": True})
    influence: Mapping[str, Any] = field(default_factory=dict)
    finetune: Mapping[str, Any]
    generate: Mapping[str, Any]

    @property
    def frame_step(self) -> int:
        """A clip has a multiple of this many frames, and one."""
        return self.clips.get("frame_step", 4)

    @property
    def is_plumbing(self) -> bool:
        """Whether the model knows nothing of real videos."""
        return self.hub_id == TINY


def _wan(width: int, height: int, num_frames: int = 81, fps: int = 16) -> dict[str, Any]:
    return {"num_frames": num_frames, "fps": fps, "width": width, "height": height}


PRESETS = (
    Preset(
        config="tiny.yaml",
        label="the embedded tiny model",
        hub_id=TINY,
        names=TINY,
        frames="the model's own length: clips of one second or more",
        clips=_wan(64, 64, 17),
        model={"dtype": "float32", "max_prompt_tokens": 32},
        gradient={},
        finetune={"seeds": 3, "steps": 60, "learning_rate": 5.0e-4, "shift": 1.0},
        generate={"num_steps": 20, "guidance": 2.0, "batch_size": 8},
    ),
    Preset(
        config="wan2.1-t2v-1.3b.yaml",
        label="Wan 2.1 1.3B",
        hub_id="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        names=r"wan2\.1.*1\.3b",
        frames="the model's own length; other lengths give worse videos",
        clips=_wan(832, 480),
        model={"dtype": "bfloat16"},
        influence=_WIDE,
        finetune={**_FINETUNE, "shift": 3.0, "checkpointing": True},
        generate=_GENERATE,
    ),
    Preset(
        config="wan2.1-t2v-14b-lora.yaml",
        label="Wan 2.1 14B",
        hub_id="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        names=r"wan2\.1.*14b",
        frames="the model's own length; other lengths give worse videos",
        clips=_wan(832, 480),
        model={"dtype": "bfloat16"},
        influence=_WIDE,
        finetune={**_LORA, "shift": 3.0, "checkpointing": True},
        generate=_GENERATE,
    ),
    Preset(
        config="wan2.2-ti2v-5b.yaml",
        label="Wan 2.2 5B",
        hub_id="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        names=r"wan2\.2.*5b",
        frames="two seconds; the model was trained up to 121, which cost three times as much",
        clips=_wan(1280, 704, 49, 24),
        model={"dtype": "bfloat16"},
        influence=_WIDE,
        finetune={**_FINETUNE, "shift": 5.0, "checkpointing": True},
        generate=_GENERATE,
    ),
    Preset(
        config="wan2.2-t2v-a14b-lora.yaml",
        label="Wan 2.2 A14B",
        hub_id="Wan-AI/Wan2.2-T2V-A14B-Diffusers",
        names=r"wan2\.2.*a14b",
        frames="the model's own length; other lengths give worse videos",
        clips=_wan(832, 480),
        model={"expert": "transformer", "dtype": "bfloat16"},
        influence=_WIDE,
        finetune={**_LORA, "shift": 3.0, "checkpointing": True},
        generate=_GENERATE,
    ),
    Preset(
        config="ltx-video-2b.yaml",
        label="LTX-Video 2B",
        hub_id="Lightricks/LTX-Video",
        names=r"ltx-video(?!.*13b)",
        frames="8n+1, four seconds",
        clips={"num_frames": 97, "frame_step": 8, "fps": 24, "width": 704, "height": 480},
        model={"dtype": "bfloat16", "max_prompt_tokens": 128},
        finetune={**_FINETUNE, "checkpointing": True},
        generate={**_GENERATE, "guidance": 3.0},
    ),
    Preset(
        config="cogvideox-2b.yaml",
        label="CogVideoX 2B",
        hub_id="zai-org/CogVideoX-2b",
        names=r"cogvideox-[25]b",
        frames="8n+1, six seconds: the model's own length",
        clips={"num_frames": 49, "frame_step": 8, "fps": 8, "width": 720, "height": 480},
        model={"dtype": "bfloat16", "max_prompt_tokens": 226},
        finetune={**_FINETUNE, "shift": 1.0, "checkpointing": True},
        generate={**_GENERATE, "guidance": 6.0},
    ),
)
"""In the order in which they are shown."""


def preset_for(model: str) -> Preset:
    """The preset of ``model``: ``tiny``, a hub id, or a folder in diffusers' format.

    Raises:
        MotiveError: no preset fits; the message names those that there are.
    """
    folder = Path(os.path.expanduser(model))
    if model != TINY and folder.is_dir():
        return _preset_of_folder(folder, f"--model {model}")
    for preset in PRESETS:
        if re.fullmatch(f"(.*/)?{preset.names}.*", model, re.IGNORECASE):
            return preset
    if model.startswith((".", "/", "~")):
        raise MotiveError(f"--model {model}: there is no such folder. Correct the path, or name a model of the hub.")
    known = ", ".join(preset.hub_id for preset in PRESETS)
    raise MotiveError(
        f"--model {model}: no settings are known for this model. Known: {known}. Of another model of these families, name the folder on this machine: "
        "its files say what it needs (docs/models.md)."
    )


def _preset_of_folder(folder: Path, what: str) -> Preset:
    """The preset for a model on this machine, by its family and its shape."""
    refuse_other_formats(folder, what)
    family = model_family(folder, what)
    try:
        vae, transformer = (read_json(folder / name / "config.json") for name in ("vae", "transformer"))
    except Flaw as flaw:
        raise MotiveError(f"{what}: {flaw}") from flaw
    if not family.pipeline.startswith("Wan"):
        return _by_config("ltx-video-2b.yaml" if family is FAMILIES["LTXPipeline"] else "cogvideox-2b.yaml")
    if vae.get("z_dim") == 48:
        return _by_config("wan2.2-ti2v-5b.yaml")
    if transformer.get("num_layers", 0) < 40:
        return _by_config("wan2.1-t2v-1.3b.yaml")
    return _by_config("wan2.2-t2v-a14b-lora.yaml" if (folder / "transformer_2").is_dir() else "wan2.1-t2v-14b-lora.yaml")


def _by_config(name: str) -> Preset:
    return next(preset for preset in PRESETS if preset.config == name)
