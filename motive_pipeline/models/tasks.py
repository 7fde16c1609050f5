"""Whether a model starts from a prompt alone or also from a first frame. Importing this imports no torch.

The files of most models decide it. Wan 2.2 TI2V 5B does both, so ``model.task`` chooses.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from motive_pipeline import config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import resolve_dotted
from motive_pipeline.graph.families import ModelFamily
from motive_pipeline.models.whole import read_json

Task = Literal["text_to_video", "image_to_video"]


def wan_tasks(index: Mapping[str, Any], vae: Mapping[str, Any], transformer: Mapping[str, Any]) -> tuple[Task, ...]:
    """What a Wan model can do, the usual task first, by its ``model_index.json`` and the configs of its VAE and transformer.

    A transformer for image-to-video takes the latents, a mask with a channel for each frame of a latent frame, and the latents of the first frame:
    16 + 4 + 16 = 36 channels. With ``expand_timesteps`` (TI2V 5B) the first latent frame is given in place, so the channels are those of the latents.

    Raises:
        MotiveError: it starts from something else, or needs a last frame, too.
    """
    if transformer.get("pos_embed_seq_len") is not None:
        raise MotiveError(
            "the model interpolates between a first and a last frame (its transformer has a pos_embed_seq_len), which is not supported. Use an I2V model"
        )
    channels, taken = vae.get("z_dim", 16), transformer.get("in_channels", 16)
    with_frame = 2 * channels + vae.get("scale_factor_temporal", 4)
    if taken == with_frame:
        return ("image_to_video",)
    is_image_class = index.get("_class_name") == "WanImageToVideoPipeline"
    if taken == channels and index.get("expand_timesteps"):
        return ("image_to_video", "text_to_video") if is_image_class else ("text_to_video", "image_to_video")
    if taken == channels and not is_image_class:
        return ("text_to_video",)
    raise MotiveError(
        f"its transformer takes {taken} channels (in_channels), and its VAE gives {channels}. Supported are {channels} (text-to-video) and {with_frame} "
        "(image-to-video: latents, mask, first frame); models that start from a pose, a mask or a control video are not"
    )


def model_task(model: config.Model, family: ModelFamily, folder: Path, what: str) -> Task:
    """``model.task`` for the model of ``family`` at ``folder``; ``auto`` is what its files say. ``what`` names the model in messages.

    Raises:
        MotiveError: the model cannot do that, or is of a kind that its family does not support.
    """
    possible: tuple[Task, ...] = ("text_to_video",)
    if family.tasks is not None:
        files = (folder / "model_index.json", *(folder / name / "config.json" for name in ("vae", "transformer")))
        try:
            possible = resolve_dotted(family.tasks)(*(read_json(file) for file in files))
        except MotiveError as error:
            raise MotiveError(f"{what}: {error}.") from error
    if model.task == "auto":
        return possible[0]
    if model.task not in possible:
        raise MotiveError(f"model.task = {model.task!r}, but the model ({what}) can do {' or '.join(possible)} alone. Use auto.")
    return model.task
