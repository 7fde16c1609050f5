"""The condition ``where`` of an arm: one expression in SQL on the columns of a clip, checked before any work.

It is parsed by DuckDB and never run as text. Only what looks at one clip is allowed, and only what gives the same answer in every run: no subquery, no
aggregate, no parameter, no clock, no random number. A second statement does not parse as an expression.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # only a config with a condition waits for this import
    import duckdb

COLUMNS = {
    "clip_id": "VARCHAR",
    "path": "VARCHAR",
    "caption": "VARCHAR",
    "num_frames": "BIGINT",
    "fps": "DOUBLE",
    "width": "BIGINT",
    "height": "BIGINT",
    "duration_s": "DOUBLE",
    "flags": "VARCHAR[]",
    "aesthetic_score": "DOUBLE",
    "motion_score": "DOUBLE",
    "published": "VARCHAR",
    "disagrees": "VARCHAR",
    "motion_magnitude_px": "DOUBLE",
    "source": "VARCHAR",
    "votes": "BIGINT",
    "mean_influence": "DOUBLE",
}
"""The columns of a clip and their types: those of the view ``clips`` (docs/sql.md), then votes and mean influence in the ranking of the arm's variant."""

_ALLOWED = {"BETWEEN", "CASE", "CAST", "COLLATE", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "CONSTANT", "FUNCTION", "LAMBDA", "OPERATOR", "TYPE"}  # fmt: skip
"""DuckDB's kinds of expressions that look at one row."""

_KINDS = {
    "DEFAULT": "DEFAULT",
    "PARAMETER": "a parameter ($1 or ?)",
    "POSITIONAL_REFERENCE": "a column by its number (#1)",
    "STAR": "several columns at once (* or COLUMNS)",
    "SUBQUERY": "a query inside it (SELECT, or ANY)",
    "WINDOW": "a window over many clips (OVER)",
}
_MACROS = ("if", "nullif", "split_part")
"""Functions that DuckDB defines in SQL and that depend on their arguments alone; so do those that begin with ``list_``."""


def parse_condition(text: str) -> tuple[str, ...]:
    """The parts that must all hold, as DuckDB writes them: ``a AND (b OR c)`` has two.

    Raises:
        ValueError: it is not one condition on the columns of a clip; the message says why.
    """
    tree = _parsed(text)
    expression = _only_expression(tree)
    nodes = list(_nodes(expression))
    for node in nodes:
        _require_allowed(node)
    if not any(node["class"] == "LAMBDA" for node in nodes):  # whose own names look like columns
        for node in nodes:
            _require_column(node)
    parts = tuple(_as_text(tree, part) for part in _conjuncts(expression))
    for part in parts:
        _require_boolean(part)
    return parts


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    """DuckDB in memory, without files and networks, with an empty table of clips."""
    connection = sandbox()
    connection.execute(f"CREATE TABLE clips ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})")
    return connection


def sandbox() -> duckdb.DuckDBPyConnection:
    """A connection to an empty database in memory that reads and writes nothing else, whatever it is asked."""
    import duckdb

    connection = duckdb.connect(":memory:", config={"threads": 1})
    for setting in ("autoinstall_known_extensions=false", "autoload_known_extensions=false", "temp_directory=''"):
        connection.execute(f"SET {setting}")
    connection.execute("SET enable_external_access=false")
    connection.execute("SET lock_configuration=true")
    return connection


def _parsed(text: str) -> dict[str, Any]:
    """DuckDB's tree of ``SELECT <text>``. The newline ends a comment."""
    if not text.strip():
        raise ValueError("is empty; write a condition, for instance aesthetic_score >= 4.5, or leave it out")
    (found,) = _connection().execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT\n{text}\n"]).fetchone() or ("",)
    tree = json.loads(found)
    if tree["error"]:
        message = tree["error_message"]
        if message.startswith("Only SELECT"):
            message = "a second statement follows"
        raise ValueError(f"is not a condition in SQL: {message}. Write one, for instance aesthetic_score >= 4.5")
    return tree


