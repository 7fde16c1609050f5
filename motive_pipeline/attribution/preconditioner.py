"""``influence.preconditioner: adam``: divides each gradient entry by the root of its second moment, before the projection.

    g' = g / (sqrt(v) + eps * rms),    rms = the root of the mean of all v

v is an estimate of E[g^2] for each entry: Adam's second moment (Kingma and Ba, 2015), so g' is the direction in which Adam would move the
weights. LESS (Xia et al., ICML 2024) selects training data by it. ``eps`` is relative, unlike Adam's: the entries of a gradient over 10^9
parameters are so small that an absolute eps would dominate. A constant factor on the loss does not change g'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from motive_pipeline.attribution.projection import Projected, Projector


class Preconditioned:
    """A ``Projector`` that multiplies each gradient, entry by entry, by its parameter's scales and passes it to another projector."""

    def __init__(self, projector: Projector, scales: Mapping[str, torch.Tensor]) -> None:
        self._projector = projector
        self._scales = scales

    def start(self, sizes: Mapping[str, int]) -> None:
        """See :class:`Projector`."""
        self._projector.start(sizes)

    def add(self, name: str, gradient: torch.Tensor) -> None:
        """See :class:`Projector`."""
        self._projector.add(name, gradient.detach().float() * self._scales[name])

    def finish(self) -> Projected:
        """See :class:`Projector`. The norm is that of the preconditioned gradient."""
        return self._projector.finish()


def adam_scales(second_moments: Mapping[str, torch.Tensor], *, eps: float) -> dict[str, torch.Tensor]:
    """1 / (sqrt(v) + eps * rms) for each parameter; 1 where v and ``rms`` are zero (a gradient that is zero everywhere)."""
    total = math.fsum(float(moment.double().sum()) for moment in second_moments.values())
    rms = math.sqrt(total / sum(moment.numel() for moment in second_moments.values()))
    if rms == 0.0:
        return {name: torch.ones_like(moment) for name, moment in second_moments.items()}
    return {name: moment.sqrt().add_(eps * rms).reciprocal_() for name, moment in second_moments.items()}
