"""When assets recompute without a hand on them: settings through automation conditions, files through a sensor and a schedule.

The two never race: a change of files or weights is left to the sensor, which requests one run of ``curate`` for all that came.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster._utils.schedules import is_valid_cron_schedule

from assets.staleness import last_observed, version_consumed
from motive_pipeline.config import Config, load_config
from motive_pipeline.errors import ConfigError, MotiveError
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace

SOURCES = {
    "clip_files": "clip_catalog",
    "query_files": "query_catalog",
    "base_encoders": "latents",
    "base_model": "projected_gradients/motive",
    "preference_files": "preference_study",
}
"""Each observed source, and the asset whose record says which version of it was taken in last."""

UNDER_WAY = [status for status in dg.DagsterRunStatus if status.name in ("QUEUED", "NOT_STARTED", "STARTING", "STARTED", "CANCELING")]

WATCHER, PREFERENCE_WATCHER = "watch_clips", "watch_preference"
NO_OTHER_RETRY = {"dagster/max_retries": "0"}

ATTEMPT, ATTEMPTS = "motive/attempt", 3
"""The tag that counts how often the sensor has asked for one thing, and how often it does when the run's process dies."""

_looking = threading.Lock()


class NothingToDo(Exception):
    """No run is to be requested; the message says why."""


