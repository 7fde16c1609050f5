"""Flags: what can be unusual about a clip that is used all the same."""

from __future__ import annotations

from functools import cache

FLAGS = (
    "alpha", "hdr", "interlaced", "non_square_pixels", "rotated", "time_repaired", "truncated", "upscaled", "variable_rate",
)  # fmt: skip
"""The position of a flag is its bit in :func:`flag_bits`."""


def flag_bits(flags: tuple[str, ...]) -> int:
    """``flags`` as one number, for a stored row."""
    return sum(1 << FLAGS.index(flag) for flag in flags)


@cache
def flag_names(bits: int) -> tuple[str, ...]:
    """The flags in ``bits``, in the order of :data:`FLAGS`."""
    return tuple(flag for position, flag in enumerate(FLAGS) if bits >> position & 1)
