"""Flags: what can be unusual about a clip that is used all the same."""

from __future__ import annotations

from functools import cache

FLAGS = (
    "alpha", "hdr", "interlaced", "non_square_pixels", "rotated", "time_repaired", "truncated", "upscaled", "variable_rate",
    "cropped_by_file",
)  # fmt: skip
"""The position of a flag is its bit in :func:`flag_bits`, so a new one comes last."""


def flag_bits(flags: tuple[str, ...]) -> int:
    """``flags`` as one number, for a stored row."""
    return sum(1 << FLAGS.index(flag) for flag in flags)


MOSTLY_CROPPED_FROM = 0.5
"""A clip of which more than this share is cut away by the centre crop is flagged ``mostly_cropped``."""


def is_mostly_cropped(shown_width: int, shown_height: int, *, width: int, height: int) -> bool:
    """Whether a picture that is scaled to cover ``width`` x ``height``, and centre-cropped, loses most of its area."""
    shares = sorted((shown_width * height, shown_height * width))  # of the two sides, up to a common factor
    return shares[0] < (1 - MOSTLY_CROPPED_FROM) * shares[1]


@cache
def flag_names(bits: int) -> tuple[str, ...]:
    """The flags in ``bits``, in the order of :data:`FLAGS`."""
    return tuple(flag for position, flag in enumerate(FLAGS) if bits >> position & 1)
