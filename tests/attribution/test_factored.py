"""The factored projection: sketches of weight gradients that are never formed, against the gradients themselves."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from motive_pipeline.attribution import noise
from motive_pipeline.attribution.factored import FactoredLinear, FactoredLinears, bfloat16_terms
from motive_pipeline.attribution.gradient import ClipGradient, build_clip_gradient
from motive_pipeline.attribution.loss import Draw
from motive_pipeline.attribution.projection import Exact
from motive_pipeline.config import Gradient
from motive_pipeline.errors import RejectRow
from tests.attribution.test_gradient import clip
from tests.tiny_wan import build_model

CPU = torch.device("cpu")
WIDTH, SHORT = 4, 5


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factor(num_inputs: int, name: str, *, seed: int, width: int = WIDTH) -> torch.Tensor:
    """R [I, k], entry by entry."""
    signs = noise.signs(seed, f"factor of {name}", num_inputs * width).tolist()
    return torch.tensor([[signs[row * width + column] / math.sqrt(width) for column in range(width)] for row in range(num_inputs)])


class Block(nn.Module):
    """Linears with a bend between them; the first takes an input without a gradient, the second is used twice, the last is short."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Linear(7, 6), nn.Linear(6, 6, bias=False), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bent = torch.tanh(self.first(x))
        return self.last(self.twice(torch.tanh(self.twice(bent))))


