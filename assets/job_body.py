"""What a job of a Ray cluster does for a run elsewhere: it publishes one asset, and tells the run's log what it logs.

Belongs here: the job's own process. Does not belong here: how the job is submitted, watched and ended (``ray_jobs.py``).
"""

import logging
import os
import threading
import time
from pathlib import Path

from dagster_pipes import open_dagster_pipes

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


def publish_in_job(config: Config, asset: str, *, run_id: str, folder: Path) -> int:
    """Publish ``asset`` as a part of the run ``run_id``, and give the exit code. ``folder`` shows that the run lives; what a user can mend is written there."""
    threading.Thread(target=_end_with, args=(folder / ALIVE,), daemon=True).start()
    with open_dagster_pipes() as pipes:
        handler = _ToDagster(pipes.log)
        logging.getLogger("motive_pipeline").addHandler(handler)
        try:
            workspace = Workspace(config.in_cluster())
            workspace.begin_run(run_id)
            workspace.graph.asset(asset).publish(workspace)
        except MotiveError as error:
            atomic.write_text(folder / ERROR, error_with_file(error, config.file))
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
