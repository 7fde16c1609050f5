"""Image-to-video models of Wan through diffusers' WanImageToVideoPipeline: Wan 2.1 I2V, Wan 2.2 I2V A14B and Wan 2.2 TI2V 5B.

Every clip is told its own first frame. There are two ways, and the model's config says which:

* 36 channels: the denoiser takes the noisy latents, a mask of the given frames, and the latents of the first frame followed by grey. Wan 2.1 also takes
  the CLIP embedding of the first frame.
* ``expand_timesteps``: the first latent frame is the given one without noise, at timestep 0, and nothing is predicted for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import WanImageToVideoPipeline  # pyright: ignore[reportPrivateImportUsage]
from jaxtyping import Float, UInt8
from PIL import Image

from motive_pipeline.models.conditioning import Conditioning
from motive_pipeline.models.diffusers_model import finite_videos
from motive_pipeline.models.placement import in_turn, vacate
from motive_pipeline.models.wan import WanModel

FIRST_FRAME, IMAGE = "first_frame_latents", "image_embeds"


class WanImageModel(WanModel):
    """A ``WanImageToVideoPipeline`` behind the protocol."""

    starts_from_frame = True

    def __init__(self, pipeline: WanImageToVideoPipeline, **settings: Any) -> None:
        super().__init__(pipeline, **settings)
        self.predicts_first_frame = not pipeline.config["expand_timesteps"]
        self.embeds_image = pipeline.transformer.config.image_dim is not None
        if pipeline.image_encoder is not None:
            pipeline.image_encoder.requires_grad_(False)

    def encode_first_frame(self, frame_HWC: UInt8[np.ndarray, "H W 3"], num_frames: int) -> Conditioning:
        """``first_frame_latents``, with ``image_embeds`` [257, 1280] where the model takes them; float32 on the CPU, the pipeline's own to the bit.

        The latents are [C, 1, h, w] of the frame alone for TI2V, else [C, F, h, w] of the frame and ``num_frames`` - 1 grey ones.
        """
        image = Image.fromarray(frame_HWC)
        height, width = frame_HWC.shape[:2]
        vae = self._on_device("vae")
        with torch.no_grad():
            pixels = self.pipeline.video_processor.preprocess(image, height=height, width=width)
            video_BCTHW = pixels.to(self.device, torch.float32).unsqueeze(2)
            if self.predicts_first_frame:
                grey = video_BCTHW.new_zeros(1, 3, num_frames - 1, height, width)
                video_BCTHW = torch.cat([video_BCTHW, grey], dim=2)
            latents_BCFHW = vae.encode(video_BCTHW.to(vae.dtype)).latent_dist.mode().float()
            told = {FIRST_FRAME: self.normalised(latents_BCFHW)[0].cpu()}
            if self.embeds_image:
                self._on_device("image_encoder")
                told[IMAGE] = self.pipeline.encode_image(image, self.device)[0].float().cpu()
        return told

    def transformer_inputs(
        self, latents_BCFHW: Float[torch.Tensor, "B C F h w"], timestep_B: Float[torch.Tensor, " B"], conditioning: Conditioning
    ) -> dict[str, Any]:
        """The noisy latents with the first frame, the timesteps, and the embedding of the first frame."""
        given_BCFHW = conditioning[FIRST_FRAME].to(self.device, torch.float32)
        noisy_BCFHW = latents_BCFHW.to(self.device)
        timestep = timestep_B.to(self.device)
        if self.predicts_first_frame:
            hidden = torch.cat([noisy_BCFHW, self._mask(given_BCFHW), given_BCFHW], dim=1)
        else:
            hidden = torch.cat([given_BCFHW, noisy_BCFHW[:, :, 1:]], dim=2)
            num_given = self._num_tokens(given_BCFHW.shape)
            timestep = timestep[:, None].expand(-1, self._num_tokens(noisy_BCFHW.shape)).clone()
            timestep[:, :num_given] = 0
        inputs: dict[str, Any] = {"hidden_states": hidden.to(self.compute_dtype), "timestep": timestep}
        if self.embeds_image:
            inputs["encoder_hidden_states_image"] = conditioning[IMAGE].to(self.device, self.compute_dtype)
        return inputs

    def generate(
        self,
        prompts: Sequence[str],
        *,
        seeds: Sequence[int],
        num_frames: int,
        height: int,
        width: int,
        num_steps: int,
        guidance: float,
        first_frames: Sequence[UInt8[np.ndarray, "H W 3"]] = (),
    ) -> list[UInt8[np.ndarray, "T H W 3"]]:
        """One video for each (prompt, seed, first frame), one by one: the pipeline takes one image.

        Raises:
            RejectRow: ``non_finite_video``, when any of the videos holds NaN or infinity.
        """
        given = self._prompt_embeds([*prompts, ""] if guidance > 1 else prompts)
        self.pipeline.text_encoder.to("cpu")
        latents = []
        for prompt, seed, frame_HWC in zip(prompts, seeds, first_frames, strict=True):
            vacate(self.device)
            self._on_device("vae")
            if self.embeds_image:
                self._on_device("image_encoder")
            with in_turn(self._experts(), self.device, before=self.release_encoders):
                size = {"num_frames": num_frames, "height": height, "width": width}
                image = Image.fromarray(frame_HWC)
                latents.append(self._drawn(given, [prompt], [seed], num_steps=num_steps, guidance=guidance, image=image, **size))
        videos = [self._decode_sampled(each)[0] for each in latents]
        self.release_encoders()
        return finite_videos(videos)

    def _mask(self, given_BCFHW: Float[torch.Tensor, "B C F h w"]) -> Float[torch.Tensor, "B M F h w"]:
        """1 in the first latent frame, the one that is given; a channel for each frame of a latent frame."""
        batch, _, frames, height, width = given_BCFHW.shape
        mask = given_BCFHW.new_zeros(batch, self.grid.temporal_stride, frames, height, width)
        mask[:, :, 0] = 1
        return mask