class Stack(nn.Module):
    """Two blocks between two layers that stand alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(7, 7), nn.Linear(2, 9)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        return self.head(self.blocks[0](x) + self.blocks[1](x))


FACTORED = {f"blocks.{block}.{layer}.weight" for block in (0, 1) for layer in ("first", "twice")}


@pytest.fixture
def stack() -> Stack:
    torch.manual_seed(0)
    return Stack()


def factored_linears(module: nn.Module, *, seed: int = 0) -> FactoredLinears:
    return FactoredLinears(module, dict(module.named_parameters()), seed=seed, device=CPU, width=WIDTH, short=SHORT)


def sketches_of(module: nn.Module, loss, *, seed: int = 0) -> dict[str, torch.Tensor]:
    """What the factored layers of ``module`` hand over for one backward pass of ``loss()``."""
    factored = factored_linears(module, seed=seed)
    with factored.sketching():
        loss().backward()
    return given(factored)


def given(factored: FactoredLinears) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    factored.give_to(lambda name, sketch: found.__setitem__(name, sketch))
    return found


def gradients_of(module: nn.Module, loss) -> dict[str, torch.Tensor]:
    named = dict(module.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss(), list(named.values())), strict=True))


@pytest.mark.parametrize("tile", [2, 8192])
def test_a_layers_sketch_is_the_gradient_of_its_weight_times_the_factor(stack, monkeypatch, tile):
    monkeypatch.setattr("motive_pipeline.attribution.factored.TILE_TOKENS", tile)
    x, target = normal(3, 5, 7), normal(3, 5, 9, seed=1)

    def loss():
        return (stack(x) - target).square().mean()

    gradients = gradients_of(stack, loss)
    sketches = sketches_of(stack, loss, seed=3)
    assert set(sketches) == FACTORED, "a layer that stands alone, or has a short side, is not factored"
    for name, sketch in sketches.items():
        assert torch.allclose(sketch, gradients[name] @ factor(gradients[name].shape[1], name, seed=3), atol=1e-6), name


def test_no_weight_gradient_is_formed_and_every_other_gradient_is_autograds(stack):
    x = normal(5, 7)
    expected = gradients_of(stack, lambda: stack(x).square().mean())
    sketches_of(stack, lambda: stack(x).square().mean())
    for name, parameter in stack.named_parameters():
        if name in FACTORED:
            assert parameter.grad is None, name
        else:
            assert torch.allclose(parameter.grad, expected[name], atol=1e-6), name


def test_the_gradient_of_the_input_goes_on_to_what_comes_before(stack):
    x = normal(5, 7).requires_grad_()
    expected = torch.autograd.grad(stack(x).square().sum(), x)[0]
    sketches_of(stack, lambda: stack(x).square().sum())
    assert torch.allclose(x.grad, expected, atol=1e-5)


def test_backward_keeps_the_narrowed_input_and_not_the_input():
    module = nn.ModuleList([nn.Linear(64, 64)])
    saved = []
    x = normal(10, 64).requires_grad_()
    keep = torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape) or tensor, lambda tensor: tensor)
    with FactoredLinears(nn.Sequential(module), {"0.0.weight": module[0].weight}, seed=0, device=CPU, width=4, short=5).sketching(), keep:
        module[0](x)
    assert torch.Size([10, 4]) in saved
    assert torch.Size([10, 64]) not in saved


def test_a_weight_that_is_used_outside_its_layer_counts_too(stack):
    layer, name = stack.blocks[0].twice, "blocks.0.twice.weight"
    x = normal(5, 7)

    def loss():
        return (stack(x).square().sum() + (x[:, :6] @ layer.weight).square().sum()) / 10

    expected = gradients_of(stack, loss)[name]
    factored = factored_linears(stack)
    handle = layer.weight.register_post_accumulate_grad_hook(
        lambda weight: weight.grad is None or factored.weights[name].add_formed(weight.grad)
    )
    with factored.sketching():
        loss().backward()
    handle.remove()
    assert torch.allclose(given(factored)[name], expected @ factor(6, name, seed=0), atol=1e-5)


def test_a_layer_that_computes_in_a_way_of_its_own_is_left_alone():
    class Doubling(nn.Linear):
        def forward(self, input):
            return super().forward(2 * input)

    hooked = nn.Linear(6, 6)
    hooked.forward = lambda input: nn.functional.linear(input, hooked.weight)
    module = nn.Sequential(nn.ModuleList([Doubling(6, 6), hooked, nn.Linear(6, 6)]))
    assert list(factored_linears(module).weights) == ["0.2.weight"]


def test_the_layers_are_as_before_after_the_pass_even_if_it_failed(stack):
    with pytest.raises(ZeroDivisionError):
        sketches_of(stack, lambda: stack(normal(2, 7)).sum() / (1 // 0))
    assert all("forward" not in vars(layer) for layer in stack.modules())


def test_sketches_are_given_once(stack):
    factored = factored_linears(stack)
    with factored.sketching():
        stack(normal(2, 7)).sum().backward()
    assert set(given(factored)) == FACTORED
    assert not given(factored)


@pytest.mark.parametrize("rank", [1, 5])
def test_inner_products_of_sketches_are_unbiased(rank):
    """A missing sign or scale moves the mean of <Sx, Sy> away from <x, y>."""
    x = 1.0 + normal(9, rank, seed=1) @ normal(rank, 11, seed=2)
    y = 1.0 + normal(9, rank, seed=3) @ normal(rank, 11, seed=4)
    products = []
    for seed in range(400):
        layer = FactoredLinear(x, name="w", seed=seed, device=CPU, width=WIDTH)
        products.append(float((layer.narrowed(x) * layer.narrowed(y)).sum()))
    true = float((x * y).sum())
    error = np.std(products) / math.sqrt(len(products))
    assert abs(np.mean(products) - true) < 5 * error, f"biased: {np.mean(products):.2f} for {true:.2f} +- {error:.2f}"
    assert error < 0.2 * abs(true), "the test would see nothing"


def test_layers_have_signs_of_their_own():
    """Shared ones would make the layers' errors add up."""
    factors = [FactoredLinear(torch.zeros(64, 64), name=name, seed=0, device=CPU, width=16)._signs_Ik for name in ("one", "other")]
    assert abs(float((factors[0] * factors[1]).sum())) < 5 * 8 / math.sqrt(16) * math.sqrt(4)


@pytest.fixture(scope="module")
def model():
    """Blocks 160 wide, so that their weights are factored; the output layer is narrower and is not."""
    torch.set_num_threads(1)
    return build_model(heads=4, head_dim=40, ffn_dim=200)


DRAWS = [Draw(timestep=500.0, noise_seed=0)]