def _only_expression(tree: dict[str, Any]) -> dict[str, Any]:
    """The one expression of the tree. Raises ValueError if there is anything besides it."""
    node = tree["statements"][0]["node"]
    expressions = node.get("select_list", ())
    extras = ("where_clause", "group_expressions", "having", "qualify", "sample", "modifiers")
    is_alone = len(tree["statements"]) == len(expressions) == 1 and node["from_table"]["type"] == "EMPTY"
    if not is_alone or expressions[0]["alias"] or any(node.get(extra) for extra in extras) or node["cte_map"]["map"]:
        raise ValueError(
            "must be one condition and nothing else: no list, no AS, FROM, WHERE, ORDER BY, LIMIT or UNION. For instance aesthetic_score >= 4.5 AND duration_s < 8"
        )
    return expressions[0]


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every expression in the tree."""
    if isinstance(value, dict):
        if "class" in value:
            yield value
        for each in value.values():
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


def _require_allowed(node: dict[str, Any]) -> None:
    kind = node["class"]
    if kind not in _ALLOWED:
        raise ValueError(f"has {_KINDS.get(kind, kind.lower())}. A condition looks at the columns of one clip: {', '.join(COLUMNS)}")
    if kind != "FUNCTION":
        return
    name = node["function_name"]
    found = _functions().get(name.lower(), {})
    if "scalar" in found and found["scalar"] != {"CONSISTENT"}:
        raise ValueError(f"calls {name}, which does not give the same in every run, so neither would the choice")
    if "aggregate" in found and "scalar" not in found:
        raise ValueError(f"calls {name}, which computes over many clips. A condition looks at one clip")
    if not found:
        close = difflib.get_close_matches(name.lower(), _functions(), n=1, cutoff=0.6)
        raise ValueError(f"calls {name}, which DuckDB does not have.{f' Did you mean {close[0]}?' if close else ''}")
    if "scalar" not in found and not (name.lower() in _MACROS or name.lower().startswith("list_")):
        raise ValueError(f"calls {name}, which is not allowed in a condition: it is no function of a clip's columns alone")


@cache
def _functions() -> dict[str, dict[str, set[str]]]:
    """DuckDB's functions: name -> kind -> what is said of their results."""
    found: dict[str, dict[str, set[str]]] = {}
    rows = _connection().execute("SELECT lower(function_name), function_type, coalesce(stability, '') FROM duckdb_functions()").fetchall()
    for name, kind, stability in rows:
        found.setdefault(name, {}).setdefault(kind, set()).add(stability)
    return found


def _require_column(node: dict[str, Any]) -> None:
    if node["class"] != "COLUMN_REF":
        return
    name = ".".join(node["column_names"])
    if name.lower().removeprefix("clips.") not in COLUMNS:
        close = difflib.get_close_matches(name.lower(), COLUMNS, n=1, cutoff=0.5)
        raise ValueError(
            f"names {name}, which is not a column of a clip.{f' Did you mean {close[0]}?' if close else ''} Text stands in single quotes. "
            f"There are: {', '.join(COLUMNS)}"
        )


def _conjuncts(expression: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if expression["type"] == "CONJUNCTION_AND":
        for part in expression["children"]:
            yield from _conjuncts(part)
    else:
        yield expression


def _as_text(tree: dict[str, Any], part: dict[str, Any]) -> str:
    """One expression of the tree as DuckDB writes it."""
    alone = json.loads(json.dumps(tree))
    alone["statements"][0]["node"]["select_list"] = [part]
    (found,) = _connection().execute("SELECT json_deserialize_sql(?::VARCHAR::JSON)", [json.dumps(alone)]).fetchone() or ("",)
    return found.removeprefix("SELECT ")


def _require_boolean(part: str) -> None:
    """Bind the expression to the table of clips. Raises ValueError if DuckDB refuses, or it is neither true nor false."""
    import duckdb

    try:
        kind = str(_connection().sql(f"SELECT {part} AS holds FROM clips").types[0])
    except duckdb.Error as error:
        raise ValueError(f"{part}: {one_line(error)}") from error
    if kind not in ("BOOLEAN", '"NULL"'):
        raise ValueError(f"{part} is of the type {kind}, neither true nor false. Compare it with something, for instance {part} >= 4.5")


def one_line(error: Exception) -> str:
    """What DuckDB says, without the copy of the statement."""
    return " ".join(str(error).partition("LINE 1:")[0].split())


def bare(parts: Sequence[str]) -> list[str]:
    """The parts without the parentheses around each."""
    return [part[1:-1] if part.startswith("(") and part.endswith(")") and _closes_at_end(part) else part for part in parts]


def _closes_at_end(part: str) -> bool:
    """Whether the first parenthesis closes at the end. Parentheses in quoted text do not count."""
    depth, quoted = 0, False
    for place, letter in enumerate(part):
        quoted ^= letter == "'"
        depth += 0 if quoted else {"(": 1, ")": -1}.get(letter, 0)
        if not depth and not quoted:
            return place == len(part) - 1
    return False
