"""The factored projection: sketches of weight gradients that are never formed, against the gradients themselves."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from motive_pipeline.attribution import noise
from motive_pipeline.attribution.factored import FactoredLinear, FactoredLinears, Fold
from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.loss import Draw
from motive_pipeline.attribution.projection import Exact
from motive_pipeline.config import Gradient
from tests.test_gradient import clip
from tests.tiny_wan import build_model

CPU = torch.device("cpu")
SIDE = 4
SHAPES = {"wide": (6, 9), "narrow": (3, 9), "tall": (11, 5)}
"""[outputs, inputs] of Linears; with folds of 4 entries the second has a side that is kept as it is."""


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fold_matrix(size: int, side: int, *, seed: int, name: str) -> torch.Tensor:
    """[k, size]: entry i goes to place i mod k with its sign; the identity where nothing is folded."""
    if size <= side:
        return torch.eye(size)
    matrix = torch.zeros(side, size)
    for entry, sign in enumerate(noise.signs(seed, name, size).tolist()):
        matrix[entry % side, entry] = sign
    return matrix


def explicit_sketch(gradient_OI: torch.Tensor, name: str, *, seed: int, side: int = SIDE) -> torch.Tensor:
    """S = F_O G F_I^T as matrices."""
    left = fold_matrix(gradient_OI.shape[0], side, seed=seed, name=f"output fold of {name}")
    right = fold_matrix(gradient_OI.shape[1], side, seed=seed, name=f"input fold of {name}")
    return left @ gradient_OI @ right.T


class Stack(nn.Module):
    """Three Linears with a bend between them; the first takes an input without a gradient, the second is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(7, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bent = torch.tanh(self.first(x))
        return self.last(self.twice(torch.tanh(self.twice(bent))))


def sketches_of(module: nn.Module, loss, *, side: int = SIDE, seed: int = 0) -> dict[str, torch.Tensor]:
    """What the factored layers of ``module`` hand over for one backward pass of ``loss()``."""
    factored = FactoredLinears(module, dict(module.named_parameters()), seed=seed, device=CPU, side=side)
    found: dict[str, torch.Tensor] = {}
    with factored.sketching():
        loss().backward()
    factored.give_to(lambda name, sketch: found.__setitem__(name, sketch))
    return found


@pytest.mark.parametrize("size", [3, 4, 5, 8, 11])
def test_folding_is_signs_and_a_sum_over_segments(size):
    fold = Fold(size, side=SIDE, seed=3, name="f", device=CPU)
    x = normal(10, size)
    assert fold.width == min(size, SIDE)
    assert torch.allclose(fold(x), x @ fold_matrix(size, SIDE, seed=3, name="f").T, atol=1e-6)
    assert fold(x.bfloat16()).dtype == torch.float32


def test_a_layers_sketch_is_the_folded_gradient_of_its_weight():
    torch.manual_seed(0)
    module = Stack()
    x, target = normal(3, 5, 7), normal(3, 5, 2, seed=1)
    plain = torch.autograd.grad((module(x) - target).square().mean(), list(module.parameters()))
    gradients = dict(zip([name for name, _ in module.named_parameters()], plain, strict=True))
    sketches = sketches_of(module, lambda: (module(x) - target).square().mean())
    assert set(sketches) == {"first.weight", "twice.weight"}, "a weight with a short side is not factored"
    for name, sketch in sketches.items():
        assert torch.allclose(sketch, explicit_sketch(gradients[name], name, seed=0), atol=1e-6), name


def test_no_weight_gradient_is_formed_and_every_other_gradient_is_autograds():
    torch.manual_seed(0)
    module = Stack()
    x = normal(5, 7)
    expected = {name: gradient for (name, _), gradient in zip(
        module.named_parameters(), torch.autograd.grad(module(x).square().mean(), list(module.parameters())), strict=True
    )}  # fmt: skip
    sketches_of(module, lambda: module(x).square().mean())
    assert module.first.weight.grad is None
    assert module.twice.weight.grad is None
    for name in ("first.bias", "last.weight", "last.bias"):
        assert torch.allclose(module.get_parameter(name).grad, expected[name], atol=1e-6), name


def test_the_gradient_of_the_input_goes_on_to_the_layers_before():
    module = nn.Linear(6, 6)
    x = normal(5, 6).requires_grad_()
    expected = torch.autograd.grad(module(x).square().sum(), x)[0]
    sketches_of(module, lambda: module(x).square().sum())
    assert torch.allclose(x.grad, expected, atol=1e-6)


def test_backward_keeps_the_folded_input_and_not_the_input():
    module = nn.Linear(64, 64)
    saved = []
    factored = FactoredLinears(module, dict(module.named_parameters()), seed=0, device=CPU, side=SIDE)
    x = normal(10, 64).requires_grad_()
    with (
        factored.sketching(),
        torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda tensor: tensor),
    ):
        module(x)
    assert torch.Size([10, SIDE]) in saved
    assert torch.Size([10, 64]) not in saved


def test_a_weight_that_is_used_outside_its_layer_counts_too():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6, bias=False)

        def forward(self, x):
            return self.layer(x) + x @ self.layer.weight

    model = build_model()
    module = model.transformer = Tied()
    x = normal(5, 6)
    expected = torch.autograd.grad(module(x).square().sum(), module.layer.weight)[0]
    factored = FactoredLinears(module, dict(module.named_parameters()), seed=0, device=CPU, side=SIDE)
    handle = module.layer.weight.register_post_accumulate_grad_hook(lambda weight: factored.weights["layer.weight"].add_formed(weight.grad))
    with factored.sketching():
        module(x).square().sum().backward()
    handle.remove()
    found = {}
    factored.give_to(lambda name, sketch: found.__setitem__(name, sketch))
    assert torch.allclose(found["layer.weight"], explicit_sketch(expected, "layer.weight", seed=0), atol=1e-5)


