"""The history of curations: ``<root>/history/`` has one Parquet file for each publication that decides, or explains, which clips are chosen.

Rankings and subsets make a curation; the clips and the queries of the catalogs are kept, too, because a clip that has come or gone explains a change. Files
are named ``<curation>-<asset>.parquet`` and never rewritten. All publications of one run have the same number. A publication with the content that
its asset's last file has makes no file. Every file has the columns of the table ``history``:

    curation        number, from 1; runs that change nothing get none
    settings        JSON: every setting behind the publication by dotted key, ``code.<stage>`` (versions), ``model`` (hash of the weights) and ``queries`` (hash of
                    the set of queries), the last two where the publication depends on them
    variant         of a ranking its own; of a subset the one whose ranking its arm chooses from
    clip_id, path   of a query: the query's
    rank, votes, mean_influence, selected    where the asset has them; every clip of a subset is selected
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic
from motive_pipeline.storage.tables import HISTORY

log = logging.getLogger(__name__)

FOLDER = "history"
SOURCES = {"clip_catalog": "catalog", "query_catalog": "queries"}
"""Assets that explain a curation, and the score table of each."""

CHOOSING = {"voted_ranking": "ranking", "curated_subset": "subsets"}
"""Assets that make a curation, and the score table of each."""

CONSTANT = ["run_id", "asset", "data_version", "variant", "settings"]
"""Texts that are the same in all rows of a file."""

_MANY = 10
_ROWS_AT_ONCE = 2**15
Read = TypeVar("Read")


@dataclass(frozen=True)
class Entry:
    """One file of the history."""

    file: Path
    curation: int
    asset: str

    @property
    def makes_curation(self) -> bool:
        """Whether it is a ranking or a subset."""
        return self.asset.split("/")[0] in CHOOSING

    @cached_property
    def _head(self) -> dict[str, Any]:
        columns = ["published_at", "run_id", "data_version", "variant", "settings"]
        return self._read(lambda: next(pq.ParquetFile(self.file).iter_batches(1, columns=columns)).to_pylist()[0])

    @property
    def published_at(self) -> Any:
        """The time of publication (UTC)."""
        return self._head["published_at"]

    @property
    def run_id(self) -> str:
        """The run that published it; empty for what was published before there was a history."""
        return self._head["run_id"]

    @property
    def data_version(self) -> str:
        """The hash of what was published."""
        return self._head["data_version"]

    @property
    def variant(self) -> str | None:
        """The gradient variant whose ranks it has, or is chosen by."""
        return self._head["variant"]

    @property
    def settings(self) -> dict[str, Any]:
        """By dotted key; see the module."""
        return json.loads(self._head["settings"] or "{}")

    def rows(self) -> pd.DataFrame:
        """Its rows, with the columns of the table ``history``."""
        return self._read(lambda: _frame(pq.read_table(self.file, read_dictionary=CONSTANT, page_checksum_verification=True)))

    def _read(self, read: Callable[[], Read]) -> Read:
        """What ``read`` gives.

        Raises:
            MotiveError: the file is damaged.
        """
        try:
            return read()
        except (OSError, pa.ArrowException, StopIteration) as error:
            what = " ".join(str(error).split()) or "it has no rows"
            raise MotiveError(
                f"{self.file} is damaged ({what}). `motive verify` puts it aside, and the history goes on without it"
            ) from error


class History:
    """The files below ``root/history``."""

    def __init__(self, root: Path, keep: int) -> None:
        self.folder = root / FOLDER
        self.keep = keep

    def entries(self) -> list[Entry]:
        """Every file, oldest first."""
        found = []
        for file in self.folder.glob("*.parquet"):
            if match := re.fullmatch(r"(\d+)-([^.]+)\.parquet", file.name):
                found.append(Entry(file, int(match[1]), match[2].replace("--", "/")))
        return sorted(found, key=lambda entry: (entry.curation, entry.asset))

    def curations(self) -> list[int]:
        """The numbers of the curations that are kept, ascending."""
        return sorted({entry.curation for entry in self.entries() if entry.makes_curation})[-self.keep :]

    def state(self, curation: int) -> dict[str, Entry]:
        """What was in force when this curation was the last: of each asset its newest file up to it."""
        return {entry.asset: entry for entry in self.entries() if entry.curation <= curation}

    def add(self, asset: str, frame: pd.DataFrame, *, run_id: str, data_version: str, published_at: datetime, variant: str | None,
            settings: Mapping[str, Any]) -> Path | None:  # fmt: skip
        """Write a file for this publication, and prune; returns the file, or None if the asset's last file has this content already.

        The caller holds the root's lock.
        """
        entries = self.entries()
        last = next((entry for entry in reversed(entries) if entry.asset == asset), None)
        if last is not None and last.data_version == data_version:
            return None
        newest = entries[-1] if entries else None
        number = 1 if newest is None else newest.curation
        if newest is not None and (newest.run_id != run_id or (last is not None and last.curation == number)):
            number += 1
        head = {
            "curation": number,
            "published_at": published_at,
            "run_id": run_id,
            "asset": asset,
            "data_version": data_version,
            "variant": variant,
            "settings": json.dumps(settings, sort_keys=True),
        }
        file = self.folder / f"{number:06d}-{asset.replace('/', '--')}.parquet"
        atomic.make_folder(self.folder)
        temp = atomic.temp_beside(file)
        try:
            _write(frame, head, temp)
            atomic.replace(temp, file)
        finally:
            temp.unlink(missing_ok=True)
        self._prune()
        return file

    def damages(self) -> Iterator[str]:
        """Read every file and compare its pages with their checksums; yields what is wrong. A damaged file is put aside (``.damaged``), where it can be written:
        the history goes on without it."""
        for entry in self.entries():
            try:
                entry.rows()
            except MotiveError as error:
                if atomic.is_writable(self.folder):
                    entry.file.rename(entry.file.with_name(entry.file.name + ".damaged"))
                yield str(error)

    def _prune(self) -> None:
        """Remove what no kept curation rests on: files older than the oldest kept one, for each asset but the newest of them."""
        kept = self.curations()
        if not kept:
            return
        needed = {entry.file for entry in self.state(kept[0]).values()}
        gone = [entry for entry in self.entries() if entry.curation < kept[0] and entry.file not in needed]
        if not gone:
            return
        for entry in gone:
            entry.file.unlink()
        more = f" and {len(gone) - _MANY} more" if len(gone) > _MANY else ""
        names = ", ".join(entry.file.name for entry in gone[:_MANY])
        log.info("history: removed %s%s: older than the last %d curations (storage.keep_curations)", names, more, self.keep)


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flat_settings(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat


def settings_behind(provenances: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings and code versions of an asset and of all that it is made from, parents first."""
    found: dict[str, Any] = {}
    for provenance in provenances:
        found |= flat_settings(provenance["settings"]) | flat_settings(provenance.get("gates", {}))
        found[f"code.{provenance['stage']}"] = provenance["code_version"]
    return found


