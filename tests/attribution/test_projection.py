"""The projections, against explicit matrices and against what a projection must be.

Tolerances of the statistical tests are five standard errors of what is averaged.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motive_pipeline.attribution import noise, projection
from motive_pipeline.attribution.gradient_set import prefix
from motive_pipeline.attribution.projection import CountSketch, Exact, Fastfood, hadamard_matrix, walsh_hadamard
from motive_pipeline.attribution.signed_sum import SIGN_BLOCKS, OrderedSum, SignedSum, natural_order
from motive_pipeline.config import Gradient
from motive_pipeline.errors import MotiveError

CPU = torch.device("cpu")
SIZES = {"blocks.0.weight": 150, "blocks.0.bias": 5, "blocks.10.weight": 300, "blocks.2.weight": 64, "head": 90}
"""With a block of 64 entries: long, short, of several blocks, and ending within a block."""


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(projection, "BLOCK", 64)


def gradient_of(seed: int, sizes=SIZES) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=draw) for name, size in sizes.items()}


def project(projector, gradient: dict[str, torch.Tensor], names=None) -> torch.Tensor:
    projector.start({name: value.numel() for name, value in gradient.items()})
    for name in names or gradient:
        projector.add(name, gradient[name])
    return projector.finish().entries_P


def matrix_of(projector, sizes=SIZES) -> torch.Tensor:
    """[P, D], column by column: what the projector makes of each unit vector; parameters in the order of ``sizes``."""
    columns = []
    for name, size in sizes.items():
        for entry in range(size):
            gradient = {other: torch.zeros(length) for other, length in sizes.items()}
            gradient[name][entry] = 1.0
            columns.append(project(projector, gradient))
    return torch.stack(columns, dim=1)


def explicit_fastfood(*, store_dim: int, seed: int, block: int = 64) -> torch.Tensor:
    """P = c * [first rows of] H G Pi H B as matrices, from the same random streams."""
    hadamard = hadamard_matrix(block).double()
    permutation = torch.eye(block).double()[noise.permutation(seed, "permutation", block)]
    gaussian = torch.diag(noise.normals(seed, "gaussian", block).double())
    mix = (hadamard @ gaussian @ permutation @ hadamard)[:store_dim] / math.sqrt(block * store_dim)
    return mix @ explicit_signs(seed=seed, block=block)


def explicit_signs(*, seed: int, block: int) -> torch.Tensor:
    """[block, D]: the sign of each entry, at its place in the sum."""
    table = noise.signs(seed, "signs", SIGN_BLOCKS * block).double()
    columns = []
    for name, size in SIZES.items():
        words = noise.words(seed, f"layout of {name}", 1 + 2 * (math.ceil(size / block) + 1)).tolist()
        for entry in range(size):
            number, place = divmod(words[0] % block + entry, block)
            start, flip = words[1 + 2 * number], words[2 + 2 * number]
            column = torch.zeros(block).double()
            column[place] = table[start % (len(table) - block + 1) + place] * (1 if flip >> 31 else -1)
            columns.append(column)
    return torch.stack(columns, dim=1)


def test_the_transform_is_the_product_with_hadamards_matrix():
    for n in (2, 8, 64, 128, 512):
        matrix = hadamard_matrix(n)
        assert torch.equal(matrix @ matrix.T, n * torch.eye(n))
        x = noise.normals(0, "x", n)
        assert torch.allclose(walsh_hadamard(x), matrix @ x, atol=n * 1e-6)


@pytest.mark.parametrize("store_dim", [8, 64])
def test_fastfood_is_the_product_of_its_matrices(small_blocks, store_dim):
    expected = explicit_fastfood(store_dim=store_dim, seed=3)
    ours = matrix_of(Fastfood(store_dim=store_dim, seed=3, device=CPU)).double()
    assert torch.allclose(ours, expected, atol=1e-5)


def test_countsketch_is_signs_then_buckets_then_an_orthogonal_transform(small_blocks):
    bucket = noise.words(3, "buckets", 64) % 16
    scatter = torch.nn.functional.one_hot(bucket, 16).T.double()
    expected = hadamard_matrix(16).double() @ scatter @ explicit_signs(seed=3, block=64) / 4
    assert torch.allclose(matrix_of(CountSketch(store_dim=16, seed=3, device=CPU)).double(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", [Fastfood, CountSketch])
def test_inner_products_are_unbiased_at_the_stored_size_and_at_a_prefix(small_blocks, kind):
    """A wrong scale, sign shared within the sum, or transform left out moves the mean of <Px, Py> away from <x, y>."""
    x = {name: value + 1.0 for name, value in gradient_of(1).items()}
    y = {name: value + 1.0 for name, value in gradient_of(2).items()}
    true = sum(float(x[name] @ y[name]) for name in SIZES)
    found = {16: [], 4: []}
    for seed in range(150):
        projector = kind(store_dim=16, seed=seed, device=CPU)
        px, py = project(projector, x), project(projector, y)
        for dim in found:
            found[dim].append(float(px[:dim] @ py[:dim]) * 16 / dim)
    for dim, products in found.items():
        error = np.std(products) / math.sqrt(len(products))
        assert abs(np.mean(products) - true) < 5 * error, f"biased at {dim} entries: {np.mean(products):.1f} for {true:.1f} +- {error:.1f}"
        assert error < 0.2 * abs(true), "the test would see nothing"


@pytest.mark.parametrize("kind", [Fastfood, CountSketch])
def test_entries_have_variance_one_over_the_stored_size_whatever_the_parameter(small_blocks, kind):
    sizes = {"long": 90, "short": 6}
    squares = torch.stack([matrix_of(kind(store_dim=16, seed=seed, device=CPU), sizes).square() for seed in range(30)])
    column_means = squares.mean(dim=(0, 1)) * 16
    column_error = squares.mean(dim=1).std(dim=0) * 16 / math.sqrt(30) + 1e-3
    assert bool(((column_means - 1).abs() < 6 * column_error).all()), "an entry of the gradient counts more than another"


def test_fastfoods_entries_are_gaussian_and_not_signs(small_blocks):
    """Without the Gaussian diagonal every entry's fourth moment would be far from the normal one."""
    entries = torch.stack([matrix_of(Fastfood(store_dim=16, seed=seed, device=CPU), {"w": 64}) for seed in range(30)]) * 4
    assert abs(float(entries.pow(4).mean()) - 3) < 0.4


