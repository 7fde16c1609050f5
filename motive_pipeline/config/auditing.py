"""What the audit of the attribution does beyond its cheap checks: ``audit``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from motive_pipeline.config.section import Section, Share

AuditCheck = Literal["lds", "leave_group_out", "untrained"]
"""A check that takes trainings, or a gradient pass over the whole pool."""


class Audit(Section):
    checks: tuple[AuditCheck, ...] = ()
    subsets: Annotated[int, Field(ge=1, le=10_000)] = 48
    subset_share: Share = 0.10
    trainings: Annotated[int, Field(ge=2, le=100)] = 2
    steps: Annotated[int, Field(ge=1)] = 60
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    timesteps: Literal["independent", "stratified"] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    budget_minutes: Annotated[float, Field(gt=0)] | None = None

    @field_validator("checks")
    @classmethod
    def _once(cls, value: tuple[AuditCheck, ...]) -> tuple[AuditCheck, ...]:
        if len(set(value)) != len(value):
            raise ValueError("must not name a check twice")
        return tuple(sorted(value))
