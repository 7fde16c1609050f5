"""Metagradients are the exact derivatives of a fine-tune's result by the weights of its clips (benchmarks/metagradient.py)."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from benchmarks.common import use_diffusers_attention
from benchmarks.metagradient import WeightedTraining, batch_losses, mean_square_gradient, training_batches
from motive_pipeline.attribution.loss import held_out_draws, mean_motion_weighted_loss
from motive_pipeline.config import Finetune
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from motive_pipeline.models.wan import WanModel
from motive_pipeline.training.loop import Clip, finetune
from tests.tiny_wan import build_model, build_pipeline

SHORT, LONG = (2, 4, 4), (3, 4, 4)
SHAPES = {clip_id: LONG if clip_id in "ae" else SHORT for clip_id in "abcdefgh"}
BY_SHAPE = {SHORT: list("bcdfgh"), LONG: list("ae")}
TARGETS = ("x", "y")
SETTINGS = Finetune(steps=5, batch_size=3, learning_rate=3e-3, caption_dropout=0.3, warmup_share=0.4, schedule="cosine")


def clip(clip_id: str) -> Clip:
    """Random latents of 16 channels and a random prompt embedding."""
    draw = np.random.default_rng(ord(clip_id))
    shape = SHAPES.get(clip_id, SHORT)
    latents, prompt = (torch.from_numpy(draw.standard_normal(size, dtype=np.float32)) for size in ((16, *shape), (8, 16)))
    return latents, {"prompt_embeds": prompt}


@pytest.fixture
def model(monkeypatch) -> WanModel:
    """The small random model in float64. Its layers ask for float32 by ``.float()``, which would hide the last nine digits of a difference."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    built = WanModel(build_pipeline(num_layers=1), device=torch.device("cpu"), compute_dtype=torch.float64, max_prompt_tokens=8)
    built.transformer.double()
    use_diffusers_attention(built)
    return built


def target_loss(model: WanModel, target: str) -> torch.Tensor:
    """The motion-weighted loss of a clip that takes no part in training."""
    latents_CFHW, conditioning = clip(target)
    mask_FHW = torch.linspace(0, 1, 32).reshape(SHORT)
    return mean_motion_weighted_loss(model, latents_CFHW, conditioning, mask_FHW=mask_FHW, draws=held_out_draws(2, ALL_TIMESTEPS))


def weighted_training(model: WanModel, settings: Finetune) -> WeightedTraining:
    batches = training_batches(model, BY_SHAPE, clip, settings, order=0)
    second_D = mean_square_gradient(model, training_batches(model, BY_SHAPE, clip, settings, order=1), settings)
    return WeightedTraining(model, batches, settings, clip_ids=sorted(SHAPES), second_D=second_D)


@pytest.mark.parametrize("settings", [SETTINGS, SETTINGS.model_copy(update={"ema": 0.8, "clip_norm": 100.0, "weight_decay": 0.5})])
def test_a_metagradient_is_the_finite_difference_of_trainings_with_another_weight_of_the_clip(model: WanModel, settings: Finetune) -> None:
    """The clips of the batches twice, once and never; the gradient's norm above and below ``clip_norm``; a central difference errs by O(step^2)."""
    training = weighted_training(model, settings)
    parameters = list(model.transformer.parameters())
    states = training.states()
    training.load_result(states)
    gradient_QD = torch.stack(
        [parameters_to_vector(torch.autograd.grad(target_loss(model, target), parameters, materialize_grads=True)) for target in TARGETS]
    )
    found_QN = training.metagradients(states, gradient_QD)

    def losses_with(weight_N: torch.Tensor) -> torch.Tensor:
        training.load_result(training.states(weight_N))
        with torch.no_grad():
            return torch.stack([target_loss(model, target) for target in TARGETS])

    step, one_N = 1e-4, torch.ones(len(SHAPES), dtype=torch.float64)
    moves_NN = step * torch.eye(len(SHAPES), dtype=torch.float64)
    expected_QN = torch.stack([(losses_with(one_N + move_N) - losses_with(one_N - move_N)) / (2 * step) for move_N in moves_NN], dim=1)
    largest = expected_QN.abs().max()
    assert largest > 1e-4
    assert (found_QN - expected_QN).abs().max() < 1e-5 * largest


def test_the_batches_are_those_of_the_fine_tuning_loop() -> None:
    model = build_model()
    batches = training_batches(model, BY_SHAPE, clip, SETTINGS, order=2)
    with torch.no_grad():
        expected = [float(batch_losses(model, batch).mean()) for batch in batches]
    standing = SETTINGS.model_copy(update={"learning_rate": 1e-12})
    assert finetune(model, BY_SHAPE, clip, standing, training=2) == pytest.approx(expected, rel=1e-5)
