"""``motive COMMAND`` in a process of its own that starts with its libraries imported: it is forked from one that has imported them and done nothing else.
Importing takes longer than what most commands of a test do. What a user types is run by ``Project.started``, tests/test_smoke.py and tests/test_wheel.py."""

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        "motive_pipeline.cli",
        "assets.run_stale",
        "motive_pipeline.internals.diffusers",
        "motive_pipeline.models.wan_load",
        "motive_pipeline.report.stage",
    ]
)


def run_command(arguments: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout_s: float) -> tuple[int, str, str]:
    """The exit code of ``motive ARGUMENTS`` and what it wrote to stdout and stderr.

    Raises:
        subprocess.TimeoutExpired: it did not end in time; it was killed.
    """
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        out.touch()
        err.touch()
        process = _FORKS.Process(target=_command, args=(list(arguments), str(cwd), dict(environment), str(out), str(err)))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout_s, out.read_bytes(), err.read_bytes())
        return process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8")


def _command(arguments: list[str], cwd: str, environment: dict[str, str], out: str, err: str) -> None:
    """The forked process: becomes what ``python -m motive_pipeline.cli ARGUMENTS`` would be."""
    from motive_pipeline.cli import main

    for number, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.argv = ["motive", *arguments]
    try:
        code = main(arguments)
    finally:
        atexit._run_exitfuncs()  # multiprocessing ends its processes without
    sys.exit(code)
