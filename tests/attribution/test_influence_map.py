"""Influence maps: their mean is the exact inner product, the weights come back to the bit, and the step is checked."""

import numpy as np
import pytest
import torch

from motive_pipeline.attribution import influence_map
from motive_pipeline.attribution.influence_map import STEPS, TOLERANCE, InfluenceMaps, best_window, over_time
from motive_pipeline.attribution.loss import Draw, mean_motion_weighted_loss
from motive_pipeline.attribution.weight_direction import DoesNotFit, LossInputs, MovableWeights, norm
from motive_pipeline.errors import MotiveError
from tests import tiny_wan

DRAWS = [Draw(timestep=500.0, noise_seed=0), Draw(timestep=800.0, noise_seed=3), Draw(timestep=250.0, noise_seed=5)]
MASKS = {"both": (True, True), "query": (False, True), "none": (False, False)}
"""Whether the clip's loss is masked, and whether the query's is."""


@pytest.fixture(scope="module")
def model():
    return tiny_wan.build_model()


def inputs(seed: int, *, masked: bool) -> LossInputs:
    random = torch.Generator().manual_seed(seed)
    mask_FHW = torch.rand(3, 4, 4, generator=random)
    return LossInputs(
        latents_CFHW=torch.randn(16, 3, 4, 4, generator=random),
        conditioning={"prompt_embeds": torch.randn(8, 16, generator=random)},
        mask_FHW=mask_FHW if masked else None,
    )


def exact_gradient(model, example: LossInputs, frame_norm: str = "per_frame") -> dict[str, torch.Tensor]:
    """The oracle: autograd of the loss of the gradient pass, all draws at once."""
    named = dict(model.transformer.named_parameters())
    loss = mean_motion_weighted_loss(
        model, example.latents_CFHW, example.conditioning, mask_FHW=example.mask_FHW, draws=DRAWS, frame_norm=frame_norm
    )
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if grad is None else grad for name, grad in zip(named, found, strict=True)}


def dot(first, second) -> float:
    return float(sum((first[name].double() * second[name].double()).sum() for name in first))


def some_scales(model) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(7)
    return {name: 0.1 + torch.rand(weight.shape, generator=random) for name, weight in model.transformer.named_parameters()}


def scaled(gradient, scales):
    return gradient if scales is None else {name: entries * scales[name] for name, entries in gradient.items()}


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.transformer.state_dict().items()}


@pytest.mark.parametrize("frame_norm", ["per_frame", "paper_literal"])
@pytest.mark.parametrize("with_scales", [False, True], ids=["plain", "adam"])
@pytest.mark.parametrize("masks", MASKS)
def test_the_mean_of_a_map_is_the_exact_score_before_projection(model, masks, with_scales, frame_norm):
    """For a query, and for the mean of several: cos(s g(v), s g(q)) with the gradients of autograd."""
    clip_masked, query_masked = MASKS[masks]
    scales = some_scales(model) if with_scales else None
    clips = [inputs(seed, masked=clip_masked) for seed in (1, 2)]
    queries = [inputs(seed, masked=query_masked) for seed in (11, 12, 13)]
    maps = InfluenceMaps(model, draws=DRAWS, scales=scales, frame_norm=frame_norm, draws_at_once=2)
    clip_gradients = [scaled(exact_gradient(model, clip, frame_norm), scales) for clip in clips]
    query_gradients = [scaled(exact_gradient(model, query, frame_norm), scales) for query in queries]
    cosine_QN = np.array([[dot(q, v) / np.sqrt(dot(q, q) * dot(v, v)) for v in clip_gradients] for q in query_gradients])
    for asked, expected_N in ((queries[:1], cosine_QN[0]), (queries, cosine_QN.mean(axis=0))):
        direction = maps.direction(asked)
        found = maps.maps(direction, clips, maps.step(direction, asked[0]))
        means = [float(each.mean(dtype=np.float64)) / np.sqrt(dot(v, v)) for each, v in zip(found, clip_gradients, strict=True)]
        assert means == pytest.approx(expected_N, rel=1e-3)
        assert np.abs(expected_N).min() > 0.01, "so that the comparison says something"


def test_with_dot_it_is_the_inner_product(model):
    clip, query = inputs(1, masked=True), inputs(11, masked=True)
    maps = InfluenceMaps(model, draws=DRAWS, similarity="dot")
    direction = maps.direction([query])
    (found,) = maps.maps(direction, [clip], maps.step(direction, query))
    assert found.mean(dtype=np.float64) == pytest.approx(dot(exact_gradient(model, clip), exact_gradient(model, query)), rel=1e-3)


def test_each_cell_is_the_derivative_of_that_cells_error(model):
    """Not only the mean: the derivative of three single cells along the direction, by autograd."""
    clip, query = inputs(1, masked=True), inputs(11, masked=True)
    maps = InfluenceMaps(model, draws=DRAWS)
    direction = maps.direction([query])
    step = maps.step(direction, query)
    (found,) = maps.maps(direction, [clip], step)
    assert clip.mask_FHW is not None
    named = {name: weight.detach() for name, weight in model.transformer.named_parameters()}
    for cell in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
        only = torch.zeros_like(clip.mask_FHW)
        only[cell] = clip.mask_FHW[cell]
        one = LossInputs(latents_CFHW=clip.latents_CFHW, conditioning=clip.conditioning, mask_FHW=only)
        expected = only.numel() * dot(exact_gradient(model, one), {name: direction.unit[name] for name in named})
        # a cell's error is near 1; a forward pass in float32 leaves it a few units of 2^-24 off; the difference of two is divided by twice the step
        rounding = 8 * 2.0**-24 / (2 * step.size * norm(named)) * direction.length
        assert found[cell] == pytest.approx(direction.length * expected, rel=TOLERANCE, abs=rounding)
        assert rounding < 0.02 * np.abs(found).max(), "so that the comparison says something"


