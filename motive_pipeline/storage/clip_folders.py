"""Folders of clips that are URLs, as folders of this machine: in the mirror of a project (mirror.py)."""

from __future__ import annotations

from pathlib import Path

from motive_pipeline.bucket.address import Address, address_of
from motive_pipeline.config import Config
from motive_pipeline.errors import ConfigError
from motive_pipeline.storage.mirror import BucketMirror, open_mirror


def mirror_for(config: Config) -> BucketMirror:
    """The mirror of a project's clips, below ``storage.state``."""
    return open_mirror(config.model.cache, int(config.storage.cache_gb * 1e9))


def listed(mirror: BucketMirror, address: Address, key: str) -> None:
    """Let ``mirror`` list what is below ``address``, the value of the setting ``key``.

    Raises:
        ConfigError: there is nothing.
        BucketError: it cannot be listed.
    """
    if not mirror.refresh(address):
        raise ConfigError(f"{key} = {address}: there is nothing below this URL. Upload the videos, or correct the setting.")


def local_folder(config: Config, path: Path | None, key: str) -> Path | None:
    """``path``, the value of the setting ``key``, as a folder on this machine. What is below a URL is copied whole. Raises as :func:`listed` does.

    Raises:
        MotiveError: that is more than ``storage.cache_gb``.
    """
    if (address := address_of(path)) is None:
        return path
    mirror = mirror_for(config)
    listed(mirror, address, key)
    mirror.fetch_all(mirror.path(address), key)
    return mirror.path(address)


def bring_archives(config: Config) -> None:
    """Copy archives and tables below the URLs of clips and queries to this machine, which need not be the one that made the catalogs. Raises as :func:`local_folder`."""
    for section, path, key in (
        (config.clips, config.clips.path, "clips.path"),
        (config.queries, config.queries.path, "queries.path"),
        (config.queries, config.queries.held_out_path, "queries.held_out_path"),
    ):
        if section.source != "folder":
            local_folder(config, path, key)
