"""Finds the folder of a model that a setting names: a folder of the user's, or a repository of the Hugging Face hub.

Importing this module imports neither torch nor huggingface_hub.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.errors import MotiveError

log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class Named:
    """A setting that names a model.

    ``key`` and ``name`` are the setting and its value, ``allowed`` describes the allowed values, ``files`` are patterns of the repository's files
    that are needed, the first of them a file, and ``require`` raises :class:`MotiveError` for a folder that is not such a model, or not complete.
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
    """The folder of the model. A hub id that is not complete in the hub's cache is downloaded, or what is missing of it.

    Raises:
        MotiveError: neither a folder nor a hub id, no such model, not complete, or the hub cannot be reached.
    """
    if Path(named.name).is_dir():
        folder = Path(named.name)
        named.require(folder)
        return folder
    if Path(named.name).is_absolute() or not _HUB_ID.fullmatch(named.name):
        raise MotiveError(f"{named.words}: no such folder. Name {named.allowed}.")
    cached = _cached(named)
    flaw = None
    if cached is not None:
        flaw = _flaw(named, cached)
        if flaw is None:
            return cached
        log.warning("%s Downloading what is missing.", flaw)
    folder = _downloaded(named, flaw)
    flaw = _flaw(named, folder)
    if flaw is not None:
        raise MotiveError(
            f"{flaw} This is the copy in the hub's cache, and downloading did not complete it. Check the network and run again. "
            f"If that does not help, delete {folder.parents[1]}: the next run downloads it anew."
        ) from flaw
    return folder


def _flaw(named: Named, folder: Path) -> MotiveError | None:
    """What is wrong with the model in ``folder``."""
    try:
        named.require(folder)
    except MotiveError as error:
        return error
    return None


def _cached(named: Named) -> Path | None:
    """The snapshot in the hub's cache, complete or not."""
    from huggingface_hub import try_to_load_from_cache

    # snapshot_download would also ask for the repository's files that no pattern names, and then give no folder
    first = try_to_load_from_cache(named.name, named.files[0], revision=named.revision)
    return Path(first).parent if isinstance(first, str) else None


def _downloaded(named: Named, flaw: MotiveError | None) -> Path:
    """The snapshot after a download. ``flaw`` is what the cached one lacks, if there is one."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(named.name, revision=named.revision, allow_patterns=list(named.files)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        revision = f" at revision {named.revision}" if named.revision else ""
        wrong = f"{named.words}: not on this machine, and it" if flaw is None else f"{flaw} The copy in the hub's cache"
        raise MotiveError(
            f"{wrong} cannot be {'downloaded' if flaw is None else 'completed'} from the hub{revision} ({str(error).splitlines()[0]}). "
            f"Check the name and the network, or set {named.key} to a folder with the model."
        ) from error
