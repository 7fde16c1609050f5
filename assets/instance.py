"""The Dagster instance of a project: one instance serves one storage root.

``python -m assets.instance`` prints the instance folder of the config that ``MOTIVE_CONFIG`` names, made ready for ``dagster dev``.
"""

import os
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import dagster as dg

from assets.postgres import open_database, require_database, write_settings
from motive_pipeline.config import Config, load_config
from motive_pipeline.config.folders import MAX_INSTANCE_BYTES, require_usable_folder
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage import atomic, run_history
from motive_pipeline.storage.run_history import RunHistory

TEMPLATE = Path(__file__).with_name("dagster.yaml")
BOUND_TO = "storage_root.txt"

EMPTY_FOR_S = 2.0
"""A database that stays empty for so long is not one that another process is just creating."""


def place_of_instance(config: Config) -> Path:
    """Where :func:`instance_folder` is, or would be made.

    Raises:
        MotiveError: Dagster cannot use its path.
    """
    committed = config.file.parent / "dagster_home"
    if config.file.name == "motive.yaml" and (committed / "dagster.yaml").exists():
        require_usable_folder("the Dagster instance", committed, MAX_INSTANCE_BYTES)
        return committed
    assert config.storage.state is not None
    return config.storage.state / "dagster_home"


def instance_folder(config: Config) -> Path:
    """The instance folder of ``config``, made and bound to its root if it is new.

    The config named ``motive.yaml`` beside a folder ``dagster_home/`` (this repository's own) uses that folder; any other config has one
    below its ``storage.state``.

    Raises:
        MotiveError: the folder belongs to another root, or the root to another instance, Dagster cannot use the folder's path, or ``storage.postgres``
            cannot be used.
    """
    folder = place_of_instance(config)
    atomic.make_folder(folder)
    require_database(config)
    write_settings(config, folder / "dagster.yaml", TEMPLATE.read_text(encoding="utf-8"))
    marker = folder / BOUND_TO
    root = str(config.storage.root).rstrip(" \n")  # as the marker below is read
    if not marker.exists() or not marker.read_bytes().strip(b"\0 \n"):
        atomic.write_bytes(marker, (root + "\n").encode())
    bound = marker.read_text(encoding="utf-8").strip("\0 \n") or root
    if bound != root:
        raise MotiveError(
            f"the Dagster instance {folder} keeps the history of {bound}, not of {root} (storage.root). Give this config a file name and "
            f"a storage.root of its own, or, if the root was moved there, delete {marker}."
        )
    run_history.require_own(config.storage.root, RunHistory.at(folder))
    return folder


def claim_root(instance: dg.DagsterInstance, root: Path) -> None:
    """Let ``root`` belong to ``instance``. The caller holds the root's lock.

    Raises:
        MotiveError: the root belongs to another instance, or this one forgets everything when it ends.
    """
    if instance.is_ephemeral or not os.environ.get("DAGSTER_HOME"):
        raise MotiveError(
            f"DAGSTER_HOME is not set, so Dagster would forget this run, and the history of {root} would not know what was published. Run "
            '`DAGSTER_HOME="$(python -m assets.instance)" dagster asset materialize ...`, or `motive run --select ...`.'
        )
    run_history.claim(root, RunHistory.at(Path(instance.root_directory)))


def open_instance(config: Config) -> dg.DagsterInstance:
    """The instance of ``config``; ``DAGSTER_HOME`` is set to it, so that run processes find the same one."""
    folder = instance_folder(config)
    _require_whole_databases(folder)
    os.environ["DAGSTER_HOME"] = str(folder)
    return dg.DagsterInstance.from_config(str(folder)) if config.storage.postgres is None else open_database(config, folder)


def _require_whole_databases(folder: Path) -> None:
    """Check that Dagster's history can be opened.

    Raises:
        MotiveError: a database of it is empty, cut or altered.
    """
    for file in sorted(folder.rglob("*.db")):
        if wrong := _what_is_wrong(file):
            raise MotiveError(
                f"{file}, part of Dagster's history of runs, is damaged ({wrong}). All results are kept: move the folder {file.parent} away, and the "
                "next `motive run` begins a new history, finds every row and publication, and computes none of them again."
            )


def _what_is_wrong(file: Path) -> str | None:
    """What is wrong with a database; None if it can be opened, or if Dagster itself says it better (locked, no right to read)."""
    end = time.monotonic() + EMPTY_FOR_S
    while True:
        try:
            with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as db:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    return None
        except sqlite3.OperationalError:
            return None
        except sqlite3.DatabaseError as error:
            return str(error)
        if time.monotonic() >= end:
            return "holds nothing"
        time.sleep(0.1)


if __name__ == "__main__":
    try:
        print(instance_folder(load_config()))
    except MotiveError as error:
        sys.exit(f"motive: {error}")