def test_a_layer_that_computes_in_a_way_of_its_own_is_left_alone():
    class Doubling(nn.Linear):
        def forward(self, input):
            return super().forward(2 * input)

    hooked = nn.Linear(6, 6)
    hooked.forward = lambda input: nn.functional.linear(input, hooked.weight)
    for module in (Doubling(6, 6), hooked):
        assert not FactoredLinears(module, dict(module.named_parameters()), seed=0, device=CPU, side=SIDE).weights


def test_the_layers_are_as_before_after_the_pass_even_if_it_failed():
    module = Stack()
    with pytest.raises(ZeroDivisionError):
        sketches_of(module, lambda: module(normal(2, 7)).sum() / (1 // 0))
    assert all("forward" not in vars(layer) for layer in module.modules())


@pytest.mark.parametrize("rank", [1, 5])
def test_inner_products_of_sketches_are_unbiased(rank):
    """A sign left out or shared by both sides moves the mean of <Sx, Sy> away from <x, y>."""
    x = 1.0 + normal(9, rank, seed=1) @ normal(rank, 11, seed=2)
    y = 1.0 + normal(9, rank, seed=3) @ normal(rank, 11, seed=4)
    products = []
    for seed in range(400):
        layer = FactoredLinear(x, name="w", seed=seed, device=CPU, side=SIDE)
        sx, sy = (layer.fold_output(layer.fold_input(g).T.contiguous()).T for g in (x, y))
        products.append(float((sx * sy).sum()))
    true = float((x * y).sum())
    error = np.std(products) / math.sqrt(len(products))
    assert abs(np.mean(products) - true) < 5 * error, f"biased: {np.mean(products):.2f} for {true:.2f} +- {error:.2f}"
    assert error < 0.2 * abs(true), "the test would see nothing"


def test_sides_and_layers_have_signs_of_their_own():
    one, other = (FactoredLinear(torch.zeros(64, 64), name=name, seed=0, device=CPU, side=SIDE) for name in ("one", "other"))
    signs = [torch.cat(fold._segments) for layer in (one, other) for fold in (layer.fold_output, layer.fold_input)]
    for first in range(4):
        for second in range(first):
            assert abs(float(signs[first] @ signs[second])) < 40


@pytest.fixture(scope="module")
def model():
    """Blocks 160 wide, so that their weights are factored; the output layer is narrower and is not."""
    torch.set_num_threads(1)
    return build_model(heads=4, head_dim=40, ffn_dim=200)


DRAWS = [Draw(timestep=500.0, noise_seed=0)]


def test_the_pass_gives_the_projection_of_sketches_and_formed_gradients(model):
    """Against a plain backward pass: every weight with two long sides is replaced by its sketch."""
    latents, prompt, mask = clip(0)
    exact = ClipGradient(model, projector=Exact(), draws=DRAWS)(latents, prompt, mask)
    found = ClipGradient(model, projector=Exact(), draws=DRAWS, factored=True, proj_seed=5)(latents, prompt, mask)
    whole = torch.from_numpy(exact.gradient_P * exact.norm)
    parts = []
    for name, parameter in sorted(model.transformer.named_parameters()):
        part, whole = whole[: parameter.numel()], whole[parameter.numel() :]
        folded = parameter.ndim == 2 and min(parameter.shape) > 128
        parts.append(explicit_sketch(part.view(parameter.shape), name, seed=5, side=128).flatten() if folded else part)
    expected = torch.cat(parts).numpy()
    assert len(expected) < exact.gradient_P.size
    np.testing.assert_allclose(found.gradient_P * found.norm, expected, atol=1e-5)
    assert found.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)


def test_factored_cosines_are_near_the_exact_ones(model):
    rows = {}
    for name in ("factored", "exact"):
        gradient = build_clip_gradient(model, Gradient.model_validate({"projection": name, "store_dim": 2048}))
        rows[name] = np.stack([gradient(*clip(seed)).gradient_P for seed in range(6)])
    error = rows["factored"] @ rows["factored"].T - rows["exact"] @ rows["exact"].T
    assert np.abs(error).max() < 5 / math.sqrt(2048)


def test_checkpointing_and_earlier_clips_change_no_sketch(model):
    gradient = build_clip_gradient(model, Gradient(projection="factored", store_dim=256))
    alone = gradient(*clip(1))
    gradient(*clip(2, frames=5))
    assert np.array_equal(gradient(*clip(1)).gradient_P, alone.gradient_P)
    recomputed = build_clip_gradient(model, Gradient(projection="factored", store_dim=256, checkpointing=True))(*clip(1))
    np.testing.assert_allclose(recomputed.gradient_P, alone.gradient_P, atol=1e-5)
    assert recomputed.norm == pytest.approx(alone.norm, rel=1e-5)


def test_bfloat16_compute_is_summed_in_float32(model):
    half = build_model(heads=4, head_dim=40, ffn_dim=200)
    half.transformer.to(torch.bfloat16)
    half.compute_dtype = torch.bfloat16
    rows = [build_clip_gradient(each, Gradient(projection="factored"))(*clip(0)).gradient_P for each in (model, half)]
    assert rows[0] @ rows[1] > 0.99


def test_a_pattern_leaves_the_other_layers_unfactored(model):
    chosen = ClipGradient(model, projector=Exact(), draws=DRAWS, factored=True, parameters=r"attn1\.to_q\.weight")
    assert sorted(chosen._factored.weights) == [f"blocks.{k}.attn1.to_q.weight" for k in range(2)]
    assert chosen(*clip(0)).gradient_P.shape == (2 * 128 * 128,)
