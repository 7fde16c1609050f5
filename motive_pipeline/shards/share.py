"""Which clips belong to a shard, and where its files lie."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.shard_folders import shard_sets, shown

MAX_SHARDS = 100_000

RECORD = "done.json"
"""The completion record in a shard's folder. It is there exactly if the last try of the shard has finished."""


@dataclass(frozen=True, kw_only=True, order=True)
class Share:
    """Shard ``number`` (from 1) of ``count``. A clip belongs to exactly one of them, by a hash of its id alone."""

    count: int
    number: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """The shard that ``i/n`` names.

        Raises:
            ValueError: it is not of that form, or not 1 <= i <= n.
        """
        parts = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if parts is None or not 1 <= int(parts[1]) <= int(parts[2]) <= MAX_SHARDS:
            raise ValueError(f"{text!r} is no shard: give i/n with 1 <= i <= n <= {MAX_SHARDS}, as in 1/4 for the first of four")
        return cls(count=int(parts[2]), number=int(parts[1]))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def has(self, clip_id: str) -> bool:
        """Whether the clip (or query) belongs to the shard."""
        return int(hashlib.sha256(clip_id.encode()).hexdigest()[:16], 16) % self.count == self.number - 1

    def folder(self, shards: Path) -> Path:
        """The shard's own folder below the folder of all shards."""
        return shards / str(self.count) / str(self.number)


def shards_folder(config: Config, given: Path | None) -> Path:
    """The folder of all shards: ``given``, or ``shards/`` below the root."""
    return config.storage.root / "shards" if given is None else given.absolute()


def only_count(folder: Path) -> int:
    """Into how many shards the work was split, where ``folder`` has one such set.

    Raises:
        MotiveError: it has none, or several.
    """
    found = sorted(int(path.name) for path in shard_sets(folder) if path.name.isdecimal())
    if not found:
        raise MotiveError(
            f"there are no shards in {shown(folder)}. Run `motive run --shard i/n` for each i from 1 to n first, with the same --shards-folder, if you give one."
        )
    if len(found) > 1:
        raise MotiveError(f"{shown(folder)} holds sets of {', '.join(map(str, found))} shards. Say which one with --shards N.")
    return found[0]
