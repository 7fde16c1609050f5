"""One project on disk: the config, the row stores, what each asset has published, and the score tables.

A publication is an immutable folder ``published/<asset>/<data version>-<fingerprint>/``; ``current.json`` beside it names the one that
counts. Readers of an asset read that one. Two publications with equal content have the same data version, whatever made them.
Inside, ``data/`` holds the asset itself (a Zarr group, tables, a model) and nothing else. What the pipeline records about it lies beside:
``publication.json``, ``rejects.parquet`` and, for some, ``scores/`` (its pieces of the score tables), ``preview.png`` or the key of a blind
study. ``publication.json`` has size and SHA-256 of every file (publication.py).
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError, NotPublished
from motive_pipeline.graph import STAGES, Graph
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest, digest_frame
from motive_pipeline.storage.history import CHOOSING, SOURCES, History, setting_text, settings_behind
from motive_pipeline.storage.integrity import altered, files_of
from motive_pipeline.storage.layout import require_apart, require_known_layout
from motive_pipeline.storage.lock import FileLock, Locked
from motive_pipeline.storage.merging import merge
from motive_pipeline.storage.mirror import expect
from motive_pipeline.storage.publication import (
    DAMAGED,
    DATA,
    INDEX,
    PREVIEW,
    RECORD,
    REJECTS,
    SCORES,
    Publication,
    Reject,
    RowCounts,
    RowIndexes,
    what_is_wrong,
)
from motive_pipeline.storage.root_copy import open_copy
from motive_pipeline.storage.root_lock import BucketLock
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.scores import Pieces, ScoreTables, store_pieces, stored_pieces
from motive_pipeline.storage.sealed import Damaged, read_sealed, sealed, write_sealed
from motive_pipeline.storage.tables import TABLES
from motive_pipeline.storage.typed_parquet import write_parquet

__all__ = ["REJECT_COLUMNS", "Publication", "Reject", "RowCounts", "Workspace"]

log = logging.getLogger(__name__)

REJECT_COLUMNS = tuple(TABLES["rejects"].names)
POINTER = "current.json"
SHOWN = "shown.json"
"""Beside the score tables of a working copy: the version of each asset that they show."""

_LIBRARIES = ("torch", "diffusers", "transformers", "zarr", "av", "numpy", "opencv-python-headless", "motive-pipeline")


class Workspace:
    """Everything below one ``storage.root``, seen through one config.

    Raises:
        MotiveError: another version of the software wrote there, or the root lies inside the clips or another root.
    """

    def __init__(self, config: Config, *, follow: bool = True) -> None:
        """Opens the root. The working copy of one in a bucket first follows the bucket, unless not ``follow`` (the root's lock does it, too)."""
        self.config = config
        self.root = config.storage.root
        self.state = config.storage.state or self.root / "state"
        address = config.storage.address
        self.copy = None if address is None else open_copy(address, self.root, self.state)
        require_apart(config)
        expect(config.model.cache, int(config.storage.cache_gb * 1e9))
        self.scores = ScoreTables(self.root, self.state)
        self.history = History(self.root, config.storage.keep_curations)
        self.run_id: str = uuid.uuid4().hex
        """The run that publications belong to; see :meth:`begin_run`."""
        self._is_one_run = False
        self.lock = (
            FileLock(self.root / "run.lock", f"the store {self.root}") if self.copy is None else BucketLock(self.copy, self._scores_follow)
        )
        self.to_come: set[str] = set()
        """The assets that the present run makes later; empty outside a run."""
        self._stores: dict[str, RowStore] = {}
        self._indexes = RowIndexes(self.store_at)
        self._checked: set[Path] = set()
        self._unmarked: dict[Path, str] = {}
        """Damaged publications of a root that can only be read, and what is wrong with each."""
        self._num_damaged = 0
        self._warned: set[str] = set()
        if self.copy is not None:
            self.copy.max_bytes = int(config.storage.cache_gb * 1e9)
            if follow:
                self.copy.follow(self._scores_follow)
        require_known_layout(self.root)

    @property
    def losses(self) -> int:
        """How often this process has found rows or publications missing or damaged. A failed read may work once they are made again."""
        return self._num_damaged + sum(store.losses for store in self._stores.values())

    def follow(self) -> None:
        """Let the working copy of a root in a bucket show what the bucket holds now, even if it followed a moment ago. A local root needs nothing."""
        if self.copy is not None:
            self.copy.follow(self._scores_follow, again=True)

    @cached_property
    def graph(self) -> Graph:
        """The assets of this project."""
        return Graph(self.config)

    def store(self, stage: str, dims: dict[str, tuple[str, ...]], lane: str = "") -> RowStore:
        """The row store of ``stage`` (in ``lane``) under the current settings, with what other processes committed meanwhile."""
        return self.store_at(f"{stage}/{self.config.row_fingerprint(stage, lane)}", dims)

    def fingerprint(self, asset: str) -> str:
        """The fingerprint of ``asset`` under the current settings."""
        declared = self.graph.asset(asset)
        return self.config.fingerprint(declared.stage.name, declared.lane)

    def store_at(self, name: str, dims: dict[str, tuple[str, ...]] | None = None) -> RowStore:
        """The row store ``name`` (its folder below ``rows/``, as a published index has it), with what other processes committed meanwhile.
        Writers must give ``dims``.
        """
        if name not in self._stores:
            self._stores[name] = self._open_store(name)
        store = self._stores[name]
        if dims is not None:
            store.dims = dims
        store.refresh()
        return store

    def works_on(self, clip_id: str) -> bool:
        """Whether this workspace works on the clip or query; a shard's works on its share alone."""
        return True

    def row_index(self, asset: str) -> pa.Table:
        """The rows of ``asset``, which has one for each clip or query: the index that it has published, with clip_id, key, content and store.

        Raises:
            NotPublished: as :meth:`published`.
        """
        return pq.read_table(self.published(asset).path / INDEX)

    def _open_store(self, name: str) -> RowStore:
        return RowStore(self.root / "rows" / name)

    def published(self, asset: str) -> Publication:
        """What ``asset`` (``latents``, ``influence_matrix/motive``) has published last.

        Raises:
            NotPublished: there is no such asset, it has published nothing yet, a file of it is missing, cut or altered, or rows that it lists have gone.
        """
        try:
            folder = self._current_folder(asset)
        except FileNotFoundError:
            raise NotPublished(self._why_absent(asset)) from None
        except Damaged as error:
            raise self._not_whole(asset, str(error)) from error
        if wrong := self._unmarked.get(folder) or what_is_wrong(folder) or self._indexes.what_is_wrong(folder):
            raise self._not_whole(asset, f"its published folder {folder} is missing or not whole ({wrong})")
        return Publication.read(asset, folder, check=lambda: self._check(asset, folder))

    def published_or_none(self, asset: str) -> Publication | None:
        """What :meth:`published` gives; None where it raises."""
        try:
            return self.published(asset)
        except NotPublished:
            return None

    def recorded(self, asset: str) -> Publication | None:
        """What ``asset`` has published last, by its record alone: nobody looks whether files and rows are there. None without a record."""
        try:
            folder = self._current_folder(asset)
            return Publication.read(asset, folder, check=lambda: self._check(asset, folder))
        except (FileNotFoundError, Damaged):
            return None

    def _current_folder(self, asset: str) -> Path:
        """The folder that the pointer of ``asset`` names. Raises FileNotFoundError without a pointer, and Damaged."""
        pointer = self._folder(asset) / POINTER
        return pointer.parent / read_sealed(pointer)["version"]

    def _why_absent(self, asset: str) -> str:
        """Why ``asset`` has no pointer: its name is wrong, or it was never made."""
        try:
            self.graph.asset(asset)
        except MotiveError as error:
            return str(error)
        return f"{asset} has not been materialized yet below {self.root}. Run `motive run`, or materialize it in the UI."

    def damages(self) -> Iterator[str]:
        """Check every file of every current publication; yields what is wrong. A damaged publication counts as not published from now on."""
        for asset in self.assets():
            try:
                publication = self.published(asset)
                self._checked.discard(publication.folder)
                self._check(asset, publication.folder)
            except NotPublished as error:
                yield str(error)

    def assets(self) -> list[str]:
        """Every asset below the root that has a pointer to a publication, of the current settings or not."""
        folder = self.root / "published"
        return sorted(
            pointer.parent.relative_to(folder).as_posix() for depth in ("*", "*/*") for pointer in folder.glob(f"{depth}/{POINTER}")
        )

    def _check(self, asset: str, folder: Path) -> None:
        """Compare every file with its hash, once in this process.

        Raises:
            NotPublished: one was altered.
        """
        if folder in self._checked:
            return
        if self.copy is not None:
            self.copy.fetch_rest(folder)
        wrong = next(altered(folder, read_sealed(folder / RECORD)["files"]), None)
        if wrong is None:
            self._checked.add(folder)
            return
        self._num_damaged += 1
        if self.copy is not None:
            self.copy.doubt(folder)
        try:
            os.rename(folder / RECORD, folder / DAMAGED)
        except OSError as error:
            log.debug("%s cannot be marked as damaged: %s", folder, error)
            self._unmarked[folder] = wrong
        raise self._not_whole(asset, f"{folder}: {wrong}")

    def _not_whole(self, asset: str, what: str) -> NotPublished:
        message = f"{asset}: {what}. It counts as not published: `motive run` makes it again. All other results are kept."
        if message not in self._warned:
            log.warning("%s", message)
        self._warned.add(message)
        return NotPublished(message)

    def data_version(self, asset: str) -> str | None:
        """The data version of what ``asset`` has published last; None when nothing counts as published."""
        publication = self.published_or_none(asset)
        return publication.data_version if publication else None

    def has_published(self, asset: str) -> bool:
        """Whether :meth:`published` would give something."""
        return self.data_version(asset) is not None

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
        is ``time.time()`` at the stage's start. A stage that computes row by row gives ``counts``. A stage that makes its table as a whole gives
        ``table_rows``, which count as reused if the same table was published before under the same settings. ``beside`` writes what belongs
        to the publication but must not be passed on with its data.

        The order is: the folder, the score tables, the pointer. After a cut between the last two `motive sql` shows the new scores already; the asset is
        stale, and the next run publishes it again.
        """
        reject_frame = pd.DataFrame([vars(reject) for reject in rejects], columns=list(REJECT_COLUMNS), dtype="object")
        fingerprint = self.fingerprint(asset)
        data_version = digest(content, digest_frame(reject_frame))
        name = f"{data_version[:16]}-{fingerprint[:8]}"
        target = self._folder(asset) / name
        is_known = what_is_wrong(target) is None
        counts = counts or (RowCounts(reused=table_rows) if is_known else RowCounts(computed=table_rows))
        saved = {
            "asset": asset,
            "data_version": data_version,
            "fingerprint": fingerprint,
            "facts": facts or {},
            "counts": vars(counts),
            "preview": PREVIEW if preview else None,
            "provenance": self.provenance(asset),
        }
        pieces: Pieces = dict(scores or {})
        if is_known:
            files = read_sealed(target / RECORD)["files"] | store_pieces(target / SCORES, pieces, SCORES)
            write_sealed(target / RECORD, saved | {"files": files})
        else:
            atomic.remove(target)  # left by an edit by hand or a fault of the disk
            with atomic.new_folder(target) as folder:
                (folder / DATA).mkdir()
                write(folder / DATA)
                if beside:
                    beside(folder)
                if preview:
                    preview(folder / PREVIEW)
                write_parquet(reject_frame, folder / REJECTS)
                store_pieces(folder / SCORES, pieces, SCORES)
                write_sealed(folder / RECORD, saved | {"files": files_of(folder)})
            self._checked.add(target)
        rebuilt = self._score_pieces() if self.scores.version() is None else {}
        new: Pieces = {
            ("rejects", asset): reject_frame,
            ("runs", asset): self._runs(asset, fingerprint, started, counts),
            ("run_settings", asset): self._run_settings(asset),
        }
        self._keep_in_history(asset, data_version, stored_pieces(target / SCORES))
        self.scores.publish(rebuilt | stored_pieces(target / SCORES) | new)
        self._point(asset, target)
        for store in self._stores.values():
            merge(store)
        return self.published(asset)

    def _point(self, asset: str, target: Path) -> None:
        """Let ``target`` count as what ``asset`` has published: the last step."""
        pointer = self._folder(asset) / POINTER
        if self.copy is None:
            write_sealed(pointer, {"version": target.name})
            return
        self.copy.push_work()
        self.copy.push_folder(target, last=(RECORD,))
        if self.history.folder.is_dir():
            self.copy.push_folder(self.history.folder)
        self.copy.publish(pointer, sealed({"version": target.name}))
        atomic.write_json(self.scores.folder / SHOWN, self._shown() | {asset: target.name})

    def _shown(self) -> dict[str, str]:
        """The version of each asset that the score tables of a working copy show."""
        try:
            return json.loads((self.scores.folder / SHOWN).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}

    def _scores_follow(self) -> None:
        """Bring the score tables of a working copy up to its publications, some of which another machine may have made."""
        now = {asset: found.folder.name for asset in self.assets() if (found := self.recorded(asset)) is not None}
        if self.scores.version() is None:
            self.restore_scores()
        elif behind := sorted(asset for asset, version in now.items() if self._shown().get(asset) != version):
            self.scores.publish({piece: content for asset in behind for piece, content in self._pieces_of(asset).items()})
        else:
            return
        if now:
            atomic.write_json(self.scores.folder / SHOWN, now)

    def begin_run(self, run_id: str, *, goes_on: bool = False) -> None:
        """What is published from now on belongs to the run ``run_id``. With ``goes_on``, so does what later runs publish (one `motive run` is several runs of
        Dagster's), and their own ids are ignored."""
        if not self._is_one_run:
            self.run_id, self._is_one_run = run_id, goes_on

    def restore_scores(self) -> None:
        """Make the score tables anew from the publications when they are missing or damaged. The caller holds the root's lock."""
        if self.scores.version() is None and (pieces := self._score_pieces()):
            log.warning(
                "the score tables are made again from %d publications; the table `runs` no longer lists earlier runs", len(self.assets())
            )
            self.scores.publish(pieces)

    def follow_moved_root(self) -> None:
        """Write ``scores.duckdb`` anew if the root was copied or moved. A root that is in use, or cannot be written, is left as it is."""
        if self.scores.is_elsewhere() and atomic.is_writable(self.root) and atomic.is_writable(self.state):
            with suppress(Locked), self.lock.holding(wait_s=1.0, who="motive sql", to_read=self.copy is not None):
                self.scores.refresh_views()

    def _score_pieces(self) -> Pieces:
        """The pieces of the score tables that the current publications hold."""
        return {piece: content for asset in self.assets() for piece, content in self._pieces_of(asset).items()}

    def _pieces_of(self, asset: str) -> Pieces:
        """The pieces of the score tables that the current publication of ``asset`` holds; none where it has none."""
        if (publication := self.published_or_none(asset)) is None:
            return {}
        pieces = stored_pieces(publication.folder / SCORES) | {("rejects", asset): publication.folder / REJECTS}
        return pieces | {("run_settings", asset): self._run_settings(asset)}

    def _keep_in_history(self, asset: str, data_version: str, pieces: Pieces) -> None:
        """Keep a ranking, a subset or a catalog in the history, with the settings behind it.

        A root whose results are older than its history first gets what is published now: its first curation, of no known run.
        """
        if not self.history.entries():
            for key in self.graph.assets:
                if key.split("/")[0] in CHOOSING | SOURCES and (old := self.published_or_none(key)) is not None:
                    when = datetime.fromtimestamp((old.folder / RECORD).stat().st_mtime, UTC)
                    self._remember(
                        key, old.data_version, stored_pieces(old.folder / SCORES), run_id="", when=when, provenance=old.provenance
                    )
        now = datetime.now(UTC)
        try:
            self._remember(asset, data_version, pieces, run_id=self.run_id, when=now, provenance=self.provenance(asset))
        except MotiveError:  # a damaged file
            for damage in self.history.damages():
                log.warning("%s", damage)
            self._remember(asset, data_version, pieces, run_id=self.run_id, when=now, provenance=self.provenance(asset))

    def _remember(self, asset: str, data_version: str, pieces: Pieces, *, run_id: str, when: datetime, provenance: dict[str, Any]) -> None:
        name, _, lane = asset.partition("/")
        piece = pieces.get((table, lane or table)) if (table := (CHOOSING | SOURCES).get(name)) else None
        if not isinstance(piece, Path):
            return
        frame = pd.read_parquet(piece)
        if name == "query_catalog":
            frame = frame.query("role == 'query'")
        self.history.add(
            asset,
            frame.assign(selected=True) if name == "curated_subset" else frame,
            run_id=run_id,
            data_version=data_version,
            published_at=when,
            variant=lane if name == "voted_ranking" else self.config.arm(lane).variant if name == "curated_subset" else None,
            settings=self._settings_behind(asset, provenance),
        )

    def _settings_behind(self, asset: str, provenance: dict[str, Any]) -> dict[str, Any]:
        """The settings that ``asset`` and all it is made from have been published with, the model's hash, and a hash of the set of queries."""
        keys = self.graph.with_ancestors([asset])
        parents = [publication for key in keys[:-1] if (publication := self.recorded(key)) is not None]
        found = settings_behind([*(publication.provenance for publication in parents), provenance])
        for publication in parents:
            array = publication.data_folder / "zarr.json"
            if publication.asset.startswith("projected_gradients/") and array.exists():
                found["model"] = json.loads(array.read_text(encoding="utf-8"))["attributes"].get("model_hash")
        queries = next((entry for entry in reversed(self.history.entries()) if entry.asset == "query_catalog"), None)
        if queries is not None and "query_catalog" in keys[:-1]:
            found["queries"] = digest(sorted(queries.rows()["clip_id"]))
        return found

    def _run_settings(self, asset: str) -> pd.DataFrame:
        """The settings of every fingerprint that ``asset`` has had, one row each, from the records that are there and the rows of those that have gone."""
        before = self.scores.piece("run_settings", asset)
        rows = [] if before is None else before.to_dict("records")
        for record in sorted(self._folder(asset).glob(f"*/{RECORD}")):
            with suppress(FileNotFoundError, Damaged):
                saved = read_sealed(record)
                for setting, value in settings_behind([saved["provenance"]]).items():
                    rows.append({"asset": asset, "fingerprint": saved["fingerprint"], "setting": setting, "value": setting_text(value)})
        frame = pd.DataFrame(rows, columns=TABLES["run_settings"].names)
        return frame.drop_duplicates(["fingerprint", "setting"], ignore_index=True)

    def provenance(self, asset: str) -> dict[str, Any]:
        """What ``asset`` is made from: settings, code version, versions of its inputs (None: not published), libraries, machine."""
        declared = self.graph.asset(asset)
        stage, lane = declared.stage.name, declared.lane
        return {
            "stage": stage,
            "lane": lane,
            "settings": self.config.stage_settings(stage, lane),
            "gates": self.config.publish_settings(stage, lane),
            "row_fingerprint": self.config.row_fingerprint(stage, lane),
            "code_version": STAGES[stage].version,
            "upstream": {key: self.data_version(key) for key in declared.inputs},
            "libraries": self.libraries(),
            "machine": platform.machine(),
        }

    def libraries(self) -> dict[str, str]:
        """The installed versions of the libraries that affect results."""
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
            "run_id": self.run_id,
        }
        before = self.scores.piece("runs", asset)
        return pd.DataFrame([row]) if before is None else pd.concat([before, pd.DataFrame([row])], ignore_index=True)


@cache
def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