def recompute_what_changed() -> dg.AutomationCondition:
    """Recompute an asset once when its own settings or code changed, or the content of an input did, and its inputs are at rest.

    Unlike ``eager()``, inputs that were materialized again with the same content ask for nothing.
    """
    condition = dg.AutomationCondition
    inputs_changed = condition.any_deps_match(condition.data_version_changed()).ignore(dg.AssetSelection.keys(*SOURCES))
    changed: dg.AutomationCondition = condition.newly_missing() | condition.code_version_changed() | inputs_changed
    return (
        changed.since_last_handled()  # pyright: ignore[reportAttributeAccessIssue]
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("recompute what changed")


def automation_sensor(config: Config) -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions of all assets."""
    status = dg.DefaultSensorStatus.RUNNING if config.schedule.automate else dg.DefaultSensorStatus.STOPPED
    return dg.AutomationConditionSensorDefinition("recompute_what_changed", target=dg.AssetSelection.all(), default_status=status)


def watch_sensor(config: Config) -> dg.SensorDefinition:
    """Watches clips, queries and weights; requests one run of ``curate`` when something new is there and at rest."""
    return _watcher(
        config,
        WATCHER,
        "curate",
        _Clips(),
        "New or changed clips, queries and weights lead to one run of `curate`, once no file is being written any more.",
    )


def preference_sensor(config: Config) -> dg.SensorDefinition:
    """Watches the folder of result files; requests one run of ``preference`` when new ones are there and at rest."""
    return _watcher(
        config,
        PREFERENCE_WATCHER,
        "preference",
        _Results(),
        "New or changed result files of the preference study lead to one run of its statistics, once none is being written any more.",
    )


class _Clips:
    """What ``watch_clips`` looks at."""

    def being_written(self, workspace: Workspace, settle_s: float) -> list[Path]:
        from motive_pipeline.catalog.watch import still_being_written

        return still_being_written(workspace, settle_s=settle_s)

    def versions(self, workspace: Workspace) -> dict[str, str]:
        from motive_pipeline.catalog.watch import source_versions

        return source_versions(workspace)


class _Results:
    """What ``watch_preference`` looks at."""

    def being_written(self, workspace: Workspace, settle_s: float) -> list[Path]:
        from motive_pipeline.evaluation.preference.results import results_being_written

        return results_being_written(workspace, settle_s=settle_s)

    def versions(self, workspace: Workspace) -> dict[str, str]:
        from motive_pipeline.evaluation.preference.results import observe_preference_files

        return {"preference_files": observe_preference_files(workspace)[0]}


def _watcher(config: Config, name: str, job: str, watched: _Clips | _Results, description: str) -> dg.SensorDefinition:
    """A sensor that requests one run of ``job`` when something new is there and at rest."""

    @dg.sensor(
        name=name,
        job_name=job,
        minimum_interval_seconds=config.schedule.watch_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if config.schedule.watch else dg.DefaultSensorStatus.STOPPED,
        description=description,
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            with _one_look(context.instance, config, watched) as workspace:
                if dead := _died(context.instance, job, name):
                    return dg.SensorResult(run_requests=[_again(dead)], cursor=context.cursor)
                news = _news(context.instance, workspace, config, watched)
        except (NothingToDo, MotiveError) as reason:
            return dg.SkipReason(str(reason))
        key = _request(context.instance, news)
        if json.loads(context.cursor or "{}").get("request") == key:
            return dg.SkipReason(
                f"a run for {_words(news)} was requested before and did not take it in: see why it failed. "
                "It is requested again when the files change, and by schedule.cron; or run it by hand."
            )
        request = dg.RunRequest(run_key=key, tags={"motive/new": _words(news), ATTEMPT: "1", **NO_OTHER_RETRY})
        return dg.SensorResult(run_requests=[request], cursor=json.dumps({"request": key, "new": news}))

    return watch


def cron_schedules(config: Config) -> list[dg.ScheduleDefinition]:
    """The schedule of ``schedule.cron``, if there is one: ``curate``, when something is new; also when a run for it failed before.

    Raises:
        ConfigError: it is no cron expression.
    """
    cron = config.schedule.cron
    if cron is None:
        return []
    if not is_valid_cron_schedule(cron):
        raise ConfigError(
            f"{config.file}: schedule.cron = {cron!r}: no cron expression. Five fields are allowed: minute 0-59, hour 0-23, day of the month "
            '1-31, month 1-12, day of the week 0-7; for instance "0 3 * * *".'
        )

    clips = _Clips()

    @dg.schedule(name="recurate", cron_schedule=cron, job_name="curate", default_status=dg.DefaultScheduleStatus.RUNNING)
    def recurate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Re-curation at set times."""
        try:
            with _one_look(context.instance, config, clips) as workspace:
                return dg.RunRequest(tags={"motive/new": _words(_news(context.instance, workspace, config, clips))})
        except (NothingToDo, MotiveError) as reason:
            return dg.SkipReason(str(reason))

    return [recurate]


@contextmanager
def _one_look(instance: dg.DagsterInstance, loaded: Config, watched: _Clips | _Results) -> Iterator[Workspace]:
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
        if instance.get_runs_count(dg.RunsFilter(statuses=UNDER_WAY)):
            raise NothingToDo("a run is under way; what is new is looked at when it has ended")
        _require_rest(workspace, watched)
        yield workspace
    finally:
        _looking.release()


def _require_rest(workspace: Workspace, watched: _Clips | _Results) -> None:
    writing = watched.being_written(workspace, workspace.config.schedule.settle_s)
    if writing:
        raise NothingToDo(f"{len(writing)} file(s) still being written, for instance {writing[0].name}")


def _news(instance: dg.DagsterInstance, workspace: Workspace, loaded: Config, watched: _Clips | _Results) -> dict[str, str]:
    """The watched sources whose present version no run has taken in yet, with that version; all are recorded as observed.

    Before the first run there are no news: that one is started by hand.

    Raises:
        NothingToDo: nothing is new, or a file is still being written.
        MotiveError: the files or the model cannot be read.
    """
    versions = watched.versions(workspace)
    consumed = {source: version_consumed(instance, SOURCES[source], source) for source in versions}
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


def _died(instance: dg.DagsterInstance, job: str, sensor: str) -> dg.DagsterRun | None:
    """The run that the sensor asked for last, if it ended without any asset having failed and may be tried again.

    It is the sensor that asks again and not the daemon's run retries, which miss a run whose failure they see before its status.
    """
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags={"dagster/sensor_name": sensor}), limit=1)
    if not runs or runs[0].status != dg.DagsterRunStatus.FAILURE or int(runs[0].tags.get(ATTEMPT, ATTEMPTS)) >= ATTEMPTS:
        return None
    return None if instance.get_run_stats(runs[0].run_id).steps_failed else runs[0]


def _again(dead: dg.DagsterRun) -> dg.RunRequest:
    attempt = int(dead.tags[ATTEMPT]) + 1
    return dg.RunRequest(
        run_key=f"after-{dead.run_id}", tags={"motive/new": dead.tags["motive/new"], ATTEMPT: str(attempt), **NO_OTHER_RETRY}
    )


def _request(instance: dg.DagsterInstance, news: dict[str, str]) -> str:
    """What a run for ``news`` is known by: it is requested once for as long as no run has taken anything in."""
    events = {source: instance.get_latest_materialization_event(dg.AssetKey(SOURCES[source])) for source in news}
    return digest(news, {source: event.run_id if event else None for source, event in events.items()})


def _words(news: dict[str, str]) -> str:
    return ", ".join(sorted(news))
