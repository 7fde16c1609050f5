"""How a run uses the machine, and when runs start by themselves: ``engine`` and ``schedule``."""

from __future__ import annotations

import os
import re
import zoneinfo
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from motive_pipeline.config.section import AUTO, Section
from motive_pipeline.errors import did_you_mean


class Workers(Section):
    """The actors of a Ray cluster: how many, and what each is given of a node."""

    least: Annotated[int, Field(ge=1, le=10_000)] = 1
    most: Annotated[int, Field(ge=1, le=10_000)] | None = None
    cpus: Annotated[int, Field(ge=1, le=1024)] | None = None
    gpus: Annotated[float, Field(ge=0, le=64)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    wait_s: Annotated[float, Field(gt=0)] = 300.0
    silent_s: Annotated[float, Field(ge=1)] = 60.0
    attempts: Annotated[int, Field(ge=1, le=100)] = 3

    @model_validator(mode="after")
    def _ordered(self) -> Workers:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most ({self.most}) must not be below least ({self.least})")
        return self


class Engine(Section):
    kind: Literal["local", "ray"] = "local"
    address: str = AUTO
    workers: Workers = Workers()
    devices: Literal["auto"] | tuple[str, ...] = ()
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    commit_rows: Annotated[int, Field(ge=1)] = 32
    commit_s: Annotated[float, Field(gt=0)] = 60.0
    decode_workers: Annotated[int, Field(ge=0, le=256)] | None = None
    decode_timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    keep_latents: bool = True

    @field_validator("devices")
    @classmethod
    def _of_one_kind(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(value, str):
            return value
        if len(value) == 1:
            raise ValueError(f"lists one device: set model.device: {value[0]} for that, or list several")
        if unknown := [name for name in value if not re.fullmatch(r"cpu|cuda:\d+", name)]:
            raise ValueError(f"must list cpu, or GPUs by number (cuda:0, cuda:1), or be auto; {unknown[0]!r} is neither")
        if len({name.split(":")[0] for name in value}) > 1:
            raise ValueError("must be of one kind, all cpu or all cuda: the last bits of a result differ between the two")
        if doubled := [name for name in value if name != "cpu" and value.count(name) > 1]:
            raise ValueError(f"names {doubled[0]} twice, and a GPU has one process")
        return value

    @field_validator("address")
    @classmethod
    def _of_a_cluster(cls, value: str) -> str:
        if value in (AUTO, "local") or re.fullmatch(r"[^\s:/@]+:\d{1,5}|https?://[^\s@]+", value):
            return value
        client = " Ray Client (ray://) is not used: logs vanish, and cancelled work goes on." if value.startswith("ray://") else ""
        raise ValueError(
            "must be auto (the cluster that this machine belongs to), local (one of this run alone), host:port of its head, for instance 10.0.0.1:6379, or "
            f"for a machine outside of it the address of its job server, for instance http://10.0.0.1:8265; no credentials in it.{client}"
        )

    @model_validator(mode="after")
    def _one_way(self) -> Engine:
        if self.kind == "ray" and self.devices:
            raise ValueError("devices is for kind: local; with kind: ray each worker has workers.gpus GPUs, or the CPU")
        return self

    @property
    def is_elsewhere(self) -> bool:
        """Whether the cluster is one that this machine is not part of."""
        return self.kind == "ray" and "://" in self.address

    @property
    def all_devices(self) -> tuple[str, ...]:
        """The devices that work is spread over, one process each: ``devices``, with ``auto`` every GPU of this machine. Without two of them the run's
        own process works alone, on ``model.device``."""
        if self.devices != AUTO:
            return self.devices
        import torch

        return tuple(f"cuda:{number}" for number in range(torch.cuda.device_count()))

    @property
    def num_decode_workers(self) -> int:
        """``decode_workers``; by default the number of cores minus one, at least 1 and at most 8."""
        return min(8, max(1, (os.cpu_count() or 1) - 1)) if self.decode_workers is None else self.decode_workers


class Schedule(Section):
    watch: bool = True
    automate: bool = True
    watch_interval_s: Annotated[int, Field(ge=1)] = 5
    settle_s: Annotated[float, Field(ge=0)] = 2.0
    cron: str | None = None
    timezone: str = "UTC"
    auto_heavy: bool = False

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        if value == "UTC":  # needs no database, whose listing takes longer than reading all other settings
            return value
        zones = zoneinfo.available_timezones()
        if value not in zones:
            raise ValueError(
                f'must be the name of a time zone in the IANA database, for instance "Europe/Berlin" or "UTC".{did_you_mean(value, zones)}'
            )
        return value

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None and len(value.split()) != 5:
            raise ValueError('must have five fields (minute hour day month weekday), for instance "0 3 * * *"')
        return value
