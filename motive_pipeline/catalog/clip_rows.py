"""What the stages that compute one row for each clip have in common: which clips, which row store, how it is published and read.

`latents` and `motion_masks` publish an index (``index.parquet``) into a row store; :class:`RowSet` reads through that index, so that a
reader sees the rows that were published even when the settings have changed since.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from motive_pipeline.engine import Outcome, require_few_rejects
from motive_pipeline.errors import GateFailed, MotiveError, RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.files.media_file import MediaFile
from motive_pipeline.storage.digest import digest_frame
from motive_pipeline.storage.rows import RowRef, RowReject, RowStore
from motive_pipeline.storage.workspace import Publication, Reject, Workspace

Role = Literal["clip", "query"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CatalogClip:
    """A clip or query of a published catalog. ``part`` is ``clip``, ``query`` or ``held_out``."""

    clip_id: str
    location: str
    caption: str
    part: str

    @property
    def file(self) -> MediaFile:
        """Where the clip's bytes are."""
        return MediaFile.parse(self.location)


def catalog_asset(role: Role) -> str:
    """The asset that lists what ``role`` means."""
    return "clip_catalog" if role == "clip" else "query_catalog"


def catalog_clips(ws: Workspace, role: Role) -> list[CatalogClip]:
    """Every clip, or every query (held-out ones among them), in the order of clip_id.

    Raises:
        NotPublished: the catalog has not been materialized.
    """
    folder = ws.published(catalog_asset(role)).path
    if role == "clip":
        table = pq.read_table(folder / "catalog.parquet", columns=["clip_id", "path", "caption"])
        parts = ["clip"] * len(table)
    else:
        table = pq.read_table(folder / "queries.parquet", columns=["query_id", "path", "caption", "role"])
        parts = table["role"].to_pylist()
    rows = sorted(zip(*(table.column(number).to_pylist() for number in range(3)), parts, strict=True))
    return [CatalogClip(clip_id=clip_id, location=path, caption=caption, part=part) for clip_id, path, caption, part in rows]


def require_unchanged(clip: CatalogClip, memory: HashMemory) -> None:
    """The file still has the content that the catalog knows it by. Call it after reading, before the result counts.

    Raises:
        RejectRow: ``changed_since_catalog`` or ``missing_file``; both may be well next time.
    """
    if memory.clip_id(clip.file) != clip.clip_id:
        raise RejectRow(
            "changed_since_catalog",
            "the file's content has changed since it was catalogued; it is a new clip in the next run",
            transient=True,
        )


@dataclass(frozen=True, kw_only=True)
class RowRun:
    """A finished run of one row stage: the clips it was asked for, the key of each, and what became of them."""

    asset: str
    stage: str
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

    def without(self, clip_ids: Collection[str], reason: str, detail: str) -> RowRun:
        """The same run with the rows of ``clip_ids`` rejected by this role, though they stand in the store."""
        without = frozenset(clip_ids)
        refused = {
            key: RowReject(key=key, reason=reason, detail=detail)
            for clip, key in zip(self.clips, self.keys, strict=True)
            if clip.clip_id in without
        }
        refs = {key: ref for key, ref in self.outcome.refs.items() if key not in refused}
        rejects = self.outcome.rejects | refused
        counts = replace(self.outcome.counts, rejected=len(rejects))
        return replace(self, outcome=replace(self.outcome, refs=refs, rejects=rejects, counts=counts))

    def require_enough(self, ws: Workspace) -> None:
        """The stage's gate: few rejected clips; at least one query, and one held-out query where there are any.

        Raises:
            GateFailed: it does not hold; the message counts the reasons.
        """
        key = ws.graph.asset(self.asset).stage.gate
        assert key is not None
        rejects = self.rejects()
        reasons = [reject.reason for reject in rejects]
        if self.role == "clip":
            require_few_rejects(
                self.asset, rejected=len(rejects), total=len(self.clips), max_share=ws.config.setting(key), key=key, reasons=reasons
            )
            return
        left = {clip.part for clip, _ in self.accepted()}
        for part in sorted({clip.part for clip in self.clips} - left, reverse=True):
            listed = "; ".join(f"{reject.path}: {reject.reason} ({reject.detail})" for reject in rejects[:5])
            raise GateFailed(f"{self.asset}: no {part.replace('_', '-')} clip is left of {len(self.clips)} queries. {listed}")

    def index(self, columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
        """The published index: clip_id, key, content, store (the row store's folder below ``rows/``) and the given columns."""
        accepted = self.accepted()
        return pd.DataFrame(
            {
                "clip_id": pd.Series([clip.clip_id for clip, _ in accepted], dtype="object"),
                "key": pd.Series([ref.key for _, ref in accepted], dtype="object"),
                "content": pd.Series([ref.content for _, ref in accepted], dtype="object"),
                **columns,
            }
        )

    def publish(
        self,
        ws: Workspace,
        columns: Mapping[str, Sequence[Any]],
        *,
        facts: dict[str, Any],
        scores: dict[tuple[str, str], pd.DataFrame | Path] | None = None,
        preview: Callable[[Path], None] | None = None,
    ) -> Publication:
        """Publish the index, the rejects and the facts."""
        index = self.index(columns)
        content = digest_frame(pd.DataFrame(index[["clip_id", "content"]]))
        index["store"] = f"{self.stage}/{ws.config.row_fingerprint(self.stage)}"
        timing = {"seconds": round(time.time() - self.started, 1)}
        return ws.publish(
            self.asset,
            content=content,
            write=lambda folder: index.to_parquet(folder / "index.parquet", index=False),
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
        """Raises NotPublished when there is nothing yet."""
        self._asset = self.asset_of[role]
        self._table = pq.read_table(ws.published(self._asset).path / "index.parquet")
        clip_ids, contents, keys, stores = (self._table[name].to_pylist() for name in ("clip_id", "content", "key", "store"))
        self.clip_ids: list[str] = clip_ids
        """In order, each once."""
        self._content: dict[str, str] = dict(zip(self.clip_ids, contents, strict=True))
        self._key: dict[str, str] = dict(zip(self.clip_ids, keys, strict=True))
        self._stores = {name: ws.store_at(name) for name in sorted(set(stores))}
        self._store_of: dict[str, str] = dict(zip(self.clip_ids, stores, strict=True))

    @cached_property
    def index(self) -> pd.DataFrame:
        """The index as it was published: a row for each clip, in the order of clip_id."""
        return self._table.to_pandas()

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __contains__(self, clip_id: object) -> bool:
        return clip_id in self._key

    def content(self, clip_id: str) -> str:
        """Hash of the row's content: what a downstream row's key is made of."""
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

    def _find(self, clip_id: str) -> tuple[RowStore, RowRef]:
        store = self._stores[self._store_of[clip_id]]
        ref = store.find(self._key[clip_id])
        if not isinstance(ref, RowRef):
            raise MotiveError(
                f"{self._asset}: the row of clip {clip_id} is missing from {store.folder}. Run `motive run` to make it again."
            )
        return store, ref
