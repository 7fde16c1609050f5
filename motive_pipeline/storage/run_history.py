"""The run history that a root belongs to: the one Dagster instance that knows what was published there, and when.

``<root>/run_history.json`` names it. A second history (another checkout, another ``storage.state``, an instance without ``DAGSTER_HOME``) would
replace publications without the first one's knowledge, so it is refused.
"""

from __future__ import annotations

import json
import logging
import uuid
from dataclasses import dataclass
from pathlib import Path

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic

__all__ = ["RunHistory", "claim", "require_own"]

log = logging.getLogger(__name__)

ON_ROOT, IN_HISTORY = "run_history.json", "history_id.txt"


@dataclass(frozen=True)
class RunHistory:
    """One Dagster instance. ``id`` is random, and lies in its ``folder``, so that a folder that was moved is still known."""

    id: str
    folder: Path

    @classmethod
    def at(cls, folder: Path) -> RunHistory:
        """The history in ``folder``; it gets an id if it has none."""
        if (found := _id_in(folder)) is None:
            found = uuid.uuid4().hex
            atomic.write_text(folder / IN_HISTORY, found + "\n")
        return cls(found, folder)


def require_own(root: Path, history: RunHistory) -> None:
    """Raise unless ``root`` belongs to ``history`` or to none. A root whose history has gone from its folder belongs to none.

    Raises:
        MotiveError: the root belongs to another history.
    """
    owner = _owner(root)
    if owner is None or owner.id == history.id or _id_in(owner.folder) != owner.id:
        return
    raise MotiveError(
        f"{root} belongs to the run history in {owner.folder}, not to the one in {history.folder}. Two histories on one root would replace each other's "
        f"results. Run with the config and the DAGSTER_HOME of the first one, or give this config a storage.root of its own. To make the root belong to "
        f"{history.folder}, delete {root / ON_ROOT}: all results are kept, and what was not published with these settings is made again."
    )


def claim(root: Path, history: RunHistory) -> None:
    """Let ``root`` belong to ``history``. The caller holds the root's lock.

    Raises:
        MotiveError: the root belongs to another history.
    """
    require_own(root, history)
    owner = _owner(root)
    if owner == history:
        return
    if owner is not None and owner.id != history.id:
        log.warning(
            "the run history of %s was in %s and has gone from there; from now on it is the one in %s", root, owner.folder, history.folder
        )
    atomic.write_json(root / ON_ROOT, {"history": history.id, "folder": str(history.folder)})


def _owner(root: Path) -> RunHistory | None:
    """The history that ``root`` names; None where it names none that can be read."""
    try:
        saved = json.loads((root / ON_ROOT).read_text(encoding="utf-8"))
        return RunHistory(str(saved["history"]), Path(saved["folder"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _id_in(folder: Path) -> str | None:
    """The id of the history in ``folder``; None where there is none, also after a power cut left the file empty."""
    try:
        return (folder / IN_HISTORY).read_text(encoding="utf-8").strip("\0 \n") or None
    except (OSError, UnicodeDecodeError):
        return None