def test_only_the_chosen_parameters_count(model):
    clip, query = inputs(1, masked=True), inputs(11, masked=True)
    maps = InfluenceMaps(model, draws=DRAWS, parameters=r"blocks\.1")
    direction = maps.direction([query])
    (found,) = maps.maps(direction, [clip], maps.step(direction, query))
    v, q = ({name: entries for name, entries in exact_gradient(model, each).items() if "blocks.1" in name} for each in (clip, query))
    assert found.mean(dtype=np.float64) == pytest.approx(dot(v, q) / np.sqrt(dot(q, q)), rel=1e-3)


def test_the_weights_come_back_to_the_bit(model):
    before = weights_of(model)
    maps = InfluenceMaps(model, draws=DRAWS)
    query = inputs(11, masked=True)
    direction = maps.direction([query])
    maps.maps(direction, [inputs(1, masked=False)], maps.step(direction, query))
    after = model.transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.transformer.parameters())


@pytest.mark.parametrize("passes", [0, 1, 2, 3])
def test_the_weights_come_back_to_the_bit_after_an_error_in_any_pass(model, monkeypatch, passes):
    before = weights_of(model)
    maps = InfluenceMaps(model, draws=DRAWS)
    query = inputs(11, masked=True)
    direction = maps.direction([query])
    step = maps.step(direction, query)
    real, done = influence_map.errors_of_draws, []

    def failing(*arguments, **named):
        if len(done) == passes:
            assert any(not torch.equal(before[name], value) for name, value in model.transformer.state_dict().items()), "moved"
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(influence_map, "errors_of_draws", failing)
        with pytest.raises(KeyboardInterrupt):
            maps.maps(direction, [inputs(1, masked=True), inputs(2, masked=True)], step)
    after = model.transformer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_step_is_the_first_one_that_halving_does_not_change(model, monkeypatch):
    maps = InfluenceMaps(model, draws=DRAWS)
    query = inputs(11, masked=True)
    direction = maps.direction([query])
    step = maps.step(direction, query)
    assert step.is_exact
    assert step.change <= TOLERANCE
    monkeypatch.setattr(influence_map, "STEPS", (0.3, 0.1, *STEPS))
    assert maps.step(direction, query) == step, "large steps are passed over"
    monkeypatch.setattr(influence_map, "STEPS", (0.3, 0.1))
    coarse = maps.step(direction, query)
    assert not coarse.is_exact
    monkeypatch.setattr(influence_map, "STEPS", (0.3,))
    assert coarse.change <= maps.step(direction, query).change, "the one that changes least, and its change is told"


def test_a_query_without_a_gradient_has_zero_maps(model):
    still = LossInputs(
        latents_CFHW=torch.randn(16, 3, 4, 4), conditioning={"prompt_embeds": torch.randn(8, 16)}, mask_FHW=torch.zeros(3, 4, 4)
    )
    maps = InfluenceMaps(model, draws=DRAWS)
    direction = maps.direction([still])
    assert direction.length == 0
    step = maps.step(direction, still)
    assert step.change == 0
    assert not maps.maps(direction, [inputs(1, masked=False)], step)[0].any()


def test_what_does_not_fit_is_refused_with_the_figures(model, monkeypatch):
    monkeypatch.setattr("motive_pipeline.attribution.weight_direction.free_memory_gb", lambda _: 1e-5)
    with pytest.raises(DoesNotFit, match=r"influence maps need 0\.000\d+ GB in float32 .* 1e-05 GB are free on cpu"):
        InfluenceMaps(model, draws=DRAWS)


def test_running_out_of_memory_is_refused_and_any_other_error_passes(model, monkeypatch):
    maps = InfluenceMaps(model, draws=DRAWS)
    query = inputs(11, masked=True)
    direction = maps.direction([query])
    for error, raised in ((torch.OutOfMemoryError("CUDA out of memory"), DoesNotFit), (ValueError("another"), ValueError)):
        monkeypatch.setattr(influence_map, "errors_of_draws", lambda *_, error=error, **__: (_ for _ in ()).throw(error))
        with pytest.raises(raised):
            maps.step(direction, query)


def test_weights_in_bfloat16_and_parameters_that_match_nothing_are_refused(model):
    half = {"weight": torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))}
    with pytest.raises(ValueError, match="only float32 weights"):
        MovableWeights(half)
    with pytest.raises(MotiveError, match=r"gradient\.parameters = 'nothing' matches none"):
        InfluenceMaps(model, draws=DRAWS, parameters="nothing")


def test_the_best_window_is_the_contiguous_one_with_the_highest_mean():
    curve = np.array([0.0, 3.0, -1.0, 2.0, 2.0, -5.0])
    assert best_window(curve, 1) == (1, 2)
    assert best_window(curve, 2) == (3, 5)
    assert best_window(curve, 4) == (1, 5)
    assert best_window(curve, 6) == (0, 6)
    assert best_window(np.zeros(4), 2) == (0, 2), "the earliest of equal ones"
    for number in (0, 7):
        with pytest.raises(ValueError, match="a window of"):
            best_window(curve, number)


def test_the_curve_over_time_has_the_mean_of_the_map():
    map_FHW = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    assert over_time(map_FHW) == pytest.approx([float(frame.astype(np.float64).mean()) for frame in map_FHW])
    assert over_time(map_FHW).mean() == pytest.approx(map_FHW.astype(np.float64).mean())
