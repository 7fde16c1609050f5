"""One publication of an asset on disk: its content, and whether it is whole.

``publication.json`` records size and SHA-256 of every file beside it. Presence and sizes are checked whenever a publication is opened; the hashes
once per process, when the data are first read (:attr:`Publication.path`). A publication that is not whole counts as not published.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.storage.integrity import missing_or_cut
from motive_pipeline.storage.root_copy import copy_of
from motive_pipeline.storage.rows import RowRef, RowStore
from motive_pipeline.storage.sealed import Damaged, read_sealed

DATA, RECORD, REJECTS, PREVIEW, SCORES = "data", "publication.json", "rejects.parquet", "preview.png", "scores"
DAMAGED = "damaged.json"
"""The name of the record of a publication in which a file was found altered."""

INDEX = "index.parquet"
"""Data that lists rows of row stores (columns ``key`` and ``store``) instead of holding them."""

UNFINISHED = "unfinished"
"""The fact of a publication that stopped before all was done (its time was up): it says what is left, and the next `motive run` goes on."""

WARNING = "warning"
"""The fact of a publication that whoever uses the chosen clips should read."""


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """How many rows a stage computed, reused and rejected."""

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
    """What an asset has published: its folder, its data version, and figures for a person.

    ``facts`` are named numbers, texts or tables (lists of dicts); ``preview`` is a PNG, or None.
    """

    asset: str
    folder: Path
    """The folder with everything of this publication. It appeared in one step."""
    data_version: str
    fingerprint: str
    facts: dict[str, Any] = field(default_factory=dict)
    counts: RowCounts = RowCounts()
    preview: Path | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    check: Callable[[], None] = field(default=lambda: None, repr=False, compare=False)
    """Compares every file with its hash, once in a process; raises NotPublished."""

    @classmethod
    def read(cls, asset: str, folder: Path, check: Callable[[], None]) -> Publication:
        """The publication in ``folder``, which :func:`what_is_wrong` has found whole."""
        saved = read_sealed(folder / RECORD)
        return cls(
            asset=asset,
            folder=folder,
            data_version=saved["data_version"],
            fingerprint=saved["fingerprint"],
            facts=saved["facts"],
            counts=RowCounts(**saved["counts"]),
            preview=folder / saved["preview"] if saved["preview"] else None,
            provenance=saved["provenance"],
            check=check,
        )

    @property
    def path(self) -> Path:
        """The data folder, to be read (arrays: with ``zarr.open``). Every file in it has the content that was published.

        Raises:
            NotPublished: a file was altered. The publication counts as not published from now on.
        """
        self.check()
        return self.data_folder

    @property
    def data_folder(self) -> Path:
        """The data folder, with unchecked content: what ``motive path`` prints."""
        return self.folder / DATA

    def table(self, name: str) -> pd.DataFrame:
        """``<name>.parquet`` of the data; raises as :attr:`path` does."""
        return pd.read_parquet(self.path / f"{name}.parquet")

    def rejects(self) -> pd.DataFrame:
        """The rows this stage rejected: path, clip_id, stage, reason, detail; raises as :attr:`path` does."""
        self.check()
        return pd.read_parquet(self.folder / REJECTS)


def what_is_wrong(folder: Path) -> str | None:
    """Why the publication in ``folder`` is not whole, by names and sizes; None when it is."""
    try:
        files = read_sealed(folder / RECORD)["files"]
    except FileNotFoundError:
        return "it was found damaged" if (folder / DAMAGED).exists() else f"{RECORD} is missing"
    except NotADirectoryError:
        return "it is a file"
    except Damaged as error:
        return f"{RECORD} {error.what}"
    if not (folder / DATA).is_dir():
        return f"{DATA} is missing"
    wrong = missing_or_cut(folder, files)
    if wrong is not None and (copy := copy_of(folder)) is not None:
        far = copy.far_below(folder)
        wrong = missing_or_cut(folder, {name: mark for name, mark in files.items() if far.get(name) != mark[0]})
    return wrong


class RowIndexes:
    """Checks whether the rows that a published index lists are stored. An index is read once, and again after a row store has lost rows."""

    def __init__(self, store_at: Callable[[str], RowStore]) -> None:
        self._store_at = store_at
        self._seen: dict[Path, dict[str, int]] = {}

    def what_is_wrong(self, folder: Path) -> str | None:
        """Why rows of the publication in ``folder`` are missing; None if all are there, or it lists none."""
        file = folder / DATA / INDEX
        if folder in self._seen and all(self._store_at(name).losses == losses for name, losses in self._seen[folder].items()):
            return None
        if not file.exists():
            return None
        try:
            index = pq.read_table(file)
            if not {"key", "store"} <= set(index.column_names):
                return None
            keys, names = index["key"].to_pylist(), index["store"].to_pylist()
        except (pa.ArrowException, OSError) as error:
            return f"{INDEX} cannot be read: {str(error).splitlines()[0]}"
        stores = {name: self._store_at(name) for name in dict.fromkeys(names)}
        lost = sum(not isinstance(stores[name].find(key), RowRef) for key, name in zip(keys, names, strict=True))
        if lost:
            return f"{lost} of its {len(keys)} rows are missing from {', '.join(str(store.folder) for store in stores.values())}"
        self._seen[folder] = {name: store.losses for name, store in stores.items()}
        return None
