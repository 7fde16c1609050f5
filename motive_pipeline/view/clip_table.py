"""The table of the explorer: one row for each clip of the catalog, with what every score table says of it, in DuckDB's memory.

Columns that depend on a variant have a key such as ``rank:motive``. Names of variants and of publisher's columns are data: in SQL every column has a name of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import duckdb
import pyarrow as pa

Kind = Literal["number", "text"]

HARMFUL = "harmful"
"""The column that orders the harmful clips; it is there also where none is harmful."""

MAX_PUBLISHED = 24
"""Numeric columns taken from the publisher's metadata."""

_NUMBERS = {
    "motion_magnitude_px": "motion, px",
    "duration_s": "length, s",
    "num_frames": "frames",
    "fps": "frames per second",
    "width": "width, px",
    "height": "height, px",
    "aesthetic_score": "aesthetic score",
    "motion_score": "publisher's motion score",
}
_OF_VARIANT = {"rank": "rank", "votes": "votes", "mean_influence": "mean influence"}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column that the page can show, sort by and filter. ``key`` is its name for the page, ``sql`` that in the table ``clips``."""

    key: str
    label: str
    sql: str
    kind: Kind = "number"
    variant: str = ""


def build_clips(
    connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table], variants: Sequence[str], best_query: pa.Table | None
) -> list[Column]:
    """Make the table ``clips``, in the order of clip id; returns its columns.

    ``tables`` are ``clips``, ``ranking``, ``subsets`` and ``queries`` of the score tables, and ``harmful`` of one variant (clip_id, rank). ``best_query`` has, for each clip, the query on which its
    influence by the lead variant is highest. ``n`` numbers the rows from 0.
    """
    for name, table in tables.items():
        connection.register(f"from_{name}", table)
    connection.register("from_best", best_query if best_query is not None else pa.table({"clip_id": pa.array([], pa.string()), "query_id": pa.array([], pa.string())}))  # fmt: skip
    published = list(_published_numbers(connection))
    columns = [
        Column(key="name", label="file name", sql="name", kind="text"),
        Column(key="caption", label="caption", sql="caption", kind="text"),
        *(Column(key=key, label=label, sql=key) for key, label in _NUMBERS.items()),
        *(
            Column(
                key=f"{key}:{variant}",
                label=label if len(variants) == 1 else f"{label} · {variant}",
                sql=f"{key}_{number}",
                variant=variant,
            )
            for number, variant in enumerate(variants)
            for key, label in _OF_VARIANT.items()
        ),
        Column(key=HARMFUL, label="place among the harmful", sql="harmful"),
        *(Column(key=f"published:{key}", label=f"{key} (publisher)", sql=f"published_{number}") for number, key in enumerate(published)),
    ]
    parameters: list[str] = [f'$."{key}"' for key in published]
    joins = []
    for number, variant in enumerate(variants):
        joins.append(f"LEFT JOIN (SELECT * FROM from_ranking WHERE variant = ?) r{number} USING (clip_id)")
        parameters.append(variant)
    of_variants = "".join(f", r{number}.{key} AS {key}_{number}" for number in range(len(variants)) for key in _OF_VARIANT)
    of_publisher = "".join(
        f", try_cast(json_extract_string(c.published, ?) AS DOUBLE) AS published_{number}" for number in range(len(published))
    )
    connection.execute(
        f"""CREATE TABLE clips AS SELECT row_number() OVER (ORDER BY c.clip_id) - 1 AS n, c.clip_id, c.path,
        regexp_extract(c.path, '[^/]*$') AS name, coalesce(c.caption, '') AS caption, coalesce(c.source, '') AS source, c.flags,
        {", ".join(f"CASE WHEN isnan(c.{key}::DOUBLE) THEN NULL ELSE c.{key} END AS {key}" for key in _NUMBERS)}{of_publisher}{of_variants}, h.rank AS harmful,
        coalesce(s.arms, []::VARCHAR[]) AS arms, b.query_id AS best_query, coalesce(q.category, '') AS category,
        lower(concat_ws(' ', c.caption, c.path, c.clip_id)) AS words
        FROM from_clips c {" ".join(joins)}
        LEFT JOIN from_harmful h USING (clip_id)
        LEFT JOIN (SELECT clip_id, list(arm) AS arms FROM from_subsets GROUP BY clip_id) s USING (clip_id)
        LEFT JOIN from_best b USING (clip_id) LEFT JOIN from_queries q ON q.query_id = b.query_id ORDER BY n""",
        parameters,
    )
    return [column for column in columns if column.key == HARMFUL or _has_values(connection, column)]


def _published_numbers(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Keys of the publisher's metadata that have a number in some row."""
    keys = connection.execute(
        """SELECT key, max(try_cast(json_extract_string(published, '$."' || key || '"') AS DOUBLE)) FROM
        (SELECT published, unnest(json_keys(published)) AS key FROM from_clips WHERE json_valid(published)) WHERE NOT contains(key, '"')
        GROUP BY key ORDER BY key"""
    ).fetchall()
    yield from [key for key, largest in keys if largest is not None][:MAX_PUBLISHED]


def _has_values(connection: duckdb.DuckDBPyConnection, column: Column) -> bool:
    return connection.execute(f"SELECT count({column.sql}) FROM clips").fetchall()[0][0] > 0
