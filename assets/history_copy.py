"""Dagster's history for commands that change nothing: where it cannot be written, they read a copy."""

import os
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg

from assets.instance import TEMPLATE, open_instance, place_of_instance
from motive_pipeline.config import Config
from motive_pipeline.storage import atomic

_OF_ONE_RUN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@contextmanager
def instance_to_read(config: Config) -> Iterator[dg.DagsterInstance]:
    """The instance of ``config``. If this process may not write to its folder, a copy that is deleted after the block: Dagster cannot open its
    databases without writing beside them. The copy lacks the events of single runs; what is known of assets is in one index."""
    folder = place_of_instance(config)
    if atomic.is_writable(folder):
        with open_instance(config) as instance:
            yield instance
        return
    before = os.environ.get("DAGSTER_HOME")
    with TemporaryDirectory(prefix="motive-history-") as temp:
        _copy_history(folder, Path(temp))
        os.environ["DAGSTER_HOME"] = temp
        try:
            with dg.DagsterInstance.from_config(temp) as instance:
                yield instance
        finally:
            os.environ.pop("DAGSTER_HOME")
            os.environ |= {} if before is None else {"DAGSTER_HOME": before}


def _copy_history(folder: Path, target: Path) -> None:
    config = folder / "dagster.yaml"
    shutil.copyfile(config if config.exists() else TEMPLATE, target / "dagster.yaml")
    for file in folder.rglob("*.db"):
        if not _OF_ONE_RUN.fullmatch(file.stem):
            copy = target / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            _copy_database(file, copy)


def _copy_database(file: Path, copy: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as stored, closing(sqlite3.connect(copy)) as target:
            stored.backup(target)
    except sqlite3.OperationalError:  # nobody has it open, and it cannot be opened without writing: the files themselves are whole
        for ending in ("", "-wal"):
            if (part := file.with_name(file.name + ending)).exists():
                shutil.copyfile(part, copy.with_name(copy.name + ending))
