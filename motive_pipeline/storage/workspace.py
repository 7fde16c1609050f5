"""One project on disk: the config, the row stores, what each asset has published, and the score tables.

A publication is an immutable folder ``published/<asset>/<data version>-<fingerprint>/``; ``current.json`` beside it names the one that
counts. Whoever reads an asset reads that one. Two publications with equal content have the same data version, whatever made them.
Inside, ``data/`` is what the asset is (a Zarr group, tables, a model) and nothing else; what the pipeline notes about it lies beside:
``publication.json``, ``rejects.parquet`` and, for some, ``preview.png`` or the key of a blind study.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from motive_pipeline.config import Config
from motive_pipeline.errors import NotPublished
from motive_pipeline.graph import STAGES, Graph
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.layout import require_known_layout
from motive_pipeline.storage.lock import FileLock
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.scores import TABLES, ScoreTables

REJECT_COLUMNS = tuple(TABLES["rejects"].names)
_DATA, _RECORD, _REJECTS, _PREVIEW = "data", "publication.json", "rejects.parquet", "preview.png"
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
    """What an asset has published: where it lies, its data version, and what a person reads about it.

    ``facts`` are named numbers, texts or tables (lists of dicts); ``preview`` is a PNG, or None.
    """

    asset: str
    folder: Path
    """Everything of this publication; appeared in one step."""
    data_version: str
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)
    counts: RowCounts = RowCounts()
    preview: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The data: what ``motive path`` prints and, for arrays, ``zarr.open`` takes."""
        return self.folder / _DATA

    def table(self, name: str) -> pd.DataFrame:
        """``<name>.parquet`` of the data."""
        return pd.read_parquet(self.path / f"{name}.parquet")

    def rejects(self) -> pd.DataFrame:
        """The rows this stage rejected: path, clip_id, stage, reason, detail."""
        return pd.read_parquet(self.folder / _REJECTS)


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
        self._stores: dict[str, RowStore] = {}

    @cached_property
    def graph(self) -> Graph:
        """The assets of this project."""
        return Graph(self.config)

    def store(self, stage: str, dims: dict[str, tuple[str, ...]]) -> RowStore:
        """The row store of ``stage`` under the current settings, with what other processes committed meanwhile."""
        return self.store_at(f"{stage}/{self.config.row_fingerprint(stage)}", dims)

    def store_at(self, name: str, dims: dict[str, tuple[str, ...]] | None = None) -> RowStore:
        """The row store ``name`` (its folder below ``rows/``, as a published index has it), with what other processes committed meanwhile.
        Who writes to it gives ``dims``.
        """
        if name not in self._stores:
            self._stores[name] = RowStore(self.root / "rows" / name)
        store = self._stores[name]
        if dims is not None:
            store.dims = dims
        store.refresh()
        return store

    def published(self, asset: str) -> Publication:
        """What ``asset`` (``latents``, ``influence_matrix/motive``) has published last.

        Raises:
            NotPublished: nothing yet, or its folder has gone.
        """
        pointer = self._folder(asset) / "current.json"
        if not pointer.exists():
            raise NotPublished(f"{asset} has not been materialized yet below {self.root}. Run `motive run`, or materialize it in the UI.")
        folder = pointer.parent / json.loads(pointer.read_text(encoding="utf-8"))["version"]
        if not _is_whole(folder):
            raise NotPublished(f"{asset}: its published folder {folder} is missing or not whole. Run `motive run` to make it again.")
        saved = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        return Publication(
            asset=asset,
            folder=folder,
            data_version=saved["data_version"],
            fingerprint=saved["fingerprint"],
            facts=saved["facts"],
            counts=RowCounts(**saved["counts"]),
            preview=folder / saved["preview"] if saved["preview"] else None,
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
        content: str,
        write: Callable[[Path], None],
        started: float,
        facts: dict[str, Any] | None = None,
        counts: RowCounts | None = None,
        table_rows: int = 0,
        rejects: Sequence[Reject] = (),
        scores: dict[tuple[str, str], pd.DataFrame | Path] | None = None,
        preview: Callable[[Path], None] | None = None,
        beside: Callable[[Path], None] | None = None,
    ) -> Publication:
        """Publish ``asset``: the data that ``write`` puts into a folder, its rejects, and its pieces of the score tables.

        ``content`` is a hash of what is published (no time stamps, no settings): equal content keeps the data version. ``started``
        is ``time.time()`` at the stage's start. ``counts`` are those of a stage that computes row by row; one that makes its table as a
        whole gives its ``table_rows``, which count as reused where the same table was published before under the same settings.
        ``beside`` writes what belongs to the publication and must not be
        handed on with its data.
        """
        reject_frame = pd.DataFrame([vars(reject) for reject in rejects], columns=list(REJECT_COLUMNS), dtype="object")
        fingerprint = self.config.fingerprint(self.graph.asset(asset).stage.name)
        data_version = digest(content, digest_frame(reject_frame))
        name = f"{data_version[:16]}-{fingerprint[:8]}"
        target = self._folder(asset) / name
        is_known = _is_whole(target)
        counts = counts or (RowCounts(reused=table_rows) if is_known else RowCounts(computed=table_rows))
        saved = {
            "asset": asset,
            "data_version": data_version,
            "fingerprint": fingerprint,
            "facts": facts or {},
            "counts": vars(counts),
            "preview": _PREVIEW if preview else None,
            "provenance": self.provenance(asset),
        }
        if is_known:
            atomic.write_json(target / _RECORD, saved)
        else:
            shutil.rmtree(target, ignore_errors=True)  # what a hand left of it
            with atomic.new_folder(target) as folder:
                (folder / _DATA).mkdir()
                write(folder / _DATA)
                if beside:
                    beside(folder)
                if preview:
                    preview(folder / _PREVIEW)
                reject_frame.to_parquet(folder / _REJECTS, index=False)
                atomic.write_json(folder / _RECORD, saved)
        pieces = dict(scores or {})
        pieces["rejects", asset] = reject_frame
        pieces["runs", asset] = self._runs(asset, fingerprint, started, counts)
        self.scores.publish(pieces)
        atomic.write_json(self._folder(asset) / "current.json", {"version": name})
        for store in self._stores.values():
            merge(store)
        return self.published(asset)

    def provenance(self, asset: str) -> dict[str, Any]:
        """What ``asset`` is made from: settings, code version, the published versions of its inputs (None: not published), libraries, machine."""
        declared = self.graph.asset(asset)
        stage = declared.stage.name
        return {
            "stage": stage,
            "settings": self.config.stage_settings(stage),
            "gates": self.config.stage_gates(stage),
            "row_fingerprint": self.config.row_fingerprint(stage),
            "code_version": STAGES[stage].version,
            "upstream": {key: self.published(key).data_version if self.has_published(key) else None for key in declared.inputs},
            "libraries": self.libraries(),
            "machine": platform.machine(),
        }

    def libraries(self) -> dict[str, str]:
        """The installed versions of the libraries that decide numbers."""
        return {name: _version(name) for name in _LIBRARIES}

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


def _is_whole(folder: Path) -> bool:
    return (folder / _DATA).is_dir() and all((folder / name).is_file() for name in (_RECORD, _REJECTS))


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
