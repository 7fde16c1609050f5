"""The picture of a motion mask: where it colours, how much, and how it is scaled."""

import numpy as np
import pytest

from motive_pipeline.motion.overlay import MASK_COLOUR, overlay_mask

PICTURE = np.full((8, 12, 3), 100, np.uint8)


def test_weight_0_leaves_the_picture_and_weight_1_turns_it_mostly_red():
    mask = np.zeros((8, 12), np.float32)
    mask[:, 6:] = 1
    shown = overlay_mask(PICTURE, mask)
    assert (shown[:, :6] == 100).all()
    assert shown[0, 6].tolist() == [round(0.3 * 100 + 0.7 * channel) for channel in MASK_COLOUR]


def test_half_a_weight_is_half_as_opaque():
    shown = overlay_mask(PICTURE, np.full((2, 3), 0.5, np.float32))
    assert shown[4, 4].tolist() == [round(0.65 * 100 + 0.35 * channel) for channel in MASK_COLOUR]


def test_cells_have_sharp_edges_and_a_scaled_mask_has_smooth_ones():
    mask = np.array([[0.0, 1.0]], np.float32)
    assert len(np.unique(overlay_mask(PICTURE, mask, as_cells=True)[..., 0])) == 2
    assert len(np.unique(overlay_mask(PICTURE, mask)[..., 0])) > 2


@pytest.mark.parametrize(("weight", "like"), [(-1.0, 0.0), (7.0, 1.0)])
def test_weights_outside_0_to_1_are_clipped(weight, like):
    one, other = (overlay_mask(PICTURE, np.full((1, 1), value, np.float32)) for value in (weight, like))
    assert (one == other).all()
