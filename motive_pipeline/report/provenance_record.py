"""``provenance.json`` beside a report: from its numbers back to clips, settings, model, code and libraries, in a form that can be checked.

Every asset that the report rests on is named with its settings, its code version, what it was made from and a hash of its files; a clip's id
is itself the start of the SHA-256 of its file. ``verify.py`` checks all of it. Nothing in the record depends on the time or the machine's
folders, so an equal run has an equal record.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.models.load import model_hash
from motive_pipeline.report.provenance_tables import plain_settings
from motive_pipeline.storage.digest import digest, digest_file
from motive_pipeline.storage.workspace import Workspace

FILE = "provenance.json"
FORMAT = 1
HOW_TO_CHECK = "python -m motive_pipeline.report.verify REPORT_FOLDER"
_OF_ONE_RUN = ("publication.json", "training.json")
"""Files that also say how long a run took, so that they differ between equal runs. What else they say stands in the record."""


def provenance_record(ws: Workspace) -> dict[str, Any]:
    """The record of the report: the published assets it reads and, through them, all before; without the report's own files.

    Raises:
        NotPublished: one of them is not there.
    """
    memory = HashMemory(ws.state)
    assets: dict[str, Any] = {}
    read_directly = ws.graph.asset("eval_report").inputs
    waiting = list(read_directly)
    while waiting:
        asset = waiting.pop()
        if asset not in assets:
            assets[asset] = _asset(ws, asset, memory)
            waiting += assets[asset]["upstream"]
    memory.save()
    software = ws.provenance("eval_report")
    return {
        "format": FORMAT,
        "how_to_check": HOW_TO_CHECK,
        "software": {key: software[key] for key in ("code_version", "libraries", "machine")},
        "settings": plain_settings(ws),
        "model": {"name": Path(ws.config.model.path).name, "revision": ws.config.model.revision, "hash": model_hash(ws)},
        "clips": _names(ws.published("clip_catalog").table("catalog"), "clip_id"),
        "queries": _names(ws.published("query_catalog").table("queries"), "query_id"),
        "assets": dict(sorted(assets.items())),
        "read_directly": sorted(read_directly),
    }


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record into the report's folder, with the hash of each file that lies there."""
    files = {path.name: digest_file(path) for path in sorted(folder.iterdir())}
    text = json.dumps(record | {"report": files}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def content_hash(folder: Path, hash_of: Callable[[Path], str]) -> str:
    """32 hex digits over name and bytes of every file below ``folder`` that says what was computed, and not how long it took."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _OF_ONE_RUN)
    return digest([[path.relative_to(folder).as_posix(), hash_of(path)] for path in files])


def _asset(ws: Workspace, asset: str, memory: HashMemory) -> dict[str, Any]:
    publication = ws.published(asset)
    return {
        "folder": publication.path.relative_to(ws.root).as_posix(),
        "data_version": publication.data_version,
        "fingerprint": publication.fingerprint,
        "content": content_hash(publication.path, lambda path: memory.sha256(path)[0]),
        **publication.provenance,
    }


def _names(catalog: pd.DataFrame, column: str) -> dict[str, list[str]]:
    """Id -> the names of its files within the source."""
    return {str(each): json.loads(str(names)) for each, names in zip(catalog[column], catalog["sources"], strict=True)}
