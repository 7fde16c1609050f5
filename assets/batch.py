"""The Dagster runs of one ``motive run``: this process executes them, the UI shows them as runs of its jobs, and one tag as one batch.

Belongs here: what all runs of a command have in common. Does not belong here: what runs, and in which order (``run_stale.py``).
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from assets.dagster_internals import DagsterExecutionInterruptedError, runs_of_code_location, was_interrupted
from assets.dead_runs import BY_SHELL, cancel_runs, run_ended

BATCH = "motive/batch"
"""The tag that all runs of a command share: when it began, and what it was to bring up to date. In the UI, a click on it filters by it."""

MAX_WORDS = 80
"""Letters of the tag that say what."""

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The runs of one command. ``name`` is the value of their tag."""

    instance: dg.DagsterInstance
    state: Path
    name: str

    @classmethod
    def begin(cls, instance: dg.DagsterInstance, state: Path, selection: str | Collection[str] | None) -> Batch:
        """A batch that begins now and is to bring ``selection`` up to date, or everything."""
        words = "everything" if selection is None else selection if isinstance(selection, str) else ", ".join(sorted(selection))
        words = " ".join(words.split())
        words = words if len(words) <= MAX_WORDS else f"{words[: MAX_WORDS - 1]}…"
        return cls(instance=instance, state=state, name=f"{time.strftime('%Y-%m-%d %H:%M:%S')} {words}")

    def execute(self, job: dg.JobDefinition, **settings: Any) -> dg.ExecuteInProcessResult:
        """Run ``job`` in this process.

        Raises:
            KeyboardInterrupt: it was stopped; its run is marked as canceled.
        """
        tags = {**BY_SHELL, BATCH: self.name}
        try:
            with runs_of_code_location(self.instance):
                result = job.execute_in_process(instance=self.instance, raise_on_error=False, run_config=QUIET, tags=tags, **settings)
        except (KeyboardInterrupt, DagsterExecutionInterruptedError) as error:
            cancel_runs(self.instance, self.state)
            raise KeyboardInterrupt from error
        run_ended(self.state, result.run_id)
        if was_interrupted(result):
            cancel_runs(self.instance, self.state, result.run_id)
            raise KeyboardInterrupt
        return result
