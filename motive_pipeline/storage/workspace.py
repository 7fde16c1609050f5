"""One project on disk: the config, the row stores, what each asset has published, and the score tables.

A publication is an immutable folder ``published/<asset>/<data version>-<fingerprint>/``; ``current.json`` beside it names the one that
counts. Whoever reads an asset reads that one. Two publications with equal content have the same data version, whatever made them.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.config import Config
from motive_pipeline.errors import NotPublished
from motive_pipeline.stages import STAGES
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.layout import require_known_layout
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.scores import TABLES, ScoreTables

REJECT_COLUMNS = tuple(TABLES["rejects"].names)
_LIBRARIES = ("torch", "diffusers", "transformers", "zarr", "av", "numpy", "opencv-python-headless", "motive-pipeline")


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """How many rows a stage computed, found already there, and rejected."""

    computed: int = 0
    reused: int = 0
    rejected: int = 0


@dataclass(frozen=True, kw_only=True)
class Reject:
    """One file or clip that a stage could not use. ``clip_id`` is empty when it is not known."""

    path: str
    clip_id: str
    stage: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What an asset has published: its folder, its data version, and what a person reads about it.

    ``facts`` are named numbers, texts or tables (lists of dicts); ``preview`` is the name of a PNG in the folder, or None.
    """

    asset: str
    path: Path
    data_version: str
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)
    counts: RowCounts = RowCounts()
    preview: str | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def table(self, name: str) -> pd.DataFrame:
        """``<name>.parquet`` of the publication."""
        return pd.read_parquet(self.path / f"{name}.parquet")

    def rejects(self) -> pd.DataFrame:
        """The rows this stage rejected: path, clip_id, stage, reason, detail."""
        return self.table("rejects")


class Workspace:
    """Everything below one ``storage.root``, seen through one config.

    Raises:
        MotiveError: a newer version of the software wrote there.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.root = config.storage.root
        require_known_layout(self.root)
        self.state = config.storage.state or self.root / "state"
        self.scores = ScoreTables(self.root, self.state)
        self.lock = FileLock(self.state / "run.lock", f"the store {self.root}")
        self._stores: dict[Path, RowStore] = {}

    def store(self, stage: str, dims: dict[str, tuple[str, ...]]) -> RowStore:
        """The row store of ``stage`` under the current settings, with what other processes committed meanwhile."""
        folder = self.root / "rows" / stage / self.config.row_fingerprint(stage)
        if folder not in self._stores:
            self._stores[folder] = RowStore(folder, dims)
        self._stores[folder].refresh()
        return self._stores[folder]

    def published(self, asset: str) -> Publication:
        """What ``asset`` (``latents``, ``influence_matrix/motive``) has published last.

        Raises:
            NotPublished: nothing yet, or its folder has gone.
        """
        pointer = self._folder(asset) / "current.json"
        if not pointer.exists():
            raise NotPublished(f"{asset} has not been materialized yet below {self.root}. Run `motive run`, or materialize it in the UI.")
        path = pointer.parent / json.loads(pointer.read_text(encoding="utf-8"))["version"]
        if not (path / "publication.json").exists():
            raise NotPublished(f"{asset}: its published folder {path} is missing. Run `motive run` to make it again.")
        saved = json.loads((path / "publication.json").read_text(encoding="utf-8"))
        return Publication(
            asset=asset,
            path=path,
            data_version=saved["data_version"],
            fingerprint=saved["fingerprint"],
            facts=saved["facts"],
            counts=RowCounts(**saved["counts"]),
            preview=saved["preview"],
            provenance=saved["provenance"],
        )

    def has_published(self, asset: str) -> bool:
        """Whether :meth:`published` would give something."""
        try:
            self.published(asset)
        except NotPublished:
            return False
        return True

    def publish(
        self,
        asset: str,
        *,
        stage: str,
        content: str,
        write: Callable[[Path], None],
        started: float,
        upstream: Sequence[str] = (),
        facts: dict[str, Any] | None = None,
        counts: RowCounts | None = None,
        rejects: Sequence[Reject] = (),
        scores: dict[tuple[str, str], pd.DataFrame | Path] | None = None,
        preview: Callable[[Path], None] | None = None,
    ) -> Publication:
        """Publish ``asset``: a folder that ``write`` fills, its rejects, and its pieces of the score tables.

        ``content`` is a hash of what is published (no time stamps, no settings): equal content keeps the data version. ``started``
        is ``time.time()`` at the stage's start. ``upstream`` names the assets that were read, for the provenance.
        """
        counts = counts or RowCounts()
        reject_frame = pd.DataFrame([vars(reject) for reject in rejects], columns=list(REJECT_COLUMNS), dtype="object")
        fingerprint = self.config.fingerprint(stage)
        data_version = digest(content, digest_frame(reject_frame))
        name = f"{data_version[:16]}-{fingerprint[:8]}"
        target = self._folder(asset) / name
        saved = {
            "asset": asset,
            "data_version": data_version,
            "fingerprint": fingerprint,
            "facts": facts or {},
            "counts": vars(counts),
            "preview": "preview.png" if preview else None,
            "provenance": self.provenance(stage, upstream),
        }
        if not (target / "publication.json").exists():
            with atomic.new_folder(target) as folder:
                write(folder)
                if preview:
                    preview(folder / "preview.png")
                reject_frame.to_parquet(folder / "rejects.parquet", index=False)
                atomic.write_json(folder / "publication.json", saved)
        else:
            atomic.write_json(target / "publication.json", saved)
        pieces = dict(scores or {})
        pieces["rejects", asset] = reject_frame
        pieces["runs", asset] = self._runs(asset, fingerprint, started, counts)
        self.scores.publish(pieces)
        atomic.write_json(self._folder(asset) / "current.json", {"version": name})
        return self.published(asset)

    def provenance(self, stage: str, upstream: Sequence[str]) -> dict[str, Any]:
        """Where a publication comes from: settings, code version, what was read, libraries, machine."""
        return {
            "stage": stage,
            "settings": self.config.stage_settings(stage),
            "gates": self.config.stage_gates(stage),
            "row_fingerprint": self.config.row_fingerprint(stage),
            "code_version": STAGES[stage].version,
            "upstream": {asset: self.published(asset).data_version for asset in upstream},
            "libraries": {name: _version(name) for name in _LIBRARIES},
            "machine": platform.machine(),
        }

    def _folder(self, asset: str) -> Path:
        return self.root / "published" / asset

    def _runs(self, asset: str, fingerprint: str, started: float, counts: RowCounts) -> pd.DataFrame:
        """The ``runs`` rows of ``asset`` with one more at the end."""
        row = {
            "asset": asset,
            "fingerprint": fingerprint,
            "started_at": pd.Timestamp(started, unit="s", tz="UTC").floor("us"),
            "seconds": time.time() - started,
            "rows_computed": counts.computed,
            "rows_reused": counts.reused,
        }
        version = self.scores.version()
        file = version / "runs" / f"{asset.replace('/', '_')}.parquet" if version else None
        if file is None or not file.exists():
            return pd.DataFrame([row])
        return pd.concat([pd.read_parquet(file), pd.DataFrame([row])], ignore_index=True)


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
