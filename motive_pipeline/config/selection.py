"""What an arm of the config's own asks for besides its variant: the keys beside ``name``, ``variant`` and ``rule`` of an entry of ``arms``."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from fractions import Fraction
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from motive_pipeline.config.conditions import parse_condition
from motive_pipeline.config.section import Section, Share
from motive_pipeline.errors import ConfigError, did_you_mean
from motive_pipeline.graph.arms import Arm
from motive_pipeline.graph.selection import Selection

Count = Annotated[int, Field(ge=1)]


class Budget(Section):
    """How much video an arm chooses, in seconds or in frames."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    frames: Count | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> Budget:
        if (self.seconds is None) == (self.frames is None):
            raise ValueError("name one of seconds and frames, for instance {seconds: 3600}")
        return self


class Wishes(Section):
    """The wishes of one arm; see :class:`~motive_pipeline.graph.selection.Selection`."""

    where: str | None = None
    weights: dict[str, Annotated[float, Field(ge=0)]] = Field(default={})
    quotas: dict[str, Share] = Field(default={})
    max_near_duplicates: Count | None = None
    max_per_video: Count | None = None
    max_similarity: float | None = None
    budget: Budget | None = None

    @field_validator("where")
    @classmethod
    def _a_condition(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parse_condition(value)
        return value.strip()

    @field_validator("weights")
    @classmethod
    def _some_weight(cls, value: dict[str, float]) -> dict[str, float]:
        return dict(sorted(value.items()))

    @field_validator("quotas")
    @classmethod
    def _a_whole_at_most(cls, value: dict[str, float]) -> dict[str, float]:
        if (total := sum(Fraction(str(share)) for share in value.values())) > 1:
            raise ValueError(f"the shares add up to {float(total):g}; they are shares of the chosen clips, so at most 1 together")
        return dict(sorted(value.items()))

    @field_validator("max_similarity")
    @classmethod
    def _a_cosine(cls, value: float | None) -> float | None:
        if value is not None and not 0 < value < 1:
            hint = f". Did you mean {value / 100:g}?" if 1 < value < 100 else ""
            raise ValueError(f"is a cosine above 0 and below 1, for instance 0.95{hint}")
        return value

    @property
    def selection(self) -> Selection:
        """The wishes as the graph knows them."""
        budget = self.budget or Budget.model_construct()
        return Selection(
            where=self.where,
            weights=self.weights,
            quotas=self.quotas,
            max_near_duplicates=self.max_near_duplicates,
            max_per_video=self.max_per_video,
            max_similarity=self.max_similarity,
            budget_seconds=budget.seconds,
            budget_frames=budget.frames,
        )


def require_categories(arms: Iterable[Arm], known: Collection[str], where: str) -> None:
    """Check that every category that an arm names is one of the queries'. ``where`` says which queries these are.

    Raises:
        ConfigError: one is not, or the arm gives every category the weight 0.
    """
    for arm in arms:
        for key in ("weights", "quotas"):
            for name in getattr(arm.selection, key):
                if name not in known:
                    listed = ", ".join(map(repr, sorted(known)))
                    raise ConfigError(
                        f"arms: {arm.name}.{key} names the category {name!r}, which none of {where} has."
                        f"{did_you_mean(name, known)} There are: {listed}"
                    )
        if arm.selection.weights and not any(arm.selection.weights.get(name, 1) for name in known):
            raise ConfigError(
                f"arms: {arm.name}.weights gives every category of {where} the weight 0, so nothing would vote. Raise one above 0."
            )
