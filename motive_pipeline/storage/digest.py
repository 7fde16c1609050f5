"""Content hashes. Nothing here hashes a time stamp, so equal content has an equal hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HEX_DIGITS = 32
_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False)


def digest(*parts: Any) -> str:
    """32 hex digits over JSON-like values (str, numbers, lists, dicts), unambiguous about where one part ends."""
    return hashlib.sha256(_ENCODER.encode(parts).encode("utf-8", "surrogatepass")).hexdigest()[:HEX_DIGITS]


def digest_arrays(arrays: Mapping[str, np.ndarray | np.generic]) -> str:
    """32 hex digits over named arrays: names, dtypes, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(array.data if array.size else b"")
    return sha.hexdigest()[:HEX_DIGITS]


def digest_frame(frame: pd.DataFrame) -> str:
    """32 hex digits over a table: column names, and values in row order (the index does not count)."""
    sha = hashlib.sha256()
    for name in frame.columns:
        column = frame[name]
        sha.update(f"\0{name}\0".encode())
        absent = column.isna().tolist()
        if pd.api.types.is_numeric_dtype(column) and not any(absent):
            sha.update(np.ascontiguousarray(column.to_numpy()).tobytes())
        else:
            values = zip(column.tolist(), absent, strict=True)
            sha.update(json.dumps([None if is_absent else str(value) for value, is_absent in values]).encode())
    return sha.hexdigest()[:HEX_DIGITS]


def digest_file(path: Path) -> str:
    """All 64 hex digits of the SHA-256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
