"""Dagster's sensors: what looks at files, weights, settings and runs while a daemon runs, and requests runs.

Belongs here: when to look and what to request. Does not belong here: what counts as new (``news.py``), when an asset recomputes for its settings
(``automation.py``), fixed times (``schedules.py``).
"""

import json

import dagster as dg

from assets.dead_runs import fail_dead_runs
from assets.names import asset_key
from assets.news import ClipsAndModel, NothingToDo, PreferenceResults, Watched, listed, news_of, one_look, run_in_words
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.graph import SOURCES
from motive_pipeline.storage.digest import digest
from motive_pipeline.storage.workspace import Workspace

WATCHER, PREFERENCE_WATCHER = "watch_clips", "watch_preference"
NO_OTHER_RETRY = {"dagster/max_retries": "0"}
LOOK_FOR_DEAD_RUNS_EVERY_S = 30

ATTEMPT, ATTEMPTS = "motive/attempt", 3
"""The tag that counts the attempts at one request, and the most attempts if the run's process dies."""


def sensors(config: Config, workspace: Workspace) -> list[dg.SensorDefinition]:
    """All sensors of the project."""
    study = [preference_sensor(config)] if config.comparisons else []
    return [automation_sensor(config), watch_sensor(config), *study, dead_runs_sensor(workspace)]


def automation_sensor(config: Config) -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions of all assets."""
    status = dg.DefaultSensorStatus.RUNNING if config.schedule.automate else dg.DefaultSensorStatus.STOPPED
    return dg.AutomationConditionSensorDefinition("recompute_what_changed", target=dg.AssetSelection.all(), default_status=status)


def dead_runs_sensor(workspace: Workspace) -> dg.SensorDefinition:
    """Looks every half minute, whatever ``schedule`` says: without it a killed run could block the queue."""

    @dg.sensor(
        name="notice_dead_runs",
        minimum_interval_seconds=LOOK_FOR_DEAD_RUNS_EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Marks runs as failed whose process has died, so that the queue goes on and they are retried.",
    )
    def notice_dead_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        dead = fail_dead_runs(context.instance, workspace.state)
        return dg.SkipReason(f"marked as failed: {', '.join(dead)}" if dead else "no run has died")

    return notice_dead_runs


def watch_sensor(config: Config) -> dg.SensorDefinition:
    """Watches clips, queries and weights; requests one run of ``curate`` when something new is there and at rest."""
    return _watcher(
        config,
        WATCHER,
        "curate",
        ClipsAndModel(),
        "New or changed clips, queries and weights lead to one run of `curate`, once no file is being written any more.",
    )


def preference_sensor(config: Config) -> dg.SensorDefinition:
    """Watches the folder of result files; requests one run of ``preference`` when new ones are there and at rest."""
    return _watcher(
        config,
        PREFERENCE_WATCHER,
        "preference",
        PreferenceResults(),
        "New or changed result files of the preference study lead to one run of its statistics, once none is being written any more.",
    )


def _watcher(config: Config, name: str, job: str, watched: Watched, description: str) -> dg.SensorDefinition:
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
            with one_look(context.instance, config, watched) as workspace:
                if dead := _died(context.instance, job, name):
                    return dg.SensorResult(run_requests=[_again(dead)], cursor=context.cursor)
                news = news_of(context.instance, workspace, config, watched)
        except (NothingToDo, MotiveError) as reason:
            return dg.SkipReason(str(reason))
        key = _request(context.instance, news)
        if json.loads(context.cursor or "{}").get("request") == key:
            return dg.SkipReason(
                f"a run for {listed(news)} was requested before and did not take it in: see why {_last_run(context.instance, job, name)} failed. "
                "It is requested again when the files change, and by schedule.cron; or run it by hand."
            )
        request = dg.RunRequest(run_key=key, tags={"motive/new": listed(news), ATTEMPT: "1", **NO_OTHER_RETRY})
        return dg.SensorResult(run_requests=[request], cursor=json.dumps({"request": key, "new": news}))

    return watch


def _died(instance: dg.DagsterInstance, job: str, sensor: str) -> dg.DagsterRun | None:
    """The run that the sensor asked for last, if it ended without any asset having failed and may be tried again.

    It is the sensor that asks again and not the daemon's run retries, which miss a run whose failure they see before its status.
    """
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags={"dagster/sensor_name": sensor}), limit=1)
    if not runs or runs[0].status != dg.DagsterRunStatus.FAILURE or int(runs[0].tags.get(ATTEMPT, ATTEMPTS)) >= ATTEMPTS:
        return None
    return None if instance.get_run_stats(runs[0].run_id).steps_failed else runs[0]


def _last_run(instance: dg.DagsterInstance, job: str, sensor: str) -> str:
    runs = instance.get_runs(dg.RunsFilter(job_name=job, tags={"dagster/sensor_name": sensor}), limit=1)
    return run_in_words(runs[0]) if runs else "it"


def _again(dead: dg.DagsterRun) -> dg.RunRequest:
    attempt = int(dead.tags[ATTEMPT]) + 1
    return dg.RunRequest(
        run_key=f"after-{dead.run_id}", tags={"motive/new": dead.tags["motive/new"], ATTEMPT: str(attempt), **NO_OTHER_RETRY}
    )


def _request(instance: dg.DagsterInstance, news: dict[str, str]) -> str:
    """The key of a request. It stays the same until a run has taken something in, so each change is requested once."""
    events = {source: instance.get_latest_materialization_event(asset_key(SOURCES[source].taken_in_by)) for source in news}
    return digest(news, {source: event.run_id if event else None for source, event in events.items()})
