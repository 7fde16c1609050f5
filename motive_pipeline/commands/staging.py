"""``motive stage``: publishes one asset, as a job of a Ray cluster does it for a Dagster run elsewhere (``assets/ray_jobs.py``). Not for people."""

from __future__ import annotations

import argparse
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError, error_with_file
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace

ALIVE = "alive"
"""The run rewrites this file every few seconds."""

ERROR = "error.txt"
"""What a user has to mend, for the run to tell."""

PATIENCE_S = 60.0
"""A job whose run has not rewritten the file for so long ends itself."""


def add_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``stage`` to the command line."""
    stage = command("stage", run, "Publish one asset, as a part of a run that holds the root. Used by jobs of a Ray cluster.")
    stage.add_argument("asset", metavar="ASSET", help="for instance latents or projected_gradients/motive")
    stage.add_argument("--run", required=True, metavar="ID", help="the run that the publication belongs to")
    stage.add_argument("--folder", required=True, type=Path, metavar="FOLDER", help="where the run shows that it lives")


def run(config: Config, arguments: argparse.Namespace) -> int:
    """Publish the asset. What a user can mend is written for the run, which tells it."""
    from dagster_pipes import open_dagster_pipes

    threading.Thread(target=_end_with, args=(arguments.folder / ALIVE,), daemon=True).start()
    with open_dagster_pipes() as pipes:
        handler = _ToDagster(pipes.log)
        logging.getLogger("motive_pipeline").addHandler(handler)
        try:
            workspace = Workspace(config.in_cluster())
            workspace.begin_run(arguments.run)
            workspace.graph.asset(arguments.asset).publish(workspace)
        except MotiveError as error:
            atomic.write_text(arguments.folder / ERROR, error_with_file(error, config.file))
            return 1
        finally:
            logging.getLogger("motive_pipeline").removeHandler(handler)
    return 0


class _ToDagster(logging.Handler):
    """Passes log lines on to the log of the Dagster run."""

    def __init__(self, log: logging.Logger) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.log(record.levelno, record.getMessage())


def _end_with(alive: Path) -> None:
    """End this process when the run has ended without ending it. The clock is this machine's: only a change of the content counts."""
    seen, since = None, time.monotonic()
    while True:
        try:
            content = alive.read_bytes()
        except OSError:
            content = None
        if content is not None and content != seen:
            seen, since = content, time.monotonic()
        if time.monotonic() - since > PATIENCE_S:
            logging.getLogger("motive_pipeline").error("the run that this job belongs to has ended; so does the job")
            os._exit(1)
        time.sleep(2.0)
