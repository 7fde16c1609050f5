"""What assets are expected to take before anything was measured in a root: by published rates of one clip, times what the settings ask for.

The rates are those of a known GPU, reckoned from the model's shape (``outlook.py``), or those of the embedded model on two processor cores. They know the
passes through the network; what runs besides (tracking on a GPU's machine, metrics, the report) has no estimate until it was measured.
"""

from __future__ import annotations

from motive_pipeline.config import Config
from motive_pipeline.config.section import AUTO
from motive_pipeline.graph.arms import BASE
from motive_pipeline.models.chips import chip_called
from motive_pipeline.models.read_shapes import model_shape
from motive_pipeline.outlook import Rates, rates_on

SPREAD = 2.0
"""The factor to either side within which the truth is expected: a chip's share of its peak, or a machine's speed, differs as much."""

TINY = Rates(latents_s=0.065, gradient_s=0.02, forward_s=0.0045, training_s=0.012, decode_s=0.02)
"""Of the embedded model with clips of :data:`TINY_CLIP`: seconds over work of `make demo` on two cores, which took 793 s. A gradient pass takes 0.04 s alone and
0.012 s where 16 draws go as one batch."""
TINY_CLIP = (17, 64, 64)


def published_rates(settings: Config) -> Rates | None:
    """The rates that are known for the config's model, clip size and device; None if there are none."""
    clips, model = settings.clips, settings.model
    size = (clips.num_frames, clips.height, clips.width)
    if (gpu := _gpu_name(model.device)) is None:
        return TINY if model.path == "tiny" and size == TINY_CLIP else None
    chip, shape = chip_called(gpu), model_shape(model)
    return None if chip is None or shape is None else rates_on(settings, shape, chip)


def published_seconds(settings: Config, rates: Rates, stage: str, lane: str, num_prompts: int) -> float | None:
    """Seconds of a row of ``stage``, or of the whole asset where it is made as a whole; None where the rates say nothing. ``lane`` is the arm or variant."""
    tuning, sampling = settings.finetune, settings.generate
    trainings = 1 if lane == BASE else tuning.seeds
    if stage == "latents":
        return rates.latents_s
    if stage == "gradient":
        return settings.of_variant(lane).gradient.num_draws * rates.gradient_s
    if stage == "finetuned_checkpoint":
        return tuning.seeds * tuning.steps * tuning.batch_size * rates.training_s
    if stage == "generated_videos":
        return trainings * num_prompts * sampling.videos_per_prompt * rates.video_s(sampling)
    return None


def _gpu_name(device: str) -> str | None:
    """What the GPU of ``model.device`` calls itself; None on a processor, or if there is no such GPU here."""
    import torch

    wanted = torch.device("cuda" if device == AUTO else device)
    if wanted.type != "cuda" or (wanted.index or 0) >= torch.cuda.device_count():
        return None
    return torch.cuda.get_device_name(wanted)
