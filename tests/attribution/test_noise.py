"""Counter-based randomness: known answers, distribution, and the rule for latents of different shapes."""

import math

import pytest
import torch

from motive_pipeline.attribution import noise

# Random123's known answers for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, output):
    assert noise.philox(torch.tensor(counter)[:, None], key).flatten().tolist() == list(output)


def test_a_number_depends_on_seed_name_and_index_alone():
    long = noise.words(7, "a stream", 1001)
    assert torch.equal(long[:10], noise.words(7, "a stream", 10)), "a longer request must not change what a shorter one gives"
    assert not torch.equal(long, noise.words(8, "a stream", 1001))
    assert not torch.equal(long, noise.words(7, "another stream", 1001))


def test_uniforms_and_normals_and_signs_have_their_distribution():
    n = 200_000
    uniform, normal, sign = noise.uniforms(1, "u", n), noise.normals(1, "n", n), noise.signs(1, "s", n)
    five_sigma = 5 / math.sqrt(n)
    assert uniform.min() > 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < five_sigma * math.sqrt(1 / 12)
    assert abs(normal.mean()) < five_sigma
    assert abs(normal.square().mean() - 1) < five_sigma * math.sqrt(2)
    assert abs(normal.pow(4).mean() - 3) < five_sigma * math.sqrt(96)
    assert set(sign.tolist()) == {-1.0, 1.0}
    assert abs(sign.mean()) < five_sigma


def test_neighbouring_numbers_are_uncorrelated():
    normal = noise.normals(3, "n", 200_000)
    for lag in (1, 2, 3, 4, 8):
        assert abs((normal[lag:] * normal[:-lag]).mean()) < 5 / math.sqrt(200_000)


def test_a_permutation_moves_every_index_once_and_to_everywhere():
    permutation = noise.permutation(0, "p", 4096)
    assert torch.equal(permutation.sort().values, torch.arange(4096))
    assert (permutation == torch.arange(4096)).sum() < 10
    assert not torch.equal(permutation, noise.permutation(1, "p", 4096))


def test_latents_of_every_shape_take_the_same_draw():
    large = noise.latent_noise(5, (16, 6, 9, 11))
    small = noise.latent_noise(5, (3, 2, 7, 4))
    assert torch.equal(small, large[:3, :2, :7, :4])
    assert not torch.equal(noise.latent_noise(6, (3, 2, 7, 4)), small)


def test_the_shared_draw_is_white_along_every_axis():
    draw = noise.latent_noise(0, (16, 16, 16, 16))
    n = draw.numel()
    assert abs(draw.mean()) < 5 / math.sqrt(n)
    assert abs(draw.square().mean() - 1) < 5 * math.sqrt(2 / n)
    for axis in range(4):
        for lag in (1, 2, 4):
            product = draw.narrow(axis, lag, 16 - lag) * draw.narrow(axis, 0, 16 - lag)
            assert abs(product.mean()) < 5 / math.sqrt(product.numel()), f"values {lag} apart along axis {axis} of CFHW are correlated"
