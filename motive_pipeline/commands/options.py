"""Values of options that several commands take."""

from __future__ import annotations

import argparse

from motive_pipeline.config import Config, Variant
from motive_pipeline.errors import MotiveError, did_you_mean


def count(text: str) -> int:
    """``text`` as a whole number, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return number


def positive(text: str) -> float:
    """``text`` as a number above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def require_variant(config: Config, name: str) -> Variant:
    """``name``, which ``--variant`` gave.

    Raises:
        MotiveError: the config has no such variant.
    """
    if name in config.variants:
        return name
    raise MotiveError(
        f"--variant {name}: there is no such variant.{did_you_mean(name, config.variants)} There are: {', '.join(config.variants)}. "
        "The section `variants` adds others."
    )
