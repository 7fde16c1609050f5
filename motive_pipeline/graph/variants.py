"""The built-in gradient variants, and what a variant may set. A variant is a way to attribute; a config adds its own under ``variants``.

A variant overrides keys of the sections ``gradient``, ``influence`` and ``vote``; what it leaves out is as those sections have it. So the
variant ``motive`` is these sections themselves: by default the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from motive_pipeline.graph.declare import Role

Rule = Literal["vote", "mean_influence"]
"""The order in which a ranking puts the clips: by the queries' votes, or by the influence averaged over the queries."""

MAIN_VARIANT = "motive"
"""The variant that every project has: the sections of the config as they are."""

LEAD = "<lead>"
"""Stands, in the declaration of an arm, for the variant of the project's lead arm."""

UNMASKED = "no_mask"
"""The variant whose loss is not weighted by motion."""

VARIANTS: dict[str, Mapping[str, Any]] = {
    MAIN_VARIANT: {},
    UNMASKED: {"mask": "none"},
    "motive_plus": {"draws": 16, "draw_timesteps": [500], "preconditioner": "trak"},
}
"""What each built-in variant overrides. docs/method.md says why ``motive_plus`` has these."""

OVERRIDDEN_SECTIONS = ("gradient", "influence", "vote")

SHARED_BY_VARIANTS = (
    "parameters",
    "adam_state",
    "adam_clips",
    "adam_seed",
    "max_reject_share",
    "checkpointing",
    "deterministic",
    "draws_at_once",
)
"""Keys of these sections that a variant may not override: the second moments, which all variants share, rest on them, or they only say how the
work is done."""


def weighs_loss(mask: str, role: Role) -> bool:
    """Whether ``gradient.mask`` has the loss of this role's clips weighted by motion."""
    return mask == "both" or (mask == "query" and role == "query")
