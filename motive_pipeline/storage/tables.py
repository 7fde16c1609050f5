"""The score tables: their columns, and how rows that an older version of the software wrote get the present form."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

_S, _I, _F, _B = pa.string(), pa.int64(), pa.float64(), pa.bool_()
_TIME, _TEXTS = pa.timestamp("us", tz="UTC"), pa.list_(pa.string())

TABLES: dict[str, pa.Schema] = {
    "catalog": pa.schema(
        [
            ("clip_id", _S),
            ("path", _S),
            ("caption", _S),
            ("num_frames", _I),
            ("fps", _F),
            ("width", _I),
            ("height", _I),
            ("duration_s", _F),
            ("source", _S),
            ("flags", _TEXTS),
            ("aesthetic_score", _F),
            ("motion_score", _F),
            ("published", _S),
            ("disagrees", _S),
        ]
    ),
    "clip_flags": pa.schema([("clip_id", _S), ("flags", _TEXTS)]),
    "motion": pa.schema([("clip_id", _S), ("motion_magnitude_px", _F)]),
    "rejects": pa.schema([("path", _S), ("clip_id", _S), ("stage", _S), ("reason", _S), ("detail", _S)]),
    "duplicates": pa.schema([("kind", _S), ("clip_id", _S), ("other_id", _S), ("distance_bits", _I), ("path", _S), ("other_path", _S)]),
    "queries": pa.schema([("query_id", _S), ("path", _S), ("caption", _S), ("category", _S), ("role", _S)]),
    "influence": pa.schema([("variant", _S), ("query_id", _S), ("clip_id", _S), ("influence", _F), ("rank", _I)]),
    "ranking": pa.schema([("variant", _S), ("clip_id", _S), ("votes", _I), ("mean_influence", _F), ("rank", _I), ("selected", _B)]),
    "thresholds": pa.schema([("variant", _S), ("query_id", _S), ("threshold", _F)]),
    "subsets": pa.schema([("arm", _S), ("clip_id", _S), ("rank", _I)]),
    "left_out": pa.schema([("arm", _S), ("clip_id", _S), ("rank", _I), ("reason", _S), ("other_id", _S), ("detail", _S)]),
    "eval_scores": pa.schema(
        [("arm", _S), ("seed", _I), ("metric", _S), ("backend", _S), ("value", _F), ("ci_low", _F), ("ci_high", _F), ("num_videos", _I)]
    ),
    "preference": pa.schema(
        [
            ("arm_a", _S),
            ("arm_b", _S),
            ("wins", _I),
            ("ties", _I),
            ("losses", _I),
            ("win_rate", _F),
            ("ci_low", _F),
            ("ci_high", _F),
            ("num_raters", _I),
            ("num_prompts", _I),
            ("prompts_for", _I),
            ("prompts_against", _I),
            ("sign_test_p", _F),
            ("agreement", _F),
        ]
    ),
    "audit": pa.schema(
        [
            ("check", _S),
            ("variant", _S),
            ("against", _S),
            ("parameter", _S),
            ("query_id", _S),
            ("value", _F),
            ("std_error", _F),
            ("ci_low", _F),
            ("ci_high", _F),
            ("num_units", _I),
            ("unit", _S),
            ("seconds", _F),
            ("verdict", _S),
        ]
    ),
    "runs": pa.schema(
        [
            ("asset", _S),
            ("fingerprint", _S),
            ("started_at", _TIME),
            ("seconds", _F),
            ("rows_computed", _I),
            ("rows_reused", _I),
            ("run_id", _S),
        ]
    ),
    "run_settings": pa.schema([("asset", _S), ("fingerprint", _S), ("setting", _S), ("value", _S)]),
}
"""Tables on disk. The views have the same names; further views are those of ``score_views.py``.

The catalog has the flags of the first frame, ``clip_flags`` those of the frames that are used. ``thresholds`` has the influence that a query's vote must exceed.
In ``eval_scores`` a row without ``seed`` covers all trainings of an arm."""

HISTORY = pa.schema(
    [
        ("curation", _I),
        ("published_at", _TIME),
        ("run_id", _S),
        ("asset", _S),
        ("data_version", _S),
        ("variant", _S),
        ("settings", _S),
        ("clip_id", _S),
        ("path", _S),
        ("rank", _I),
        ("votes", _I),
        ("mean_influence", _F),
        ("selected", _B),
    ]
)
"""The columns of the files of ``history.py``, which belong to no version."""

ALL_TRAININGS = -1
"""Stands for a missing ``seed`` in what stages write."""


def table_from_frame(name: str, frame: pd.DataFrame) -> pa.Table:
    """The rows of ``frame`` as the table ``name`` has them. Texts become lists where the table has lists: they are split at commas."""
    lists = [field.name for field in TABLES[name] if pa.types.is_list(field.type) and field.name in frame]
    split = {column: [_split(value) for value in frame[column]] for column in lists}
    table = pa.Table.from_pandas(frame.assign(**{column: pd.Series(values, index=frame.index, dtype=object) for column, values in split.items()}),
                                 schema=TABLES[name], preserve_index=False)  # fmt: skip
    return _without_sentinels(name, table.replace_schema_metadata(None))


def in_present_form(name: str, file: Path) -> pa.Table | None:
    """The rows of ``file`` if an older version of the software wrote them in another form than the table ``name`` has now; None if they have the present one.

    Texts with commas become lists, -1 for all trainings becomes NULL, and columns that the table has gained are NULL.
    """
    schema = TABLES[name]
    if pq.read_schema(file).equals(schema) and name != "eval_scores":
        return None
    table = pq.read_table(file)
    changed = _without_sentinels(name, table)
    if table.schema.equals(schema):
        return None if changed is table else changed
    columns = []
    for field in schema:
        if field.name not in table.schema.names:
            columns.append(pa.nulls(len(table), field.type))
        elif pa.types.is_list(field.type) and not pa.types.is_list(table.schema.field(field.name).type):
            columns.append(pa.array([_split(value) for value in table.column(field.name).to_pylist()], field.type))
        else:
            columns.append(changed.column(field.name).cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _split(value: object) -> list[str] | None:
    if isinstance(value, str):
        return value.split(",") if value else []
    return list(value) if isinstance(value, (list, tuple)) else None


def _without_sentinels(name: str, table: pa.Table) -> pa.Table:
    """``table`` itself, if there is nothing to replace."""
    if name != "eval_scores" or not len(table):
        return table
    seeds = table["seed"].to_pylist()
    if ALL_TRAININGS not in seeds:
        return table
    seed = pa.array([None if seed == ALL_TRAININGS else seed for seed in seeds], pa.int64())
    return table.set_column(table.schema.get_field_index("seed"), TABLES[name].field("seed"), seed)
