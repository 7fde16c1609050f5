"""The rows of a query as JSON, with every digit of a number."""

from __future__ import annotations

import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import duckdb


def json_rows(relation: duckdb.DuckDBPyRelation) -> str:
    """A JSON list with an object for each row. A float reads back as the same float. NaN and infinity, which JSON lacks, are null; times are texts
    in the form of ISO 8601, bytes are hex digits; other values are written as Python does. Of equal names, all but the first get a number."""
    names = relation.limit(0).df().columns
    rows = [dict(zip(names, map(_plain, row), strict=True)) for row in relation.fetchall()]
    return json.dumps(rows, separators=(",", ":"))


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case Decimal():
            return _plain(float(value))
        case date() | datetime() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case dict():
            return {str(key): _plain(each) for key, each in value.items()}
        case list() | tuple():
            return [_plain(each) for each in value]
        case _:
            return str(value)
