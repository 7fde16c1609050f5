"""Where results lie, and which clips and queries are read: the sections ``storage``, ``clips`` and ``queries``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from motive_pipeline.bucket.address import Address, address_of, path_or_address
from motive_pipeline.config.names import SourceName
from motive_pipeline.config.section import FrameCount, RejectShare, Section, require_table_used

Repair = Literal["repair", "reject"]
Accept = Literal["accept", "reject"]


Place = Annotated[Path, BeforeValidator(path_or_address)]
"""A path, or the address of object storage in the form of one (bucket/address.py)."""


class Storage(Section):
    _address: Address | None = PrivateAttr(default=None)

    root: Place = Path("motive_data")
    state: Path | None = None
    postgres: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    cache_gb: Annotated[float, Field(gt=0)] = 100.0
    keep_curations: Annotated[int, Field(ge=1, le=100_000)] = 100

    @property
    def address(self) -> Address | None:
        """The object storage that holds the results; ``root`` is then the working copy on this machine. None: ``root`` itself holds them."""
        return self._address or address_of(self.root)

    @property
    def words(self) -> str:
        """Where the results are, for messages."""
        return str(self.address or self.root)


class DemoClips(Section):
    seed: Annotated[int, Field(ge=0)] = 0
    split: Literal["plain", "confound", "spoiled"] = "confound"
    num_clips: Annotated[int, Field(ge=9, le=100_000)] = 320


class Policies(Section):
    """What happens to a clip that is usable but has a known defect. An accepted or repaired clip carries a flag wherever it is used."""

    alpha: Accept = "accept"
    caption_cut: Accept = "accept"
    cropped_by_file: Repair = "repair"
    frozen: Accept = "accept"
    hdr: Literal["accept", "repair", "reject"] = "accept"
    hidden_cut: Accept = "accept"
    interlaced: Repair = "repair"
    mostly_cropped: Accept = "accept"
    no_caption: Accept = "accept"
    non_square_pixels: Repair = "repair"
    rotated: Repair = "repair"
    time_repaired: Repair = "repair"
    truncated: Accept = "accept"
    upscaled: Accept = "accept"
    variable_rate: Repair = "repair"


class Clips(Section):
    source: SourceName = "folder"
    path: Place | None = None
    table: Path | None = None
    path_column: str | None = None
    caption_column: str | None = None
    num_frames: FrameCount = 81
    min_frames: FrameCount | None = None
    frame_step: Annotated[int, Field(ge=4, le=64, multiple_of=4)] = 4
    fps: Annotated[float, Field(gt=0, le=1000)] = 16.0
    width: Annotated[int, Field(ge=16, le=16384)] = 832
    height: Annotated[int, Field(ge=16, le=16384)] = 480
    max_reject_share: RejectShare = 0.25
    policies: Policies = Policies()
    demo: DemoClips = DemoClips()

    @field_validator("num_frames", "min_frames")
    @classmethod
    def _four_n_plus_one(cls, value: int | None) -> int | None:
        if value is not None and value % 4 != 1:
            raise ValueError(f"must be 4n+1 (1, 5, 9, ... 81); the nearest below is {value - (value - 1) % 4}")
        return value

    @field_validator("width", "height")
    @classmethod
    def _multiple_of_16(cls, value: int) -> int:
        if value % 16:
            raise ValueError(f"must be a multiple of 16 (the VAE's 8 times the transformer's patch of 2); try {value // 16 * 16}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Clips:
        if self.source != "demo" and self.path is None and self.table is None:
            raise ValueError(f"path is needed with source: {self.source} (the folder that holds your videos)")
        require_table_used(self.source, self.table, self.path_column or self.caption_column)
        if self.min_frames is not None and self.min_frames > self.num_frames:
            raise ValueError(f"min_frames ({self.min_frames}) must not be above num_frames ({self.num_frames})")
        for name in ("num_frames", "min_frames"):
            count = getattr(self, name)
            if count is not None and (over := (count - 1) % self.frame_step):
                raise ValueError(f"{name} ({count}) must be {self.frame_step}n+1, as frame_step says; the nearest below is {count - over}")
        return self


class DemoQueries(Section):
    motion: Literal["right", "left", "up", "down", "grow", "shrink", "bounce", "sway"] = "sway"
    num_queries: Annotated[int, Field(ge=1)] = 8
    num_held_out: Annotated[int, Field(ge=0)] = 8


class Queries(Section):
    source: SourceName = "folder"
    path: Place | None = None
    table: Path | None = None
    path_column: str | None = None
    caption_column: str | None = None
    held_out_path: Place | None = None
    held_out_table: Path | None = None
    max_reject_share: RejectShare = 0.0
    demo: DemoQueries = DemoQueries()

    @model_validator(mode="after")
    def _complete(self) -> Queries:
        if self.source != "demo" and self.path is None and self.table is None:
            raise ValueError(f"path is needed with source: {self.source} (the folder that holds your query videos)")
        require_table_used(self.source, self.table or self.held_out_table, self.path_column or self.caption_column)
        return self
