"""Random clips, and a workspace with them, for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motive_pipeline.config import Finetune, load_config
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.loop import Clip
from tests.curation_fixtures import clip_names, publish_latents, publish_table

SETTINGS = Finetune(steps=6, batch_size=3, learning_rate=1e-3, caption_dropout=0.3, warmup_share=0.5)
WIDE, LONG = (2, 4, 4), (3, 4, 4)


def make_clips(shapes: dict[str, tuple[int, int, int]], seed: int = 0) -> dict[str, Clip]:
    """Random latents of 16 channels and prompt embeddings, by clip id."""
    random = np.random.default_rng(seed)
    return {
        clip_id: (
            torch.from_numpy(random.standard_normal((16, *shape), dtype=np.float32)),
            {"prompt_embeds": torch.from_numpy(random.standard_normal((8, 16), dtype=np.float32))},
        )
        for clip_id, shape in shapes.items()
    }


CLIPS = make_clips({clip_id: LONG if number % 4 == 0 else WIDE for number, clip_id in enumerate("abcdefgh")})
BY_SHAPE = {WIDE: list("bcdfgh"), LONG: list("ae")}


def state(model) -> dict[str, bytes]:
    return {name: value.float().numpy().tobytes() for name, value in model.transformer.state_dict().items()}


CONFIG = """
clips: {{source: demo, num_frames: 5, width: 32, height: 32}}
queries: {{source: demo}}
model: {model}
storage: {{root: {root}}}
engine: {{threads: 1}}
finetune: {finetune}
"""
FINETUNE = {"steps": 3, "batch_size": 2, "learning_rate": 1e-3}


def make_workspace(
    folder: Path, model: Path, *, root: str = "data", model_settings: dict[str, Any] | None = None, **finetune: Any
) -> Workspace:
    """A workspace below ``folder`` with latents of eight clips and the subsets of four arms; ``finetune`` and ``model_settings`` hold settings of their sections."""
    section = {"path": str(model), "dtype": "float32", "device": "cpu", "max_prompt_tokens": 8} | (model_settings or {})
    file = folder / f"{root}.yaml"
    file.write_text(CONFIG.format(model=json.dumps(section), root=root, finetune=json.dumps(FINETUNE | finetune)))
    ws = Workspace(load_config(file))
    names = clip_names(8)
    clips = dict(zip(names, CLIPS.values(), strict=True))
    publish_latents(
        ws,
        {name: clip[0].numpy() for name, clip in clips.items()},
        {name: clip[1]["prompt_embeds"].numpy() for name, clip in clips.items()},
    )
    for arm, chosen in {"full": names, "motive": names[:4], "random": names[3::-1], "no_mask": names[4:]}.items():
        publish_table(ws, f"curated_subset/{arm}", "subset", {"clip_id": chosen, "rank": list(range(1, len(chosen) + 1))})
    return ws
