"""Dagster's schedules: re-curation at fixed times.

Belongs here: ``schedule.cron`` and ``schedule.timezone``. Does not belong here: what looks every few seconds (``sensors.py``).
"""

import dagster as dg

from assets.dagster_internals import is_valid_cron_schedule
from assets.news import ClipsAndModel, NothingToDo, listed, news_of, one_look
from motive_pipeline.config import Config
from motive_pipeline.errors import ConfigError, MotiveError


def cron_schedules(config: Config) -> list[dg.ScheduleDefinition]:
    """The schedule of ``schedule.cron``, if there is one: ``curate``, when something is new; also when a run for it failed before.

    Raises:
        ConfigError: it is not a cron expression.
    """
    cron = config.schedule.cron
    if cron is None:
        return []
    if not is_valid_cron_schedule(cron):
        raise ConfigError(
            f"{config.file}: schedule.cron = {cron!r}: no cron expression. Five fields are allowed: minute 0-59, hour 0-23, day of the month "
            '1-31, month 1-12, day of the week 0-7; for instance "0 3 * * *".'
        )

    clips = ClipsAndModel()

    @dg.schedule(
        name="recurate",
        cron_schedule=cron,
        execution_timezone=config.schedule.timezone,
        job_name="curate",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def recurate(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Re-curation at set times."""
        try:
            with one_look(context.instance, config, clips) as workspace:
                return dg.RunRequest(tags={"motive/new": listed(news_of(context.instance, workspace, config, clips))})
        except (NothingToDo, MotiveError) as reason:
            return dg.SkipReason(str(reason))

    return [recurate]
