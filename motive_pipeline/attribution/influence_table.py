"""The ``influence`` score table: one row for each query and clip, with the clip's rank, written one query at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64, Shaped

from motive_pipeline.attribution.influence_set import InfluenceSet
from motive_pipeline.storage.tables import TABLES

ROW_GROUP = 2**20


def ranks(influence_N: Float32[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """The rank of each clip, 1 for the highest influence. Of equal influences the earlier clip comes first (clips are in order of their id)."""
    order_N = descending_order(influence_N)
    rank_N = np.empty(len(influence_N), dtype=np.int64)
    rank_N[order_N] = np.arange(1, len(influence_N) + 1)
    return rank_N


def descending_order(score_N: Float32[np.ndarray, " N"]) -> Int64[np.ndarray, " N"]:
    """Positions from the highest score to the lowest; equal scores keep their order, NaN comes last."""
    return np.argsort(-score_N, kind="stable")


def id_strings(ids: Shaped[np.ndarray, " R"]) -> pa.StringArray:
    """Convert fixed-length bytes to a string column, without a Python object for each."""
    return pa.array(ids, type=pa.binary()).cast(pa.string())


def write_influence_table(file: Path, variant: str, influence: InfluenceSet) -> None:
    """Write ``influence`` [query, clip] as a Parquet table: row groups by query, clips in order of their id.

    Memory holds the scores of a few queries, whatever the number of queries.
    """
    clip_ids = id_strings(influence.clip_id_N)
    schema = TABLES["influence"]
    queries = iter(influence.query_ids)
    encoding: dict[str, Any] = {"use_dictionary": ["variant", "query_id"], "write_statistics": ["query_id", "influence", "rank"]}
    with pq.ParquetWriter(file, schema, **encoding) as writer:
        for block_BN in influence.blocks():
            for influence_N in block_BN:
                writer.write_table(_query_rows(variant, next(queries), clip_ids, influence_N, schema), row_group_size=ROW_GROUP)


def _query_rows(
    variant: str, query_id: str, clip_ids: pa.StringArray, influence_N: Float32[np.ndarray, " N"], schema: pa.Schema
) -> pa.Table:
    num_clips = len(influence_N)
    columns = [
        pa.repeat(pa.scalar(variant), num_clips),
        pa.repeat(pa.scalar(query_id), num_clips),
        clip_ids,
        pa.array(influence_N.astype(np.float64)),
        pa.array(ranks(influence_N)),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
