"""VBench's own Python environment: the interpreter that the user names, or one that is built from the lock files on request.

VBench's pinned packages conflict with ours, so it needs a separate environment. The built one lies in the user's cache folder
(``$MOTIVE_CACHE``, else ``motive-pipeline`` below ``$XDG_CACHE_HOME`` or ``~/.cache``) and is named after the content of the lock files.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from motive_pipeline.config import VBench
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.pinned import cache_folder
from motive_pipeline.storage import atomic
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.lock import FileLock

log = logging.getLogger(__name__)

LOCK = Path(__file__).with_name("lock")
_COMMON = (("environment.txt", ()), ("packages.txt", ("--no-deps", "--no-build-isolation", "--require-hashes")))
_NON_COMMERCIAL = (("non_commercial_needs.txt", ()), ("non_commercial.txt", ("--no-deps", "--require-hashes")))


def require_interpreter(settings: VBench) -> Path:
    """``evaluate.vbench.python``, else the interpreter of the environment that ``motive fetch vbench`` built.

    Raises:
        ConfigError: there is no such file.
        MotiveError: no environment was built yet.
    """
    if settings.python is not None:
        if not os.access(settings.python, os.X_OK) or settings.python.is_dir():
            raise ConfigError(
                f"evaluate.vbench.python = {str(settings.python)!r}: no such interpreter; name the python of an environment that has vbench, for "
                "instance /home/me/vbench/bin/python, or leave it out and run `motive fetch vbench`"
            )
        return settings.python
    folder = environment_folder()
    if not _stamp(folder, _steps(settings)[-1][0]).is_file():
        raise MotiveError(
            f"evaluate.backend: vbench needs VBench's own environment, and {folder} is missing or incomplete. Run `motive fetch vbench` (it "
            "downloads torch and VBench, a few GB), or set evaluate.vbench.python to an interpreter that has vbench."
        )
    return _python(folder)


def environment_folder() -> Path:
    """The folder of the built environment; it depends on the content of the lock files."""
    lock = digest(*((LOCK / name).read_text(encoding="utf-8") for name, _ in (*_COMMON, *_NON_COMMERCIAL)), list(sys.version_info[:2]))
    return cache_folder() / "vbench" / lock[:12]


def build_environment(settings: VBench) -> Path:
    """Build the environment or its missing parts, and return its interpreter. A second call does nothing.

    Raises:
        MotiveError: the machine is not supported, or venv or pip failed; their messages are on standard error.
    """
    folder = environment_folder()
    with FileLock(folder.with_suffix(".lock"), f"the environment {folder}"):
        steps = _steps(settings)
        waiting = [step for step in steps if not _stamp(folder, step[0]).is_file()]
        if not waiting:
            log.info("%s is complete already", folder)
            return _python(folder)
        _require_platform()
        if len(waiting) == len(steps):
            shutil.rmtree(folder, ignore_errors=True)
            log.info("building the environment %s", folder)
            _run([sys.executable, "-m", "venv", str(folder)], "venv")
        for name, options in waiting:
            log.info("installing %s (step %d of %d)", name, steps.index((name, options)) + 1, len(steps))
            _run([str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", *options, "-r", str(LOCK / name)], "pip")
            atomic.write_bytes(_stamp(folder, name), b"")
    return _python(folder)


def _require_platform() -> None:
    """Raise :class:`MotiveError` on machines for which decord, VBench's video reader, has no wheel."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise MotiveError(
            f"VBench's environment can be built only on Linux with an x86-64 processor, not on {system} {machine}: decord, VBench's video reader, "
            "has no wheels for other machines. Run the evaluation there, or name an environment of your own in evaluate.vbench.python."
        )


def _steps(settings: VBench) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return _COMMON + (_NON_COMMERCIAL if settings.accept_noncommercial else ())


def _stamp(folder: Path, name: str) -> Path:
    """A file that exists once all packages of the lock file ``name`` are installed."""
    return folder / "installed" / name


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(command: list[str], what: str) -> None:
    """Run ``command`` with its output on standard error.

    Raises:
        MotiveError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    code = subprocess.run(command, stdout=2, env=environment, check=False).returncode
    if code:
        raise MotiveError(
            f"{what} failed (exit code {code}) while building VBench's environment; its messages are above. Fix the cause and run the command again."
        )
