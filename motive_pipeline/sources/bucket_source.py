"""Clips in object storage: as in a folder, from a listing of the bucket; a video is copied when it is opened (storage/mirror.py)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.bucket.address import Address, address_of
from motive_pipeline.config import Config
from motive_pipeline.graph import Role
from motive_pipeline.sources.folder_source import FolderSource
from motive_pipeline.storage.clip_folders import listed, mirror_for
from motive_pipeline.storage.mirror import BucketMirror


@dataclass(frozen=True, kw_only=True)
class BucketSource(FolderSource):
    """The videos below ``address``. ``root`` is the folder of ``mirror`` that stands for it."""

    address: Address
    mirror: BucketMirror

    def describe(self) -> str:
        """The setting and its value, for a message to a person."""
        return f"{self.key} = {self.address}"

    def paths(self) -> Iterator[Path]:
        """Every object of the source, as a path."""
        return (path for path in self.mirror.files(self.root) if self.without is None or not path.is_relative_to(self.without))

    def _folders(self, unlistable: Callable[[Path, str], None]) -> Iterator[tuple[Path, Collection[str]]]:
        listed(self.mirror, self.address, self.key)
        by_folder: dict[Path, list[str]] = {}
        for path in self.paths():
            if not any(part.startswith(".") for part in path.relative_to(self.root).parts):
                by_folder.setdefault(path.parent, []).append(path.name)
        yield from by_folder.items()


def bucket_source(config: Config, address: Address, *, key: str, without: Path | None) -> BucketSource:
    """The videos below ``address``, but for those below ``without`` (a path or an address)."""
    mirror = mirror_for(config)
    inner = address_of(without)
    return BucketSource(
        root=mirror.path(address), key=key, without=mirror.path(inner) if inner else without, address=address, mirror=mirror
    )


def bytes_to_read(config: Config, num_stages: Mapping[Role, int]) -> Iterator[tuple[str, int, int]]:
    """For each setting that names clips in object storage: (setting and value, bytes that are read from there, bytes of all clips), by the latest listing.

    So many stages read every clip, or every query, whole, in turn. What the cache holds is read once; if it cannot hold them all, each stage reads them again.
    Nothing is said of a setting whose clips no stage reads.
    """
    settings: tuple[tuple[str, Path | None, Role], ...] = (
        ("clips.path", config.clips.path, "clip"),
        ("queries.path", config.queries.path, "query"),
        ("queries.held_out_path", config.queries.held_out_path, "query"),
    )
    for key, path, role in settings:
        if (address := address_of(path)) is None or not num_stages.get(role):
            continue
        mirror = mirror_for(config)
        total, missing = mirror.num_bytes(mirror.path(address))
        fits = total <= config.storage.cache_gb * 1e9
        yield f"{key} = {address}", missing if fits else num_stages[role] * total, total
