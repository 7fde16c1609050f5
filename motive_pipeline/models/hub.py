"""Finds the folder of a model that a setting names: a folder of the user's, or a repository of the Hugging Face hub.

Importing this module imports neither torch nor huggingface_hub.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.errors import MotiveError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A setting that names a model.

    ``key`` and ``name`` are the setting and its value, ``allowed`` describes the allowed values, ``files`` are patterns of the repository's files
    that are needed, and ``require`` raises :class:`MotiveError` for a folder that is not such a model, or not complete.
    """

    key: str
    name: str
    revision: str | None
    allowed: str
    files: Sequence[str]
    require: Callable[[Path], None]

    @property
    def words(self) -> str:
        """``model.path = 'Wan-AI/...'``, for messages."""
        return f"{self.key} = {self.name!r}"


def resolve(named: Named) -> Path:
    """The folder of the model. A hub id that is not complete in the hub's cache is downloaded.

    Raises:
        MotiveError: neither a folder nor a hub id, no such model, or the hub cannot be reached.
    """
    if Path(named.name).is_dir():
        folder = Path(named.name)
    elif Path(named.name).is_absolute() or not _HUB_ID.fullmatch(named.name):
        raise MotiveError(f"{named.words}: no such folder. Name {named.allowed}.")
    else:
        cached = _cached(named)
        if cached is not None:
            return cached
        folder = _downloaded(named)
    named.require(folder)
    return folder


def _cached(named: Named) -> Path | None:
    """The snapshot in the hub's cache, if it is complete."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(named.name, revision=named.revision, local_files_only=True))
        named.require(folder)
    except (LocalEntryNotFoundError, MotiveError):
        return None
    return folder


def _downloaded(named: Named) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(named.name, revision=named.revision, allow_patterns=list(named.files)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        revision = f" at revision {named.revision}" if named.revision else ""
        raise MotiveError(
            f"{named.words}: not on this machine, and it cannot be downloaded from the hub{revision} ({str(error).splitlines()[0]}). "
            f"Check the name and the network, or set {named.key} to a folder with the model."
        ) from error
