"""A text-to-video pipeline of diffusers behind the protocol: what the families have in common.

A family is a subclass with its own latent statistics, prompt and call of the transformer: wan.py, ltx.py, cogvideox.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import numpy as np
import torch
import transformers
from jaxtyping import Float, UInt8

from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.errors import MotiveError, RejectRow
from motive_pipeline.internals.diffusers import compute_on
from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.folder import link_model
from motive_pipeline.models.input_rules import ComponentConfig, InputRules
from motive_pipeline.models.placement import in_turn, occupy, vacate
from motive_pipeline.models.protocol import Prediction

_PREDICTIONS: dict[str, Prediction] = {"flow_prediction": "flow", "epsilon": "epsilon", "v_prediction": "v"}
"""diffusers' name of what a scheduler expects -> ours. A scheduler of flow matching names none."""


class DiffusersModel:
    """A pipeline behind the protocol. ``expert`` is the component that is trained, ``source`` the folder the pipeline was loaded from, if it came from one.

    Transformer, VAE and text encoder move to ``device`` at their first use, and the latter two leave it with ``release_encoders`` and while the transformer
    samples. So a gradient pass over cached latents never holds them there, and computing latents holds no transformer. The VAE computes in the type it
    has, float32 as :func:`load_pipeline` loads it.

    Raises:
        MotiveError: the pipeline has no ``expert``, or predicts something unknown.
    """

    starts_from_frame: bool = False
    predicts_first_frame: bool = True
    rules: ClassVar[Callable[[ComponentConfig, ComponentConfig], InputRules]]
    """Reads what the models of this class take from the configs of VAE and transformer."""

    def __init__(
        self,
        pipeline: Any,
        *,
        device: torch.device,
        compute_dtype: torch.dtype,
        max_prompt_tokens: int,
        expert: str = "transformer",
        source: Path | None = None,
    ) -> None:
        transformer = getattr(pipeline, expert)
        if transformer is None:
            raise MotiveError(f"model.expert = {expert!r}: the model {source or ''} has no such component. Use transformer.")
        self.pipeline = pipeline
        self.expert = expert
        self.source = source
        self.device = device
        self.compute_dtype = compute_dtype
        self.max_prompt_tokens = max_prompt_tokens
        self.grid = type(self).rules(pipeline.vae.config, transformer.config).grid
        self.timestep_range = ALL_TIMESTEPS
        self.prediction: Prediction = prediction_of(pipeline)
        self.alphas_cumprod: torch.Tensor | None = None if self.prediction == "flow" else pipeline.scheduler.alphas_cumprod
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.requires_grad_(False)
        pipeline.text_encoder.requires_grad_(False)
        self.transformer: torch.nn.Module = transformer
        compute_on(pipeline, device)

    def normalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The VAE's latents as the transformer sees them."""
        raise NotImplementedError

    def denormalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The inverse of :meth:`normalised`."""
        raise NotImplementedError

    def encode_prompt(self, prompt: str) -> Conditioning:
        """What the transformer is told of ``prompt``, on the CPU."""
        raise NotImplementedError

    def encode_first_frame(self, frame_HWC: UInt8[np.ndarray, "H W 3"], num_frames: int) -> Conditioning:
        """What the transformer is told of the first frame of a clip of ``num_frames``: nothing."""
        return {}

    def predict(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        conditioning: Conditioning,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """The transformer's output in float32, differentiable; ``timestep_B`` is on the scale 0-1000."""
        occupy(self.transformer, self.device)
        return self.denoised(latents_BCFHW, timestep_B, conditioning)

    def denoised(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        conditioning: Conditioning,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """:meth:`predict` of a transformer that is on the device."""
        raise NotImplementedError

    def release_encoders(self) -> None:
        """Move the VAE, the text encoder and the image encoder, if there is one, to main memory; the next use brings them back."""
        for name in ("vae", "text_encoder", "image_encoder"):
            if (encoder := getattr(self.pipeline, name, None)) is not None:
                encoder.to("cpu")

    def sampled_latents(self, prompts: list[str], shape_CFHW: tuple[int, int, int, int], **call: Any) -> Float[torch.Tensor, "B C F h w"]:
        """Normalised latents that the pipeline draws for ``prompts``; ``call`` are arguments that the pipelines of all families take."""
        raise NotImplementedError

    def encode_video(self, frames_THWC: UInt8[np.ndarray, "T H W 3"]) -> Float[torch.Tensor, "C F h w"]:
        """Normalised latents, from the mode of the posterior, in float32 on the CPU."""
        vae = self._on_device("vae")
        video_BCTHW = torch.from_numpy(frames_THWC).to(self.device).permute(3, 0, 1, 2)[None].to(vae.dtype) / 127.5 - 1.0
        with torch.no_grad():
            return self.normalised(vae.encode(video_BCTHW).latent_dist.mode())[0].float().cpu()

    def decode_latents(self, latents_CFHW: Float[torch.Tensor, "C F h w"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Decode normalised latents to frames, as the pipeline does."""
        return to_uint8(self._decoded(latents_CFHW))

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int], num_frames: int, height: int, width: int, num_steps: int, guidance: float
    ) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """One video for each (prompt, seed): the latents of all in one batch through the pipeline, then decoded one by one.

        The noise of a video comes from its own seed. A batched forward pass rounds differently for another batch size, so equal bits need an
        equal batch size.

        Raises:
            RejectRow: ``non_finite_video``, when any of the videos holds NaN or infinity.
        """
        vacate(self.device)
        self._on_device("text_encoder")
        with in_turn([self.transformer], self.device, before=self.release_encoders):
            latents_BCFHW = self.sampled_latents(
                list(prompts),
                self.grid.shape(num_frames, height, width),
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
                num_frames=num_frames,
                height=height,
                width=width,
                num_inference_steps=num_steps,
                guidance_scale=guidance,
                max_sequence_length=self.max_prompt_tokens,
                output_type="latent",
            )
        videos = [self._decoded(latents_CFHW) for latents_CFHW in latents_BCFHW]
        self.release_encoders()
        return finite_videos(videos)

    def save(self, folder: Path) -> None:
        """Write the whole pipeline in diffusers' layout to ``folder``; see :func:`save_pipeline`."""
        save_pipeline(self.pipeline, folder, source=self.source, trained=self.expert)

    def vae_arguments(self) -> dict[str, Any]:
        """What the VAE's ``decode`` takes besides the latents of one video."""
        return {}

    def _decoded(self, latents_CFHW: Float[torch.Tensor, "C F h w"]) -> Float[np.ndarray, "T H W 3"]:
        """Frames in [0, 1]. A VAE that adds noise while it decodes adds the same noise to every video."""
        vae = self._on_device("vae")
        latents_BCFHW = self.denormalised(latents_CFHW[None].to(self.device, torch.float32)).to(vae.dtype)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            video_BCTHW = vae.decode(latents_BCFHW, **self.vae_arguments()).sample
        return (video_BCTHW[0].permute(1, 2, 3, 0).float() / 2 + 0.5).clamp(0, 1).cpu().numpy()

    def _on_device(self, name: str) -> Any:
        return getattr(self.pipeline, name).to(self.device)


def load_pipeline(kind: Any, folder: Path, *, compute_dtype: torch.dtype, shared: Mapping[str, Any] | None) -> Any:
    """The pipeline of class ``kind`` at ``folder``; its VAE and image encoder always compute in float32. ``shared`` components are not loaded."""
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    exact = ("vae", "image_encoder") if hasattr(kind, "encode_image") else ("vae",)
    dtypes = {"default": compute_dtype, **dict.fromkeys(exact, torch.float32)}
    return kind.from_pretrained(folder, dtype=dtypes, use_safetensors=True, local_files_only=True, **(shared or {}))


def require_one_expert(folder: Path, expert: str) -> None:
    """Raise :class:`MotiveError` unless ``expert`` (``model.expert``) is ``transformer``, the only one that the model at ``folder`` has."""
    if expert != "transformer":
        raise MotiveError(f"model.expert = {expert!r}: the model {folder} has one expert. Use transformer.")


def prediction_of(pipeline: Any) -> Prediction:
    """What the pipeline's transformer predicts, by its scheduler.

    Raises:
        MotiveError: something else than flow, noise or v.
    """
    kind = pipeline.scheduler.config.get("prediction_type", "flow_prediction")
    if kind not in _PREDICTIONS:
        raise MotiveError(f"the model's scheduler predicts {kind!r}; {', '.join(_PREDICTIONS)} are supported.")
    return _PREDICTIONS[kind]


def save_pipeline(pipeline: Any, folder: Path, *, source: Path | None, trained: str) -> None:
    """Write the whole pipeline in diffusers' layout to ``folder``.

    If the model came from the folder ``source``, only the component ``trained`` is written; every other file is a link to its source.
    """
    if source is None:
        pipeline.save_pretrained(folder)
        return
    link_model(source, folder, without=trained)
    getattr(pipeline, trained).save_pretrained(folder / trained)


def finite_videos(videos: Iterable[Float[np.ndarray, "T H W 3"]]) -> list[UInt8[np.ndarray, "T H W 3"]]:
    """Sampled frames in [0, 1] as RGB.

    Raises:
        RejectRow: ``non_finite_video``, when any of the videos holds NaN or infinity.
    """
    drawn = list(videos)
    if not all(np.isfinite(video).all() for video in drawn):
        raise RejectRow("non_finite_video", "the model drew frames that hold NaN or infinity")
    return [to_uint8(video) for video in drawn]


def to_uint8(video_THWC: np.ndarray) -> np.ndarray:
    """[0, 1] to 0 ... 255, rounded."""
    return np.round(video_THWC * 255.0).astype(np.uint8)
