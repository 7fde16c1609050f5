"""The motion mask against slow oracles written from docs/motion.md."""

import math

import numpy as np
import pytest

from motive_pipeline.models.grid import LatentGrid
from motive_pipeline.motion.field import MaskRule, weigh
from motive_pipeline.motion.mask import ZETA, magnitude, saliency, to_latent_grid
from motive_pipeline.motion.trackers import Tracks

GRID = LatentGrid(channels=16, temporal_stride=4, spatial_stride=8)


def motion_mask(displacement: np.ndarray, grid: LatentGrid, *, floor_px: float) -> tuple[np.ndarray, float]:
    """(mask, mean magnitude) without any option."""
    field = weigh(Tracks(displacement_THW2=displacement), MaskRule(floor_px=floor_px), np.zeros(len(displacement), dtype=bool))
    return field.mask(grid), field.magnitude_px


def random_displacement(num_frames: int = 9, height: int = 32, width: int = 48, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (num_frames, height, width, 2)).astype(np.float32)


def oracle_bilinear(field_HW: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear interpolation with cell centres aligned: cell i of n lies at (i + 0.5) * N / n - 0.5."""
    out = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * field_HW.shape[0] / height - 0.5, 0), field_HW.shape[0] - 1)
            x = min(max((j + 0.5) * field_HW.shape[1] / width - 0.5, 0), field_HW.shape[1] - 1)
            y0, x0 = math.floor(y), math.floor(x)
            y1, x1 = min(y0 + 1, field_HW.shape[0] - 1), min(x0 + 1, field_HW.shape[1] - 1)
            top = field_HW[y0, x0] * (1 - (x - x0)) + field_HW[y0, x1] * (x - x0)
            bottom = field_HW[y1, x0] * (1 - (x - x0)) + field_HW[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def oracle_mask(displacement_THW2: np.ndarray, stride_t: int, stride_s: int, floor_px: float) -> np.ndarray:
    num_frames, height, width, _ = displacement_THW2.shape
    magnitudes = [[[math.sqrt(float(dx) ** 2 + float(dy) ** 2) for dx, dy in row] for row in frame] for frame in displacement_THW2]
    low, high = np.min(magnitudes), np.max(magnitudes)
    weights = (np.array(magnitudes) - low) / max(high - low + 1e-6, floor_px)
    resized = [oracle_bilinear(frame, height // stride_s, width // stride_s) for frame in weights]
    out = [resized[0]]
    for k in range(1, (num_frames - 1) // stride_t + 1):
        out.append(sum(resized[f] for f in range(stride_t * (k - 1) + 1, stride_t * k + 1)) / stride_t)
    return np.array(out)


@pytest.mark.parametrize(("stride_t", "stride_s"), [(4, 8), (4, 16), (2, 4), (1, 8)])
@pytest.mark.parametrize("floor_px", [0.0, 1.0, 50.0])
def test_the_mask_is_the_one_of_the_method(stride_t, stride_s, floor_px):
    displacement = random_displacement()
    grid = LatentGrid(channels=16, temporal_stride=stride_t, spatial_stride=stride_s)
    mask, magnitude_px = motion_mask(displacement, grid, floor_px=floor_px)
    assert mask.dtype == np.float32
    assert mask == pytest.approx(oracle_mask(displacement, stride_t, stride_s, floor_px), abs=2e-6)
    assert magnitude_px == pytest.approx(np.sqrt((displacement.astype(np.float64) ** 2).sum(-1)).mean(), rel=1e-6)


def test_the_magnitude_is_the_euclidean_length():
    assert magnitude(np.array([[[[3.0, -4.0], [0.0, 0.0]]]])).tolist() == [[[5.0, 0.0]]]


def test_minimum_and_maximum_are_those_of_the_whole_clip_not_of_each_frame():
    magnitudes = np.stack([np.full((8, 8), 2.0), np.full((8, 8), 10.0), np.full((8, 8), 6.0)]).astype(np.float32)
    assert saliency(magnitudes, floor_px=0.0)[:, 0, 0] == pytest.approx([0, 1, 0.5], abs=1e-6)


def test_without_a_floor_zeta_alone_keeps_a_still_clip_finite():
    assert not saliency(np.full((5, 8, 8), 3.0, dtype=np.float32), floor_px=0.0).any()
    tiny = np.zeros((1, 1, 2), dtype=np.float32)
    tiny[..., 1] = ZETA
    assert saliency(tiny, floor_px=0.0).max() == pytest.approx(0.5), "(M - min) / (max - min + zeta) with max - min = zeta"


def test_a_floor_keeps_noise_small_and_leaves_faster_motion_alone():
    noise = np.random.default_rng(0).uniform(0, 0.1, (5, 8, 8)).astype(np.float32)
    assert saliency(noise, floor_px=1.0).max() < 0.1
    fast = 40 * noise
    assert np.array_equal(saliency(fast, floor_px=1.0), saliency(fast, floor_px=0.0))


def test_weights_lie_between_0_and_1():
    for scale in (1e-4, 1.0, 1e4):
        mask, _ = motion_mask(np.float32(scale) * random_displacement(seed=2), GRID, floor_px=1.0)
        assert 0 <= mask.min() <= mask.max() <= 1


def test_latent_frame_0_is_frame_0_and_latent_frame_k_the_mean_of_its_own_frames():
    ramp = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None], (9, 16, 16))
    assert to_latent_grid(np.ascontiguousarray(ramp), GRID)[:, 0, 0].tolist() == [0.0, 2.5, 6.5]


def test_rows_stay_rows_and_columns_stay_columns():
    field = np.zeros((1, 32, 64), dtype=np.float32)
    field[0, 8:16, 48:56] = 1
    mask = to_latent_grid(field, GRID)
    assert mask.shape == (1, 4, 8)
    assert np.argwhere(mask[0] == 1).tolist() == [[1, 6]]


def test_a_clip_of_one_frame_has_one_latent_frame():
    assert to_latent_grid(np.ones((1, 16, 16), dtype=np.float32), GRID).tolist() == [[[1.0, 1.0], [1.0, 1.0]]]


def test_a_number_of_frames_that_does_not_fit_the_stride_is_an_error():
    with pytest.raises(ValueError, match=r"8 frames do not fit the temporal stride 4"):
        to_latent_grid(np.zeros((8, 16, 16), dtype=np.float32), GRID)
