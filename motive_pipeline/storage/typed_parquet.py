"""Published tables as Parquet. Every column has a type that other readers know, also if no row has a value in it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.storage.tables import TABLES

_TYPES = {field.name: field.type for schema in TABLES.values() for field in schema}


def write_parquet(frame: pd.DataFrame, file: Path) -> None:
    """Write ``frame`` without its index. A column without any value has the type that it has in the score tables, else that of texts: Parquet's
    type "null" is unknown to many readers, and does not fit the same column of another file.
    """
    table = pa.Table.from_pandas(frame, preserve_index=False)
    for place, field in enumerate(table.schema):
        if pa.types.is_null(field.type):
            kind = _TYPES.get(field.name, pa.string())
            table = table.set_column(place, field.with_type(kind), table.column(place).cast(kind))
    pq.write_table(table, file)