def setting_text(value: Any) -> str:
    """A setting as a person would write it: 751.0 is 751, and the hash that stands for a file's content is cut short."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, (list, dict)):
        return json.dumps(value)
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return f"(content {text[:8]})" if re.fullmatch("[0-9a-f]{64}", text) else text


def _write(frame: pd.DataFrame, head: Mapping[str, Any], file: Path) -> None:
    """Write ``frame`` with the columns of ``head``, some rows at a time: Arrow repeats the settings, which are kilobytes, for every row that it holds."""
    with pq.ParquetWriter(file, HISTORY, write_page_checksum=True) as writer:
        for start in range(0, max(len(frame), 1), _ROWS_AT_ONCE):
            writer.write_table(_table(frame.iloc[start : start + _ROWS_AT_ONCE], head))


def _frame(table: pa.Table) -> pd.DataFrame:
    """``table`` in pandas, each text that all rows have held once."""
    frame = table.to_pandas().astype({name: object for name in CONSTANT})
    return frame.assign(**{name: frame[name].where(frame[name].notna(), None) for name in CONSTANT})


def _table(frame: pd.DataFrame, head: Mapping[str, Any]) -> pa.Table:
    rows = frame.rename(columns={"query_id": "clip_id"}).reindex(columns=[name for name in HISTORY.names if name not in head])
    table = pa.Table.from_pandas(rows, preserve_index=False)
    columns = [
        pa.repeat(pa.scalar(head[field.name], field.type), len(frame)) if field.name in head else table.column(field.name).cast(field.type)
        for field in HISTORY
    ]
    return pa.Table.from_arrays(columns, schema=HISTORY)
