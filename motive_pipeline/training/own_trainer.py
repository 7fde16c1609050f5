"""``finetune.command``: a trainer of the user's own makes a training, as a process, from the exported subset to a checkpoint.

The command is a list of arguments, run without a shell in the folder of the config. These words in it are replaced: ``{subset}`` (the exported subset),
``{model}`` (the base model's folder), ``{output}`` (where it leaves its checkpoint), ``{steps}``, ``{seed}`` (the number of the training) and ``{arm}``.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from motive_pipeline.config import ArmName
from motive_pipeline.errors import GateFailed, MotiveError
from motive_pipeline.export.subset import export_subset
from motive_pipeline.export.trainers import TRAINERS
from motive_pipeline.models.load import model_folder
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.training.own_checkpoint import OwnCheckpoint, found_checkpoint

log = logging.getLogger(__name__)

SHOWN_LINES = 20
LOG_EVERY_S = 1.0
STOP_S = 10.0
SUBSET, OUTPUT, LOG = "subset", "output", "trainer.log"


@dataclass(frozen=True, kw_only=True)
class OwnTraining:
    """What a command left, and how long it took."""

    checkpoint: OwnCheckpoint
    seconds: float

    def record(self) -> dict[str, Any]:
        """What the record of the training says of its course: no losses, and steps only where the checkpoint names them."""
        return {"losses": [], "steps": self.checkpoint.steps, "seconds": round(self.seconds, 1)}


def require_command(ws: Workspace) -> None:
    """Check ``finetune.command`` before any work.

    Raises:
        MotiveError: no program of this name can be run, or ``finetune.command_layout`` is no layout that ``motive export`` writes.
    """
    settings = ws.config.finetune
    if settings.command is None:
        return
    if settings.command_layout not in TRAINERS:
        raise MotiveError(f"finetune.command_layout = {settings.command_layout!r}: no such layout. There are: {', '.join(TRAINERS)}.")
    program = settings.command[0]
    if _program(program, ws.config.file.parent) is None:
        raise MotiveError(
            f"finetune.command: there is no program {program!r} that can be run. Write its path, or install it where PATH has it. (The command is run "
            f"in {ws.config.file.parent}, without a shell.)"
        )


def train_by_command(ws: Workspace, arm: ArmName, number: int, folder: Path) -> OwnTraining:
    """Export the subset of ``arm`` into ``folder``, run the command there, and find its checkpoint. What a stopped command left in its output stays for the
    next one, which may go on from it.

    Raises:
        GateFailed: the command failed (with the last lines of its log), left no checkpoint, or trained another number of steps.
        MotiveError: the subset cannot be exported.
    """
    settings, started = ws.config.finetune, time.time()
    subset, output = folder / SUBSET, folder / OUTPUT
    export_subset(ws, arm, subset, settings.command_layout, within_root=True)
    atomic.make_folder(output)
    words = {
        "subset": str(subset),
        "model": str(model_folder(ws.config.model)),
        "output": str(output),
        "steps": str(settings.steps),
        "seed": str(number),
        "arm": arm,
    }
    what = f"finetune {arm}, training {number}"
    _run(filled(settings.command or (), words), cwd=ws.config.file.parent, log_file=folder / LOG, what=what)
    checkpoint = found_checkpoint(output, settings.command_checkpoint, expert=ws.config.model.expert, what=what)
    if checkpoint.steps is not None and checkpoint.steps != settings.steps:
        raise GateFailed(
            f"{what}: {checkpoint.path} was trained for {checkpoint.steps} steps by its own record, and finetune.steps is {settings.steps}. Every arm needs "
            "the same number: give the command {steps}."
        )
    return OwnTraining(checkpoint=checkpoint, seconds=time.time() - started)


def filled(command: Sequence[str], words: dict[str, str]) -> list[str]:
    """The command with ``{name}`` replaced by its value, everywhere in an argument. Other braces stay."""
    arguments = []
    for argument in command:
        for name, value in words.items():
            argument = argument.replace(f"{{{name}}}", value)
        arguments.append(argument)
    return arguments


def _program(name: str, folder: Path) -> str | None:
    """The file that runs as ``name`` in ``folder``: with a slash a path, else what PATH has."""
    return shutil.which(str(folder / name) if "/" in name else name)


def _run(arguments: Sequence[str], *, cwd: Path, log_file: Path, what: str) -> None:
    """Run a command to its end. Each line it prints goes into ``log_file``, at most one a second into our log. However this function ends, the command
    and the processes that it started end, too.

    Raises:
        GateFailed: its exit code is not 0.
    """
    program = _program(arguments[0], cwd) or arguments[0]
    last: deque[str] = deque(maxlen=SHOWN_LINES)
    shown = 0.0
    with (
        log_file.open("a", encoding="utf-8") as written,
        subprocess.Popen(
            [program, *arguments[1:]],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:  # a progress bar's carriage returns end lines, too
                text = line.rstrip()
                written.write(f"{text}\n")
                written.flush()
                last.append(text)
                if text and time.monotonic() - shown >= LOG_EVERY_S:
                    shown = time.monotonic()
                    log.info("%s: %s", what, text)
            code = process.wait()
        finally:
            _stop(process)
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise GateFailed(f"{what}: finetune.command {how}. The last lines of {log_file}:\n" + "\n".join(last))


def _stop(process: subprocess.Popen[str]) -> None:
    """End the command's process group, if it has not ended."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            continue
