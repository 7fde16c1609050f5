"""VBench's own Python environment: the interpreter that the user names, or one built from the lock files when asked.

VBench's pins cannot share an environment with ours. The built one lies in a folder for each user, named after the content of the lock
files: ``$MOTIVE_CACHE``, else ``motive-pipeline`` below ``$XDG_CACHE_HOME`` or ``~/.cache``.
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
    """``evaluate.vbench.python``, else the interpreter that ``motive fetch vbench`` made.

    Raises:
        ConfigError: there is no such file.
        MotiveError: nothing was fetched yet.
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
            f"evaluate.backend: vbench needs VBench's own environment, and {folder} is not there or not whole. Run `motive fetch vbench` (it "
            "downloads torch and VBench, a few GB), or set evaluate.vbench.python to an interpreter that has vbench."
        )
    return _python(folder)


def environment_folder() -> Path:
    """Where the built environment lies; another lock file is another folder."""
    lock = digest(*((LOCK / name).read_text(encoding="utf-8") for name, _ in (*_COMMON, *_NON_COMMERCIAL)), list(sys.version_info[:2]))
    return cache_folder() / "vbench" / lock[:12]


def build_environment(settings: VBench) -> Path:
    """Build the environment, or what is missing of it; gives its interpreter. A second call does nothing.

    Raises:
        MotiveError: this is no machine for it, or venv or pip failed; what they said stands on standard error.
    """
    folder = environment_folder()
    with FileLock(folder.with_suffix(".lock"), f"the environment {folder}"):
        steps = _steps(settings)
        waiting = [step for step in steps if not _stamp(folder, step[0]).is_file()]
        if not waiting:
            log.info("%s is whole already", folder)
            return _python(folder)
        _require_platform()
        if len(waiting) == len(steps):
            shutil.rmtree(folder, ignore_errors=True)
            log.info("making the environment %s", folder)
            _run([sys.executable, "-m", "venv", str(folder)], "venv")
        for name, options in waiting:
            log.info("installing %s (step %d of %d)", name, steps.index((name, options)) + 1, len(steps))
            _run([str(_python(folder)), "-m", "pip", "install", "--disable-pip-version-check", *options, "-r", str(LOCK / name)], "pip")
            atomic.write_bytes(_stamp(folder, name), b"")
    return _python(folder)


def _require_platform() -> None:
    """Raise :class:`MotiveError` where pip would find no wheel of decord, which VBench reads videos with."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise MotiveError(
            f"VBench's environment can be built on Linux with an x86-64 processor only, not on {system} {machine}: decord, which it reads videos "
            "with, has no wheels for others. Run the evaluation there, or name an environment of your own in evaluate.vbench.python."
        )


def _steps(settings: VBench) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return _COMMON + (_NON_COMMERCIAL if settings.accept_noncommercial else ())


def _stamp(folder: Path, name: str) -> Path:
    """A file that is there once everything of the lock file ``name`` is installed."""
    return folder / "installed" / name


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _run(command: list[str], what: str) -> None:
    """Run it, its output on the terminal's standard error as it comes.

    Raises:
        MotiveError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    code = subprocess.run(command, stdout=2, env=environment, check=False).returncode
    if code:
        raise MotiveError(
            f"{what} failed (exit code {code}) while VBench's environment was made; its messages stand above. Mend it and run it again."
        )
