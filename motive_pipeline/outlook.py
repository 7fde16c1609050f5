"""What a config will need on a GPU: memory, device-hours and disk of each stage, without clips, model or GPU at hand (``motive plan --clips N --gpu NAME``).

Time is operations, counted from shapes, over the chip's peak and the share of it that was measured (models/chips.py). Everything that differs from a
measured pass in chip, model or size is reckoned, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from motive_pipeline.config import Config, Generate
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph.arms import BASE
from motive_pipeline.models.chips import MEASURED, Chip
from motive_pipeline.models.memory import StageName, lora_parameters, stage_memory
from motive_pipeline.models.memory_limit import GB, shown_gb, stage_need
from motive_pipeline.models.published_shapes import PUBLISHED
from motive_pipeline.models.read_shapes import model_shape
from motive_pipeline.models.shapes import ModelShape

FORWARD_SHARE = 0.38
"""Of the peak, of a forward pass: that of the pass whose attention is not deterministic. Not measured by itself."""
VAE_SHARE = 0.1
"""Of the peak, of the VAE, which computes in float32. Not measured."""
VAE_OPERATIONS = {"encode": 5.1e6, "decode": 8.6e6}
"""For each pixel of each frame, of Wan 2.1's VAE, as torch counts them; they grow with the square of its width."""
VAE_WIDTH = 96
CAPTION_TOKENS_KEPT = 64
VIDEO_BYTES_A_PIXEL = 0.02
"""Of an H.264 video, for each pixel of each frame."""
SECONDS_AN_HOUR = 3600
FLOAT32, MOMENTS_8BIT = 4, 2
"""Bytes of a number, and of the two moments of a parameter in 8 bits."""
RANKING: tuple[StageName, ...] = ("latents", "gradients")


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds for one clip of a config's size, by one device: latents and the prompt's embedding, a gradient pass, a forward pass, a clip in a training step, and
    decoding a sampled video."""

    latents_s: float
    gradient_s: float
    forward_s: float
    training_s: float
    decode_s: float

    def video_s(self, sampling: Generate) -> float:
        """A sampled video: its steps, twice each with guidance, and decoding it."""
        return sampling.num_steps * (2 if sampling.guidance > 1 else 1) * self.forward_s + self.decode_s


@dataclass(frozen=True, kw_only=True)
class Workload:
    """How many clips, queries and held-out queries there are. Every query and held-out query is a prompt, too."""

    num_clips: int
    num_queries: int = 8
    num_held_out: int = 8

    @property
    def num_encoded(self) -> int:
        """All of them."""
        return self.num_clips + self.num_queries + self.num_held_out


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What a stage needs: its peak on the GPU, hours of the GPU, and what it leaves on the disk, in GB. ``work`` says how much there is to do.

    ``is_measured``: this chip, model and size were measured; else the hours are reckoned.
    """

    stage: StageName
    memory_gb: float
    fits: bool
    device_hours: float
    disk_gb: float
    is_measured: bool
    work: str


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The costs of a config: those of the ranking alone, and those of everything."""

    ranking: Sequence[StageCost]
    everything: Sequence[StageCost]
    advice: Sequence[str]
    """A sentence for each stage that does not fit."""


def outlook(settings: Config, chip: Chip, workload: Workload) -> Outlook:
    """The costs of ``settings`` on ``chip``.

    Raises:
        MotiveError: the model is neither on this machine nor one whose shape is known.
    """
    shape = model_shape(settings.model)
    if shape is None:
        raise MotiveError(
            f"model.path = {settings.model.path!r} is not on this machine, and its shape is not known. Download it first (motive doctor says how), "
            f"or name one of {', '.join(PUBLISHED)}."
        )
    everything = _Costs(settings, shape, chip, workload, settings.variants)
    ranking = _Costs(settings, shape, chip, workload, [settings.lead_variant])
    needs = [
        stage_need(shape, settings, cost.stage, have_gb=chip.memory_gb, device=f"one {chip.name}", on_gpu=True)
        for cost in everything.stages()
    ]
    return Outlook(
        ranking=[cost for cost in ranking.stages() if cost.stage in RANKING],
        everything=everything.stages(),
        advice=[str(need) for need in needs if not need.fits],
    )


def forward_operations(shape: ModelShape, num_tokens: int, prompt_tokens: int) -> float:
    """Floating-point operations of a forward pass over one clip: products with weights, and attention."""
    denoiser, width = shape.denoiser, shape.denoiser.width
    of_tokens = 2.0 * num_tokens * (6 * width**2 + 2 * width * denoiser.ffn)
    of_prompt = 2.0 * prompt_tokens * 2 * width**2
    attention = 4.0 * width * num_tokens * (num_tokens + prompt_tokens)
    time = 2.0 * num_tokens * 7 * width**2 if denoiser.token_timesteps else 0.0
    return denoiser.num_layers * (of_tokens + of_prompt + attention) + time


def rates_on(settings: Config, shape: ModelShape, chip: Chip) -> Rates:
    """The rates of ``settings`` (as its lead variant) on ``chip``, by operations."""
    return _Costs(settings.of_variant(settings.lead_variant), shape, chip, Workload(num_clips=1), [settings.lead_variant]).rates()


class _Costs:
    """The costs of each stage, for one config, chip and workload."""

    def __init__(self, settings: Config, shape: ModelShape, chip: Chip, workload: Workload, variants: Sequence[str]) -> None:
        self.settings, self.shape, self.chip, self.workload = settings, shape, chip, workload
        self.variants = [settings.of_variant(name) for name in variants]
        clips = settings.clips
        self.pixels = clips.num_frames * clips.height * clips.width
        self.tokens = shape.num_tokens(clips.num_frames, clips.height, clips.width)
        self.forward = forward_operations(shape, self.tokens, settings.model.max_prompt_tokens)
        self.size = 2 if settings.model.dtype == "bfloat16" else 4
        self.trainings = sum(arm != BASE for arm in settings.arms) * settings.finetune.seeds

    def stages(self) -> list[StageCost]:
        """In the order in which they run."""
        return [self.latents(), self.gradients(), self.finetune(), self.generate(), self.scores()]

    def rates(self) -> Rates:
        """The seconds of one clip in each stage."""
        caption_s = self._seconds(2.0 * self.shape.text_parameters * self.settings.model.max_prompt_tokens, FORWARD_SHARE)
        tuning, denoiser = self.settings.finetune, self.shape.denoiser
        passes = 4 if tuning.checkpointing else 3
        of_weights = 2.0 * self.tokens * (6 * denoiser.width**2 + 2 * denoiser.width * denoiser.ffn) * denoiser.num_layers
        training = passes * self.forward - (of_weights if tuning.lora is not None else 0.0)
        return Rates(
            latents_s=self._vae_seconds("encode") + caption_s,
            gradient_s=self._seconds(3 * self.forward, self._share(self.settings.gradient.deterministic)),
            forward_s=self._seconds(self.forward, FORWARD_SHARE),
            training_s=self._seconds(training, self._share(True)),
            decode_s=self._vae_seconds("decode"),
        )

    def latents(self) -> StageCost:
        count = self.workload.num_encoded
        frames, height, width = self.shape.latent_size(*self._clip_size)
        kept = 4.0 * (self.shape.vae.channels * frames * height * width + CAPTION_TOKENS_KEPT * self.shape.denoiser.text_dim)
        disk = count * kept if self.settings.engine.keep_latents else 0.0
        return self._cost("latents", count * self.rates().latents_s, disk, f"{count} clips and queries")

    def gradients(self) -> StageCost:
        count = self.workload.num_clips + self.workload.num_queries
        seconds, passes, disk = 0.0, 0, 0.0
        for variant in self.variants:
            draws = variant.gradient.num_draws
            passes += count * draws
            seconds += count * draws * self._seconds(3 * self.forward, self._share(variant.gradient.deterministic))
            disk += count * 4.0 * variant.gradient.store_dim * (draws if variant.gradient.combine == "mean_cosine" else 1)
        lanes = f"{len(self.variants)} variant{'s' if len(self.variants) > 1 else ''}"
        return self._cost("gradients", seconds, disk, f"{passes} passes: {lanes}", is_measured=self._is_measured())

    def finetune(self) -> StageCost:
        tuning, denoiser = self.settings.finetune, self.shape.denoiser
        seen = self.trainings * tuning.steps * tuning.batch_size
        trained = denoiser.parameters if tuning.lora is None else lora_parameters(denoiser, tuning.lora.targets, tuning.lora.rank)
        kept = trained * (self.size if tuning.lora is None else FLOAT32)
        disk = float(self.trainings * kept + self._saved_states(trained))
        work = f"{self.trainings} trainings of {tuning.steps} steps, {tuning.batch_size} clips a step"
        return self._cost("finetune", seen * self.rates().training_s, disk, work)

    def _saved_states(self, trained: int) -> float:
        """Bytes of the state that a training goes on from and of the next one, which takes its place: weights, their running mean and the optimizer's moments."""
        tuning = self.settings.finetune
        if tuning.checkpoint_every is None:
            return 0.0
        moments = MOMENTS_8BIT if tuning.optimizer == "adamw8bit" else 2 * FLOAT32
        return 2.0 * trained * (FLOAT32 + (FLOAT32 if tuning.ema is not None else 0) + moments)

    def generate(self) -> StageCost:
        sampling = self.settings.generate
        prompts = self.workload.num_queries + self.workload.num_held_out
        videos = (self.trainings + (BASE in self.settings.arms)) * prompts * sampling.videos_per_prompt
        return self._cost(
            "generate",
            videos * self.rates().video_s(sampling),
            videos * self.pixels * VIDEO_BYTES_A_PIXEL,
            f"{videos} videos of {sampling.num_steps} steps",
        )

    def scores(self) -> StageCost:
        queries = self.workload.num_held_out or self.workload.num_queries
        passes = (self.trainings + 1) * queries * self.settings.evaluate.held_out_draws
        return self._cost("scores", passes * self.rates().forward_s, 0.0, f"{passes} passes for the held-out loss")

    @property
    def _clip_size(self) -> tuple[int, int, int]:
        return self.settings.clips.num_frames, self.settings.clips.height, self.settings.clips.width

    def _cost(self, stage: StageName, seconds: float, num_bytes: float, work: str, *, is_measured: bool = False) -> StageCost:
        memory = max(stage_memory(self.shape, each, on_gpu=True)[stage].num_bytes for each in self.variants) / GB
        return StageCost(
            stage=stage,
            memory_gb=memory,
            fits=memory <= self.chip.memory_gb,
            device_hours=seconds / SECONDS_AN_HOUR,
            disk_gb=num_bytes / GB,
            is_measured=is_measured,
            work=work,
        )

    def _seconds(self, operations: float, share: float) -> float:
        return operations / (self.chip.peak_tflops * 1e12 * share)

    def _vae_seconds(self, way: str) -> float:
        vae = self.shape.vae
        width = vae.encoder_width if way == "encode" else vae.decoder_width
        return self._seconds(VAE_OPERATIONS[way] * (width / VAE_WIDTH) ** 2 / vae.patch**2 * self.pixels, VAE_SHARE)

    def _share(self, deterministic: bool) -> float:
        """The measured share of the peak: that of the model with a timestep for each token, or of the plain one."""
        token_timesteps = self.shape.denoiser.token_timesteps
        by_kind = {(PUBLISHED[row.model].denoiser.token_timesteps, row.deterministic): row.share for row in MEASURED}
        if (token_timesteps, deterministic) in by_kind:
            return by_kind[token_timesteps, deterministic]
        return by_kind[token_timesteps, True] * by_kind[False, False] / by_kind[False, True]

    def _is_measured(self) -> bool:
        """Whether every pass of these variants is one that was measured."""
        rows = [row for row in MEASURED if row.chip == self.chip.name and (row.num_frames, row.height, row.width) == self._clip_size]
        known = {row.deterministic for row in rows if PUBLISHED[row.model].denoiser == self.shape.denoiser}
        return all(
            each.gradient.deterministic in known and each.gradient.checkpointing is True and each.gradient.draws_at_once == 1
            for each in self.variants
        )