def test_rows_are_mixed_by_the_permutation(small_blocks):
    """Without Pi, H G H is a convolution: its matrix depends only on row xor column."""
    mix = matrix_of(Fastfood(store_dim=64, seed=0, device=CPU), {"w": 64})
    place = int(noise.words(0, "layout of w", 1)) % 64
    magnitude = mix.abs().roll(place, dims=1)
    rows = torch.arange(64)
    convolution = torch.stack([magnitude[0][(rows ^ row)] for row in range(64)])
    assert not torch.allclose(magnitude, convolution, atol=1e-3)


def test_a_prefix_is_the_projection_to_that_size(small_blocks):
    x = gradient_of(5)
    for kind in (Fastfood, CountSketch):
        whole = project(kind(store_dim=64, seed=1, device=CPU), x)
        if kind is Fastfood:
            assert torch.allclose(whole[:8] * math.sqrt(64 / 8), project(kind(store_dim=8, seed=1, device=CPU), x), atol=1e-4)
        row = (whole / whole.norm())[None].numpy()
        cut = prefix(row, 8)
        assert cut.shape == (1, 8)
        assert np.linalg.norm(cut) == pytest.approx(1, abs=1e-6)
        assert np.allclose(cut[0], (whole[:8] / whole[:8].norm()).numpy(), atol=1e-6)


def test_seeds_give_different_projections_and_equal_seeds_equal_bits():
    x = gradient_of(0)
    first, again, other = (project(Fastfood(store_dim=64, seed=seed, device=CPU), x) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert abs(float(torch.nn.functional.cosine_similarity(first, other, dim=0))) < 0.7


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(list(SIZES)), kind=st.sampled_from([Fastfood, CountSketch, Exact]), block=st.sampled_from([64, 2**16]))
def test_the_order_in_which_gradients_arrive_changes_no_bit(order, kind, block):
    x = gradient_of(4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "BLOCK", block)
        projector = Exact() if kind is Exact else kind(store_dim=32, seed=2, device=CPU)
        assert torch.equal(project(projector, x, order), project(projector, x, sorted(order)))


