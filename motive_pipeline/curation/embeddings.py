"""Computes embeddings of clips and queries, and the choice of the arm ``embedding``: the clips that are most similar to the queries."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from motive_pipeline.attribution.tiles import influence_tiles
from motive_pipeline.catalog.catalog_clips import CatalogClip, catalog_clips, require_unchanged
from motive_pipeline.catalog.clip_rows import RowRun, RowSet
from motive_pipeline.config import Config
from motive_pipeline.curation.encoders import Encode, encoder_content, load_encoder
from motive_pipeline.curation.vote import majority_vote, num_selected, ranking_order
from motive_pipeline.devices.spread import on_devices
from motive_pipeline.engine import Work, compute_rows
from motive_pipeline.errors import GateFailed, RejectRow
from motive_pipeline.files.hash_memory import HashMemory
from motive_pipeline.graph import Role
from motive_pipeline.keys import embedding_key
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.video.decode import FrameRule
from motive_pipeline.video.readers import ClipReader

STAGE = "embeddings"
DIMS: dict[str, tuple[str, ...]] = {"embedding": ("entry",)}


class EmbeddingSet(RowSet):
    """The published embeddings of one role."""

    asset_of: ClassVar[dict[Role, str]] = {"clip": "embeddings", "query": "query_embeddings"}

    def get(self, clip_id: str) -> Float32[np.ndarray, " E"]:
        """The embedding, at unit length."""
        return self.read(clip_id, "embedding")


def publish_embeddings(ws: Workspace, *, role: Role) -> Publication:
    """Encode every clip (or query) of the catalog with ``embedding.encoder`` and publish the index.

    Raises:
        MotiveError: there is no such encoder.
        GateFailed: more than ``clips.max_reject_share`` of the clips were rejected, or no query is left.
    """
    run = embedding_rows(ws, role=role)
    run.require_enough(ws)
    facts = {"clips": len(run.accepted()), "rejected": len(run.outcome.rejects), "encoder": ws.config.embedding.encoder}
    return run.publish(ws, {}, facts=facts)


def embedding_rows(ws: Workspace, *, role: Role) -> RowRun:
    """Encode every clip (or query) of the catalog with ``embedding.encoder``, and publish nothing. Raises MotiveError if there is no such encoder."""
    started = time.time()
    clips = catalog_clips(ws, role)
    content = encoder_content(ws)
    keys = [embedding_key(clip.clip_id, content) for clip in clips]
    with on_devices(ws, _RowFunction) as row_function:
        outcome = compute_rows(
            ws.store(STAGE, DIMS),
            [Work(key=key, item=clip) for key, clip in zip(keys, clips, strict=True)],
            row_function,
            what=EmbeddingSet.asset_of[role],
            commit_rows=ws.config.engine.commit_rows,
            commit_s=ws.config.engine.commit_s,
            prefetch=row_function.prefetch,
        )
    return RowRun(asset=EmbeddingSet.asset_of[role], role=role, clips=clips, keys=keys, outcome=outcome, started=started)


class _RowFunction:
    """``clip -> arrays``. It loads the encoder with the first missing row."""

    def __init__(self, ws: Workspace) -> None:
        self._config: Config = ws.config
        self._read = ClipReader(FrameRule.of(ws.config), ws.config.engine)
        self._memory = HashMemory(ws.state)
        self._encode: Encode | None = None

    def prefetch(self, clips: Sequence[CatalogClip]) -> None:
        """Queue the clips that are asked for next, in order."""
        self._read.prefetch([clip.file for clip in clips])

    def __call__(self, clip: CatalogClip) -> dict[str, np.ndarray]:
        if self._encode is None:
            self._encode = load_encoder(self._config)
        embedding_E = self._encode(self._read(clip.file).frames_THWC)
        if not np.isfinite(embedding_E).all():
            raise RejectRow("non_finite_embedding", "the encoder's embedding holds NaN or infinity")
        require_unchanged(clip, self._memory)
        return {"embedding": embedding_E}


def nearest_clips(ws: Workspace, pool: Sequence[str]) -> list[str]:
    """The clips of the pool that the queries choose by the cosine of embeddings, best first. Held-out queries do not vote.

    Raises:
        GateFailed: a clip of the pool has no embedding, so one of the two assets is out of date.
    """
    clips, queries = EmbeddingSet(ws, "clip"), EmbeddingSet(ws, "query")
    absent = [clip_id for clip_id in pool if clip_id not in clips]
    if absent:
        raise GateFailed(
            f"{len(absent)} clips of eligible_pool have no embedding (the first: {absent[0]}). Materialize embeddings and eligible_pool again."
        )
    asking = [clip.clip_id for clip in catalog_clips(ws, "query") if clip.part == "query" and clip.clip_id in queries]
    return voted_choice(
        ws, pool, {query_id: queries.get(query_id) for query_id in asking}, {clip_id: clips.get(clip_id) for clip_id in pool}
    )


def voted_choice(ws: Workspace, pool: Sequence[str], queries: Mapping[str, np.ndarray], clips: Mapping[str, np.ndarray]) -> list[str]:
    """The clips that the method's own vote chooses, best first, if ``clips`` and ``queries`` are unit-length features by id."""
    query_QP = np.stack([queries[query_id] for query_id in sorted(queries)])
    pool_NP = np.stack([clips[clip_id] for clip_id in pool])
    votes = majority_vote([influence_tiles(query_QP, pool_NP)], ws.config.vote.percentile)
    chosen = ranking_order(votes)[: num_selected(len(pool), ws.config.subset.share)]
    return [str(pool[position]) for position in chosen.tolist()]
