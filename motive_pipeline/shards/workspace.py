"""The workspace of one shard: it reads what the main root has published, works on its share of the clips, and writes into a folder of its own."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from motive_pipeline.catalog.clip_rows import RowRun
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.shards.share import Share
from motive_pipeline.storage import atomic
from motive_pipeline.storage.overlay import OverlayStore
from motive_pipeline.storage.rows import RowStore
from motive_pipeline.storage.shard_folders import STATE, shard_lock
from motive_pipeline.storage.workspace import Publication, Workspace

_REMEMBERED = ("model_files.json", "model_checks.json", "adapter_files.json")
"""Hashes of the model's files, by size and times, in the main root's state. With a copy a shard need not read the model to hash it."""


class ShardWorkspace(Workspace):
    """The project as a shard sees it. Rows of the main root count as there; new rows, the state and the lock lie in the shard's ``folder``.

    It writes nothing below the main root outside ``folder``, and takes no lock there. What it has read of the main root's publications stays the same for
    as long as it lives, so a run that publishes a new catalog meanwhile does not mix two of them.
    """

    def __init__(self, config: Config, share: Share, folder: Path) -> None:
        super().__init__(config)
        self.share = share
        self.folder = folder
        self.rows_folder = folder / "rows"
        main_state, self.state = self.state, folder / STATE
        self.lock = shard_lock(folder, f"shard {share} in {folder}")
        self._main_rows = self.root / "rows"
        self._seen: dict[str, Publication] = {}
        self._row_indexes: dict[str, pa.Table] = {}
        self._remember(main_state)

    def works_on(self, clip_id: str) -> bool:
        return self.share.has(clip_id)

    def published(self, asset: str) -> Publication:
        if asset not in self._seen:
            self._seen[asset] = super().published(asset)
        return self._seen[asset]

    def row_index(self, asset: str) -> pa.Table:
        """The rows of ``asset`` that :meth:`keep` was given."""
        if asset not in self._row_indexes:
            raise MotiveError(f"shard {self.share} has made no rows of {asset}")
        return self._row_indexes[asset]

    def keep(self, run: RowRun) -> None:
        """Let later stages of this shard read the rows of ``run``."""
        self._row_indexes[run.asset] = pa.Table.from_pandas(run.stored_index(self, {}), preserve_index=False)

    def _open_store(self, name: str) -> RowStore:
        return OverlayStore(self.rows_folder / name, RowStore(self._main_rows / name))

    def _remember(self, main_state: Path) -> None:
        atomic.make_folder(self.state)
        for name in _REMEMBERED:
            if (main_state / name).is_file() and not (self.state / name).exists():
                atomic.write_bytes(self.state / name, (main_state / name).read_bytes())
