"""The clips as lists for tools that show data sets: FiftyOne and Embedding Atlas. The videos are exported as for a trainer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from motive_pipeline.export.trainer import Export

FIFTYONE_FILE = "samples.json"
ATLAS_FILE = "clips.parquet"
ROWS_AT_ONCE = 2**14
"""Clips that are Python objects, and gradients that are written, at a time."""


def write_fiftyone(export: Export) -> None:
    """``samples.json``: a sample for each clip, as FiftyOne's ``FiftyOneDataset`` reads it where there is no ``metadata.json``.

    ``tags`` are the arm and, for each ranking that selects the clip, ``selected_<variant>``.
    """
    samples = []
    for clip, fields in zip(export.clips, _fields(export), strict=True):
        chosen_by = [name for name, value in fields.items() if name.startswith("selected_") and value]
        scores = {name: value for name, value in fields.items() if not name.startswith("selected_")}
        samples.append({"filepath": clip.path, "tags": [export.arm, *chosen_by], **scores})
    export.write_json(FIFTYONE_FILE, {"samples": samples})


def write_atlas(export: Export) -> None:
    """``clips.parquet``: a row for each clip, with its projected gradient as the column ``gradient`` where every clip has one."""
    rows = (
        {"id": clip.clip_id, "path": f"{export.home}/{clip.path}", **{name: value for name, value in fields.items() if name != "clip_id"}}
        for clip, fields in zip(export.clips, _fields(export), strict=True)
    )
    blocks = iter(lambda: list(islice(rows, ROWS_AT_ONCE)), [])
    table = pa.concat_tables([pa.Table.from_pylist(block) for block in blocks], promote_options="default")
    schema = table.schema if export.gradients_NP is None else table.schema.append(pa.field("gradient", pa.list_(pa.float32())))
    with pq.ParquetWriter(export.folder / ATLAS_FILE, schema) as writer:
        for start in range(0, len(table), ROWS_AT_ONCE):
            block = table.slice(start, ROWS_AT_ONCE)
            if export.gradients_NP is not None:
                block = block.append_column(schema.field("gradient"), _lists(export.gradients_NP[start : start + ROWS_AT_ONCE]))
            writer.write_table(block)


def _lists(rows_NP: Float32[np.ndarray, "n P"]) -> pa.ListArray:
    """Each row as a list."""
    offsets = np.arange(len(rows_NP) + 1, dtype=np.int32) * rows_NP.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.ascontiguousarray(rows_NP).ravel()))


def atlas_warnings(export: Export) -> Iterator[str]:
    """What is missing in the table for Embedding Atlas."""
    if export.gradients_NP is None:
        yield (
            f"there is no column `gradient`, because the variant {export.variant} has no gradient of some of these clips: "
            "use --text caption instead of --vector gradient"
        )


def _fields(export: Export) -> Iterator[dict[str, Any]]:
    """The facts of each clip. Votes, influence and rank of the arm's own variant have plain names; those of the others end in the variant."""
    own = {f"votes_{export.variant}": "votes", f"mean_influence_{export.variant}": "influence", f"rank_{export.variant}": "rank_of_all"}
    others = {name: name.replace("mean_influence", "influence", 1) for name in export.scores if name.startswith("mean_influence_")}
    scores = export.scores.rename(columns=others | own | {"path": "source"})
    for start in range(0, len(scores), ROWS_AT_ONCE):
        for row in scores.iloc[start : start + ROWS_AT_ONCE].to_dict("records"):
            yield {str(name): _plain(value) for name, value in row.items() if name != "file"}


def _plain(value: Any) -> Any:
    """A number, text or truth value as Python has it; None for what is missing."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and math.isnan(value) else value
