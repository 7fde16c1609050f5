"""Wan 2.1 and 2.2 text-to-video models through diffusers' WanPipeline: :class:`WanModel` is a ``protocol.VideoModel``. wan_image.py: image-to-video.

Everything that differs between checkpoints (strides, latent channels, latent mean and deviation, per-token timesteps, a second expert)
is read from the checkpoint's own config, so the embedded tiny model and the released ones take the same path.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from motive_pipeline.config.timesteps import expert_range
from motive_pipeline.models.conditioning import PROMPT, Conditioning
from motive_pipeline.models.diffusers_model import DiffusersModel, finite_videos
from motive_pipeline.models.input_rules import wan_rules
from motive_pipeline.models.placement import in_turn, vacate
from motive_pipeline.models.wan_attention import use_lean_attention

Expert = Literal["transformer", "transformer_2"]

KEPT_EMBEDDINGS = 128
"""Prompts of generated videos whose embeddings are kept in main memory: 4 MB each for Wan 2.1 in bfloat16."""


class WanModel(DiffusersModel):
    """A ``WanPipeline`` behind the protocol. A model with two experts is used at the timesteps of the one that is trained."""

    rules = staticmethod(wan_rules)

    def __init__(self, pipeline: Any, *, expert: Expert = "transformer", **settings: Any) -> None:
        super().__init__(pipeline, expert=expert, **settings)
        has_second = pipeline.transformer_2 is not None
        self.timestep_range = expert_range(
            is_second=expert == "transformer_2", boundary_ratio=pipeline.config["boundary_ratio"] if has_second else None
        )
        for denoiser in filter(None, (pipeline.transformer, pipeline.transformer_2)):
            use_lean_attention(denoiser)

    def normalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The VAE's latents as the transformer sees them: (latents - latents_mean) / latents_std."""
        mean, inverse_std = self._latent_statistics(latents_BCFHW)
        return (latents_BCFHW - mean) * inverse_std

    def denormalised(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B C F h w"]:
        """The inverse of :meth:`normalised`."""
        mean, inverse_std = self._latent_statistics(latents_BCFHW)
        return latents_BCFHW / inverse_std + mean

    def encode_prompt(self, prompt: str) -> Conditioning:
        """WanPipeline's own embedding of ``prompt``: cleaned, cut or zero-padded to ``max_prompt_tokens``; float32 on the CPU."""
        self._on_device("text_encoder")
        with torch.no_grad():
            embedding_BLE, _ = self.pipeline.encode_prompt(
                prompt, do_classifier_free_guidance=False, max_sequence_length=self.max_prompt_tokens, device=self.device
            )
        return {PROMPT: embedding_BLE[0].float().cpu()}

    def denoised(
        self,
        latents_BCFHW: Float[torch.Tensor, "B C F h w"],
        timestep_B: Float[torch.Tensor, " B"],
        conditioning: Conditioning,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """The denoiser's output in float32, differentiable; ``timestep_B`` is on the scale 0-1000."""
        output = self.transformer(
            **self.transformer_inputs(latents_BCFHW, timestep_B, conditioning),
            encoder_hidden_states=conditioning[PROMPT].to(self.device, self.compute_dtype),
            return_dict=False,
        )
        return output[0].float()

    def transformer_inputs(
        self, latents_BCFHW: Float[torch.Tensor, "B C F h w"], timestep_B: Float[torch.Tensor, " B"], conditioning: Conditioning
    ) -> dict[str, Any]:
        """What the denoiser is given besides the prompt; of ``conditioning`` a text-to-video model takes nothing more."""
        timestep = timestep_B.to(self.device)
        if self.pipeline.config["expand_timesteps"]:
            timestep = timestep[:, None].expand(-1, self._num_tokens(latents_BCFHW.shape))
        return {"hidden_states": latents_BCFHW.to(self.device, self.compute_dtype), "timestep": timestep}

    def generate(
        self, prompts: Sequence[str], *, seeds: Sequence[int], num_frames: int, height: int, width: int, num_steps: int, guidance: float
    ) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """One video for each (prompt, seed), all in one batch through WanPipeline.

        The noise of a video comes from its own seed. A batched forward pass rounds differently for another batch size, so equal bits need an
        equal batch size.

        Raises:
            RejectRow: ``non_finite_video``, when any of the videos holds NaN or infinity.
        """
        given = self._prompt_embeds([*prompts, ""] if guidance > 1 else prompts)
        self.release_encoders()
        with in_turn(self._experts(), self.device):
            size = {"num_frames": num_frames, "height": height, "width": width}
            latents_BCFHW = self._drawn(given, prompts, seeds, num_steps=num_steps, guidance=guidance, **size)
        frames_BTHWC = self._decode_sampled(latents_BCFHW)
        self.release_encoders()
        return finite_videos(frames_BTHWC)

    def _drawn(
        self,
        given: Mapping[str, Float[torch.Tensor, "L E"]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        num_steps: int,
        guidance: float,
        **call: Any,
    ) -> Float[torch.Tensor, "B C F h w"]:
        """The latents that the pipeline draws. ``given`` has the embedding of each prompt, ``call`` its further arguments."""
        output: Any = self.pipeline(
            prompt_embeds=torch.stack([given[prompt] for prompt in prompts]),
            negative_prompt_embeds=torch.stack([given[""]] * len(prompts)) if guidance > 1 else None,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            num_inference_steps=num_steps,
            guidance_scale=guidance,
            output_type="latent",
            **call,
        )
        return output.frames

    def _experts(self) -> list[torch.nn.Module]:
        return [expert for expert in (self.pipeline.transformer, self.pipeline.transformer_2) if expert is not None]

    def _prompt_embeds(self, prompts: Sequence[str]) -> dict[str, Float[torch.Tensor, "L E"]]:
        """The embedding of each prompt on the device. Models that share a text encoder encode a prompt once."""
        kept = _embeddings.setdefault(self.pipeline.text_encoder, {})
        missing = [prompt for prompt in dict.fromkeys(prompts) if (prompt, self.max_prompt_tokens) not in kept]
        if missing:
            vacate(self.device)
        if len(kept) + len(missing) > KEPT_EMBEDDINGS:
            kept.clear()
            missing = list(dict.fromkeys(prompts))
        kept.update({(prompt, self.max_prompt_tokens): self.encode_prompt(prompt)[PROMPT].to(self.compute_dtype) for prompt in missing})
        return {prompt: kept[prompt, self.max_prompt_tokens].to(self.device) for prompt in prompts}

    def _decode_sampled(self, latents_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[np.ndarray, "B T H W 3"]:
        """Frames in [0, 1] from a sampler's latents: WanPipeline's own last step."""
        vae = self._on_device("vae")
        latents = self.denormalised(latents_BCFHW.to(self.device, vae.dtype))
        with torch.no_grad():
            video = vae.decode(latents, return_dict=False)[0]
        frames: Any = self.pipeline.video_processor.postprocess_video(video, output_type="np")
        return frames

    def _latent_statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``latents_mean`` and ``1 / latents_std``, shaped [1, C, 1, 1, 1]."""
        config = self.pipeline.vae.config
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1).to(like)
        return mean, (1.0 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1)).to(like)

    def _num_tokens(self, shape_BCFHW: Sequence[int]) -> int:
        patch_FHW = getattr(self.pipeline, self.expert).config.patch_size
        frames, height, width = (size // patch for size, patch in zip(shape_BCFHW[2:], patch_FHW, strict=True))
        return frames * height * width


_embeddings: weakref.WeakKeyDictionary[torch.nn.Module, dict[tuple[str, int], torch.Tensor]] = weakref.WeakKeyDictionary()
"""By text encoder: the embedding of (prompt, number of tokens) in main memory."""
