"""Runs whose process has died. Dagster notices that only while the server that started them lives, and never for ``motive run``.

Such a run would count as running for ever: the queue would start nothing more, and automation would wait for its assets. So each run
holds a lock of its own until its process ends; a run that counts as started and whose lock is free is marked as failed.
"""

import time
from pathlib import Path

import dagster as dg

from motive_pipeline.storage.lock import FileLock

BY_SHELL = {"motive/by": "motive run", "dagster/max_retries": "0"}
"""Tags of the runs of ``motive run``. One that died is not started again by a daemon: whoever typed the command types it again."""

WITH_PROCESS = [status for status in dg.DagsterRunStatus if status.name in ("NOT_STARTED", "STARTED", "CANCELING")]
"""The statuses of a run that a process has, or had."""

STARTS_WITHIN_S = 180.0
"""A run without a lock is given this long to come to life; ``run_monitoring.start_timeout_seconds`` in dagster.yaml is the same."""


def run_lock(state: Path, run_id: str) -> FileLock:
    """The lock that a run's process holds as long as it lives."""
    return FileLock(state / "runs" / f"{run_id}.lock", f"the run {run_id}")


def run_ended(state: Path, run_id: str) -> None:
    """Give back the lock of a run that ended in this process."""
    lock = run_lock(state, run_id)
    if lock.path.exists():
        lock.release()
        lock.path.unlink()


def fail_dead_runs(instance: dg.DagsterInstance, state: Path, *, holds_root: bool = False) -> list[str]:
    """Mark runs as failed whose process is gone, so that the queue goes on and the run is retried; their ids.

    With ``holds_root`` the caller holds the root's lock, so every unfinished run of ``motive run`` is dead.
    """
    dead = []
    for record in instance.get_run_records(dg.RunsFilter(statuses=WITH_PROCESS)):
        run_id = record.dagster_run.run_id
        lives = run_lock(state, run_id).is_held() or (not run_lock(state, run_id).path.exists() and not _came_late(record))
        if lives and not (holds_root and BY_SHELL.items() <= record.dagster_run.tags.items()):
            continue
        run = instance.get_run_by_id(run_id)
        if run is not None and not run.is_finished:  # it may have ended since it was listed
            instance.report_run_failed(run, "The process of this run has died; what it had committed is kept.")
            dead.append(run_id)
    _remove_locks(instance, state)
    return dead


def cancel_runs(instance: dg.DagsterInstance, state: Path, interrupted: str | None = None) -> None:
    """Mark the run ``interrupted``, and every run of ``motive run`` that is under way, as canceled: somebody stopped them.

    Only for the holder of the root's lock, which knows that no other run of ``motive run`` lives.
    """
    runs = instance.get_runs(dg.RunsFilter(statuses=WITH_PROCESS, tags={"motive/by": BY_SHELL["motive/by"]}))
    if interrupted is not None and (run := instance.get_run_by_id(interrupted)) is not None:
        runs = [*runs, run]
    for run in runs:
        instance.report_run_canceled(run, "Stopped from the shell. What it had committed is kept.")
        run_ended(state, run.run_id)


def _came_late(record: dg.RunRecord) -> bool:
    return time.time() - (record.start_time or record.create_timestamp.timestamp()) > STARTS_WITHIN_S


def _remove_locks(instance: dg.DagsterInstance, state: Path) -> None:
    """Locks of runs that are over."""
    for file in (state / "runs").glob("*.lock"):
        run = instance.get_run_by_id(file.stem)
        if (run is None or run.is_finished) and not run_lock(state, file.stem).is_held():
            file.unlink(missing_ok=True)
