"""A row store over another one: reads the rows of both, and writes only its own. A shard's store lies over that of the main root."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from motive_pipeline.storage.commits import Group
from motive_pipeline.storage.rows import RowRef, RowReject, RowStore


class OverlayStore(RowStore):
    """Rows of ``below`` are found and read as its own. :meth:`append`, merges, :meth:`keys` and :meth:`commits` concern its own rows alone.

    ``below`` is only read, so it needs no lock: another process may write to it meanwhile.
    """

    def __init__(self, folder: Path, below: RowStore) -> None:
        super().__init__(folder)
        self.below = below

    def find(self, key: str) -> RowRef | RowReject | None:
        own = super().find(key)
        return self.below.find(key) if own is None else own

    def refresh(self) -> None:
        super().refresh()
        self.below.refresh()

    def _place(self, ref: RowRef) -> tuple[Group, int]:
        return super()._place(ref) if isinstance(super().find(ref.key), RowRef) else self.below._place(ref)

    def _open(self, segment: str) -> Any:
        return super()._open(segment) if segment in self._segment_files else self.below._open(segment)
