"""A Dagster daemon of its own for a project, as ``make dev`` runs one beside the UI: for tests and for the benchmark of one new clip."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from assets.instance import instance_folder
from motive_pipeline.config import Config

Found = TypeVar("Found")

WORKSPACE = Path(__file__).parents[1] / "workspace.yaml"
STOPPED_WITHIN_S = 20.0


@contextmanager
def dagster_daemon(config: Config, log: Path) -> Iterator[None]:
    """``dagster-daemon run`` on the project's own instance, in a group of processes that ends with the context; it writes to ``log``."""
    environment = os.environ | {"DAGSTER_HOME": str(instance_folder(config)), "MOTIVE_CONFIG": str(config.file)}
    with log.open("w") as output:
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("dagster-daemon")), "run", "-w", str(WORKSPACE)],
            stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=WORKSPACE.parent, start_new_session=True,
        )  # fmt: skip
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(STOPPED_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until(condition: Callable[[], Found], what: str, log: Path, *, within_s: float) -> Found:
    """Wait until ``condition()`` is true, and give it.

    Raises:
        TimeoutError: it is not, ``within_s`` seconds later; with the end of the daemon's log.
    """
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within_s:.0f} s\n{log.read_text()[-4000:]}")
        time.sleep(0.2)
    return found
