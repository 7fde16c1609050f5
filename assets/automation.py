"""When assets recompute without a hand on them: settings through automation conditions, files through a sensor and a schedule.

The two never race: a change of files or weights is left to the sensor, which requests one run of ``curate`` for all that came.
"""

import json

import dagster as dg

from assets.staleness import last_observed, version_consumed
from motive_pipeline.config import Config
from motive_pipeline.errors import MotiveError
from motive_pipeline.storage.workspace import Workspace

SOURCES = {
    "clip_files": "clip_catalog",
    "query_files": "query_catalog",
    "base_encoders": "latents",
    "base_model": "projected_gradients/motive",
}
"""Each observed source, and the asset whose record says which version of it was taken in last."""


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


def watch_sensor(config: Config, workspace: Workspace) -> dg.SensorDefinition:
    """Watches clips, queries and weights; requests one run of ``curate`` when something new is there and at rest."""

    @dg.sensor(
        name="watch_clips",
        job_name="curate",
        minimum_interval_seconds=config.schedule.watch_interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if config.schedule.watch else dg.DefaultSensorStatus.STOPPED,
        description="New or changed clips, queries and weights lead to one run of `curate`, once no file is being written any more.",
    )
    def watch_clips(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        from motive_pipeline.clips.watch import still_being_written

        try:
            writing = still_being_written(workspace, settle_s=config.schedule.settle_s)
            if writing:
                return dg.SkipReason(f"{len(writing)} file(s) still being written, for instance {writing[0].name}")
            requested = json.loads(context.cursor) if context.cursor else {}
            news = _news(context.instance, workspace)
        except MotiveError as error:
            return dg.SkipReason(f"nothing done: {error}")
        if not news:
            return dg.SkipReason("nothing new")
        if requested == news:
            return dg.SkipReason(f"a run for this was requested before: {', '.join(sorted(news))}")
        return dg.SensorResult(run_requests=[dg.RunRequest(tags={"motive/new": ", ".join(sorted(news))})], cursor=json.dumps(news))

    return watch_clips


def cron_schedules(config: Config, workspace: Workspace) -> list[dg.ScheduleDefinition]:
    """The schedule of ``schedule.cron``, if there is one: ``curate``, when something is new."""
    if config.schedule.cron is None:
        return []

    @dg.schedule(name="recurate", cron_schedule=config.schedule.cron, job_name="curate", default_status=dg.DefaultScheduleStatus.RUNNING)
    def recurate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Re-curation at set times."""
        try:
            news = _news(context.instance, workspace)
        except MotiveError as error:
            return dg.SkipReason(f"nothing done: {error}")
        if not news:
            return dg.SkipReason("nothing new")
        return dg.RunRequest(tags={"motive/new": ", ".join(sorted(news))})

    return [recurate]


def _news(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, str]:
    """The sources whose present version no run has taken in yet, with that version, which is recorded as observed.

    Before the first run there are no news: that one is started by hand.
    """
    from motive_pipeline.clips.watch import source_versions

    news = {}
    for source, version in source_versions(workspace).items():
        consumed = version_consumed(instance, SOURCES[source], source)
        if last_observed(instance, source) != version:
            tags = {"dagster/data_version": version}
            instance.report_runless_asset_event(dg.AssetObservation(asset_key=source, tags=tags))
        if consumed is not None and consumed != version:
            news[source] = version
    return news
