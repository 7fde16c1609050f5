"""Clip rows: what the stages with one row for each clip share. How such a stage is published (:class:`RowRun`) and read (:class:`RowSet`).

These stages publish an index (``index.parquet``) of a row store. :class:`RowSet` reads through that index, so a reader sees the published
rows, even if the settings have changed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from motive_pipeline.catalog.catalog_clips import CatalogClip
from motive_pipeline.catalog.reject_gate import require_few_rejects
from motive_pipeline.engine import Outcome
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.graph import Role
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.rows import RowRef, RowReject, RowStore
from motive_pipeline.storage.typed_parquet import write_parquet
from motive_pipeline.storage.workspace import Publication, Reject, Workspace


@dataclass(frozen=True, kw_only=True)
class RowRun:
    """A finished run of one row stage: its clips, their keys, and the outcome."""

    asset: str
    role: Role
    clips: Sequence[CatalogClip]
    keys: Sequence[str]
    outcome: Outcome
    started: float

    def accepted(self) -> list[tuple[CatalogClip, RowRef]]:
        """The clips that have a row, in the order of clip_id."""
        return self._accepted

    @cached_property
    def _accepted(self) -> list[tuple[CatalogClip, RowRef]]:
        refs = self.outcome.refs
        return [(clip, refs[key]) for clip, key in zip(self.clips, self.keys, strict=True) if key in refs]

    def rejects(self) -> list[Reject]:
        """The clips that were rejected, in the order of clip_id."""
        refused = self.outcome.rejects
        return [
            Reject(path=clip.location, clip_id=clip.clip_id, stage=self.asset, reason=refused[key].reason, detail=refused[key].detail)
            for clip, key in zip(self.clips, self.keys, strict=True)
            if key in refused
        ]

    def without(self, details: Mapping[str, str], reason: str) -> RowRun:
        """The same run with the rows of ``details`` (clip_id -> why, in words) marked rejected in this publication. The stored rows are kept."""
        refused = {
            key: RowReject(key=key, reason=reason, detail=details[clip.clip_id])
            for clip, key in zip(self.clips, self.keys, strict=True)
            if clip.clip_id in details
        }
        refs = {key: ref for key, ref in self.outcome.refs.items() if key not in refused}
        rejects = self.outcome.rejects | refused
        counts = replace(self.outcome.counts, rejected=len(rejects))
        return replace(self, outcome=replace(self.outcome, refs=refs, rejects=rejects, counts=counts))

    def require_enough(self, ws: Workspace) -> None:
        """The gate of the stage: few clips (or queries) are rejected, and at least one query and one held-out query are left.

        Raises:
            GateFailed: this does not hold; the message counts the reasons.
        """
        rejects = self.rejects()
        left = {clip.part for clip, _ in self.accepted()}
        for part in sorted({clip.part for clip in self.clips} - left, reverse=True) if self.role == "query" else ():
            listed = "; ".join(f"{reject.path}: {reject.reason} ({reject.detail})" for reject in rejects[:5])
            raise GateFailed(f"{self.asset}: no {part.replace('_', '-')} clip is left of {len(self.clips)} queries. {listed}")
        require_few_rejects(ws, self.asset, rejects, total=len(self.clips), role=self.role)

    def index(self, columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """The index: clip_id, key, content (hash) and ``columns``, one row for each accepted clip."""
        accepted = self.accepted()
        return pd.DataFrame(
            {
                "clip_id": pd.Series([clip.clip_id for clip, _ in accepted], dtype="object"),
                "key": pd.Series([ref.key for _, ref in accepted], dtype="object"),
                "content": pd.Series([ref.content for _, ref in accepted], dtype="object"),
                **columns,
            }
        )

    def stored_index(self, ws: Workspace, columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """The index with one more column: ``store``, the row store's folder below ``rows/``."""
        stage = ws.graph.asset(self.asset).stage.name
        return self.index(columns).assign(store=f"{stage}/{ws.config.row_fingerprint(stage)}")

    def publish(
        self,
        ws: Workspace,
        columns: Mapping[str, Sequence[Any]],
        *,
        facts: dict[str, Any],
        scores: dict[tuple[str, str], pd.DataFrame | Path] | None = None,
        preview: Callable[[Path], None] | None = None,
    ) -> Publication:
        """Publish :meth:`stored_index`, the rejects and the facts."""
        index = self.stored_index(ws, columns)
        content = digest_frame(pd.DataFrame(index[["clip_id", "content"]]))
        timing = {"seconds": round(time.time() - self.started, 1)}
        return ws.publish(
            self.asset,
            content=content,
            write=lambda folder: write_parquet(index, folder / "index.parquet"),
            started=self.started,
            facts=facts | timing,
            counts=self.outcome.counts,
            rejects=self.rejects(),
            scores=scores,
            preview=preview,
        )


class RowSet:
    """The published rows of one role, read by clip_id."""

    asset_of: ClassVar[dict[Role, str]]
    """The asset that publishes the rows of each role."""

    def __init__(self, ws: Workspace, role: Role) -> None:
        """Raises NotPublished if nothing is published yet."""
        self._asset = self.asset_of[role]
        self._table = ws.row_index(self._asset)
        clip_ids, contents, keys, stores = (self._table[name].to_pylist() for name in ("clip_id", "content", "key", "store"))
        self.clip_ids: list[str] = clip_ids
        """Sorted, each once."""
        self._content: dict[str, str] = dict(zip(self.clip_ids, contents, strict=True))
        self._key: dict[str, str] = dict(zip(self.clip_ids, keys, strict=True))
        self._stores = {name: ws.store_at(name) for name in sorted(set(stores))}
        self._store_of: dict[str, str] = dict(zip(self.clip_ids, stores, strict=True))

    @cached_property
    def index(self) -> pd.DataFrame:
        """The published index: a row for each clip, in the order of clip_id."""
        return self._table.to_pandas()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._key

    def content(self, clip_id: str) -> str:
        """The hash of the row's content. Keys of downstream rows are made from it."""
        return self._content[clip_id]

    def read(self, clip_id: str, name: str) -> np.ndarray:
        """Array ``name`` of the clip's row.

        Raises:
            MotiveError: the row is no longer on disk.
        """
        store, ref = self._find(clip_id)
        return store.read(ref, name)

    def has(self, clip_id: str, name: str) -> bool:
        """Whether array ``name`` of the clip's row is stored; raises as :meth:`read` does."""
        store, ref = self._find(clip_id)
        return store.has(ref, name)

    def names(self, clip_id: str) -> list[str]:
        """The arrays of the clip's row that are stored; raises as :meth:`read` does."""
        store, ref = self._find(clip_id)
        return store.names(ref)

    def _find(self, clip_id: str) -> tuple[RowStore, RowRef]:
        store = self._stores[self._store_of[clip_id]]
        ref = store.find(self._key[clip_id])
        if not isinstance(ref, RowRef):
            raise MotiveError(
                f"{self._asset}: the row of clip {clip_id} is missing from {store.folder}. Run `motive run` to make it again."
            )
        return store, ref
