"""What is new in the sources since a run last took them in: asked by the sensors and by the schedule.

Belongs here: one look at the sources, under the settings as they are now, with everything at rest. Does not belong here: when to look
(``sensors.py``, ``schedules.py``).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import dagster as dg

from assets.batch import BATCH
from assets.staleness import last_observed, version_consumed
from motive_pipeline.config import Config, load_config
from motive_pipeline.graph import SOURCES
from motive_pipeline.storage.workspace import Workspace

UNDER_WAY = [status for status in dg.DagsterRunStatus if status.name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]

_looking = threading.Lock()


class NothingToDo(Exception):
    """No run is to be requested; the message says why."""


class Watched(Protocol):
    """Sources that are looked at together."""

    def being_written(self, workspace: Workspace, settle_s: float) -> list[Path]:
        """The files that changed within the last ``settle_s`` seconds or are not whole."""
        ...

    def versions(self, workspace: Workspace) -> dict[str, str]:
        """Each source with its version as it is now."""
        ...


class ClipsAndModel:
    """Clips, queries and weights."""

    def being_written(self, workspace: Workspace, settle_s: float) -> list[Path]:
        from motive_pipeline.catalog.watch import still_being_written

        return still_being_written(workspace, settle_s=settle_s)

    def versions(self, workspace: Workspace) -> dict[str, str]:
        from motive_pipeline.catalog.watch import source_versions

        return source_versions(workspace)


class PreferenceResults:
    """The result files of the preference study."""

    def being_written(self, workspace: Workspace, settle_s: float) -> list[Path]:
        from motive_pipeline.evaluation.preference.results import results_being_written

        return results_being_written(workspace, settle_s=settle_s)

    def versions(self, workspace: Workspace) -> dict[str, str]:
        from motive_pipeline.evaluation.preference.results import observe_preference_files

        return {"preference_files": observe_preference_files(workspace)[0]}


@contextmanager
def one_look(instance: dg.DagsterInstance, loaded: Config, watched: Watched) -> Iterator[Workspace]:
    """The workspace under the settings as they are now, with everything at rest; one look at a time.

    The settings are read again, as the run will read them: one that no longer parses must not start a run that fails.

    Raises:
        NothingToDo: something is not at rest.
        MotiveError: the settings or the files cannot be read.
    """
    config = load_config(loaded.file)
    if config.storage != loaded.storage:
        raise NothingToDo(f"storage changed in {config.file}: restart the daemon, since one instance serves one root")
    if not _looking.acquire(blocking=False):
        raise NothingToDo("the look before this one is not over yet: many new files are being read")
    try:
        workspace = Workspace(config)
        _require_free(instance, workspace)
        _require_rest(workspace, watched)
        yield workspace
    finally:
        _looking.release()


def _require_free(instance: dg.DagsterInstance, workspace: Workspace) -> None:
    """Raises NothingToDo, which names the run, or the process, that what is new has to wait for."""
    then = f"what is new is looked at when it has ended, at most {workspace.config.schedule.watch_interval_s} s later"
    if runs := instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY)):
        others = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        raise NothingToDo(f"a run is under way: {run_in_words(runs[-1])}{others}; {then}")
    if workspace.lock.is_held():
        raise NothingToDo(f"the root is in use by {workspace.lock.holder()}; {then}")


def run_in_words(run: dg.DagsterRun) -> str:
    """Job, id, status and, for one of `motive run`, the batch."""
    batch = f", of `motive run` at {run.tags[BATCH]}" if BATCH in run.tags else ""
    return f"{run.job_name} {run.run_id[:8]} ({run.status.value.lower().replace('_', ' ')}{batch})"


def _require_rest(workspace: Workspace, watched: Watched) -> None:
    """Raises NothingToDo, which says which file is not at rest, and when all will be if none changes any more."""
    from motive_pipeline.catalog.watch import at_rest_in_s

    schedule = workspace.config.schedule
    if writing := watched.being_written(workspace, schedule.settle_s):
        raise NothingToDo(
            f"{len(writing)} file(s) still being written, for instance {writing[0].name}. A run is requested when every file is whole and has been unchanged for "
            f"{schedule.settle_s:g} s (schedule.settle_s): if none changes any more, in about {at_rest_in_s(writing, settle_s=schedule.settle_s):.0f} s"
        )


def news_of(instance: dg.DagsterInstance, workspace: Workspace, loaded: Config, watched: Watched) -> dict[str, str]:
    """The watched sources whose present version no run has taken in yet, with that version; all are recorded as observed.

    Raises:
        NothingToDo: nothing was ever run here, nothing is new, or a file is still being written.
        MotiveError: the files or the model cannot be read.
    """
    versions = watched.versions(workspace)
    consumed = {source: version_consumed(instance, SOURCES[source].taken_in_by, source) for source in versions}
    unseen = {source: version for source, version in versions.items() if last_observed(instance, source) != version}
    if unseen:
        _require_rest(workspace, watched)  # half of a file may have come since the look before the files were read
    for source, version in unseen.items():
        tags = {"dagster/data_version": version}
        instance.report_runless_asset_event(dg.AssetObservation(asset_key=source, tags=tags))
    if all(version is None for version in consumed.values()):
        raise NothingToDo("nothing was ever run here: start with `motive run`, or materialize `curate` in the UI")
    news = {source: version for source, version in versions.items() if consumed[source] not in (None, version)}
    if not news:
        file = workspace.config.file.name
        changed = f"; {file} has changed: reload the definitions, and automation acts on it" if workspace.config != loaded else ""
        raise NothingToDo(f"nothing new{changed}")
    return news


def listed(news: dict[str, str]) -> str:
    """The sources that are new, for a tag or a message."""
    return ", ".join(sorted(news))
