"""Which (timestep, noise) draws there are, and how several are combined into one feature."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.loss import Draw, attribution_draws, held_out_draws
from motive_pipeline.attribution.projection import Exact, Fastfood
from motive_pipeline.config import Gradient
from motive_pipeline.config.timesteps import ALL_TIMESTEPS
from tests.attribution.test_gradient import clip, plain_gradient
from tests.tiny_wan import build_model

DRAWS = [Draw(timestep=100.0 + 150 * index, noise_seed=index) for index in range(5)]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return build_model()


@pytest.fixture
def loss_calls(monkeypatch):
    """How many draws go through the model in each pass."""
    from motive_pipeline.attribution import gradient

    sizes = []
    plain = gradient.mean_motion_weighted_loss

    def counted(*arguments, draws, **named):
        sizes.append(len(draws))
        return plain(*arguments, draws=draws, **named)

    monkeypatch.setattr(gradient, "mean_motion_weighted_loss", counted)
    return sizes


def test_one_draw_or_a_grid_without_a_number_of_draws():
    assert attribution_draws(Gradient(noise_seed=7), ALL_TIMESTEPS) == [Draw(timestep=500.0, noise_seed=7)]
    grid = attribution_draws(Gradient(timestep=[250, 750], num_noises=2, noise_seed=3), ALL_TIMESTEPS)
    assert [(draw.timestep, draw.noise_seed) for draw in grid] == [(250, 3), (250, 4), (750, 3), (750, 4)]


def test_stratified_draws_lie_as_training_draws_its_timesteps():
    draws = attribution_draws(Gradient(draws=4, draw_shift=3.0, noise_seed=5), ALL_TIMESTEPS)
    places = np.array([0.125, 0.375, 0.625, 0.875])
    assert [draw.timestep for draw in draws] == pytest.approx(list(3000 * places / (1 + 2 * places)))
    assert [draw.noise_seed for draw in draws] == [5, 6, 7, 8], "a noise each"
    assert [draw.timestep for draw in attribution_draws(Gradient(draws=4, draw_shift=1.0), ALL_TIMESTEPS)] == pytest.approx(
        [125, 375, 625, 875]
    )


def test_a_list_of_timesteps_is_repeated():
    draws = attribution_draws(Gradient(draws=6, draw_timesteps=[100, 700]), ALL_TIMESTEPS)
    assert [draw.timestep for draw in draws] == [100, 700] * 3
    assert len({draw.noise_seed for draw in draws}) == 6


@given(
    count=st.integers(1, 40),
    gradient=st.builds(
        Gradient,
        noise_seed=st.sampled_from([0, 7, 2**32 - 1]),
        num_noises=st.integers(1, 1000),
        timestep=st.sampled_from([500.0, 62.5, (62.5, 187.5)]),
        draws=st.none() | st.integers(1, 64),
    ),
)
def test_no_held_out_draw_is_one_of_attribution_whatever_the_settings(count, gradient):
    held_out = held_out_draws(count, ALL_TIMESTEPS)
    assert [draw.timestep for draw in held_out] == pytest.approx([1000 * (index + 0.5) / count for index in range(count)])
    assert len({draw.noise_seed for draw in held_out}) == count
    assert not {draw.noise_seed for draw in held_out} & {draw.noise_seed for draw in attribution_draws(gradient, ALL_TIMESTEPS)}


@pytest.mark.parametrize(("at_once", "passes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (16, [5])])
def test_draws_at_once_go_through_the_model_as_one_batch_and_change_only_the_rounding(model, loss_calls, at_once, passes):
    feature = ClipGradient(model, projector=Exact(), draws=DRAWS, draws_at_once=at_once)(*clip(0))
    assert loss_calls == passes
    plain = plain_gradient(model, clip(0), draws=DRAWS)
    assert np.allclose(feature.gradient_P * feature.norm, plain, atol=2e-6)
    assert feature.norm == pytest.approx(np.linalg.norm(plain), rel=1e-5)


@pytest.mark.parametrize("mask", [True, False])
def test_the_mean_loss_of_a_batch_is_that_of_its_draws(model, mask):
    from motive_pipeline.attribution.loss import mean_motion_weighted_loss, motion_weighted_loss
    from motive_pipeline.attribution.noise import latent_noise

    latents, prompt, mask_FHW = clip(1)
    mask_FHW = mask_FHW if mask else None
    one_by_one = [
        motion_weighted_loss(
            model,
            latents,
            prompt,
            mask_FHW=mask_FHW,
            timestep=draw.timestep,
            noise_CFHW=latent_noise(draw.noise_seed, tuple(latents.shape)),
        )
        for draw in DRAWS
    ]
    batched = mean_motion_weighted_loss(model, latents, prompt, mask_FHW=mask_FHW, draws=DRAWS)
    assert float(batched) == pytest.approx(float(torch.stack(one_by_one).mean()), rel=1e-6)


def test_mean_cosine_keeps_the_unit_feature_of_each_draw(model, loss_calls):
    settings = Gradient(draws=3, combine="mean_cosine", store_dim=64, draws_at_once=8)
    feature = build_clip_gradient(model, settings)(*clip(0))
    assert loss_calls == [1, 1, 1], "a mean of the loss would lose the single draws"
    single = [
        ClipGradient(model, projector=Fastfood(store_dim=64, seed=0, device=torch.device("cpu")), draws=[draw])(*clip(0))
        for draw in attribution_draws(settings, ALL_TIMESTEPS)
    ]
    assert feature.gradient_P.shape == (3 * 64,)
    assert np.allclose(feature.gradient_P, np.concatenate([each.gradient_P for each in single]) / math.sqrt(3), atol=1e-7)
    assert np.linalg.norm(feature.gradient_P) == pytest.approx(1, rel=1e-6)
    assert feature.norm == pytest.approx(np.mean([each.norm for each in single]))
