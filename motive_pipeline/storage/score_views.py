"""The views over one version of the score tables. DuckDB 1.2 and every later version must understand them, so they use no lambdas."""

from __future__ import annotations

import glob
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.storage.tables import HISTORY, TABLES
from motive_pipeline.storage.views import quoted

# '' is not JSON, so published->>'x' would fail on it
_CLIPS = """SELECT c.* EXCLUDE (source) REPLACE (nullif(c.published, '') AS published, coalesce(f.flags, c.flags) AS flags), m.motion_magnitude_px,
c.source FROM catalog_as_lists c LEFT JOIN motion m USING (clip_id) LEFT JOIN clip_flags_as_lists f USING (clip_id)"""

_HARMFUL = """SELECT variant, clip_id, mean_influence, place AS rank FROM (SELECT *, count(*) FILTER (selected) OVER (PARTITION BY variant) AS num,
row_number() OVER (PARTITION BY variant ORDER BY mean_influence, clip_id) AS place FROM ranking) WHERE place <= num AND mean_influence < 0"""
"""The clips of ``curation/harmful.py``, for every variant."""

_VOTES_BY_QUERY = """SELECT i.variant, i.query_id, q.category, i.clip_id, i.influence, i.influence > t.threshold AS vote, i.rank
FROM influence i JOIN thresholds t USING (variant, query_id) JOIN ranking r USING (variant, clip_id) LEFT JOIN queries q USING (query_id)"""
"""The votes of eq. 18: only clips of the ranking stand for election, so the sum over the queries is ``ranking.votes``."""

_VOTES_BY_CATEGORY = """SELECT variant, category, clip_id, (count(*) FILTER (vote))::BIGINT AS votes, count(*) AS num_queries, avg(influence) AS mean_influence
FROM votes_by_query GROUP BY variant, category, clip_id"""

_RANKING_HISTORY = """SELECT curation, published_at, run_id, variant, clip_id, votes, mean_influence, rank, selected FROM history
WHERE starts_with(asset, 'voted_ranking/')"""

_SUBSET_HISTORY = """SELECT curation, published_at, run_id, split_part(asset, '/', 2) AS arm, clip_id, rank FROM history
WHERE starts_with(asset, 'curated_subset/')"""

_CURATIONS = """WITH chosen AS (SELECT asset, curation, clip_id FROM history
WHERE selected AND (starts_with(asset, 'voted_ranking/') OR starts_with(asset, 'curated_subset/'))),
made AS (SELECT asset, curation, any_value(published_at) AS published_at, any_value(run_id) AS run_id, any_value(settings) AS settings FROM history
WHERE starts_with(asset, 'voted_ranking/') OR starts_with(asset, 'curated_subset/') GROUP BY asset, curation),
ordered AS (SELECT *, lag(curation) OVER (PARTITION BY asset ORDER BY curation) AS before FROM made),
now AS (SELECT asset, curation, count(*) AS num_clips FROM chosen GROUP BY asset, curation),
came AS (SELECT o.asset, o.curation, list(c.clip_id ORDER BY c.clip_id) AS came FROM ordered o JOIN chosen c ON c.asset = o.asset AND c.curation = o.curation
LEFT JOIN chosen p ON p.asset = o.asset AND p.curation = o.before AND p.clip_id = c.clip_id WHERE p.clip_id IS NULL GROUP BY o.asset, o.curation),
went AS (SELECT o.asset, o.curation, list(p.clip_id ORDER BY p.clip_id) AS went FROM ordered o JOIN chosen p ON p.asset = o.asset AND p.curation = o.before
LEFT JOIN chosen c ON c.asset = o.asset AND c.curation = o.curation AND c.clip_id = p.clip_id WHERE c.clip_id IS NULL GROUP BY o.asset, o.curation)
SELECT o.curation, o.published_at, o.run_id, o.asset, CASE WHEN starts_with(o.asset, 'curated_subset/') THEN split_part(o.asset, '/', 2) END AS arm,
now.num_clips, CASE WHEN o.before IS NOT NULL THEN coalesce(came.came, []::VARCHAR[]) END AS came,
CASE WHEN o.before IS NOT NULL THEN coalesce(went.went, []::VARCHAR[]) END AS went, o.settings
FROM ordered o LEFT JOIN now USING (asset, curation) LEFT JOIN came USING (asset, curation) LEFT JOIN went USING (asset, curation)"""
"""One row for each ranking and each subset that a curation made. ``came`` and ``went`` compare it with the one before; the first has none."""

DERIVED = {
    "harmful": _HARMFUL,
    "votes_by_query": _VOTES_BY_QUERY,
    "votes_by_category": _VOTES_BY_CATEGORY,
    "ranking_history": _RANKING_HISTORY,
    "subset_history": _SUBSET_HISTORY,
    "curations": _CURATIONS,
}


def folders_of(version: Path, history: Path) -> dict[str, Path]:
    """The folder of each table that has one: those of the folder ``version``, and the files of ``history.py``."""
    found = {name: version / name for name in TABLES if (version / name).is_dir()}
    return found | ({"history": history} if any(history.glob("*.parquet")) else {})


def views_over(version: Path, history: Path, where: str = "") -> dict[str, str]:
    """The views over the folders of :func:`folders_of`: name -> SELECT. ``where`` ends each that reads a file. A table without a folder has no rows."""
    folders = folders_of(version, history)
    tables = {
        name: f"SELECT * FROM read_parquet({quoted(glob.escape(str(folders[name])) + '/*.parquet')}){where}"
        if name in folders
        else _no_rows(schema)
        for name, schema in (TABLES | {"history": HISTORY}).items()
    }
    clips = _CLIPS
    for name in ("catalog", "clip_flags"):
        clips = clips.replace(f"{name}_as_lists", _with_lists(version, name))
    return tables | {"clips": clips} | DERIVED


def _no_rows(schema: pa.Schema) -> str:
    types = {"string": "VARCHAR", "int64": "BIGINT", "double": "DOUBLE", "bool": "BOOLEAN"}
    columns = (
        f"NULL::{types.get(str(field.type), 'VARCHAR[]' if pa.types.is_list(field.type) else 'TIMESTAMPTZ')} AS {field.name}"
        for field in schema
    )
    return f"SELECT {', '.join(columns)} WHERE false"


def _with_lists(version: Path, table: str) -> str:
    """The table with its flags as a list, also where an older version of the software wrote them with commas."""
    empty = version / table / "_empty.parquet"
    if not empty.exists() or pa.types.is_list(pq.read_schema(empty).field("flags").type):
        return table
    return f"(SELECT * REPLACE (CASE WHEN flags = '' THEN []::VARCHAR[] ELSE string_split(flags, ',') END AS flags) FROM {table})"
