"""Publishes the influence of every clip on every query (eq. 10): streams from gradients on disk to a matrix and a table on disk.

Axis suffixes: Q queries, N clips, P projected entries. The maths is in ``tiles.py``, the table in ``influence_table.py``.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Shaped

from motive_pipeline import config
from motive_pipeline.attribution.gradient_set import GradientSet, open_gradients
from motive_pipeline.attribution.influence_set import open_influence
from motive_pipeline.attribution.influence_table import write_influence_table
from motive_pipeline.attribution.kernel import gram_matrix, kernel_directions
from motive_pipeline.attribution.tiles import stream_influence, tile_clips
from motive_pipeline.config import Variant
from motive_pipeline.errors import GateFailed
from motive_pipeline.storage.digest import HEX_DIGITS
from motive_pipeline.storage.work_folders import move_children, scratch_folder
from motive_pipeline.storage.workspace import Publication, Workspace
from motive_pipeline.storage.zarr_groups import consolidate, new_array, new_group, write_ids

CHUNK_QUERIES = 8
CHUNK_CLIPS = 65_536
MAX_BUFFER_ENTRIES = 2**25
"""Most entries of the matrix that are buffered until their chunks are full: 128 MiB."""


def publish_influence(ws: Workspace, variant: Variant) -> Publication:
    """Publish ``influence_matrix/<variant>``: a Zarr v3 group, and the ``influence`` score table with each clip's rank for each query.

    It contains every clip and every query with a gradient. With ``influence.similarity: cosine`` the prefix of ``influence.proj_dim`` entries is
    normalized again; with ``dot`` it is also multiplied by the norm of the whole gradient, for clips and queries alike. With
    ``influence.preconditioner: trak`` the inner product is that of the kernel (kernel.py). With ``gradient.combine: mean_cosine`` all this is done
    for each draw, and the influence is the mean.

    Raises:
        GateFailed: no query or no clip has a gradient, or the two sets of gradients were made in different ways.
    """
    started = time.time()
    query_asset, clip_asset = f"query_gradients/{variant}", f"projected_gradients/{variant}"
    queries, clips = (_load_gradients(ws, asset, variant) for asset in (query_asset, clip_asset))
    require_equal_settings(variant, queries, clips)
    with scratch_folder(ws, f"influence_matrix/{variant}") as scratch:
        matrix = InfluenceMatrix(scratch / "matrix", queries.id_N, clips.id_N, _attributes(ws, variant))
        rows = QueryRows(gradient_QP=np.asarray(queries.gradient_NP[:]), norm_Q=queries.norms_N)
        matrix.fill(influence_by_clips(ws, variant, rows, clips))
        consolidate(matrix.group)
        write_influence_table(scratch / "influence.parquet", variant, open_influence(scratch / "matrix"))
        return ws.publish(
            f"influence_matrix/{variant}",
            content=matrix.content(),
            write=lambda folder: move_children(scratch / "matrix", folder),
            started=started,
            facts=_facts(ws.config.of_variant(variant).influence, matrix, clips),
            table_rows=len(queries) * len(clips),
            scores={("influence", variant): scratch / "influence.parquet"},
        )


@dataclass(frozen=True, kw_only=True)
class QueryRows:
    """Stored gradients of queries, as whole rows, and the length of each whole gradient."""

    gradient_QP: Float32[np.ndarray, "Q P"]
    norm_Q: Float64[np.ndarray, " Q"]


class InfluenceMatrix:
    """The influence matrix on disk, written from left to right; memory holds one column of chunks."""

    def __init__(
        self, folder: Path, query_id_Q: Shaped[np.ndarray, " Q"], clip_id_N: Shaped[np.ndarray, " N"], attributes: dict[str, Any]
    ) -> None:
        self.group = new_group(folder, attributes)
        self.shape = len(query_id_Q), len(clip_id_N)
        write_ids(self.group, "query_id", query_id_Q, "query")
        write_ids(self.group, "clip_id", clip_id_N, "clip")
        width = max(1, min(CHUNK_CLIPS, MAX_BUFFER_ENTRIES // len(query_id_Q), len(clip_id_N)))
        self._array = new_array(
            self.group, "influence", shape=self.shape, dtype="float32", chunks=(CHUNK_QUERIES, width), dims=("query", "clip")
        )
        self._sha = hashlib.sha256(json.dumps(self.shape).encode())
        for ids in (query_id_Q, clip_id_N):
            self._sha.update(np.ascontiguousarray(ids).data)
        self.lowest, self.highest, self.total = np.inf, -np.inf, 0.0

    def fill(self, tiles: Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]) -> None:
        """Write ``tiles``, which come in the order of their clips. A column of chunks is written once it is full."""
        num_queries, num_clips = self.shape
        width = self._array.chunks[1]
        column_QW = np.empty((num_queries, width), dtype=np.float32)
        for start, tile_QN in tiles:
            taken = 0
            while taken < tile_QN.shape[1]:
                at = start + taken
                count = min(tile_QN.shape[1] - taken, width - at % width)
                column_QW[:, at % width : at % width + count] = tile_QN[:, taken : taken + count]
                taken += count
                if (at + count) % width == 0 or at + count == num_clips:
                    self._write(at + count, column_QW[:, : (at + count - 1) % width + 1])

    def content(self) -> str:
        """A hash of the ids and the matrix."""
        return self._sha.hexdigest()[:HEX_DIGITS]

    def _write(self, stop: int, column_QW: Float32[np.ndarray, "Q W"]) -> None:
        self._array[:, stop - column_QW.shape[1] : stop] = column_QW
        self._sha.update(np.ascontiguousarray(column_QW).data)
        self.lowest = min(self.lowest, float(column_QW.min()))
        self.highest = max(self.highest, float(column_QW.max()))
        self.total += float(column_QW.sum(dtype=np.float64))


def influence_by_clips(
    ws: Workspace, variant: Variant, queries: QueryRows, clips: GradientSet
) -> Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]:
    """Yield ``(first clip, influence)``, the influence of the clips on the queries, tile by tile. A query's values do not depend on the other queries.

    Unprojected gradients are read whole, others up to ``influence.proj_dim``.

    Raises:
        GateFailed: the gradients have fewer entries than that.
    """
    settings, threads = ws.config.of_variant(variant).influence, ws.config.engine.threads
    num_parts = clips.attributes.get("features_in_a_row", 1)
    width = clips.num_entries // num_parts
    proj_dim = clips.num_entries if clips.attributes["projection"] == "exact" else settings.proj_dim
    if proj_dim > width:
        raise GateFailed(
            f"influence.proj_dim = {proj_dim}, but the published gradients have {width} entries. Materialize "
            f"query_gradients/{variant} and projected_gradients/{variant} again."
        )
    parts = [
        _part_tiles(settings, queries, clips, slice(first, first + proj_dim), threads=threads)
        for first in range(0, num_parts * width, width)
    ]
    return parts[0] if num_parts == 1 else _mean_tiles(parts)


def _part_tiles(
    settings: config.Influence, queries: QueryRows, clips: GradientSet, columns: slice, *, threads: int
) -> Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]:
    """The influence by ``columns`` of the stored rows, tile by tile."""
    query_norm_Q, clip_norm_N = (queries.norm_Q, clips.norms_N) if settings.similarity == "dot" else (None, None)
    queries_QP = np.ascontiguousarray(queries.gradient_QP[:, columns])
    if settings.uses_trak:
        gram_PP = gram_matrix(clips.gradient_NP, columns, clip_norm_N=clip_norm_N, threads=threads)
        directions = kernel_directions(queries_QP, gram_PP, relative_lambda=settings.trak_lambda, query_norm_Q=query_norm_Q)
        queries_QP, query_norm_Q = directions.unit_Qp, directions.length_Q
    return stream_influence(
        queries_QP,
        clips.gradient_NP,
        columns,
        clips_per_tile=tile_clips(clips.gradient_NP, queries_QP.shape[1]),
        threads=threads,
        query_norm_Q=query_norm_Q,
        clip_norm_N=clip_norm_N,
    )


def _mean_tiles(
    parts: Sequence[Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]],
) -> Iterator[tuple[int, Float32[np.ndarray, "Q tile"]]]:
    """The mean over ``parts``, tile by tile, summed in their order."""
    for tiles in zip(*parts, strict=True):
        tile_DQN = np.stack([tile_QN for _, tile_QN in tiles])
        yield tiles[0][0], tile_DQN.mean(axis=0, dtype=np.float64).astype(np.float32)


def _load_gradients(ws: Workspace, asset: str, variant: Variant) -> GradientSet:
    gradients = open_gradients(ws.published(asset).path, ws.config.of_variant(variant).influence.proj_dim)
    if not len(gradients):
        raise GateFailed(f"{asset} holds no gradient, so no influence can be computed; its rejects say why")
    return gradients


def require_equal_settings(variant: Variant, queries: GradientSet, clips: GradientSet) -> None:
    """Raise :class:`GateFailed` unless the gradients of clips and queries were made with equal settings; the message names every one that differs."""
    ways = [{**gradients.attributes, "entries in a feature": gradients.num_entries} for gradients in (queries, clips)]
    names = (ways[0].keys() | ways[1].keys()) - {"role", "provenance", "model_path"}  # the hash identifies the model, whatever its path
    shown = [
        f"{name}: {ways[0].get(name)} for the queries, {ways[1].get(name)} for the clips"
        for name in sorted(names)
        if ways[0].get(name) != ways[1].get(name)
    ]
    if shown:
        raise GateFailed(
            f"query_gradients/{variant} and projected_gradients/{variant} were made in different ways ({'; '.join(shown)}). Materialize both again."
        )


def _attributes(ws: Workspace, variant: Variant) -> dict[str, Any]:
    uses_trak = ws.config.of_variant(variant).influence.uses_trak
    return {
        "variant": variant,
        "equation": "I[q, n] = g(q)^T K^-1 g(n)" if uses_trak else "I[q, n] = g(q) . g(n) (eq. 10)",
        **ws.config.stage_settings("influence_matrix", variant),
        "provenance": ws.provenance(f"influence_matrix/{variant}"),
    }


def _facts(settings: config.Influence, matrix: InfluenceMatrix, clips: GradientSet) -> dict[str, Any]:
    num_queries, num_clips = matrix.shape
    return {
        "queries": num_queries,
        "clips": num_clips,
        "similarity": settings.similarity,
        "preconditioner": settings.preconditioner,
        "lowest": matrix.lowest,
        "highest": matrix.highest,
        "mean": matrix.total / (num_queries * num_clips),
        "clips_without_gradient": int((clips.norms_N == 0).sum()),
    }
