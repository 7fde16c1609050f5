"""The loss curve of the real fine-tuning loop on the embedded model, against a committed one.

Whoever reorganises the loop, the model or the loss sees here whether a number has changed. ``python -m tests.test_golden_loss`` writes the
record anew; do so only for a change that is meant to alter the training, and say so in CHANGELOG.md.
"""

import json
import platform
from pathlib import Path

import numpy as np
import pytest
import torch

from motive_pipeline.attribution.noise import latent_noise
from motive_pipeline.config import Finetune, Model
from motive_pipeline.models.folder import TINY
from motive_pipeline.models.load import load_model
from motive_pipeline.training.loop import finetune

RECORD = Path(__file__).with_name("golden_loss.json")
SHAPE = (5, 8, 8)
CAPTIONS = [f"a large {colour} ringed disc on a teal wavy background" for colour in ("pink", "lime", "cyan", "white", "orange", "yellow")]
SETTINGS = Finetune(
    steps=8,
    batch_size=4,
    micro_batch_size=3,
    learning_rate=1e-3,
    weight_decay=3.0,
    betas=(0.8, 0.95),
    clip_norm=1.0,
    warmup_share=0.3,
    schedule="cosine",
    caption_dropout=0.3,
)
"""Not a sensible training: each setting is so large that a mistake in its use shows in the losses."""

ENTRIES = SETTINGS.batch_size * 16 * int(np.prod(SHAPE))
TOLERANCE = np.sqrt(ENTRIES) * 2.0**-24
"""Relative. A loss is a mean of n float32 squares, and the order of summation differs between CPUs and versions of torch. Rounding errors of
2^-24 each then add up like a random walk, to about sqrt(n) 2^-24, here 8.5e-6. Other micro-batches or threads on one machine move the
losses by less than 1e-6."""


def loss_curve(settings: Finetune = SETTINGS) -> list[float]:
    """The losses of a training of the embedded model on six clips of noise, with one thread."""
    threads = torch.get_num_threads()
    model = load_model(Model(path="tiny", dtype="float32", device="cpu", max_prompt_tokens=32), threads=1, path=TINY)
    clips = {
        f"clip-{number}": (latent_noise(number, (16, *SHAPE)), model.encode_prompt(caption)) for number, caption in enumerate(CAPTIONS)
    }
    try:
        return finetune(model, {SHAPE: list(clips)}, clips.__getitem__, settings, training=0)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def curve() -> list[float]:
    return loss_curve()


def test_the_loss_curve_is_the_recorded_one(curve: list[float]):
    record = json.loads(RECORD.read_text(encoding="utf-8"))
    np.testing.assert_allclose(
        curve,
        record["losses"],
        rtol=TOLERANCE,
        err_msg=f"recorded with torch {record['torch']} on {record['machine']}, now torch {torch.__version__} on {platform.machine()}",
    )


def test_the_tolerance_covers_another_order_of_summation_and_no_more(curve: list[float]):
    other = loss_curve(SETTINGS.model_copy(update={"micro_batch_size": 1}))
    np.testing.assert_allclose(other, curve, rtol=TOLERANCE)
    for name, value in (("learning_rate", 1.001e-3), ("weight_decay", 2.97), ("clip_norm", 0.99), ("warmup_share", 0.1), ("shift", 3.01)):
        changed = loss_curve(SETTINGS.model_copy(update={name: value}))
        assert not np.allclose(changed, curve, rtol=TOLERANCE, atol=0.0), f"a change of {name} is not seen"


if __name__ == "__main__":
    written = {
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "losses": loss_curve(),
    }
    RECORD.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    print(RECORD.read_text(encoding="utf-8"))
