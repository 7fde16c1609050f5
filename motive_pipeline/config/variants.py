"""The sections ``variants`` and ``arms``: named ways to attribute, and arms that choose by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Tag, ValidationError, model_serializer

from motive_pipeline.config.method import Gradient, Influence, Vote
from motive_pipeline.config.names import ArmName, NewName, Variant
from motive_pipeline.config.section import Section
from motive_pipeline.config.selection import Wishes
from motive_pipeline.errors import did_you_mean
from motive_pipeline.graph.variants import SHARED_BY_VARIANTS, Rule

Overrides = dict[str, Any]
"""Keys of ``gradient``, ``influence`` and ``vote``, and the variant's values for them."""


class VariantArm(Wishes):
    """An arm of the config's own: the first clips of a variant's ranking, by its own rule if it names one, of those that its wishes allow."""

    name: NewName
    variant: Variant
    rule: Rule | None = None

    @model_serializer(mode="wrap")
    def _without_absent_wishes(self, serialize: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """An arm without wishes is what it was before there were any, so that no report becomes stale."""
        return {key: value for key, value in serialize(self).items() if key not in Wishes.model_fields or value not in (None, {})}


ArmEntry = Annotated[
    Annotated[ArmName, Tag("name")] | Annotated[VariantArm, Tag("arm")],
    Discriminator(lambda value: "arm" if isinstance(value, dict | VariantArm) else "name"),
]
"""An entry of ``arms``: the name of a built-in arm, or an arm of the config's own."""


class VariantSections(Section):
    """The sections that a variant may override, as they are for it."""

    gradient: Gradient
    influence: Influence
    vote: Vote


def variant_sections(name: str, own: VariantSections, overrides: Mapping[str, Any]) -> VariantSections:
    """``own`` with the variant's overrides.

    Raises:
        ValueError: a key is in none of the sections, is shared by all variants, or has a value that is not allowed.
    """
    sections = {section: getattr(own, section).model_dump() for section in VariantSections.model_fields}
    allowed = [key for section in sections.values() for key in section if key not in SHARED_BY_VARIANTS]
    for key, value in overrides.items():
        if key in SHARED_BY_VARIANTS:
            raise ValueError(f"variants.{name}.{key}: all variants share it; set it in its own section")
        if key not in allowed:
            raise ValueError(f"variants.{name}.{key}: unknown key.{did_you_mean(str(key), allowed)} Allowed: {', '.join(allowed)}")
        next(section for section in sections.values() if key in section)[key] = value
    try:
        return VariantSections.model_validate(sections)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(["variants", name, *map(str, problem["loc"][1:])])
        shown = f" = {problem['input']!r}" if problem["loc"][1:] else ""
        raise ValueError(f"{key}{shown}: {problem['msg'].removeprefix('Value error, ')}") from error