def outlook_text(found: Outlook, chip: Chip, workload: Workload) -> str:
    """The outlook as a table for a person."""
    lines = [
        f"{workload.num_clips} clips, {workload.num_queries} queries and {workload.num_held_out} held-out queries on one {chip.name} "
        f"({chip.memory_gb:.0f} GB, {chip.peak_tflops:.0f} teraflops in bfloat16)",
        f"{'stage':10} {'memory':>8} {'device-hours':>13} {'disk':>9}  work",
    ]
    for cost in found.everything:
        how = "measured" if cost.is_measured else "reckoned, not measured"
        too_large = "" if cost.fits else "does not fit; "
        lines.append(
            f"{cost.stage:10} {shown_gb(cost.memory_gb):>8} {cost.device_hours:13.1f} {shown_gb(cost.disk_gb):>9}  {cost.work} ({too_large}{how})"
        )
    for name, costs in (("rank only", found.ranking), ("everything", found.everything)):
        hours, disk = sum(cost.device_hours for cost in costs), sum(cost.disk_gb for cost in costs)
        lines.append(f"{name:10} {shown_gb(max(cost.memory_gb for cost in costs)):>8} {hours:13.1f} {shown_gb(disk):>9}")
    lines.append("Memory is predicted from shapes. Tracking, metrics and decoding run on the processor and are not counted.")
    return "\n".join([*lines, *found.advice])


def headline(found: Outlook, chip: Chip, workload: Workload) -> str:
    """The outlook in two sentences, as the files in ``configs/`` begin. Not a word of it is measured unless a stage says so."""

    def sums(costs: Sequence[StageCost]) -> str:
        hours = sum(cost.device_hours for cost in costs)
        return f"{shown_gb(max(cost.memory_gb for cost in costs))} of GPU memory and about {hours:,.0f} device-hours"

    tuning = next(cost for cost in found.everything if cost.stage == "finetune")
    return (
        f"{workload.num_clips:,} clips on one {chip.name}: the ranking alone needs {sums(found.ranking)}; everything needs {sums(found.everything)}, "
        f"{tuning.device_hours:,.0f} of them for {tuning.work}."
    )