@pytest.mark.parametrize("used_outside", [False, True])
def test_the_pass_gives_the_projection_of_sketches_and_formed_gradients(model, used_outside):
    """Against a plain backward pass: every weight of a block with two long sides is replaced by its sketch. In the second case a weight
    also counts outside its layer, where autograd forms its gradient.
    """
    latents, prompt, mask = clip(0)
    weight = model.transformer.blocks[1].attn1.to_q.weight
    handle = model.transformer.register_forward_hook(lambda module, inputs, output: (output[0] + used_outside * weight.square().mean(),))
    exact = ClipGradient(model, projector=Exact(), draws=DRAWS)(latents, prompt, mask)
    found = ClipGradient(model, projector=Exact(), draws=DRAWS, factored=True, proj_seed=5)(latents, prompt, mask)
    handle.remove()
    whole = torch.from_numpy(exact.gradient_P * exact.norm)
    parts = []
    for name, parameter in sorted(model.transformer.named_parameters()):
        part, whole = whole[: parameter.numel()], whole[parameter.numel() :]
        factored = name.startswith("blocks.") and parameter.ndim == 2 and min(parameter.shape) > 128
        parts.append((part.view(parameter.shape) @ factor(parameter.shape[1], name, seed=5, width=32)).flatten() if factored else part)
    expected = torch.cat(parts).numpy()
    assert len(expected) < exact.gradient_P.size
    np.testing.assert_allclose(found.gradient_P * found.norm, expected, atol=1e-5)
    assert found.norm == pytest.approx(np.linalg.norm(expected), rel=1e-5)


def test_two_bfloat16_terms_hold_sixteen_bits():
    values_Tk = torch.randn(100, 32, generator=torch.Generator().manual_seed(0)) * 1000
    terms = bfloat16_terms(values_Tk)
    assert terms.dtype == torch.bfloat16
    high_Tk, low_Tk = terms.float().chunk(2, dim=1)
    assert torch.equal(high_Tk, values_Tk.bfloat16().float())
    assert ((high_Tk + low_Tk - values_Tk).abs() <= values_Tk.abs() * 2.0**-16).all()


@pytest.mark.parametrize("uses", [1, 2])
def test_bfloat16_rows_multiplied_as_such_give_the_same_sketch(uses):
    """As on a GPU; against float64, and no worse than bfloat16 rows brought to float32 first."""
    random = torch.Generator().manual_seed(1)
    inputs_TI, gradient_TO = (torch.randn(500, size, generator=random).bfloat16() for size in (40, 24))
    expected_Ok = uses * (gradient_TO.double().T @ inputs_TI.double() @ factor(40, "w", seed=3, width=32).double())
    for halves in (True, False):
        layer = FactoredLinear(torch.zeros(24, 40), name="w", seed=3, device=CPU, width=32, halves=halves)
        for _ in range(uses):
            layer.add(gradient_TO, layer.narrowed(inputs_TI))
        sketch_Ok = layer.take()
        assert sketch_Ok.dtype == torch.float32
        assert (sketch_Ok - expected_Ok).abs().max() < 2.0**-16 * expected_Ok.abs().max()


def test_the_config_chooses_it_and_its_seed(model):
    name = "blocks.0.ffn.net.0.proj.weight"
    for seed in (0, 5):
        gradient = build_clip_gradient(model, Gradient(projection="factored", proj_seed=seed, store_dim=64))
        assert torch.allclose(gradient._factored.weights[name].narrowed(torch.eye(160)), factor(160, name, seed=seed, width=32))
    assert not build_clip_gradient(model, Gradient(store_dim=64))._factored.weights


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


def test_a_pass_that_failed_half_way_leaves_nothing_behind(model):
    gradient = build_clip_gradient(model, Gradient(projection="factored", store_dim=256))
    alone = gradient(*clip(0))

    def refuse(_):
        raise MemoryError

    handle = model.transformer.patch_embedding.weight.register_hook(refuse)
    with pytest.raises(RejectRow, match="does not fit"):
        gradient(*clip(1))
    handle.remove()
    assert np.array_equal(gradient(*clip(0)).gradient_P, alone.gradient_P)


def test_bfloat16_compute_is_summed_in_float32(model):
    half = build_model(heads=4, head_dim=40, ffn_dim=200)
    half.transformer.to(torch.bfloat16)
    half.compute_dtype = torch.bfloat16
    rows = [build_clip_gradient(each, Gradient(projection="factored"))(*clip(0)).gradient_P for each in (model, half)]
    assert rows[0] @ rows[1] > 0.99


def test_a_pattern_leaves_the_other_layers_unfactored(model):
    chosen = ClipGradient(model, projector=Exact(), draws=DRAWS, factored=True, parameters=r"attn1\.to_q\.weight")
    assert sorted(chosen._factored.weights) == [f"blocks.{k}.attn1.to_q.weight" for k in range(2)]
    assert chosen(*clip(0)).gradient_P.shape == (2 * 160 * 32,)
