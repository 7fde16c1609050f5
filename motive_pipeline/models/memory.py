"""The peak memory of each stage, computed from shapes before any work. Importing this imports no torch.

Activations are counted, not guessed: what autograd saves for one block of Wan (``tests/models/test_memory.py`` counts it anew), in bytes for each
token and entry of the width D or of the feed-forward F. The constants of the VAE were measured on a CPU
(``python -m benchmarks.memory``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from motive_pipeline.config import Config
from motive_pipeline.models.shapes import DenoiserShape, ModelShape

StageName = Literal["latents", "gradients", "finetune", "generate", "scores"]
STAGES: tuple[StageName, ...] = ("latents", "gradients", "finetune", "generate", "scores")

FLOAT32, BFLOAT16 = 4.0, 2.0
SAVED_ALIKE, SAVED_FLOAT32, SAVED_FFN, SAVED_ROTARY = 10, 12, 2, 4
"""Saved by a block in bfloat16, in tensors of T x D: those in the model's dtype, those in float32; of T x F; and bytes for each token and entry of a head.
In float32 three of them are the same tensor."""
SAME_IN_FLOAT32 = 3
SAVED_PROMPT_BYTES = 12
"""For each prompt token and entry of D."""
SAVED_IMAGE_ALIKE, IMAGE_TOKENS = 2, 257
"""Where cross-attention has keys of an image, too: tensors of T x D more, one of them twice in float32, and the tokens of the image."""
OUTSIDE_BYTES = 11.0
"""Saved outside the blocks, for each token and entry of D: embedding, last norm, output."""
TOKEN_TIME_BLOCK_BYTES, TOKEN_TIME_OUTSIDE_BYTES, TOKEN_TIME_GRADIENT_BYTES = 32.0, 28.0, 24.0
"""On top of these where every token has a timestep of its own: six modulation vectors a token, in float32."""
FORWARD_TENSORS, FORWARD_FFN = 7.1, 2.0
"""Alive at once in a block without autograd: tensors of T x D in float32, or of T x F in the model's dtype."""
VAE_ENCODE_BYTES, VAE_DECODE_BYTES, VAE_FIXED_BYTES = 140.0, 212.0, 50e6
"""For each pixel of a frame (for each square of ``patch`` pixels) and channel of the outermost layer, in float32; whatever the number of frames."""
VIDEO_COPIES = 3
"""Float32 copies of a video, in pixels, while it is encoded or decoded."""
GPU_OVERHEAD_BYTES = 1e9
"""CUDA's context, kernels and what its allocator cannot use. Not measured."""
CPU_OVERHEAD_BYTES = 35e6
"""What a process takes on a CPU for itself while it loads a model and works."""
VAE_ENCODER_SHARE = 0.42
"""Of the VAE's weights. On a CPU weights are mapped from their files, so those that nothing has touched take no memory."""
ADAM_BYTES = {"adamw": 2 * FLOAT32, "adamw8bit": 2.0}


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The peak of a stage in bytes, by what it is made of."""

    parts: Mapping[str, float]

    @property
    def num_bytes(self) -> float:
        """All of it."""
        return sum(self.parts.values())


def stage_memory(shape: ModelShape, settings: Config, *, on_gpu: bool) -> dict[StageName, Memory]:
    """The peak of each stage on the device; on a CPU in main memory, above what the process holds before there is a model."""
    stages = _Stages(shape, settings, on_gpu=on_gpu)
    return {
        "latents": stages.latents(),
        "gradients": stages.gradients(),
        "finetune": stages.finetune(),
        "generate": stages.generate(),
        "scores": stages.scores(),
    }


def lora_parameters(denoiser: DenoiserShape, targets: str, rank: int) -> int:
    """The entries of the low-rank adapters on the Linear layers that ``targets`` matches whole."""
    return sum(rank * (rows + columns) for name, rows, columns in denoiser.linears if re.fullmatch(targets, name))


class _Stages:
    """What :func:`stage_memory` adds up, for one model and config."""

    def __init__(self, shape: ModelShape, settings: Config, *, on_gpu: bool) -> None:
        self.shape, self.settings, self.on_gpu = shape, settings, on_gpu
        self.size = BFLOAT16 if settings.model.dtype == "bfloat16" else FLOAT32
        self.tokens = shape.num_tokens(settings.clips.num_frames, settings.clips.height, settings.clips.width)
        self.pixels = settings.clips.height * settings.clips.width

    def latents(self) -> Memory:
        """Encoders, and a clip in the VAE; no denoiser."""
        return self._memory(
            {
                "text encoder": self._text,
                "image encoder": self._image,
                "VAE": self._vae_used(VAE_ENCODER_SHARE),
                "encoding a clip": self._vae_pass("encode"),
            }
        )

    def gradients(self) -> Memory:
        """One pass over a clip. A parameter's gradient is projected and freed as soon as it is there."""
        gradient = self.settings.gradient
        at_once = 1 if gradient.combine == "mean_cosine" else min(gradient.draws_at_once, gradient.draws or gradient.num_noises)
        denoiser = self.shape.denoiser
        scales = FLOAT32 * denoiser.parameters if self.settings.influence.uses_adam else 0.0
        return self._memory(
            {
                "denoiser": self._weights,
                "activations": self._activations(at_once, gradient.checkpointing),
                "gradient of one parameter": denoiser.largest * (self.size + FLOAT32),
                "Adam's diagonal": scales,
            }
        )

    def finetune(self) -> Memory:
        """The larger of: backward with what the optimizer holds, and the optimizer's step."""
        tuning = self.settings.finetune
        micro = tuning.micro_batch_size or tuning.batch_size
        trained = self._trained_parameters()
        is_copied = tuning.lora is None and self.size == BFLOAT16
        gradients = FLOAT32 * trained + (BFLOAT16 * trained if is_copied else 0.0)
        earlier = FLOAT32 * trained if micro < tuning.batch_size or is_copied else 0.0
        activations = self._activations(micro, "full" if tuning.checkpointing else False) + self._lora_activations(micro)
        last_block = self._block(micro) + self._outside(micro)
        return self._memory(
            {
                "denoiser": self._weights,
                "weights in float32": FLOAT32 * trained if is_copied or tuning.lora is not None else 0.0,
                "optimizer": ADAM_BYTES[tuning.optimizer] * trained,
                "running mean": FLOAT32 * trained if tuning.ema is not None else 0.0,
                "activations and gradients": max(activations + earlier, last_block + gradients),
                "text encoder": 0.0 if self.on_gpu else self._text,
            }
        )

    def generate(self) -> Memory:
        """The largest of: encoding prompts, encoding the first frame where the model starts from one, denoising, decoding."""
        batch = 1 if self._from_frame else self.settings.generate.batch_size  # such videos are drawn one by one
        latents = math.prod(self._latent_size) * self.shape.vae.channels * FLOAT32 * batch
        steps = {
            "denoising": self._weights + self._forward(batch) + 6 * latents,
            "decoding": self._weights + self._vae + self._vae_pass("decode") * batch + latents,
            "encoding prompts": self._text,
        }
        if self._from_frame:
            steps["encoding the first frame"] = self._image + self._vae + self._vae_pass("encode")
        if not self.on_gpu:
            encoding = self._vae_pass("encode") if self._from_frame else 0.0
            work = max(self._forward(batch) + 6 * latents, self._vae_pass("decode") * batch, encoding)
            used = {
                "denoisers": self._weights * self.shape.experts,
                "text encoder": self._text,
                "image encoder": self._image,
                "VAE": self._vae_used(1.0 if self._from_frame else 1 - VAE_ENCODER_SHARE),
            }
            return self._memory({**used, "sampling or decoding": work})
        largest = max(steps, key=lambda step: steps[step])
        return self._memory({largest: steps[largest]})

    def scores(self) -> Memory:
        """The held-out loss: one forward pass at a time."""
        return self._memory({"denoiser": self._weights, "activations": self._forward(1)})

    @property
    def _weights(self) -> float:
        """A denoiser. On a CPU a file that is stored in another dtype stays mapped beside the converted weights."""
        used, stored = self.size * self.shape.denoiser.parameters, self.shape.denoiser.file_bytes
        is_converted = not self.on_gpu and stored > 0 and abs(stored / used - 1) > 0.25
        return used + (stored if is_converted else 0.0)

    @property
    def _text(self) -> float:
        return self.size * self.shape.text_parameters

    @property
    def _image(self) -> float:
        return FLOAT32 * self.shape.image_parameters

    @property
    def _from_frame(self) -> bool:
        return self.shape.starts_from_frame or self.settings.model.task == "image_to_video"

    @property
    def _vae(self) -> float:
        return FLOAT32 * self.shape.vae.parameters

    @property
    def _latent_size(self) -> tuple[int, int, int]:
        clips = self.settings.clips
        return self.shape.latent_size(clips.num_frames, clips.height, clips.width)

    def _vae_used(self, share: float) -> float:
        """The VAE's weights on the device; on a CPU the ``share`` of them that is touched."""
        return self._vae if self.on_gpu else share * self._vae

    def _memory(self, parts: dict[str, float]) -> Memory:
        overhead = {"CUDA": GPU_OVERHEAD_BYTES} if self.on_gpu else {"process": CPU_OVERHEAD_BYTES}
        return Memory(parts={name: value for name, value in {**parts, **overhead}.items() if value})

    def _trained_parameters(self) -> int:
        lora = self.settings.finetune.lora
        denoiser = self.shape.denoiser
        return denoiser.parameters if lora is None else lora_parameters(denoiser, lora.targets, lora.rank)

    def _activations(self, batch: int, checkpointing: bool | str) -> float:
        """What is alive at the start of backward."""
        denoiser, blocks = self.shape.denoiser, self.shape.denoiser.num_layers
        if not checkpointing:
            return blocks * self._block(batch) + self._outside(batch)
        kept = 1 if checkpointing == "full" else 2  # a block's input, and the output of self-attention
        return blocks * kept * self.size * batch * self.tokens * denoiser.width + self._block(batch) + self._outside(batch)

    def _block(self, batch: int) -> float:
        denoiser = self.shape.denoiser
        alike, exact = SAVED_ALIKE, SAVED_FLOAT32
        prompt_bytes = SAVED_PROMPT_BYTES * self.settings.model.max_prompt_tokens
        if self.size == FLOAT32:
            exact -= SAME_IN_FLOAT32
        if denoiser.takes_image:
            alike += SAVED_IMAGE_ALIKE
            exact += self.size == FLOAT32
            prompt_bytes += SAVED_PROMPT_BYTES * IMAGE_TOKENS * self.size / BFLOAT16
        width_bytes = alike * self.size + exact * FLOAT32 + (TOKEN_TIME_BLOCK_BYTES if denoiser.token_timesteps else 0)
        for_token = width_bytes * denoiser.width + SAVED_FFN * self.size * denoiser.ffn + SAVED_ROTARY * 128
        return batch * (self.tokens * for_token + prompt_bytes * denoiser.width)

    def _outside(self, batch: int) -> float:
        denoiser = self.shape.denoiser
        width_bytes = OUTSIDE_BYTES
        if denoiser.token_timesteps:
            width_bytes += TOKEN_TIME_OUTSIDE_BYTES + TOKEN_TIME_GRADIENT_BYTES
        return batch * self.tokens * width_bytes * denoiser.width

    def _lora_activations(self, batch: int) -> float:
        """Float32 copies of the inputs of the adapters in a bfloat16 model, and their outputs."""
        lora, denoiser = self.settings.finetune.lora, self.shape.denoiser
        if lora is None:
            return 0.0
        entries = 0
        for name, _, inputs in denoiser.linears:
            if re.fullmatch(lora.targets, name):
                copies = (self.size == BFLOAT16) + (lora.dropout > 0)
                entries += copies * inputs + lora.rank
        blocks = 1 if self.settings.finetune.checkpointing else denoiser.num_layers
        return batch * self.tokens * FLOAT32 * entries / denoiser.num_layers * blocks

    def _forward(self, batch: int) -> float:
        """A forward pass without autograd."""
        denoiser = self.shape.denoiser
        attention, ffn = FORWARD_TENSORS * FLOAT32 * denoiser.width, self.size * (FORWARD_FFN * denoiser.ffn + 1.1 * denoiser.width)
        token_time = (FLOAT32 * 6 + 7 * self.size) * denoiser.width if denoiser.token_timesteps else 0.0
        return batch * self.tokens * (max(attention, ffn) + token_time)

    def _vae_pass(self, way: Literal["encode", "decode"]) -> float:
        """What the VAE needs beside its weights for one video."""
        vae = self.shape.vae
        width, constant = (vae.encoder_width, VAE_ENCODE_BYTES) if way == "encode" else (vae.decoder_width, VAE_DECODE_BYTES)
        video = VIDEO_COPIES * 3 * FLOAT32 * self.settings.clips.num_frames * self.pixels
        return constant * width * self.pixels / vae.patch**2 + VAE_FIXED_BYTES + video
