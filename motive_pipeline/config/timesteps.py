"""The timesteps that a denoiser is used at, and how settings are spread over them."""

from __future__ import annotations

from dataclasses import dataclass

USUAL_TIMESTEP = 500.0
"""Where the paper takes its gradients."""


@dataclass(frozen=True, kw_only=True)
class TimestepRange:
    """The timesteps from ``low`` up to below ``high``, on diffusers' scale 0-1000: all, or those of one of two experts."""

    low: float = 0.0
    high: float = 1000.0

    def __contains__(self, timestep: float) -> bool:
        return self.low <= timestep < self.high

    def __str__(self) -> str:
        return f"{self.low:g} to below {self.high:g}"

    @property
    def usual(self) -> float:
        """500, or the middle of a range that has no 500."""
        return USUAL_TIMESTEP if USUAL_TIMESTEP in self else (self.low + self.high) / 2


ALL_TIMESTEPS = TimestepRange()


def expert_range(*, is_second: bool, boundary_ratio: float | None) -> TimestepRange:
    """The timesteps of one of two experts, as diffusers' pipelines of Wan 2.2 choose: the first (high noise) at 1000 boundary_ratio and above, the second
    below. Without ``boundary_ratio`` there is one denoiser for all."""
    if boundary_ratio is None:
        return ALL_TIMESTEPS
    boundary = 1000.0 * boundary_ratio
    return TimestepRange(high=boundary) if is_second else TimestepRange(low=boundary)
