"""One version of the published scores, held in memory for the page: what was current when it was opened, whatever runs publish meanwhile.

N are the clips of the catalog in order of clip id; the page numbers them ``n`` from 0.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64, Shaped

from motive_pipeline.curation.edits import Edits
from motive_pipeline.curation.harmful import harmful_clips
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.sealed import Damaged, read_sealed
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.choice import Ballot, Choice, compared, load_ballot
from motive_pipeline.view.clip_table import Column, build_clips
from motive_pipeline.view.clip_view import BadRequest, ClipView, Wanted, column_sql, filters_of

TABLES = {
    "clips": "SELECT * FROM clips",
    "ranking": "SELECT * FROM ranking",
    "subsets": "SELECT * FROM subsets",
    "queries": "SELECT * FROM queries",
    "rejects": "SELECT * FROM rejects",
}
_OF_RUNS = ("runs/", "run_settings/")
"""Files of the score tables that every run changes and the page does not show."""
_TRIES = 5
KEPT_VIEWS = 12
KEPT_SELECTIONS = 32
INFLUENCE = "influence:"


def scores_version(ws: Workspace) -> str:
    """Changes when what the page shows is published anew; empty where there are no scores."""
    try:
        files: Mapping[str, Any] = read_sealed(ws.scores.manifest)["files"]
    except (FileNotFoundError, Damaged):
        return ""
    return digest(sorted((name, mark) for name, mark in files.items() if not name.startswith(_OF_RUNS)))[:16]


@dataclass
class Snapshot:
    """The tables of one version, and what the page asks of them. Its methods may be called from several threads."""

    version: str
    columns: Sequence[Column]
    ballots: Mapping[str, Ballot]
    """By variant; those with published influence and ranking."""
    lead: str
    clip_id_N: Shaped[np.ndarray, " N"]
    _connection: duckdb.DuckDBPyConnection
    _position: dict[str, int]
    _arms: dict[str, Bool[np.ndarray, " N"]]
    _orders: OrderedDict[Any, Int64[np.ndarray, " _"]] = field(default_factory=OrderedDict)
    _selections: OrderedDict[str, Int64[np.ndarray, " _"]] = field(default_factory=OrderedDict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _influence_tables: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """The arms with a published subset."""
        return list(self._arms)

    def position(self, clip_id: str) -> int | None:
        """The number of a clip; None for one that is not in the catalog."""
        return self._position.get(clip_id)

    def in_arm(self, arm: str) -> Bool[np.ndarray, " N"]:
        """Which clips an arm chose. Raises BadRequest for an arm without a subset."""
        if arm not in self._arms:
            raise BadRequest(f"no subset of an arm {arm!r} is published. There are: {', '.join(self._arms)}")
        return self._arms[arm]

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of one of our own statements."""
        with self._connection.cursor() as cursor:
            found = cursor.execute(sql, parameters)
            names = [each[0] for each in found.description or ()]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

    def order(self, view: ClipView, edits: Edits) -> Int64[np.ndarray, " _"]:
        """The numbers of the clips of a view, in its order. Clips without a value come last, ties in the order of clip id."""
        key = (view, edits.stamp if view.tick else None)
        with self._lock:
            if key in self._orders:
                self._orders.move_to_end(key)
                return self._orders[key]
        found = self._computed_order(view, edits)
        with self._lock:
            self._orders[key] = found
            while len(self._orders) > KEPT_VIEWS:
                self._orders.popitem(last=False)
        return found

    def _computed_order(self, view: ClipView, edits: Edits) -> Int64[np.ndarray, " _"]:
        wanted = {key for key in (view.sort, *(key for key, _, _ in view.ranges)) if key.startswith(INFLUENCE)}
        sql_of, joins = self._with_influence(view.variant or self.lead, sorted(wanted))
        sets = self._sets(view, edits)
        with self._connection.cursor() as cursor:
            for name, numbers in sets.items():
                cursor.register(name, pa.table({"n": numbers}))
            filters = filters_of(view, sql_of, list(sets))
            where = f" WHERE {' AND '.join(filters.conditions)}" if filters.conditions else ""
            order = f"{column_sql(view.sort, sql_of)} {'DESC' if view.descending else 'ASC'} NULLS LAST, c.n" if view.sort else "c.n"
            found = cursor.execute(f"SELECT c.n FROM clips c {joins}{where} ORDER BY {order}", list(filters.parameters))
            return np.asarray(found.fetchnumpy()["n"], dtype=np.int64)

    def column(self, numbers: Int64[np.ndarray, " _"], key: str, variant: str) -> list[Any]:
        """The values of one column for the clips ``numbers``, in this order; None where there is none."""
        sql_of, joins = self._with_influence(variant or self.lead, [key] if key.startswith(INFLUENCE) else [])
        found = self.rows(f"SELECT c.n, {column_sql(key, sql_of)} AS value FROM clips c {joins}")
        values = {row["n"]: row["value"] for row in found}
        return [values[n] for n in numbers.tolist()]

    def rejects(self, words: Sequence[str], reason: str, *, start: int, count: int) -> tuple[int, list[dict[str, Any]]]:
        """The number of rejects that have every one of ``words`` (and ``reason``, unless it is empty), and a page of them."""
        where = ["contains(words, ?)"] * len(words) + ["reason = ?"] * bool(reason)
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        parameters = [*words, *([reason] if reason else [])]
        total = self.rows(f"SELECT count(*) AS num FROM rejects {condition}", parameters)[0]["num"]
        found = self.rows(
            f"""SELECT r.n, r.path, r.clip_id, r.stage, r.reason, r.detail, r.clip_id IN (SELECT clip_id FROM clips) AS in_catalog
            FROM rejects r {condition} ORDER BY r.n LIMIT ? OFFSET ?""",
            [*parameters, count, start],
        )
        return total, found

    def page(self, numbers: Int64[np.ndarray, " _"], columns: Sequence[str], variant: str) -> list[dict[str, Any]]:
        """Rows of the clips ``numbers``, in this order, with ``columns`` by key. Captions are shortened."""
        sql_of, joins = self._with_influence(variant or self.lead, sorted({key for key in columns if key.startswith(INFLUENCE)}))
        own = "".join(f", {column_sql(key, sql_of)} AS value_{place}" for place, key in enumerate(columns))
        rows = self.rows(
            f"""SELECT c.n, c.clip_id AS id, c.name, left(c.caption, 400) AS caption, c.arms, c.harmful{own} FROM clips c {joins}
            WHERE list_contains(?::BIGINT[], c.n)""",
            [numbers.tolist()],
        )
        found = {row["n"]: row for row in rows}
        for row in rows:
            row["values"] = {key: row.pop(f"value_{place}") for place, key in enumerate(columns)}
        return [found[n] for n in numbers.tolist()]

    def table(self, numbers: Int64[np.ndarray, " _"], keys: Sequence[str], variant: str, edits: Edits) -> pa.Table:
        """The clips ``numbers`` with every column, for a file; ``keys`` add columns of influence."""
        wanted = sorted({key for key in keys if key.startswith(INFLUENCE)})
        sql_of, joins = self._with_influence(variant or self.lead, wanted)
        names = [column.key for column in self.columns if column.key not in ("name", "caption")] + wanted
        own = "".join(f", {column_sql(key, sql_of)} AS value_{place}" for place, key in enumerate(names))
        with self._connection.cursor() as cursor:
            cursor.register("wanted", pa.table({"n": numbers, "place": np.arange(len(numbers))}))
            found = cursor.sql(
                f"""SELECT c.clip_id, c.path, c.caption, c.source, c.flags, c.arms, c.category AS best_query_category{own}
                FROM wanted w JOIN clips c USING (n) {joins} ORDER BY w.place"""
            ).to_arrow_table()
        fixed = found.column_names[: len(found.column_names) - len(names)]
        found = found.rename_columns([*fixed, *names])
        ids = found["clip_id"].to_pylist()
        for name, values in (("tick", [edits.tick(each) for each in ids]), ("note", [edits.note(each) for each in ids])):
            found = found.append_column(name, pa.array(values, pa.string()))
        return found

    def select(self, numbers: Sequence[int]) -> str:
        """Remember clips by their numbers; returns the name under which a view filters by them. The oldest of many are forgotten."""
        found = np.unique(np.asarray(numbers, dtype=np.int64))
        if len(found) and not 0 <= found[0] <= found[-1] < len(self.clip_id_N):
            raise BadRequest("the selection names clips that there are not")
        with self._lock:
            name = f"s{next(self._numbers)}"
            self._selections[name] = found
            while len(self._selections) > KEPT_SELECTIONS:
                self._selections.popitem(last=False)
        return name

    def choice(self, wanted: Wanted) -> tuple[Choice, Bool[np.ndarray, " N"]]:
        """What the slider's settings would choose, and which of the clips these are."""
        if wanted.variant not in self.ballots:
            raise BadRequest(f"no influence of a variant {wanted.variant!r} is published. There is: {', '.join(self.ballots)}")
        found = self.ballots[wanted.variant].choice(share=wanted.share, percentile=wanted.percentile)
        chosen_N = np.zeros(len(self.clip_id_N), dtype=bool)
        chosen_N[np.searchsorted(self.clip_id_N, found.clip_id_K)] = True
        return found, chosen_N

    def influence(self, variant: str, query_id: str) -> Float32[np.ndarray, " N"]:
        """The influence of every clip on a query; NaN for clips that the variant does not rank."""
        ballot = self.ballots.get(variant)
        if ballot is None or query_id not in ballot.query_ids:
            raise BadRequest(f"no influence on a query {query_id!r} by a variant {variant!r} is published")
        found_N = np.full(len(self.clip_id_N), np.nan, dtype=np.float32)
        found_N[np.searchsorted(self.clip_id_N, ballot.clip_id_N)] = ballot.influence_QN[list(ballot.query_ids).index(query_id)]
        return found_N

    def influence_on(self, variant: str, clip_id: str) -> dict[str, float]:
        """The influence of one clip on every query; empty for a clip that the variant does not rank."""
        ballot = self.ballots.get(variant)
        if ballot is None:
            return {}
        place = int(np.searchsorted(ballot.clip_id_N, np.bytes_(clip_id)))
        if place == len(ballot.clip_id_N) or ballot.clip_id_N[place] != np.bytes_(clip_id):
            return {}
        return dict(zip(ballot.query_ids, ballot.influence_QN[:, place].tolist(), strict=True))

    def _sets(self, view: ClipView, edits: Edits) -> dict[str, Int64[np.ndarray, " _"]]:
        """The sets of clips that filters name, by a name for SQL."""
        found: list[np.ndarray] = []
        if view.selection:
            with self._lock:
                if view.selection not in self._selections:
                    raise BadRequest("the selection is no longer known: select the clips again")
                found.append(self._selections[view.selection])
        if view.choice is not None:
            _, chosen_N = self.choice(view.choice)
            if view.choice.part != "chosen":
                beside = compared(chosen_N, {view.choice.arm: self.in_arm(view.choice.arm)})[0]
                chosen_N = beside.came_N if view.choice.part == "came" else beside.went_N
            found.append(np.flatnonzero(chosen_N))
        if view.tick:
            ticked = [self._position[each] for each in edits.having(view.tick) if each in self._position]
            numbers = np.array(sorted(ticked), dtype=np.int64)
            found.append(np.setdiff1d(np.arange(len(self.clip_id_N)), numbers) if view.tick == "none" else numbers)
        return {f"set_{number}": numbers for number, numbers in enumerate(found)}

    def _with_influence(self, variant: str, keys: Sequence[str]) -> tuple[dict[str, str], str]:
        """The SQL of every column and of those of influence, and the joins that the latter need."""
        sql_of = {column.key: f"c.{column.sql}" for column in self.columns}
        joins = []
        for number, key in enumerate(keys):
            joins.append(f"JOIN {self._influence_table(variant, key.removeprefix(INFLUENCE))} i{number} USING (n)")
            sql_of[key] = f"i{number}.influence"
        return sql_of, " ".join(joins)

    def _influence_table(self, variant: str, query_id: str) -> str:
        """The name of a table (n, influence) of a query, made at its first use."""
        influence_N = self.influence(variant, query_id)
        with self._lock:
            if (variant, query_id) not in self._influence_tables:
                name = f"influence_{len(self._influence_tables)}"
                values = pa.array(influence_N, mask=np.isnan(influence_N))
                with self._connection.cursor() as cursor:
                    cursor.register("values", pa.table({"n": np.arange(len(influence_N)), "influence": values}))
                    cursor.execute(f'CREATE TABLE {name} AS SELECT * FROM "values" ORDER BY n')
                self._influence_tables[variant, query_id] = name
            return self._influence_tables[variant, query_id]


