"""Compare the ranking, the subsets and the scores of a finished demo with the committed record.

``python -m benchmarks.golden`` (``make golden``) reads the root of ``motive.yaml``; ``--config`` names another config. Every difference is printed, and the exit
code is 1 when there is one. Ids, votes, ranks, numbers of videos and names must be equal, also with ``--tolerance``, which concerns scores alone: on the machine that made
the record they come out bit for bit, while another processor rounds otherwise. ``--write`` makes the record anew.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from motive_pipeline.api import Root, open_root
from motive_pipeline.errors import MotiveError

RECORD = Path(__file__).with_name("golden")
MADE_WITH = "made_with.json"
SHOWN = 10
"""Differences that are printed of each table."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A score table: the columns that name a row, those that must be equal, and the scores, which a tolerance applies to."""

    name: str
    keys: tuple[str, ...]
    exact: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    rows: str | None = None
    """A SELECT that gives the rows, where the record writes them otherwise than the table."""

    @property
    def source(self) -> str:
        """What follows FROM."""
        return f"({self.rows})" if self.rows else self.name

    @property
    def query(self) -> str:
        """The statement that reads the table, its rows in a fixed order."""
        columns = ", ".join((*self.keys, *self.exact, *self.scores))
        return f"SELECT {columns} FROM {self.source} ORDER BY {', '.join(self.keys)}"

    @property
    def file(self) -> Path:
        """The table's part of the record."""
        return RECORD / f"{self.name}.csv"


TABLES = (
    Table(name="ranking", keys=("variant", "rank"), exact=("clip_id", "votes", "selected"), scores=("mean_influence",)),
    Table(name="subsets", keys=("arm", "rank"), exact=("clip_id",)),
    Table(
        name="eval_scores",
        keys=("arm", "metric", "backend", "seed"),
        exact=("num_videos",),
        scores=("value", "ci_low", "ci_high"),
        rows="SELECT * REPLACE (coalesce(seed, -1) AS seed) FROM eval_scores",
    ),
)


def differences(table: Table, recorded: pd.DataFrame, found: pd.DataFrame, tolerance: float = 0.0) -> Iterator[str]:
    """A sentence for each row and column in which ``found`` is not what was ``recorded``.

    ``tolerance`` is the largest absolute difference of a score that counts as equal.
    """
    recorded, found = (frame.set_index(list(table.keys)).sort_index() for frame in (recorded, found))
    if twice := sorted({str(key) for key in found.index[found.index.duplicated()]}):
        yield f"more than one row for {', '.join(twice)}"
        return
    yield from (f"{_shown(table, key)}: not there any more" for key in recorded.index.difference(found.index))
    yield from (f"{_shown(table, key)}: not in the record" for key in found.index.difference(recorded.index))
    common = recorded.index.intersection(found.index)
    for column in (*table.exact, *table.scores):
        before, now = recorded.loc[common, column], found.loc[common, column]
        allowed = tolerance if column in table.scores else None
        for key in common[~_equal(before.to_numpy(), now.to_numpy(), allowed)]:
            yield f"{_shown(table, key)}: {column} was {before[key]!r}, is {now[key]!r}"


def _equal(before: np.ndarray, now: np.ndarray, tolerance: float | None) -> np.ndarray:
    """Entry by entry; two missing scores are equal."""
    if tolerance is None:
        return before == now
    before, now = before.astype(np.float64), now.astype(np.float64)
    with np.errstate(invalid="ignore"):
        is_near = (before == now) | (np.abs(before - now) <= tolerance)
    return is_near | (np.isnan(before) & np.isnan(now))


def _shown(table: Table, key: object) -> str:
    values = key if isinstance(key, tuple) else (key,)
    return ", ".join(f"{name} {value}" for name, value in zip(table.keys, values, strict=True))


def read_record(table: Table) -> pd.DataFrame:
    """The table's part of the committed record, with every digit of its scores."""
    texts = dict.fromkeys(("clip_id", "arm", "variant", "metric", "backend", *table.scores), str)  # pandas' own parser of floats rounds
    frame = pd.read_csv(table.file, dtype=texts, keep_default_na=False, na_filter=False)
    scores = {name: [float(text or "nan") for text in frame[name]] for name in table.scores}
    return frame.assign(**scores)


def compare(root: Root, tolerance: float = 0.0) -> int:
    """Print how ``root`` differs from the record, and give the number of differences."""
    total = 0
    for table in TABLES:
        recorded, found = read_record(table), root.sql(table.query)
        lines = list(differences(table, recorded, found, tolerance))
        total += len(lines)
        print(f"{table.name}: {len(found)} rows, {f'{len(lines)} differences' if lines else 'as recorded'}")
        for line in lines[:SHOWN]:
            print(f"  {line}")
        if len(lines) > SHOWN:
            print(f"  ... and {len(lines) - SHOWN} more")
        if table.name == "ranking" and not set(recorded["clip_id"]) & set(found["clip_id"]):
            print(
                "  No clip is that of the record: the generated files themselves differ (another H.264 encoder?), so nothing can be compared."
            )
    if total:
        made = json.loads((RECORD / MADE_WITH).read_text(encoding="utf-8"))
        for whose, versions in (("the record", made), ("here", this_machine())):
            print(f"{whose}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    return total


def this_machine() -> dict[str, str]:
    """What the last bits of a score depend on."""
    import torch

    libraries = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "av")}
    return libraries | {"machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}


def write(root: Root) -> None:
    """Make the record from ``root``, which this machine has computed."""
    RECORD.mkdir(exist_ok=True)
    (RECORD / MADE_WITH).write_text(json.dumps(this_machine(), indent=2) + "\n", encoding="utf-8")
    for table in TABLES:
        root.sql(table.query).to_csv(table.file, index=False, lineterminator="\n")
        print(table.file)


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--config", metavar="FILE_OR_ROOT", help="the config of the finished demo, or its root (default: $MOTIVE_CONFIG, else motive.yaml)"
    )
    parser.add_argument(
        "--tolerance", type=float, default=0.0, help="largest absolute difference of a score that counts as equal (default: 0)"
    )
    parser.add_argument("--write", action="store_true", help="make the record from this root")
    chosen = parser.parse_args(arguments)
    try:
        root = open_root(chosen.config)
        if chosen.write:
            write(root)
            return 0
        return 1 if compare(root, chosen.tolerance) else 0
    except MotiveError as error:
        print(f"golden: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
