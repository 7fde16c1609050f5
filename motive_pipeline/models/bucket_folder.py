"""A model in object storage: its files are copied once into ``storage.state``, and again when their e-tags change."""

from __future__ import annotations

import time
from pathlib import Path

from motive_pipeline.bucket.address import Address
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.mirror import BucketMirror

FOLDER = "bucket_models"
LOOK_EVERY_S = 30.0
"""The folder is asked for many times in a run; the bucket is listed at most this often."""

_NO_LIMIT = 2**62
_looked_at: dict[Path, float] = {}


def copied_model(address: Address, cache: Path) -> Path | None:
    """The folder of a model that was copied before, as it then was; None without one."""
    folder = cache / FOLDER / address.scheme / address.bucket / address.prefix
    return folder if folder.is_dir() else None


def model_from_bucket(address: Address, cache: Path) -> Path:
    """The folder below ``cache`` with every file that is below ``address`` now.

    Raises:
        MotiveError: there is nothing.
        BucketError: it cannot be read.
    """
    atomic.make_folder(cache / FOLDER)
    mirror = BucketMirror(cache / FOLDER)
    folder = mirror.path(address)
    if time.monotonic() - _looked_at.get(folder, -LOOK_EVERY_S) < LOOK_EVERY_S and folder.is_dir():
        return folder
    mirror.limit(_NO_LIMIT)
    if not mirror.refresh(address):
        raise MotiveError(f"model.path = {address}: there is nothing below this URL. Upload the model's folder, or correct the setting.")
    mirror.fetch_all(folder, "model.path")
    _looked_at[folder] = time.monotonic()
    return folder
