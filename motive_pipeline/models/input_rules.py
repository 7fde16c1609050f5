"""What a model takes: its latent grid, how many frames, which sides and how many prompt tokens. Importing this module imports no torch.

Each family has a function here that reads the rules from the config files of its VAE and its transformer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from motive_pipeline import config
from motive_pipeline.errors import MotiveError
from motive_pipeline.models.grid import LatentGrid

ComponentConfig = Mapping[str, Any]
"""The ``config.json`` of a component."""


@dataclass(frozen=True, kw_only=True)
class InputRules:
    """What a model takes.

    Clips have n * ``frame_step`` + 1 frames; both sides are multiples of ``side_multiple`` pixels (stride of the VAE times patch of the
    transformer); ``prompt_tokens`` is (fewest, most) of ``model.max_prompt_tokens``, None where the model does not care.
    """

    grid: LatentGrid
    frame_step: int
    side_multiple: int
    prompt_tokens: tuple[int, int] | None = None


def wan_rules(vae: ComponentConfig, transformer: ComponentConfig) -> InputRules:
    """Wan 2.1 (stride 8, patch 2: sides of 16) and 2.2 (5B: stride 16, sides of 32).

    A transformer with image embeddings (2.1 I2V) tells them from the prompt by counting 512 tokens from the end.
    """
    temporal, spatial = vae.get("scale_factor_temporal", 4), vae.get("scale_factor_spatial", 8)
    _, *patch_HW = transformer.get("patch_size", (1, 2, 2))
    grid = LatentGrid(channels=vae.get("z_dim", 16), temporal_stride=temporal, spatial_stride=spatial)
    tokens = None if transformer.get("image_dim") is None else (512, 512)
    return InputRules(grid=grid, frame_step=temporal, side_multiple=spatial * max(patch_HW), prompt_tokens=tokens)


def ltx_rules(vae: ComponentConfig, transformer: ComponentConfig) -> InputRules:
    """LTX-Video: strides 8 in time and 32 in space. Prompts were at most 128 tokens in its training."""
    halvings = sum(vae.get("spatio_temporal_scaling", (True, True, True, False)))
    temporal = vae.get("temporal_compression_ratio") or vae.get("patch_size_t", 1) * 2**halvings
    spatial = vae.get("spatial_compression_ratio") or vae.get("patch_size", 4) * 2**halvings
    if transformer.get("patch_size_t", 1) != 1:
        raise MotiveError(
            "models of LTX-Video with a temporal patch (patch_size_t) other than 1 are not supported: none has been published."
        )
    grid = LatentGrid(channels=vae.get("latent_channels", 128), temporal_stride=temporal, spatial_stride=spatial)
    return InputRules(grid=grid, frame_step=temporal, side_multiple=spatial * transformer.get("patch_size", 1), prompt_tokens=(1, 128))


def cogvideox_rules(vae: ComponentConfig, transformer: ComponentConfig) -> InputRules:
    """CogVideoX 2B and 5B: strides 4 and 8, patch 2, 226 prompt tokens, no more and no less.

    Their VAE decodes latent frames in pairs, with the first one alone, so only an odd number of them gives back the frames that went in: 8n+1.

    Raises:
        MotiveError: a CogVideoX 1.5 (``patch_size_t``), which pads its latents in time.
    """
    if transformer.get("patch_size_t") is not None:
        raise MotiveError(
            "this is a CogVideoX 1.5 (its transformer has a patch_size_t), which is not supported. Use CogVideoX-2b or CogVideoX-5b."
        )
    temporal, spatial = int(vae.get("temporal_compression_ratio", 4)), 2 ** (len(vae.get("block_out_channels", range(4))) - 1)
    grid = LatentGrid(channels=vae.get("latent_channels", 16), temporal_stride=temporal, spatial_stride=spatial)
    tokens = transformer.get("max_text_seq_length", 226)
    return InputRules(
        grid=grid, frame_step=2 * temporal, side_multiple=spatial * transformer.get("patch_size", 2), prompt_tokens=(tokens, tokens)
    )


def require_fitting_settings(rules: InputRules, settings: config.Config, what: str) -> None:
    """Check that clips have sizes that the model takes, and prompts a length that it takes.

    Raises:
        MotiveError: some do not; the message has every such setting, with the nearest values that fit. ``what`` names the model.
    """
    wrong = [*_wrong_sides(rules, settings.clips), *_wrong_frames(rules, settings.clips), *_wrong_tokens(rules, settings.model)]
    if wrong:
        raise MotiveError(f"the settings do not fit the model ({what}): {'; '.join(wrong)}.")


def _wrong_sides(rules: InputRules, clips: config.Clips) -> Iterator[str]:
    multiple = rules.side_multiple
    for name in ("width", "height"):
        side = getattr(clips, name)
        if side % multiple:
            nearest = _nearest(side, multiple, 0)
            yield f"clips.{name} = {side}, but its sides are multiples of {multiple} pixels; the nearest that fit: {nearest}"


def _wrong_frames(rules: InputRules, clips: config.Clips) -> Iterator[str]:
    step = rules.frame_step
    for name in ("num_frames", "min_frames"):
        count = getattr(clips, name)
        if count is not None and (count - 1) % step:
            yield f"clips.{name} = {count}, but it takes {step}n+1 frames; the nearest that fit: {_nearest(count, step, 1)}"
    shorter = clips.min_frames is not None and clips.min_frames < clips.num_frames
    if shorter and clips.frame_step % step:
        yield (
            f"clips.frame_step = {clips.frame_step}, so clips shorter than clips.num_frames give {clips.frame_step}n+1 frames, but it takes "
            f"{step}n+1; set clips.frame_step: {step}, or leave out clips.min_frames"
        )


def _wrong_tokens(rules: InputRules, model: config.Model) -> Iterator[str]:
    if rules.prompt_tokens is None:
        return
    fewest, most = rules.prompt_tokens
    if not fewest <= model.max_prompt_tokens <= most:
        allowed = f"exactly {most}" if fewest == most else f"{fewest} to {most}"
        yield f"model.max_prompt_tokens = {model.max_prompt_tokens}, but it takes {allowed}; set model.max_prompt_tokens: {most}"


def _nearest(value: int, step: int, first: int) -> str:
    """The values of ``first``, ``first`` + ``step`` ... next to ``value`` below and above."""
    below = value - (value - first) % step
    return f"{below + step}" if below <= 0 else f"{below} and {below + step}"
