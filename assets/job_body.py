"""What a job of a Ray cluster does for a run elsewhere: it publishes one asset, and tells the run's log what it logs.

Belongs here: the job's own process, and what the run gives it. Does not belong here: how the job is submitted, watched and ended (``ray_jobs.py``).
"""

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagster_pipes import PipesEnvVarParamsLoader, open_dagster_pipes

from motive_pipeline.bucket.address import address_of
from motive_pipeline.bucket.client import Bucket
from motive_pipeline.config import parse_config
from motive_pipeline.errors import MotiveError, error_with_file
from motive_pipeline.storage import atomic
from motive_pipeline.storage.root_lock import BucketLock
from motive_pipeline.storage.workspace import Workspace

ALIVE = "alive"
"""In a root that is a shared folder, the run rewrites this file every few seconds."""

ERROR = "error.txt"
"""What a user has to mend, for the run to tell."""

PATIENCE_S = 60.0
"""A job whose run has not rewritten the file for so long ends itself."""

WAIT_FOR_COPY_S = 60.0
"""How long a job waits for another process of its machine that works on the copy of a root in a bucket, such as a job that is ending."""

log = logging.getLogger("motive_pipeline.job")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a run gives to its job, as plain JSON types.

    ``settings`` is the text of the config file ``config_file``, which need not be on the job's machine. ``fingerprint`` is the asset's. ``notes`` is
    a folder below the root for what the two tell each other. For a root in a bucket, ``bucket`` is its URL, and ``owner`` lends the job the run's lease.
    """

    settings: str
    config_file: str
    fingerprint: str
    notes: str
    bucket: str = ""
    owner: str = ""


def publish_in_job(asset: str, *, run_id: str) -> int:
    """Publish ``asset`` as a part of the run ``run_id``, and give the exit code. What a user can mend is told to the run, too.

    Raises:
        MotiveError: no run has submitted this process.
    """
    if not PipesEnvVarParamsLoader().is_dagster_pipes_process():
        raise MotiveError(
            f"motive stage is for jobs that a run submits to a Ray cluster (engine.address: http://...). To bring {asset} up to date: "
            f"motive run --select '+key:\"{asset}\"'"
        )
    with open_dagster_pipes() as pipes, _logged_by(pipes.log):
        order = Order(**pipes.extras)
        try:
            config = parse_config(order.settings, Path(order.config_file)).in_cluster()
            workspace = Workspace(config, follow=False)
            with _writing_for_the_run(workspace, order):
                _require_same_settings(workspace, asset, order)
                workspace.begin_run(run_id)
                workspace.graph.asset(asset).publish(workspace)
        except MotiveError as error:
            _tell(order, error_with_file(error, Path(order.config_file)))
            return 1
    return 0


@contextmanager
def _writing_for_the_run(workspace: Workspace, order: Order) -> Iterator[None]:
    """The right to publish for the run, which holds the root's lock. The process ends if the run does without ending it."""
    if isinstance(workspace.lock, BucketLock):
        with workspace.lock.borrowed(order.owner, lambda error: os._exit(1), wait_s=WAIT_FOR_COPY_S, who="a job of a Ray cluster"):
            yield
        return
    threading.Thread(target=_end_with, args=(Path(order.notes) / ALIVE,), daemon=True).start()
    yield


def _require_same_settings(workspace: Workspace, asset: str, order: Order) -> None:
    if workspace.fingerprint(asset) != order.fingerprint:
        raise MotiveError(
            f"{asset}: a file that {Path(order.config_file).name} names is not the same on the job's machine as on that of the run (generate.prompts, "
            "influence.adam_state, subset.edits, a checkpoint), or is missing there. Put it at the same path on both."
        )


def _tell(order: Order, text: str) -> None:
    file = Path(order.notes) / ERROR
    if (address := address_of(order.bucket)) is None:
        atomic.write_text(file, text)
    else:
        Bucket(address).put(f"{file.parent.name}/{file.name}", text.encode())


@contextmanager
def _logged_by(log_of_run: logging.Logger) -> Iterator[None]:
    """Pass all log lines on to the log of the Dagster run."""
    handler = _ToDagster(log_of_run)
    logging.getLogger("motive_pipeline").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("motive_pipeline").removeHandler(handler)


class _ToDagster(logging.Handler):
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
            log.error("the run that this job belongs to has ended; so does the job")
            os._exit(1)
        time.sleep(2.0)
