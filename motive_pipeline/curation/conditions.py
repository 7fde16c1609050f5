"""Which clips meet the condition ``where`` of an arm, and which part of it the others fail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from motive_pipeline.config.conditions import COLUMNS, bare, one_line, parse_condition, sandbox
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Workspace


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """For each part of a condition (all must hold) and each clip: whether it is true, and whether it is NULL, which is not true."""

    parts: Sequence[str]
    is_true: Sequence[Bool[np.ndarray, " N"]]
    is_null: Sequence[Bool[np.ndarray, " N"]]

    @property
    def passes_N(self) -> Bool[np.ndarray, " N"]:
        """The clips for which every part is true."""
        return np.logical_and.reduce(list(self.is_true))

    def why_not(self, position: int) -> str:
        """The parts that the clip fails, in words."""
        failed = (
            f"{part} is {'NULL: a value is missing' if is_null[position] else 'false'}"
            for part, is_true, is_null in zip(self.parts, self.is_true, self.is_null, strict=True)
            if not is_true[position]
        )
        return "; ".join(failed)

    def counts(self) -> list[dict[str, Any]]:
        """For each part, how many clips it keeps out: because it is false, and because a value is missing."""
        return [
            {"condition": part, "false": int((~is_true & ~is_null).sum()), "no value": int(is_null.sum())}
            for part, is_true, is_null in zip(self.parts, self.is_true, self.is_null, strict=True)
        ]


def evaluate(condition: str, clips: pa.Table) -> Outcome:
    """The condition on every row of ``clips``, which has the columns of a clip.

    Raises:
        MotiveError: it fails on the values of a clip.
    """
    parts = parse_condition(condition)
    with sandbox() as connection:
        connection.register("clips", clips.append_column("place", pa.array(np.arange(len(clips)))))
        columns = ", ".join(f"({part})::BOOLEAN AS part_{number}" for number, part in enumerate(parts))
        try:
            found = connection.sql(f"SELECT {columns} FROM clips ORDER BY place").to_arrow_table()
        except duckdb.Error as error:
            raise MotiveError(f"where: {condition}: {one_line(error)}") from error
    values = [found.column(number) for number in range(len(parts))]
    return Outcome(
        parts=bare(parts),
        is_true=[np.asarray(value.fill_null(False).to_numpy(), dtype=bool) for value in values],
        is_null=[np.asarray(value.is_null().to_numpy(), dtype=bool) for value in values],
    )


def clips_of_ranking(ws: Workspace, ranking: pa.Table) -> pa.Table:
    """The columns of a clip for each row of ``ranking`` (clip_id, votes, mean_influence), in its order.

    Raises:
        MotiveError: a ranked clip is not in the catalog.
    """
    own = {name: kind for name, kind in COLUMNS.items() if name not in ("votes", "mean_influence")}
    # NaN, which some publishers write for a missing number, is larger than any number to DuckDB
    columns = (f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}" if kind == "DOUBLE" else name for name, kind in own.items())
    catalog = ws.scores.read(f"SELECT {', '.join(columns)} FROM clips", lambda rows: rows.to_arrow_table())
    places = {clip_id: place for place, clip_id in enumerate(catalog["clip_id"].to_pylist())}
    wanted = ranking["clip_id"].to_pylist()
    if missing := [clip_id for clip_id in wanted if clip_id not in places]:
        raise MotiveError(
            f"{len(missing)} ranked clips are not in the catalog (the first: {missing[0]}). Materialize clip_catalog and the ranking again."
        )
    clips = catalog.take(pa.array([places[clip_id] for clip_id in wanted], pa.int64()))
    for name in ("votes", "mean_influence"):
        clips = clips.append_column(name, ranking[name])
    return clips