@settings(max_examples=25, deadline=None)
@given(subset=st.sets(st.sampled_from(list(SIZES)), min_size=1))
def test_what_a_parameter_adds_does_not_depend_on_which_others_there_are(subset):
    x = gradient_of(6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "BLOCK", 64)
        alone = project(Fastfood(store_dim=32, seed=2, device=CPU), {name: x[name] for name in subset})
        others_zero = {name: x[name] if name in subset else torch.zeros_like(x[name]) for name in SIZES}
        assert torch.allclose(alone, project(Fastfood(store_dim=32, seed=2, device=CPU), others_zero), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(group_of=st.lists(st.integers(0, 3), min_size=len(SIZES), max_size=len(SIZES)), kind=st.sampled_from([Fastfood, CountSketch, Exact]))
def test_parameters_may_be_split_over_devices_in_any_way(group_of, kind):
    """Each group is projected by a projector of its own, as on another device, and the projections are added."""
    x = gradient_of(9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "BLOCK", 64)
        whole, square = None, 0.0
        for group in set(group_of):
            projector = Exact() if kind is Exact else kind(store_dim=32, seed=2, device=CPU)
            projector.start(SIZES)
            for name, number in zip(SIZES, group_of, strict=True):
                if number == group:
                    projector.add(name, x[name])
            part = projector.finish()
            whole = part.entries_P if whole is None else whole + part.entries_P
            square += part.norm**2
        together = project(Exact() if kind is Exact else kind(store_dim=32, seed=2, device=CPU), x)
    assert torch.allclose(whole, together, atol=1e-4)
    assert math.sqrt(square) == pytest.approx(float(torch.cat(list(x.values())).norm()), rel=1e-5)


@settings(max_examples=15, deadline=None)
@given(clips=st.lists(st.integers(0, 5), min_size=1, max_size=8), kind=st.sampled_from([Fastfood, CountSketch, Exact]))
def test_what_a_projector_did_before_changes_no_bit(clips, kind):
    """Clips come in batches of any size and order, some twice; each row is that of a fresh projector."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(projection, "BLOCK", 64)
        used = Exact() if kind is Exact else kind(store_dim=32, seed=2, device=CPU)
        for seed in clips:
            fresh = Exact() if kind is Exact else kind(store_dim=32, seed=2, device=CPU)
            assert torch.equal(project(used, gradient_of(seed)), project(fresh, gradient_of(seed)))


@given(order=st.permutations(range(13)))
@settings(max_examples=30, deadline=None)
def test_an_ordered_sum_has_the_same_bits_for_every_order(order):
    vectors = {f"blocks.{k}": noise.normals(k, "v", 33) * 10.0 ** (k % 5) for k in range(13)}
    sums = []
    for names in (list(vectors), [f"blocks.{k}" for k in order]):
        ordered = OrderedSum(33, CPU)
        ordered.start(list(vectors))
        for name in names:
            ordered.add(name, vectors[name].clone())
        sums.append(ordered.finish())
    assert torch.equal(*sums)
    assert torch.allclose(sums[0], sum(vectors.values()), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("size", [100, 640, 1 + 64 * 70, 64 * 33 + 5])
def test_blocks_added_by_groups_are_the_blocks_added_one_by_one(size):
    """As on a GPU and as on a CPU: of fewer blocks than a group, of a whole number of groups or not, with and without a rest."""
    sums = []
    for grouped in (False, True):
        signed = SignedSum(block=64, seed=size, device=CPU, grouped=grouped)
        signed.start({"w": size, "short": 7})
        for name, value in gradient_of(3, {"w": size, "short": 7}).items():
            signed.add(name, value)
        sums.append(signed.finish())
    torch.testing.assert_close(sums[1][0], sums[0][0], rtol=1e-5, atol=1e-4)
    assert sums[1][1] == pytest.approx(sums[0][1], rel=1e-6)


def test_an_ordered_sum_holds_few_vectors_when_they_come_in_order():
    names = [f"blocks.{k}.{w}" for k in range(40) for w in ("a", "b", "c")]
    ordered = OrderedSum(4, CPU)
    ordered.start(names)
    for name in reversed(names):
        ordered.add(name, ordered.zeros())
        assert len(ordered._nodes) <= 2 * math.log2(len(names))


def test_the_norm_is_exact_and_shapes_and_storage_types_do_not_matter():
    x = gradient_of(7)
    true = math.sqrt(sum(float(value.double().square().sum()) for value in x.values()))
    for projector in (Fastfood(store_dim=64, seed=0, device=CPU), CountSketch(store_dim=64, seed=0, device=CPU), Exact()):
        entries = project(projector, x)
        shaped = {name: value.reshape(-1, 1) for name, value in x.items()}
        assert torch.equal(project(projector, shaped), entries)
        halves = {name: value.bfloat16() for name, value in x.items()}
        assert torch.equal(project(projector, halves), project(projector, {name: value.float() for name, value in halves.items()}))
        projector.start(SIZES)
        for name in SIZES:
            projector.add(name, x[name])
        assert projector.finish().norm == pytest.approx(true, rel=1e-6)


def test_exact_keeps_every_entry_in_the_order_of_names():
    x = gradient_of(8)
    assert torch.equal(project(Exact(), x), torch.cat([x[name] for name in sorted(x)]))
    with pytest.raises(MotiveError, match=r"gradient\.projection"):
        Exact().start({"w": 2**25})


def test_parameters_of_blocks_are_ordered_by_number():
    names = ["blocks.10.w", "blocks.2.w", "a", "blocks.2.b"]
    assert sorted(names, key=natural_order) == ["a", "blocks.2.b", "blocks.2.w", "blocks.10.w"]


def test_the_config_names_the_projector():
    kinds = {"fastfood": Fastfood, "countsketch": CountSketch, "factored": Fastfood, "exact": Exact}
    for name, kind in kinds.items():
        assert type(projection.build_projector(Gradient.model_validate({"projection": name, "store_dim": 32}), CPU)) is kind
