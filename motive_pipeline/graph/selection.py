"""What an arm of the config's own may ask for besides the best clips of a ranking. docs/selection.md explains each wish; ``curation/selection.py`` meets them.

The wishes apply in the order of the fields below. A wish that is not made changes nothing: without any, an arm takes the first clips as they are ranked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The wishes of one arm.

    ``where`` is a condition in SQL on each clip. ``weights`` say how much a query's vote counts, by its category (1 where none is named); ``quotas`` give
    categories a share of the chosen clips, each picked by that category's queries alone. ``max_near_duplicates`` clips of a group that looks alike, and
    ``max_per_video`` windows of one file, are chosen at most. ``max_similarity`` is the largest cosine between the projected gradients of two chosen clips.
    ``budget_seconds`` or ``budget_frames`` replaces the share: so much video is chosen.
    """

    where: str | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    quotas: Mapping[str, float] = field(default_factory=dict)
    max_near_duplicates: int | None = None
    max_per_video: int | None = None
    max_similarity: float | None = None
    budget_seconds: float | None = None
    budget_frames: int | None = None

    def __bool__(self) -> bool:
        """Whether there is any wish."""
        return bool(self.settings())

    @property
    def by_category(self) -> bool:
        """Whether it counts votes anew, by the categories of the queries."""
        return bool(self.weights or self.quotas)

    @property
    def has_budget(self) -> bool:
        """Whether an amount of video, and not the share of the pool, says how much is chosen."""
        return self.budget_seconds is not None or self.budget_frames is not None

    def settings(self) -> dict[str, Any]:
        """The wishes that are made, by name."""
        return {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(self).items() if value not in (None, {})}

    def shared_settings(self) -> tuple[str, ...]:
        """The settings of the arm's variant, by dotted key, that decide the choice, too."""
        counted = ("vote.percentile", "vote.rule") if self.by_category else ()
        near = ("influence.proj_dim", "gradient.combine") if self.max_similarity is not None else ()
        return (*counted, *near, *(("clips.fps",) if self.budget_seconds is not None else ()))

    def reads(self, variant: str) -> tuple[str, ...]:
        """The assets that the wishes need, besides the pool and the ranking of ``variant``."""
        return tuple(dict.fromkeys(self._reads(variant)))

    def _reads(self, variant: str) -> Iterator[str]:
        if self.where is not None:
            yield from ("clip_catalog", "latents", "motion_masks")
        if self.by_category:
            yield from ("query_catalog", f"influence_matrix/{variant}")
        if self.max_near_duplicates is not None or self.has_budget:
            yield "latents"
        if self.max_per_video is not None:
            yield "clip_catalog"
        if self.max_similarity is not None:
            yield f"projected_gradients/{variant}"

    def in_words(self) -> list[str]:
        """One phrase for each wish, in the order in which they apply."""
        return list(self._phrases())

    def _phrases(self) -> Iterator[str]:
        if self.where is not None:
            yield f"where {self.where}"
        if self.weights:
            yield f"votes weighted by category ({', '.join(f'{name} {value:g}' for name, value in self.weights.items())})"
        if self.quotas:
            yield f"quotas by category ({', '.join(f'{name} {value:.4g}' for name, value in self.quotas.items())})"
        if self.max_near_duplicates is not None:
            yield f"at most {self.max_near_duplicates} of a group of near-duplicates"
        if self.max_per_video is not None:
            yield f"at most {self.max_per_video} of one video file"
        if self.max_similarity is not None:
            yield f"no two gradients more similar than {self.max_similarity:g}"
        if self.budget_seconds is not None:
            yield f"at most {self.budget_seconds:g} seconds of video"
        if self.budget_frames is not None:
            yield f"at most {self.budget_frames} frames"