def open_snapshot(ws: Workspace) -> Snapshot:
    """The current version.

    Raises:
        MotiveError: nothing was published yet, or runs publish faster than the tables can be read.
    """
    for _ in range(_TRIES):
        version = scores_version(ws)
        tables = {name: ws.scores.read(sql, lambda rows: rows.to_arrow_table()) for name, sql in TABLES.items()}
        ballots = _ballots(ws)
        if version == scores_version(ws):
            return _snapshot(ws, version, tables, ballots)
    raise MotiveError(f"the scores below {ws.root} changed {_TRIES} times while they were read. Try again when the run is further on.")


def _ballots(ws: Workspace) -> dict[str, Ballot]:
    needed = ("influence_matrix", "voted_ranking")
    lead_first = [ws.config.lead_variant, *(each for each in ws.config.variants if each != ws.config.lead_variant)]
    ready = [variant for variant in lead_first if all(ws.has_published(f"{asset}/{variant}") for asset in needed)]
    return {variant: load_ballot(ws, variant) for variant in ready if ws.has_published("eligible_pool")}


def _snapshot(ws: Workspace, version: str, tables: dict[str, pa.Table], ballots: dict[str, Ballot]) -> Snapshot:
    connection = duckdb.connect(":memory:")
    lead = ws.config.lead_variant
    ranked = set(tables["ranking"]["variant"].to_pylist()) if len(tables["ranking"]) else set()
    variants = sorted(ranked, key=lambda each: (each != lead, each))
    best = None
    if lead in ballots:
        queries = np.array(ballots[lead].query_ids, dtype=object)[ballots[lead].best_query_N()]
        best = pa.table({"clip_id": ballots[lead].clip_id_N.astype(str).tolist(), "query_id": queries.tolist()})
    ranking = tables["ranking"].to_pandas()
    of_lead = pd.DataFrame(ranking[ranking["variant"] == lead])
    harmful = pa.Table.from_pandas(pd.DataFrame(harmful_clips(of_lead)[["clip_id", "rank"]]), preserve_index=False)
    columns = build_clips(connection, {**{name: tables[name] for name in TABLES if name != "rejects"}, "harmful": harmful}, variants, best)
    connection.register("from_rejects", tables["rejects"])
    connection.execute(
        """CREATE TABLE rejects AS SELECT row_number() OVER (ORDER BY path, stage, reason, detail) - 1 AS n, *,
        lower(concat_ws(' ', path, clip_id, stage, reason, detail)) AS words FROM from_rejects ORDER BY n"""
    )
    connection.execute("CREATE TABLE queries AS SELECT * FROM from_queries ORDER BY query_id")
    for name in (*TABLES, "harmful", "best"):
        connection.unregister(f"from_{name}")
    connection.execute("SET enable_external_access=false")
    ids = [row[0] for row in connection.execute("SELECT clip_id FROM clips ORDER BY n").fetchall()]
    arms = [row[0] for row in connection.execute("SELECT DISTINCT unnest(arms) FROM clips").fetchall()]
    in_order = [arm for arm in ws.config.arms if arm in arms] + sorted(set(arms) - set(ws.config.arms))
    members = {
        arm: np.asarray(
            connection.execute("SELECT list_contains(arms, ?) AS has FROM clips ORDER BY n", [arm]).fetchnumpy()["has"], dtype=bool
        )
        for arm in in_order
    }
    return Snapshot(
        version=version,
        columns=columns,
        ballots=ballots,
        lead=lead,
        clip_id_N=np.array(ids, dtype="S16"),
        _connection=connection,
        _position={clip_id: number for number, clip_id in enumerate(ids)},
        _arms=members,
    )


def state_folder(ws: Workspace) -> Path:
    """Where the viewer keeps pictures, videos and layouts, which can all be made again."""
    return ws.state / "view"
